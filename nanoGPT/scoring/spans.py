"""Which tokens are scored, seeing which tokens before them. Pure; knows no model.

A span is a model input of at most `block_size` tokens of which the last few are followed by a
target. Every scored token of a text is the target of exactly one span.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Tokens: TypeAlias = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """`targets[-1]` follows `inputs[-1]`, `targets[-2]` follows `inputs[-2]`, and so on."""

    inputs: Tokens
    targets: Tokens


def fixed_windows(tokens: Tokens, block_size: int) -> list[Span]:
    """A text as windows that follow each other, of `block_size` inputs and as many targets.

    Tokens after the last full window are left out, as is the first one as a target.
    """
    starts = range(0, len(tokens) - block_size, block_size)
    return [Span(tokens[s : s + block_size], tokens[s + 1 : s + block_size + 1]) for s in starts]


def document_spans(tokens: Sequence[int], scored: int, eot: int, block_size: int) -> list[Span]:
    """The last `scored` tokens of a document as targets; end-of-text stands before the first.

    A document that fits gets one span. A longer one is cut as lm-eval cuts WikiText: each span
    goes on where the one before ended, with one token of context at least, and the last one
    reaches back so that its input is full. If all that is scored fits one span, it is the end of
    the document with as much context as there is room for.
    """
    if not 0 < scored <= len(tokens):
        raise ValueError(f"{scored} scored tokens in a document of {len(tokens)}")
    inputs = [eot, *tokens[:-1]]
    end, done = len(tokens), len(tokens) - scored
    spans: list[Span] = []
    while done < end:
        stop = min(done + block_size, end) if scored > block_size else end
        start = max(0, stop - block_size)
        spans.append(Span(inputs[start:stop], tokens[done:stop]))
        done = stop
    return spans


def evenly(count: int, limit: int | None) -> list[int]:
    """At most `limit` of the indices 0..count-1, spread evenly; all of them without a limit."""
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def batches(spans: Sequence[Span], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of spans of like length, longest first, `batch_tokens` padded tokens at most.

    A single span longer than `batch_tokens` is a batch of its own.
    """
    order = sorted(range(len(spans)), key=lambda i: -len(spans[i].inputs))
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // len(spans[order[start]].inputs))
        yield order[start : start + rows]
        start += rows


def development_half(ids: Sequence[str]) -> set[str]:
    """Half of `ids` (rounded up), chosen by the ids alone and not by their order."""
    ranked = sorted(ids, key=lambda item: hashlib.sha256(item.encode()).digest())
    return set(ranked[: (len(ids) + 1) // 2])
