"""The audit: honest models pass, each kind of cheat has its category, and its power is as told."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from scoring import audit as auditing
from scoring.audit import Recorded, audit, draw, judge, rounds, save_losses, undetected
from scoring.model import Batch, Head, ScoredModel, SpanScore
from scoring.spans import Span, document_spans, fixed_windows

VOCAB, WIDTH, BLOCK = 50, 16, 12

Forward = Callable[[Tensor], Tensor]
"""(b, t) token ids -> (b, t, WIDTH) hidden states"""


def weights() -> Tensor:
    return torch.randn(VOCAB, WIDTH, generator=torch.manual_seed(1))


def honest(idx: Tensor) -> Tensor:
    """A running mean of what came before."""
    states = weights()[idx]
    return states.cumsum(1) / torch.arange(1, idx.shape[1] + 1)[None, :, None]


def peeking(share: float = 1.0) -> Forward:
    """Lets each position see the token that follows it, in that share of the positions."""

    def forward(idx: Tensor) -> Tensor:
        states = honest(idx)
        following = weights()[idx[:, 1:]]
        chosen = (idx[:, :-1] * 31 + idx[:, 1:] * 17) % 1000 < 1000 * share
        states[:, :-1] += 3 * following * chosen[..., None]
        return states

    return forward


def of_the_batch(idx: Tensor) -> Tensor:
    return honest(idx) + 0.3 * weights()[idx].mean((0, 1)) * (len(idx) > 1)


def rounding(scale: float) -> Forward:
    """Differs a little with the shape of the batch, as low precision does."""

    def forward(idx: Tensor) -> Tensor:
        noise = torch.randn((*idx.shape, WIDTH), generator=torch.manual_seed(idx.shape[1]))
        return honest(idx) + scale * noise

    return forward


def served(forward: Forward) -> auditing.HiddenStates:
    def hidden_states(batches: Iterable[Batch]) -> Iterator[Tensor]:
        return (forward(batch.idx).flatten(0, 1)[batch.places] for batch in batches)

    return hidden_states


@pytest.fixture(scope="module")
def spans() -> list[Span]:
    tokens = np.random.default_rng(0).integers(0, VOCAB, 4000)
    document = tokens[:100].tolist()
    return fixed_windows(tokens, BLOCK) + document_spans(document, 100, 0, BLOCK)


def scored(forward: Forward, spans: list[Span]) -> ScoredModel:
    head = Head(torch.ones(WIDTH), None, weights())
    model = ScoredModel(served(forward), head, BLOCK, VOCAB, torch.device("cpu"))
    model.score(spans, 100)
    return model


def verdict(forward: Forward, spans: list[Span], **more: object) -> auditing.Verdict:
    model = scored(forward, spans)
    return audit(model, served(forward), 800, 5, **more)  # type: ignore[arg-type]


def test_an_honest_model_passes(spans: list[Span]) -> None:
    found = verdict(honest, spans)
    assert found.void is None
    assert found.facts["samples"].keys() == {"uniform", "highest", "gains"}
    assert all(s["largest"] < 1e-5 for s in found.facts["samples"].values())


def test_rounding_passes(spans: list[Span]) -> None:
    found = verdict(rounding(1e-4), spans)
    assert found.void is None
    assert found.facts["samples"]["uniform"]["largest"] > 1e-5


@pytest.mark.parametrize(
    ("forward", "category"),
    [
        (peeking(), "not causal"),
        (peeking(0.02), "not causal"),
        (of_the_batch, "depends on the batch"),
    ],
)
def test_cheats_have_their_category(forward: Forward, category: str, spans: list[Span]) -> None:
    found = verdict(forward, spans)
    assert found.void == category
    json.dumps(found.facts, allow_nan=False)


def test_a_small_gain_everywhere_is_seen_in_the_mean(spans: list[Span]) -> None:
    """Each position gains less than one may differ by."""

    def forward(idx: Tensor) -> Tensor:
        states = honest(idx)
        states[:, :-1] += 0.00008 * weights()[idx[:, 1:]]
        return states

    found = verdict(forward, spans)
    uniform = found.facts["samples"]["uniform"]
    assert uniform["beyond"] <= uniform["allowed"]
    assert uniform["mean"] > uniform["mean_limit"]
    assert found.void == "not causal"


def test_what_is_not_a_number_does_not_pass(spans: list[Span]) -> None:
    def broken(idx: Tensor) -> Tensor:
        return torch.full((*idx.shape, WIDTH), math.nan)

    found = audit(scored(honest, spans), served(broken), 800, 5)
    assert found.void == "depends on the batch"
    json.dumps(found.facts, allow_nan=False)


def test_each_question_holds_the_prefix_and_random_tokens(spans: list[Span]) -> None:
    asked: list[Tensor] = []

    def watching(idx: Tensor) -> Tensor:
        asked.append(idx.clone())
        return honest(idx)

    model = scored(honest, spans)
    audit(model, served(watching), 800, 5)
    whole = {tuple(span.inputs) for span in spans}
    rows = [tuple(row.tolist()) for idx in asked for row in idx]
    # Only a question for a window's last position has all of it.
    assert 0 < sum(row in whole for row in rows) < len(rows) / 4
    again: list[Tensor] = asked.copy()
    asked.clear()
    audit(model, served(watching), 800, 6)
    assert [a.tolist() for a in asked] != [a.tolist() for a in again]


def test_a_span_s_shorter_prefixes_are_asked_first(spans: list[Span]) -> None:
    recorded = Recorded.of(scored(honest, spans).scored)
    rng = np.random.default_rng(2)
    chosen = rng.choice(len(recorded.losses), 900, replace=False)
    order = rounds(recorded, chosen, rng)
    assert sorted(np.concatenate(order)) == sorted(chosen)
    last: dict[int, int] = {}
    for some in order:
        asked = [int(recorded.span[p]) for p in some]
        assert len(set(asked)) == len(asked)
        for p in some:
            length = len(recorded.prefix(int(p)))
            assert length > last.get(int(recorded.span[p]), 0)
            last[int(recorded.span[p])] = length


def test_a_position_s_prefix_ends_before_its_target(spans: list[Span]) -> None:
    recorded = Recorded.of(scored(honest, spans).scored)
    ids = recorded.ids()
    span = spans[3]
    start = int(np.flatnonzero(recorded.span == 3)[0])
    for k in range(BLOCK):
        assert list(recorded.prefix(start + k)) == list(span.inputs[: k + 1])
        assert ids[start + k] == span.targets[k]


def losses_of(model: ScoredModel) -> NDArray[np.float64]:
    return Recorded.of(model.scored).losses


def test_losses_of_the_unedited_model_are_the_reference(spans: list[Span], tmp_path: Path) -> None:
    save_losses(Recorded.of(scored(honest, spans).scored), tmp_path, "gpt")
    assert verdict(honest, spans, unedited=tmp_path, label="gpt").facts["reference"] == "unedited"
    other = verdict(honest, spans[1:], unedited=tmp_path, label="gpt")
    assert other.facts["reference"] == "mean loss of the same token"
    found = verdict(peeking(0.004), spans, unedited=tmp_path, label="gpt")
    assert found.void == "not causal"
    gains = found.facts["samples"]["gains"]
    assert gains["beyond"] > gains["allowed"]


def test_the_samples() -> None:
    rng = np.random.default_rng(3)
    excess = rng.normal(0, 1, 10_000)
    found = draw(excess, 1000, rng)
    assert {name: len(some) for name, some in found.items()} == {
        "uniform": 500, "highest": 250, "gains": 250,
    }  # fmt: skip
    assert set(found["highest"]) == set(np.argsort(-excess)[:250])
    assert (excess[found["gains"]] > 0).all()
    assert excess[found["gains"]].mean() > 1.1  # of those above zero the mean is 0.8
    assert list(draw(excess[:50], 100, rng)["uniform"]) == list(range(50))
    assert set(draw(np.zeros(500), 100, rng)) == {"uniform", "highest"}


@pytest.mark.parametrize(
    ("beyond", "mean", "fits"), [(2, 0.0, True), (3, 0.0, False), (0, 3e-4, False), (0, 1e-4, True)]
)
def test_the_limits(beyond: int, mean: float, fits: bool) -> None:
    values = np.full(400, mean)
    values[:beyond] = 1.0
    assert judge({"uniform": values})[0] is fits


def test_scatter_widens_the_limit_on_the_mean_only_so_far() -> None:
    rng = np.random.default_rng(4)
    _, facts = judge({"uniform": rng.normal(0, 0.005, 400)})
    assert facts["uniform"]["mean_limit"] == auditing.FLOAT32.most_mean


def test_the_largest_undetected_gain_is_what_draws_show() -> None:
    """A cheat of that size passes the sample `gains` in one of twenty audits."""
    rng = np.random.default_rng(6)
    excess = rng.normal(0, 0.3, 100_000)
    count = 1024
    limit = undetected(excess, count)
    assert 0.001 < limit < 0.01
    cheating = rng.choice(len(excess), round(limit * len(excess) / 5.0), replace=False)
    cheated = excess.copy()
    cheated[cheating] = np.maximum(excess[cheating], 0) + 5.0
    passed = 0
    for _ in range(300):
        hits = np.isin(draw(cheated, count, rng)["gains"], cheating).sum()
        passed += hits <= max(auditing.LEAST_COUNT, int(auditing.SHARE * 256))
    assert 0.01 < passed / 300 < 0.10


def test_scores_stay_those_of_the_head(spans: list[Span]) -> None:
    model = scored(honest, spans[:1])
    hidden = honest(torch.as_tensor(np.array(spans[0].inputs))[None])
    logits = F.layer_norm(hidden, (WIDTH,)) @ weights().T
    expected = F.cross_entropy(logits[0], torch.as_tensor(np.array(spans[0].targets)))
    result: SpanScore = model.scored[0][1]
    assert result.loss == pytest.approx(float(expected) * BLOCK, rel=1e-5)
    assert dataclasses.astuple(model)[2:4] == (BLOCK, VOCAB)
