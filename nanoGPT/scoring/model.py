"""A trained model as scoring sees it: token ids in, log-likelihoods out.

All that is asked of the model's own code is a function from token ids to the hidden states that
enter the final LayerNorm; `served.py` asks it of a confined process. The final LayerNorm, the tied
head and the cross-entropy are applied here, in fp32, with the checkpoint's weights: the model's own
logits and loss are never used.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from scoring.report import ScoreError
from scoring.spans import Span, Tokens, batches

LAYER_NORM_EPS = 1e-5
LOGITS_AT_ONCE = {"cpu": 1 << 25, "cuda": 1 << 27}
"""Numbers in the largest block of logits, by the kind of device (128 and 512 MiB in fp32)."""


BATCH_TOKENS = {"cpu": 8192, "cuda": 65536}
"""Padded tokens of a batch, by the kind of device."""


@dataclass(frozen=True)
class Batch:
    """A model input, and where in it something is scored."""

    idx: Tensor
    """(b, t) int64 token ids"""
    places: Tensor
    """(n,) int64, of the b * t positions in their order"""


class HiddenStates(Protocol):
    def __call__(self, batches: Iterable[Batch]) -> Iterator[Tensor]:
        """(n, c) fp32 each: what enters the final LayerNorm at the batch's places.

        In the order of the batches, which may be taken some ahead of what is given.
        """


@dataclass(frozen=True)
class Head:
    """The final LayerNorm and the output matrix, in fp32."""

    norm_weight: Tensor
    """(c,)"""
    norm_bias: Tensor | None
    """(c,) or None"""
    embedding: Tensor
    """(vocab_size, c): the token embedding, which is the output matrix too"""

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, c) hidden states -> (n, vocab_size) fp32 logits."""
        x = F.layer_norm(
            hidden.float(), self.norm_weight.shape, self.norm_weight, self.norm_bias, LAYER_NORM_EPS
        )
        return x @ self.embedding.T

    def score(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c), (n,) -> the loss of each target in nats (n,), whether it was the best (n,)."""
        losses, best = [], []
        rows = max(1, LOGITS_AT_ONCE[hidden.device.type] // self.embedding.shape[0])
        for some, wanted in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
            logits = self.logits(some)
            right = logits.gather(-1, wanted[:, None])[:, 0]
            losses.append(F.cross_entropy(logits, wanted, reduction="none"))
            best.append(right == logits.amax(-1))
        return torch.cat(losses), torch.cat(best)


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """How products of fp32 matrices are computed on a GPU, as torch calls it, for a while."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class SpanScore:
    """What a model makes of a span's targets."""

    losses: NDArray[np.float32]
    """Of each target, nats."""
    loss: float
    """Sum over the targets, nats."""
    greedy: bool
    """Whether each target was the likeliest token at its place."""


@dataclass(frozen=True)
class ScoredModel:
    """A model's hidden states and head, and what one needs to know to feed it."""

    hidden_states: HiddenStates
    head: Head
    block_size: int
    vocab_size: int
    device: torch.device
    tf32: bool = False
    """Whether the head's products may round to TF32: no more than a forward in bfloat16 has."""
    scored: list[tuple[Span, SpanScore]] = field(default_factory=list)
    """All that was scored so far, for the audit; in the order of the calls and their spans."""

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of a batch on this device."""
        return BATCH_TOKENS[self.device.type]

    def score(self, spans: Sequence[Span], batch_tokens: int | None = None) -> list[SpanScore]:
        """One result a span, in the spans' order, whatever batches they were put in.

        Shorter spans of a batch are padded on the right, which a causal model cannot see.
        Raises ScoreError if a loss is not finite, ValueError if a span is too long.
        """
        return self.score_parts([spans], batch_tokens)

    @torch.inference_mode()
    def score_parts(
        self, parts: Iterable[Sequence[Span]], batch_tokens: int | None = None
    ) -> list[SpanScore]:
        """As `score`, for spans that come part by part: one is scored while the next is made.

        An error may come while batches are under way; nothing can be asked of the model then.
        """
        begun: deque[tuple[_Planned, slice]] = deque()
        results: list[SpanScore] = []

        def given() -> Iterator[Batch]:
            for spans in parts:
                planned = _Planned(spans, batch_tokens or self.batch_tokens, self.block_size)
                for rows in planned.rows:
                    begun.append((planned, rows))
                    yield _padded(planned.inputs, planned.targets.lengths, rows)

        for hidden in self.hidden_states(given()):
            planned, rows = begun.popleft()
            # On a GPU this begins the work, and waits for that on the batch before at most.
            with matmul_precision("high" if self.tf32 else "highest"):
                wanted = torch.from_numpy(planned.targets.of(rows)).to(self.device, torch.int64)
                planned.found.append(self.head.score(hidden.to(self.device), wanted))
            if len(planned.found) == len(planned.rows):
                in_order = planned.results()
                self.scored.extend(zip(planned.spans, in_order, strict=True))
                results += in_order
        if begun:
            raise ValueError(f"{len(begun)} batches have no hidden states")
        return results


class _Planned:
    """Spans in batches, and what has been found of them."""

    def __init__(self, spans: Sequence[Span], batch_tokens: int, block_size: int) -> None:
        self.spans = spans
        plan = list(batches(spans, batch_tokens))
        self._order = [i for batch in plan for i in batch]
        self.inputs = _joined([spans[i].inputs for i in self._order])
        self.targets = _joined([spans[i].targets for i in self._order])
        if (longest := int(self.inputs.lengths.max(initial=0))) > block_size:
            raise ValueError(f"a span of {longest} tokens, the model takes {block_size}")
        ends = np.cumsum([len(batch) for batch in plan], dtype=np.int64).tolist()
        self.rows = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        """The batches, as places in the order of lengths."""
        self.found: list[tuple[Tensor, Tensor]] = []
        """Of each batch: the losses of its targets, whether each was the likeliest token."""

    def results(self) -> list[SpanScore]:
        """Of each span, once all batches are found. Raises ScoreError if a loss is not finite."""
        losses, best = (torch.cat(parts).cpu().numpy() for parts in zip(*self.found, strict=True))
        if not np.isfinite(losses).all():
            raise ScoreError(
                "the model's loss is not a finite number. Look at the losses that training "
                "printed: a lower learning rate or a smaller change may keep them finite."
            )
        sums = self.targets.sums(losses.astype(np.float64))
        missed = self.targets.sums((best == 0).astype(np.int64))
        bounds = self.targets.bounds
        places = zip(self._order, bounds, bounds[1:], sums, missed, strict=False)
        results = {i: SpanScore(losses[a:b], loss, not miss) for i, a, b, loss, miss in places}
        return [results[i] for i in range(len(self.spans))]


@dataclass(frozen=True)
class _Joined:
    """Token sequences one behind the other: arrays in place of loops over tens of thousands."""

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    bounds: list[int]
    """where each begins, and the end"""

    def of(self, some: slice) -> NDArray[np.int64]:
        """The tokens of some of the sequences."""
        return self.tokens[self.bounds[some.start] : self.bounds[some.stop]]

    def sums(self, values: NDArray[Any]) -> list[Any]:
        """The sum over each sequence of what belongs to its tokens."""
        total = np.zeros(len(self.lengths), dtype=values.dtype)
        there = self.lengths > 0
        total[there] = np.add.reduceat(values, np.array(self.bounds[:-1], np.int64)[there])
        return list(total.tolist())


def _joined(parts: Sequence[Tokens]) -> _Joined:
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    tokens = (
        np.concatenate(parts, dtype=np.int64, casting="unsafe") if parts else np.zeros(0, np.int64)
    )
    return _Joined(tokens, lengths, [0, *np.cumsum(lengths).tolist()])


def _padded(inputs: _Joined, scored: NDArray[np.int64], some: slice) -> Batch:
    """Some of the inputs, zeros behind the shorter ones, and the places of the last `scored`."""
    lengths = inputs.lengths[some, None]
    column = np.arange(lengths.max())
    inside = column < lengths
    idx = np.zeros(inside.shape, dtype=np.int64)
    idx[inside] = inputs.of(some)
    places = np.flatnonzero(inside & (column >= lengths - scored[some, None]))
    return Batch(torch.from_numpy(idx), torch.from_numpy(places))
