"""The six sets: what is prepared is what lm-eval's own definitions make of the same rows."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mirror
import pyarrow.json
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from prepared import REPOSITORY, shakespeare_dir

from corpus.evaluation import LAMBADA, TASKS, WIKITEXT, EvaluationSets, prepare_sets
from corpus.files import DataError
from corpus.hub import Origin
from scoring.lm_eval_stage import load_tasks, on_prepared, own_definitions, score_tasks
from scoring.report import ScoreError
from tokenizer import Vocabulary, load_gpt2

NAMES = [own.name for own in TASKS]
CHOICES = {"arc_easy": 22, "hellaswag": 20, "piqa": 14, "winogrande": 16}
"""Requests of the mirror's rows: 6 questions of 4, 4 and 3 choices; 5 of 4; 7 of 2; 8 of 2."""


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.full(load_gpt2(shakespeare_dir() / "score" / "bpe"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mirror")
    mirror.evaluation_sets(folder)
    return folder


@pytest.fixture(scope="module")
def score(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("score")


@pytest.fixture(scope="module")
def sets(hub: Path, score: Path, vocabulary: Vocabulary) -> EvaluationSets:
    return prepare_sets(score, vocabulary, Origin(score / "downloads", hub), any_size=True)


def passages(score: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (score / f"{name}.jsonl").read_text().splitlines()]


def lm_eval_task(name: str, folder: str, rows: list[dict[str, Any]]) -> ConfigurableTask:
    """lm-eval's task of that name on `rows`, built without anything of ours."""
    from lm_eval import tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    path = Path(tasks.__file__).parent / folder / f"{name}.yaml"
    config = load_yaml(path, resolve_func=True)
    config = {k: v for k, v in config.items() if k not in ("tag", "training_split")}
    config.pop("validation_split", None)
    config["custom_dataset"] = lambda **_: {"test": Dataset.from_list(rows)}
    task = ConfigurableTask(config={**config, "num_fewshot": 0})
    task.build_all_requests()
    return task


def test_published_numbers_of_rows() -> None:
    known = {own.name: own.rows for own in (WIKITEXT, LAMBADA, *TASKS)}
    assert known == {
        "wikitext2": 62, "lambada": 5153, "arc_easy": 2376, "hellaswag": 10042,
        "piqa": 1838, "winogrande": 1267,
    }  # fmt: skip


def test_lambada_is_cut_as_lm_eval_cuts_it(
    sets: EvaluationSets, score: Path, hub: Path, vocabulary: Vocabulary
) -> None:
    rows = pyarrow.json.read_json(hub / LAMBADA.repository / LAMBADA.patterns[0]).to_pylist()
    task = lm_eval_task("lambada_openai", "lambada", rows)
    own = passages(score, "lambada")
    assert len(own) == len(task.instances) == 10
    for passage, request in zip(own, task.instances, strict=True):
        context, word = request.args
        assert passage["words"] == 1
        assert vocabulary.decode(passage["tokens"][: -passage["scored"]]) == context
        assert vocabulary.decode(passage["tokens"][-passage["scored"] :]) == word
        assert word.startswith(" ")
    assert any(passage["scored"] > 1 for passage in own)  # a word of several tokens


def test_wikitext_has_lm_eval_s_text_and_number_of_words(
    sets: EvaluationSets, score: Path, hub: Path, vocabulary: Vocabulary
) -> None:
    [file] = (hub / WIKITEXT.repository).rglob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    task = lm_eval_task("wikitext", "wikitext", rows)
    own = passages(score, "wikitext2")
    assert len(own) == len(task.instances) == 4
    for passage, request, row in zip(own, task.instances, rows, strict=True):
        (text,) = request.args
        assert vocabulary.decode(passage["tokens"]) == text != row["page"]
        assert passage["scored"] == len(passage["tokens"])
        # By the definition: what lm-eval divides a page's log-likelihood by.
        _, words = task.process_results(row, [-1.0])["word_perplexity"]
        assert passage["words"] == words == len(re.split(r"\s+", row["page"]))


@pytest.mark.parametrize("name", ["wikitext2", "lambada"])
def test_passages_alternate_between_the_halves(
    sets: EvaluationSets, score: Path, name: str
) -> None:
    own = passages(score, name)
    assert [p["split"] for p in own] == ["development", "final"] * math.ceil(len(own) / 2)
    assert len({p["id"] for p in own}) == len(own)
    [told] = [text for text in sets.texts if text["file"] == f"{name}.jsonl"]
    assert (told["metric"], told["records"]) == (f"{name}_ppl", len(own))


def test_sources_tell_where_each_set_is_from(sets: EvaluationSets) -> None:
    assert [source["name"] for source in sets.sources] == list(mirror.EVERY_SET)
    for source in sets.sources:
        assert source["repository"].count("/") == 1
        assert source["licence"]
        assert all(len(file["sha256"]) == 64 for file in source["files"])


def test_lm_eval_s_definitions_load_prepared_rows(sets: EvaluationSets, score: Path) -> None:
    tasks = load_tasks(NAMES, own_definitions(NAMES), score / "sets")
    for name, task in tasks.items():
        task.build_all_requests()
        assert len(task.instances) == CHOICES[name]
        assert task.config.num_fewshot == 0
        assert "acc" in task.aggregation()
    # As the definition says, whatever it was loaded from.
    assert tasks["piqa"].instances[0].args[0].startswith("Question: ")
    assert tasks["arc_easy"].instances[0].args[0].endswith("?\nAnswer:")
    assert "Anne" in tasks["winogrande"].instances[0].args[0]


class ByHash(TemplateLM):
    """Finds any text as likely as its hash says."""

    eot_token_id = 0

    def tok_encode(self, string: str, add_special_tokens: Any = None, **_: Any) -> list[int]:
        return list(string.encode())

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        return [(likelihood("".join(texts)), False) for texts, _, _ in requests]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError


def likelihood(text: str) -> float:
    return -float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")) / 2**30


def test_items_of_every_set_have_their_right_choice(sets: EvaluationSets, score: Path) -> None:
    tasks = load_tasks(NAMES, own_definitions(NAMES), score / "sets")
    report = score_tasks(ByHash(), tasks, hidden=["piqa", "winogrande"])
    answers = {
        "arc_easy": lambda row: row["choices"]["label"].index(row["answerKey"]),
        "hellaswag": lambda row: int(row["label"]),
        "piqa": lambda row: row["label"],
        "winogrande": lambda row: int(row["answer"]) - 1,
    }
    for name, answer in answers.items():
        [file] = (score / "sets" / name).glob("*.parquet")
        rows = pq.read_table(file).to_pylist()
        hidden = report.hidden["per_item"][name]
        items = {item["id"]: item for item in [*report.per_item.get(name, []), *hidden]}
        assert len(items) == len(rows)
        for place, row in enumerate(rows):
            item = items[row.get("id", str(place))]
            assert item["target"] == answer(row)
            likelihoods = item["loglikelihoods"]
            assert item["correct"] == (likelihoods.index(max(likelihoods)) == answer(row))
    assert list(report.metrics) == ["arc_easy", "hellaswag"]


def test_nothing_is_written_or_fetched_when_tasks_load(
    sets: EvaluationSets, score: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, socket, pathlib\n"
        "def refuse(*_, **__): raise SystemExit('a connection')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from scoring.lm_eval_stage import load_tasks, own_definitions\n"
        f"names = {NAMES}\n"
        "tasks = load_tasks(names, own_definitions(names), pathlib.Path(sys.argv[1]))\n"
        "for t in tasks.values(): t.build_all_requests()\n"
        "print(sum(len(t.instances) for t in tasks.values()))\n"
    )
    before = sorted(score.rglob("*"))
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, str(score / "sets")],
        env={
            **os.environ,
            "PYTHONPATH": f"{REPOSITORY / 'nanoGPT'}:{REPOSITORY / 'harness/transport'}",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": str(home / "hf"),
            "HOME": str(home),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split()[-1:] == [str(sum(CHOICES.values()))], done.stderr
    assert sorted(score.rglob("*")) == before
    assert not [p for p in home.rglob("*") if p.is_file() and p.suffix in (".arrow", ".parquet")]


def test_a_set_that_is_not_prepared_is_said(tmp_path: Path) -> None:
    folders = [str(f) for f in own_definitions(["piqa"])]
    manager = TaskManager(include_path=folders, include_defaults=False)
    with pytest.raises(ScoreError, match="the evaluation sets are not prepared: no piqa"):
        on_prepared(manager, "piqa", tmp_path)


def test_parts_of_sets_are_refused_unless_they_are_wanted(
    hub: Path, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    with pytest.raises(DataError, match="gave 4 rows of wikitext2, its test split has 62"):
        prepare_sets(tmp_path, vocabulary, Origin(tmp_path, hub))


def test_rows_of_another_schema_are_refused(tmp_path: Path, vocabulary: Vocabulary) -> None:
    mirror.evaluation_sets(tmp_path / "mirror")
    [file] = (tmp_path / "mirror" / "baber/piqa").rglob("*.parquet")
    pq.write_table(pq.read_table(file).rename_columns(["goal", "sol1", "sol2", "gold"]), file)
    with pytest.raises(DataError, match="has no column label: it is not the validation split of"):
        prepare_sets(tmp_path, vocabulary, Origin(tmp_path, tmp_path / "mirror"), any_size=True)
