"""Scoring equals plain computations on the model's own logits, and shows nothing hidden."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from prepared import REPOSITORY, shakespeare_dir
from scored import direct, write_server

import checkpoint
import custom_pretrain
from scoring.audit import BFLOAT16, Rounding, audit
from scoring.lm_eval_stage import (
    CheckpointLM,
    encode_pairs,
    load_tasks,
    score_tasks,
    vocabulary_of,
)
from scoring.model import Batch, ScoredModel
from scoring.perplexity import score_all, score_passages, score_split
from scoring.report import ScoreError
from scoring.served import Checkpoint, ServedModel, Sizes, Tensors, check_tensors, ready
from scoring.spans import (
    Span,
    batches,
    development_half,
    document_spans,
    evenly,
    fixed_windows,
)

EDITED = REPOSITORY / "nanoGPT" / "custom_pretrain.py"
TASK = REPOSITORY / "tasks" / "llm-pretrain-residual"
EVALS = TASK / "evals"
VISIBLE, HIDDEN = ["agreement", "word_order"], ["fitting_word"]
BLOCK = 64
EOT = 256
SETTINGS = [
    "--device=cpu", "--bfloat16=false", "--compile=false", f"--block_size={BLOCK}",
    "--vocab_size=4096", "--n_layer=2", "--n_head=2", "--n_embd=32",
]  # fmt: skip


@dataclasses.dataclass
class Trained:
    """A small model with weights of its own, as a training run would leave it."""

    model: custom_pretrain.GPT
    folder: Path
    scored: ScoredModel

    @torch.no_grad()
    def log_probs(self, inputs: list[int]) -> torch.Tensor:
        """(t, vocab) from the model's own full logits, one sequence at a time."""
        idx = torch.tensor([inputs])
        logits, _ = self.model(idx, idx)
        return F.log_softmax(logits[0], dim=-1)


def make_trained(folder: Path, *, bias: bool = False) -> Trained:
    torch.manual_seed(7)
    settings = [*SETTINGS, f"--bias={str(bias).lower()}"]
    config = custom_pretrain.read_settings(settings, {}).model()
    model = custom_pretrain.GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # gains and biases that are not ones and zeros
            parameter.add_(0.1 * torch.randn_like(parameter))
    checkpoint.save_weights(folder, "gpt-smoke", model, {"model": dataclasses.asdict(config)})
    return Trained(model, folder, direct(EDITED, settings, folder, "gpt-smoke"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def data() -> Path:
    return shakespeare_dir() / "score"


@pytest.fixture(scope="module")
def lm(trained: Trained, data: Path) -> CheckpointLM:
    return CheckpointLM(trained.scored, vocabulary_of(data))


# -----------------------------------------------------------------------------
# spans


@given(
    tokens=st.lists(st.integers(0, 99), min_size=1, max_size=60),
    block=st.integers(1, 16),
    share=st.floats(0, 1),
)
def test_each_scored_token_is_a_target_once_and_sees_what_precedes_it(
    tokens: list[int], block: int, share: float
) -> None:
    scored = 1 + int(share * (len(tokens) - 1))
    spans = document_spans(tokens, scored, EOT, block)
    assert [t for span in spans for t in span.targets] == tokens[-scored:]
    done = len(tokens) - scored
    for span in spans:
        done += len(span.targets)
        assert len(span.targets) <= len(span.inputs) <= block
        assert list(span.inputs) == [EOT, *tokens][:done][-len(span.inputs) :]
    # Whatever room there is for context is used, but for the cuts of a long document.
    assert len(spans[-1].inputs) == min(block, len(tokens))
    assert len(spans) == math.ceil(scored / block)


def test_windows_follow_each_other_without_a_gap() -> None:
    windows = fixed_windows(list(range(11)), 3)
    assert [list(w.inputs) for w in windows] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [list(w.targets) for w in windows] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@given(lengths=st.lists(st.integers(1, 50), max_size=40), size=st.integers(1, 200))
def test_batches_hold_every_span_once_and_fit(lengths: list[int], size: int) -> None:
    spans = [Span([0] * n, [0]) for n in lengths]
    made = list(batches(spans, size))
    assert sorted(i for batch in made for i in batch) == list(range(len(spans)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= size for b in made)


@pytest.mark.parametrize(
    ("count", "limit", "indices"),
    [(3, None, [0, 1, 2]), (3, 9, [0, 1, 2]), (10, 4, [0, 2, 5, 7]), (5, 1, [0])],
)
def test_evenly(count: int, limit: int | None, indices: list[int]) -> None:
    assert evenly(count, limit) == indices


@given(ids=st.lists(st.text(), unique=True), seed=st.randoms())
def test_halves_depend_on_the_ids_alone(ids: list[str], seed: Any) -> None:
    half = development_half(ids)
    assert len(half) == (len(ids) + 1) // 2
    seed.shuffle(ids)
    assert development_half(ids) == half


# -----------------------------------------------------------------------------
# numbers


@pytest.mark.parametrize("bias", [False, True])
def test_val_loss_is_cross_entropy_of_the_models_own_logits(tmp_path: Path, bias: bool) -> None:
    trained = make_trained(tmp_path, bias=bias)
    tokens = torch.randint(0, 4096, (BLOCK * 9 + 1,), generator=torch.manual_seed(1))
    losses = score_split(trained.scored, tokens.numpy(), None)
    inputs, targets = tokens[:-1].view(9, BLOCK), tokens[1:].view(9, BLOCK)
    with torch.no_grad():
        logits, _ = trained.model(inputs, targets)
    for window, loss in enumerate(losses):
        expected = F.cross_entropy(logits[window], targets[window])
        assert loss == pytest.approx(float(expected), rel=1e-5)


def test_perplexities_are_those_of_one_target_at_a_time(trained: Trained, data: Path) -> None:
    meta = json.loads((data / "meta.json").read_text())
    for text in meta["texts"]:
        some = 1 if text["metric"] == "verse_ppl" else 5  # as one takes 200 forwards
        lines = (data / text["file"]).read_text().splitlines()[:some]
        passages = [json.loads(line) for line in lines]
        mean, each = score_passages(trained.scored, passages, meta["eot"])
        total = 0.0
        for passage, loss in zip(passages, each, strict=True):
            sequence, own = [meta["eot"], *passage["tokens"]], 0.0
            first = len(sequence) - passage["scored"]
            for place in range(first, len(sequence)):
                # Where the cut that holds this target ends, and so how far back its input goes.
                cut = first + ((place - first) // BLOCK + 1) * BLOCK
                end = min(cut, len(sequence))
                start = max(0, end - 1 - BLOCK)
                log_probs = trained.log_probs(sequence[start:place])
                own -= float(log_probs[-1, sequence[place]])
            assert loss == pytest.approx(own / passage["words"], rel=1e-5)
            total += own
        assert mean == pytest.approx(total / sum(p["words"] for p in passages), rel=1e-5)


def test_batches_and_parts_do_not_change_a_score(trained: Trained) -> None:
    rng = np.random.default_rng(3)
    spans = [
        Span(rng.integers(0, 4096, n).tolist(), rng.integers(0, 4096, k).tolist())
        for n, k in [(32, 32), (1, 1), (7, 3), (20, 1), (32, 5), (2, 2)]
    ]
    alone = [trained.scored.score([span])[0] for span in spans]
    for size in (1, 64, 4096):
        together = trained.scored.score(spans, size)
        assert [s.loss for s in together] == pytest.approx([s.loss for s in alone], rel=1e-5)
        assert [s.greedy for s in together] == [s.greedy for s in alone]
    del trained.scored.scored[:]
    in_parts = trained.scored.score_parts(iter([spans[:1], [], spans[1:4], spans[4:]]), 64)
    assert [s.loss for s in in_parts] == pytest.approx([s.loss for s in alone], rel=1e-5)
    # The audit finds them in the same order.
    assert [(id(span), score.loss) for span, score in trained.scored.scored] == [
        (id(span), score.loss) for span, score in zip(spans, in_parts, strict=True)
    ]


@pytest.mark.parametrize("parts", [(2, 1), (1, 3), (5, 1), (4096, 4096)])
def test_loglikelihoods_are_those_of_single_requests(
    parts: tuple[int, int], lm: CheckpointLM, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in zip(("FIRST_PART", "PART"), parts, strict=True):
        monkeypatch.setattr(f"scoring.lm_eval_stage.{name}", size)
    assert lm.loglikelihood([]) == []
    pairs = [
        ("The king", " is dead."),
        ("", "Who's there?"),
        ("A context with a blank at its end ", "goes to the continuation"),
        ("long " * 60 + "context", " loses its beginning"),
        ("Caf\u00e9 \u2014", " na\u00efve \U0001f451"),
    ]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    too_long = Instance("loglikelihood", {}, ("A", " word" * (BLOCK + 1)), 0)
    with pytest.raises(ScoreError, match=f"' word word word .*has more than {BLOCK} tokens"):
        lm.loglikelihood([*requests, too_long])
    vocabulary = vocabulary_of(shakespeare_dir() / "score")
    for (context, continuation), (got, greedy) in zip(
        pairs, lm.loglikelihood(requests), strict=True
    ):
        stripped = context.rstrip(" ")
        whole = vocabulary.encode(context + continuation)
        known = len(vocabulary.encode(stripped))
        sequence = whole if context else [vocabulary.eot, *whole]
        targets = whole[known:]
        inputs = sequence[:-1][-BLOCK:]
        log_probs = trained.log_probs(inputs)[-len(targets) :]
        expected = sum(float(row[t]) for row, t in zip(log_probs, targets, strict=True))
        assert got == pytest.approx(expected, rel=1e-5)
        assert greedy == (log_probs.argmax(-1).tolist() == targets)


@given(
    pairs=st.lists(
        st.tuples(
            st.one_of(st.just(""), st.text(max_size=20), st.just("Tell me where \n")),
            st.text(min_size=1, max_size=20),
        ),
        max_size=5,
    )
)
def test_texts_are_split_as_lm_eval_splits_them(lm: CheckpointLM, pairs: list[Any]) -> None:
    """Beside lm-eval's own method, which encodes one pair after the other."""
    split: list[Any] = []

    class Stock(CheckpointLM):
        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
            split.extend((context, continuation) for _, context, continuation in requests)
            return []

    vocabulary = lm._vocabulary
    stock = Stock(lm._model, vocabulary)
    TemplateLM.loglikelihood(
        stock, [Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True
    )
    ours = [(list(a), list(b)) for a, b in encode_pairs(vocabulary, pairs)]
    assert ours == split


def test_a_forward_in_bfloat16_rounds_and_passes_its_audit_only(
    surroundings: dict[str, str], trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HARNESS_SERVER", "HARNESS_GPUS"):
        monkeypatch.setenv(name, surroundings[name])
    sizes = Sizes.of(SETTINGS)
    spans = fixed_windows(np.arange(8000) * 7 % 4096, BLOCK)
    with ServedModel("gpt-smoke", sizes, bfloat16=True) as server:
        rounded = ready(server, Checkpoint(trained.folder, "gpt-smoke"), sizes, 0.0)
        losses = np.concatenate([result.losses for result in rounded.score(spans)])
    exact = np.concatenate([result.losses for result in trained.scored.score(spans)])
    apart = losses - exact
    assert 1e-6 < np.abs(apart).mean() < 0.01
    with ServedModel("gpt-smoke", sizes, most=1) as fresh:
        fresh.load()
        found = audit(rounded, fresh.hidden_states, 500, 3, rounding=BFLOAT16)
        assert found.void is None
        assert found.facts["samples"]["uniform"]["deviation"] == pytest.approx(apart.std(), rel=0.5)
        strict = Rounding(tolerance=float(np.abs(apart).mean()) / 10, most_mean=1e-3)
        assert audit(rounded, fresh.hidden_states, 500, 3, rounding=strict).void is not None


def test_greedy_is_true_for_the_likeliest_continuation(trained: Trained) -> None:
    inputs = [5, 6, 7]
    best = int(trained.log_probs(inputs)[-1].argmax())
    (right, wrong) = trained.scored.score([Span(inputs, [best]), Span(inputs, [best ^ 1])])
    assert (right.greedy, wrong.greedy) == (True, False)


def test_rolling_loglikelihood_covers_the_whole_text(lm: CheckpointLM, trained: Trained) -> None:
    texts = ["Short.", "Tell me where is fancy bred, or in the heart or in the head? " * 4, ""]
    requests = [Instance("loglikelihood_rolling", {}, (t,), i) for i, t in enumerate(texts)]
    vocabulary = vocabulary_of(shakespeare_dir() / "score")
    for text, got in zip(texts, lm.loglikelihood_rolling(requests), strict=True):
        tokens = vocabulary.encode(text)
        spans = document_spans(tokens, len(tokens), EOT, BLOCK) if tokens else []
        expected = 0.0
        for span in spans:
            rows = trained.log_probs(list(span.inputs))[-len(span.targets) :]
            expected += sum(float(r[t]) for r, t in zip(rows, span.targets, strict=True))
        assert got == pytest.approx(expected, rel=1e-5)


def test_it_generates_nothing(lm: CheckpointLM) -> None:
    with pytest.raises(NotImplementedError, match="multiple_choice"):
        lm.generate_until([])


def test_accuracies_agree_with_the_likeliest_choice(lm: CheckpointLM, trained: Trained) -> None:
    report = score_tasks(lm, load_tasks(["agreement"], [EVALS]), hidden=[])
    lines = (EVALS / "agreement.jsonl").read_text().splitlines()
    items = {item["id"]: item for item in map(json.loads, lines)}
    shown = report.per_item["agreement"]
    final = report.hidden["per_item"]["agreement"]
    assert {o["id"] for o in shown} | {o["id"] for o in final} == items.keys()
    assert len(shown) == len(final) == len(items) / 2
    for outcome in [*shown, *final]:
        item = items[outcome["id"]]
        likeliest = int(np.argmax(outcome["loglikelihoods"]))
        assert outcome["correct"] == (likeliest == item["answer"])
    share = sum(o["correct"] for o in shown) / len(shown)
    assert report.metrics["agreement"] == pytest.approx(100 * share)


def test_the_models_own_loss_and_logits_do_not_count(trained: Trained, tmp_path: Path) -> None:
    honest = EDITED.read_text()
    lying = honest.replace(
        "loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)",
        "logits, loss = logits * 0 + targets[..., None], logits.sum() * 0",
    ).replace("logits = self.lm_head(x[:, [-1], :])", "logits = x[:, [-1], :] * 0")
    assert lying.count(" * 0") == honest.count(" * 0") + 3
    for name in ("checkpoint.py", "data.py", "shards.py", "progress.py"):
        (tmp_path / name).write_text((EDITED.parent / name).read_text())
    (tmp_path / "custom_pretrain.py").write_text(lying)
    liar = direct(tmp_path / "custom_pretrain.py", SETTINGS, trained.folder, "gpt-smoke")
    spans = fixed_windows(list(range(100)), BLOCK)
    assert [s.loss for s in liar.score(spans)] == [s.loss for s in trained.scored.score(spans)]


# -----------------------------------------------------------------------------
# items


@pytest.mark.parametrize(
    ("name", "choices"), [("agreement", 2), ("word_order", 2), ("fitting_word", 4)]
)
def test_items(name: str, choices: int) -> None:
    items = [json.loads(line) for line in (EVALS / f"{name}.jsonl").read_text().splitlines()]
    assert len(items) >= 48
    assert len({item["id"] for item in items}) == len(items)
    assert len({(item["context"], *sorted(item["choices"])) for item in items}) == len(items)
    for item in items:
        assert item.keys() == {"id", "context", "choices", "answer"}
        assert item["id"].startswith(name.replace("_", "-"))
        assert len(set(item["choices"])) == len(item["choices"]) == choices
        assert item["context"] == item["context"].strip() != ""
        assert all(c == c.strip() != "" for c in item["choices"])
        if name == "word_order":
            bags = {tuple(sorted(re.findall(r"\w+|\W", c))) for c in item["choices"]}
            assert len(bags) == 1, item
    answers = Counter(item["answer"] for item in items)
    assert answers == dict.fromkeys(range(choices), len(items) // choices)


# -----------------------------------------------------------------------------
# the two programs, as the stages' scripts start them


@pytest.fixture
def surroundings(
    trained: Trained, data: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    beside = tmp_path_factory.mktemp("server") / "serve.json"
    server = write_server(beside, SETTINGS, REPOSITORY, trained.folder)
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY / "harness" / "transport"),
        "HARNESS_SERVER": str(server),
        "HARNESS_DATA": str(data),
        "HARNESS_OUT": str(tmp_path),
        "HARNESS_RUN_OUT": str(trained.folder),
        "HARNESS_SEED": "42",
        "HARNESS_GPUS": "",
        "HARNESS_PROFILE": "smoke",
        "HARNESS_STAGE": "gpt-smoke",
    }


def lm_eval_script(env: dict[str, str], profile: str) -> subprocess.CompletedProcess[str]:
    script = TASK / "scripts" / f"lm_eval_{profile}.sh"
    return subprocess.run(
        ["bash", str(script), "score"], env=env, capture_output=True, text=True, timeout=120
    )


def perplexity_program(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-P", "-m", "scoring.perplexity", "--max-windows=5"),
            *("--max-passages=4", "--max-extra=1", "--audited=200", "--", *SETTINGS),
        ],
        env={**env, "PYTHONPATH": f"{REPOSITORY / 'nanoGPT'}:{env['PYTHONPATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_lm_eval_stage_shows_nothing_hidden(surroundings: dict[str, str], tmp_path: Path) -> None:
    # A module that the trained code left in the current folder must not be picked up.
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "torch.py").write_text("raise SystemExit('planted')")
    script = TASK / "scripts" / "lm_eval_smoke.sh"
    env = {**surroundings, "HARNESS_STAGE": "lm-eval-smoke"}
    done = subprocess.run(
        ["bash", str(script), "score"],
        env=env,
        cwd=tmp_path / "planted",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found.keys() == {"metrics", "per_window", "per_item", "hidden"}
    assert list(found["metrics"]) == list(found["per_item"]) == VISIBLE
    assert list(found["hidden"]["metrics"]) == HIDDEN
    assert list(found["hidden"]["final"]) == [*VISIBLE, *HIDDEN]
    splits = [Counter(i["split"] for i in found["hidden"]["per_item"][n]) for n in VISIBLE + HIDDEN]
    assert splits == [{"final": 32}, {"final": 32}, {"development": 32, "final": 32}]
    for name in VISIBLE:
        shown = {item["id"] for item in found["per_item"][name]}
        assert not shown & {item["id"] for item in found["hidden"]["per_item"][name]}
    # Counts of items only: a metric's value would have a point in it.
    assert not re.search(r"\d\.\d", done.stdout + done.stderr)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.json", "planted", "reference"]


def test_perplexity_stage_shows_nothing_hidden(
    surroundings: dict[str, str], trained: Trained, data: Path, tmp_path: Path
) -> None:
    done = perplexity_program(surroundings)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "metrics.json").read_text())
    names = ["val_loss", "verse_ppl", "lastword_ppl"]
    assert list(found["metrics"]) == list(found["per_window"]) == names
    assert list(found["hidden"]["final"]) == list(found["hidden"]["per_window"]) == names
    assert found["hidden"]["metrics"] == found["per_item"] == found["hidden"]["per_item"] == {}
    audit = found["hidden"]["audit"]
    assert (audit["category"], audit["changed"]) == (None, False)
    assert audit["samples"]["uniform"]["largest"] < 1e-4
    assert [len(found["per_window"][n]) for n in names] == [5, 4, 4]
    mean = sum(found["per_window"]["val_loss"]) / 5
    assert found["metrics"]["val_loss"] == pytest.approx(mean, abs=1e-5)
    assert found["hidden"]["per_window"]["val_loss"] != found["per_window"]["val_loss"]
    same = score_all(trained.scored, data, 5, 4)
    assert same.metrics == pytest.approx(found["metrics"], rel=1e-5)
    assert not re.search(r"\d\.\d", done.stdout + done.stderr)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"HARNESS_DATA": "/nowhere"}, "no held-out data"),
        ({"HARNESS_RUN_OUT": "/nowhere"}, "no checkpoint ckpt_gpt-smoke.safetensors"),
        ({"HARNESS_RUN_OUT": None}, "HARNESS_RUN_OUT is not set"),
    ],
)
def test_what_is_missing_is_one_line(
    surroundings: dict[str, str], tmp_path: Path, change: dict[str, str | None], says: str
) -> None:
    merged = {**surroundings, **change}
    done = perplexity_program({k: v for k, v in merged.items() if v is not None})
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "metrics.json").exists()


def test_full_size_tasks_say_that_their_sets_are_missing(surroundings: dict[str, str]) -> None:
    done = lm_eval_script(surroundings, "345m")
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: the evaluation sets are not prepared")


def test_a_model_that_diverged_has_no_score(trained: Trained) -> None:
    def diverged(batches: Iterable[Batch]) -> Iterator[torch.Tensor]:
        return (torch.full((len(batch.places), 32), math.nan) for batch in batches)

    nan = dataclasses.replace(trained.scored, hidden_states=diverged)
    with pytest.raises(ScoreError, match="not a finite number"):
        nan.score([Span([1, 2], [3])])


F32, I64 = torch.float32, torch.int64
UNEDITED = {
    "transformer.wte.weight": (F32, (10, 4)),
    "transformer.wpe.weight": (F32, (5, 4)),
    "transformer.ln_f.weight": (F32, (4,)),
    "step": (I64, ()),
    "lm_head.weight": (F32, (10, 4)),
}


@pytest.mark.parametrize(
    ("found", "declared", "says"),
    [
        ({}, {}, None),
        ({"gain": (F32, (60,))}, {"gain": (F32, (60,))}, None),
        ({"gain": (F32, (70,))}, {"gain": (F32, (70,))}, "the model holds 135 numbers"),
        ({"gain": (F32, (3,))}, {"gain": (F32, (2,))}, r"shape \[3\] as gain"),
        ({"gain": (F32, (3,))}, {"gain": (torch.float16, (3,))}, "float32 of shape"),
        ({"gain": (F32, (3,))}, {}, "holds gain, which the file does not declare"),
        ({}, {"gain": (F32, (3,))}, "lacks gain"),
        (dict.fromkeys(["transformer.wte.weight"], (F32, (11, 4))), {}, "it must be"),
        (dict.fromkeys(["transformer.ln_f.bias"], (F32, (4,))), {}, "it must be nothing"),
        ({"lm_head.weight": (F32, (10, 4))}, {}, "holds lm_head.weight"),
    ],
)
def test_a_checkpoint_is_what_the_file_declares(
    found: Tensors, declared: Tensors, says: str | None
) -> None:
    own = {k: v for k, v in UNEDITED.items() if k != "lm_head.weight"}
    if says is None:
        check_tensors(own | found, UNEDITED | declared, UNEDITED, 1.0)
        return
    with pytest.raises(ScoreError, match=says):
        check_tensors(own | found, UNEDITED | declared, UNEDITED, 1.0)


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "can be read"), (b"\xff" * 100, "can be read")]
)
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "ckpt_a.safetensors").write_bytes(content)
    with pytest.raises(ScoreError, match=says):
        Checkpoint(tmp_path, "a")


def test_a_checkpoint_of_another_shape_is_refused(
    surroundings: dict[str, str], tmp_path: Path
) -> None:
    three = [*SETTINGS, "--n_layer=3"]
    config = custom_pretrain.read_settings(three, {}).model()
    checkpoint.save_weights(tmp_path, "gpt-smoke", custom_pretrain.GPT(config), {})
    done = perplexity_program({**surroundings, "HARNESS_RUN_OUT": str(tmp_path)})
    assert done.returncode == 1
    assert re.match(r"ERROR: the checkpoint holds transformer\.h\.2\..* not declare", done.stderr)
