"""Whether a scored model earned its log-likelihoods: asked again, it sees the prefix only.

While a model is scored, later tokens of a sequence and other sequences of the batch stand in its
input, and the answer to one position in the input of another. A fresh process gets, for a sample of
the scored positions, the tokens up to that position and random ones behind them, in random batches.
Its log-likelihoods must be those that were scored.

Three samples, drawn by a secret seed: `uniform` over all positions; `highest`, where the
log-likelihood most exceeds the reference's; `gains`, with a probability proportional to that
excess, where it is positive. The reference is the unedited model of the same seed, or, where none
is known, the mean loss of the same target token. A span's positions are asked from the shortest
prefix on, so that no earlier question holds the answer to a later one.

Not guaranteed: gains too small or too rare for the sample; `undetected` says how large.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scoring.model import Batch, HiddenStates, ScoredModel, SpanScore
from scoring.spans import Span


@dataclass(frozen=True)
class Rounding:
    """How far honest answers may be from what was scored: batches of another shape round
    otherwise, and the audit asks in fp32 whatever the model was scored in."""

    tolerance: float
    """Nats by which one position may differ."""
    most_mean: float
    """Nats: the largest that the limit on the uniform sample's mean becomes."""


FLOAT32 = Rounding(tolerance=0.02, most_mean=1e-3)
BFLOAT16 = Rounding(tolerance=0.1, most_mean=1e-3)
SHARE = 0.005
"""Of a sample's positions that may differ by more: where rounding decides between two routes."""
LEAST_COUNT = 2
"""That many may in any sample, however small."""
MEAN = 2e-4
"""Nats by which the mean of the uniform sample may differ; more where the differences scatter."""

FAR = 1e9
"""Nats; what is not finite is said to be that far off, for the facts are JSON."""

SHARES = {"uniform": 0.5, "highest": 0.25, "gains": 0.25}
"""How the positions are divided among the samples."""

NOT_CAUSAL, OF_THE_BATCH, CHANGES = "not causal", "depends on the batch", "changes itself"

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Recorded:
    """All scored positions in one row: position i is target `target[i]` of span `span[i]`."""

    spans: Sequence[Span]
    losses: Floats
    """(n,) nats"""
    span: Indices
    """(n,)"""
    target: Indices
    """(n,)"""

    @classmethod
    def of(cls, scored: Sequence[tuple[Span, SpanScore]]) -> Recorded:
        sizes = [len(result.losses) for _, result in scored]
        return cls(
            [span for span, _ in scored],
            np.concatenate([result.losses for _, result in scored]).astype(np.float64),
            np.repeat(np.arange(len(sizes)), sizes),
            np.concatenate([np.arange(size) for size in sizes]),
        )

    def ids(self) -> Indices:
        """(n,) the token that was scored at each position."""
        return np.concatenate([np.asarray(span.targets, dtype=np.int64) for span in self.spans])

    def prefix(self, position: int) -> Any:
        """The tokens that a causal model may use there."""
        span = self.spans[self.span[position]]
        end = len(span.inputs) - len(span.targets) + int(self.target[position]) + 1
        return span.inputs[:end]

    def digest(self) -> str:
        """Of everything that was asked, so that two runs' losses can be laid beside each other."""
        total = hashlib.sha256()
        for span in self.spans:
            for part in (span.inputs, span.targets):
                row = np.asarray(part, dtype=np.int64)
                total.update(len(row).to_bytes(8, "little"))
                total.update(row.tobytes())
        return total.hexdigest()


# ---- The reference -------------------------------------------------------------------------------


def save_losses(recorded: Recorded, folder: Path, label: str) -> None:
    """Keeps the losses as a reference for later audits; the harness takes an unedited file's."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / _losses_file(recorded, label), recorded.losses.astype(np.float32))


def _losses_file(recorded: Recorded, label: str) -> str:
    """Named by what was asked: losses of anything else are another file beside it."""
    return f"losses_{label}.{recorded.digest()[:32]}.npy"


def reference_losses(recorded: Recorded, folder: Path | None, label: str) -> tuple[Floats, bool]:
    """(n,) what the losses are compared with, and whether it is the unedited model's."""
    path = folder / _losses_file(recorded, label) if folder else None
    if path is not None and path.is_file():
        return np.load(path).astype(np.float64), True
    ids = recorded.ids()
    count = np.bincount(ids)
    mean = np.bincount(ids, weights=recorded.losses) / np.maximum(count, 1)
    return mean[ids], False


# ---- The samples ---------------------------------------------------------------------------------


def draw(excess: Floats, count: int, rng: np.random.Generator) -> dict[str, Indices]:
    """Positions by sample; `excess` (n,) is by how much each is better than the reference.

    All positions are one `uniform` sample if there are no more than `count`.
    """
    n = len(excess)
    if n <= count:
        return {"uniform": np.arange(n)}
    sizes = {name: math.ceil(count * share) for name, share in SHARES.items()}
    positive = np.maximum(excess, 0.0)
    found = {
        "uniform": rng.choice(n, sizes["uniform"], replace=False),
        "highest": np.argsort(-excess, kind="stable")[: sizes["highest"]],
    }
    if len(gaining := np.flatnonzero(positive)):
        weights = positive[gaining] / positive[gaining].sum()
        size = min(sizes["gains"], len(gaining))
        # With replacement: a position that is drawn twice is asked once and counts twice.
        found["gains"] = rng.choice(gaining, size, p=weights)
    return found


def undetected(
    excess: Floats, count: int, rounding: Rounding = FLOAT32, chance: float = 0.05
) -> float:
    """The largest gain in the mean loss that passes with at least this chance, in nats.

    For a cheat whose gains are above the tolerance where it cheats. One that gains less than that
    everywhere is held to the limit on the mean.
    """
    n = len(excess)
    if n <= count:
        return rounding.most_mean
    size = math.ceil(count * SHARES["gains"])
    allowed = max(LEAST_COUNT, int(SHARE * size))
    honest = float(np.maximum(excess, 0.0).mean())
    # The cheat's share of the sample is gain / (gain + honest): find where it is caught often.
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        caught = 1 - _at_most(allowed, size, middle / (middle + honest) if honest else 1.0)
        low, high = (middle, high) if caught < 1 - chance else (low, middle)
    return max(rounding.most_mean, high)


def _at_most(k: int, n: int, p: float) -> float:
    """The chance of at most k hits among n of probability p."""
    if p >= 1:
        return float(k >= n)
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
        + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(min(k, n) + 1)
    ] if p > 0 else [0.0]  # fmt: skip
    return min(1.0, sum(math.exp(x) for x in logs))


# ---- Asking again --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A model input and the one place of it that is looked at."""

    tokens: Any
    place: int
    target: int
    """The token that follows there."""
    position: int
    """Of the record."""


def rounds(recorded: Recorded, positions: Indices, rng: np.random.Generator) -> list[Indices]:
    """The positions in the order in which they are asked: one a span a round, shortest first."""
    ordered = np.sort(positions)  # by span, and there by place
    _, first = np.unique(recorded.span[ordered], return_index=True)
    turn = np.arange(len(ordered)) - np.repeat(first, np.diff([*first, len(ordered)]))
    return [rng.permutation(ordered[turn == r]) for r in range(int(turn.max(initial=-1)) + 1)]


def grouped(questions: Sequence[Question], batch_tokens: int) -> Iterator[Sequence[Question]]:
    """The questions in their order, in batches of at most that many padded tokens."""
    longest = max((len(q.tokens) for q in questions), default=1)
    rows = max(1, batch_tokens // longest)
    for i in range(0, len(questions), rows):
        yield questions[i : i + rows]


@torch.inference_mode()
def ask(
    hidden_states: HiddenStates,
    model: ScoredModel,
    groups: Sequence[Sequence[Question]],
    pad: Callable[[int], Any],
) -> dict[int, float]:
    """The loss of each question by its position, in nats.

    `model` gives the head, `pad(n)` makes the n tokens behind a shorter input of a batch.
    """

    def batch(group: Sequence[Question]) -> Batch:
        longest = max(len(q.tokens) for q in group)
        idx = np.empty((len(group), longest), dtype=np.int64)
        for row, q in enumerate(group):
            idx[row, : len(q.tokens)] = q.tokens
            idx[row, len(q.tokens) :] = pad(longest - len(q.tokens))
        places = [row * longest + q.place for row, q in enumerate(group)]
        return Batch(torch.from_numpy(idx), torch.tensor(places))

    answers: dict[int, float] = {}
    for group in groups:
        # One at a time: a batch that waits in shared memory may hold what follows a prefix.
        [hidden] = hidden_states([batch(group)])
        targets = torch.tensor([q.target for q in group], device=model.device)
        losses, _ = model.head.score(hidden.to(model.device), targets)
        answers |= {q.position: float(loss) for q, loss in zip(group, losses.cpu(), strict=True)}
    return answers


@dataclass(frozen=True)
class Verdict:
    """What an audit found."""

    void: str | None
    """The category, if the model did not earn its scores."""
    facts: dict[str, Any]
    """For people: margins, limits, the seed."""


def judge(
    differences: dict[str, Floats], rounding: Rounding = FLOAT32
) -> tuple[bool, dict[str, Any]]:
    """Whether the samples' differences (audited less scored, nats) are those of rounding."""
    facts: dict[str, Any] = {}
    fits = True
    for name, values in differences.items():
        # What is not finite is far off.
        far = ~(np.abs(values) <= rounding.tolerance)
        allowed = max(LEAST_COUNT, int(SHARE * len(values)))
        near = np.where(far, 0.0, values)
        facts[name] = {
            "positions": len(values),
            "beyond": int(far.sum()),
            "allowed": allowed,
            "mean": float(near.mean()),
            "deviation": float(near.std()),
            "largest": float(
                np.minimum(np.abs(np.nan_to_num(values, nan=FAR)), FAR).max(initial=0)
            ),
        }
        fits &= int(far.sum()) <= allowed
        if name == "uniform":
            error = float(near.std()) / math.sqrt(max(1, len(near)))
            limit = min(rounding.most_mean, max(MEAN, 4 * error))
            facts[name]["mean_limit"] = limit
            fits &= abs(facts[name]["mean"]) <= limit
    return fits, facts


def audit(
    model: ScoredModel,
    fresh: HiddenStates,
    count: int,
    seed: int,
    *,
    rounding: Rounding = FLOAT32,
    unedited: Path | None = None,
    label: str = "",
) -> Verdict:
    """Asks `fresh`, which computes in fp32, for `count` of the positions that `model` has scored.

    `rounding` is for what the model was scored in. `unedited` is the folder with the unedited
    model's losses of this stage, `label`.
    """
    recorded = Recorded.of(model.scored)
    rng = np.random.default_rng(seed)
    reference, known = reference_losses(recorded, unedited, label)
    excess = reference - recorded.losses
    samples = draw(excess, count, rng)
    chosen = np.unique(np.concatenate(list(samples.values())))
    ids = recorded.ids()

    def question(position: int, *, whole: bool = False) -> Question:
        tokens = recorded.prefix(position)
        place, target = len(tokens) - 1, int(ids[position])
        if whole:
            tokens = recorded.spans[recorded.span[position]].inputs
        return Question(tokens, place, target, position)

    def pad(n: int) -> Any:
        return rng.integers(0, model.vocab_size, n)

    groups: list[Sequence[Question]] = []
    for some in rounds(recorded, chosen, rng):
        groups += grouped([question(int(p)) for p in some], model.batch_tokens)
    answers = ask(fresh, model, groups, pad)
    differences = {
        name: np.array([answers[int(p)] for p in some]) - recorded.losses[some]
        for name, some in samples.items()
    }
    fits, by_sample = judge(differences, rounding)
    facts: dict[str, Any] = {
        "samples": by_sample,
        "tolerance": rounding.tolerance,
        "seed": seed,
        "reference": "unedited" if known else "mean loss of the same token",
        "undetected": undetected(excess, count, rounding),
    }
    if fits:
        return Verdict(None, facts)

    # Alone in a batch, with all its tokens, does it say what was scored?
    def as_scored(loss: float, position: int) -> bool:
        return bool(abs(loss - recorded.losses[position]) <= rounding.tolerance)

    off = [int(p) for p in chosen if not as_scored(answers[int(p)], int(p))]
    off = off[:: max(1, len(off) // 32)] or [int(p) for p in chosen[:32]]
    alone = ask(fresh, model, [[question(p, whole=True)] for p in off], pad)
    same = sum(as_scored(alone[p], p) for p in off)
    facts["alone"] = {"positions": len(off), "as_scored": same}
    return Verdict(NOT_CAUSAL if same > len(off) / 2 else OF_THE_BATCH, facts)
