"""Near-duplicates of held-out texts, by the shingles that two documents share.

A shingle is a hash of `SHINGLE` successive words; words are runs of letters and digits, ASCII
letters in lower case, so that case, punctuation and spacing do not matter. A document shorter than
that is one shingle. Two documents are near-duplicates if they share at least `SHARE` of the
distinct shingles of the one that has fewer, and `LEAST` or all of them: the other may be longer by
whatever stands around it, and a phrase in a document of one sentence is not enough.

The held-out texts are few, so all their shingles are kept and nothing is estimated, as MinHash
would; a shared hash of 64 bits that is no shared shingle needs 2**64 pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corpus.files import save_array

SHINGLE = 8
SHARE = 0.3
LEAST = 5
BITS_A_SHINGLE = 64
"""Of the bit table that most shingles of other texts do not pass: one in 64 does."""

CHUNK = 1 << 20
"""Bytes of text that are hashed at once."""

Hashes = NDArray[np.uint64]


def _random(count: int, key: int) -> Hashes:
    return np.random.Philox(key=key).random_raw(count) | np.uint64(1)


_LETTERS = _random(256, 1)
"""A number for each byte, the same for both cases of a letter; 0 for what is between words."""
for _byte in range(128):
    _LETTERS[_byte] = _LETTERS[ord(chr(_byte).lower())] if chr(_byte).isalnum() else 0
_INSIDE = _LETTERS != 0
_BASE = 0x9E3779B97F4A7C15
_ORDER = _random(SHINGLE, 3)


def _mix(hashes: Hashes) -> Hashes:
    """Spread sums of products over all bits (the finaliser of splitmix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def shingles(texts: Sequence[bytes]) -> tuple[Hashes, NDArray[np.int64]]:
    """Of UTF-8 texts: all shingles, (count,) of them, and where each text's begin, (texts + 1,).

    A text without a word has none.
    """
    parts = [_shingles(some) for some in _chunks(texts)]
    counts = [np.diff(starts) for _, starts in parts]
    return (
        np.concatenate([np.zeros(0, dtype=np.uint64), *(hashes for hashes, _ in parts)]),
        np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *counts])),
    )


def _chunks(texts: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Runs of texts of about `CHUNK` bytes, whose arrays stay small."""
    first = size = 0
    for number, text in enumerate(texts):
        if size > CHUNK:
            yield texts[first:number]
            first, size = number, 0
        size += len(text)
    if len(texts) > first:
        yield texts[first:]


def _shingles(texts: Sequence[bytes]) -> tuple[Hashes, NDArray[np.int64]]:
    joined = np.frombuffer(b" ".join([*texts, b""]), dtype=np.uint8)
    inside = np.take(_INSIDE, joined)
    at = np.flatnonzero(inside[1:] > inside[:-1]) + 1
    if len(inside) and inside[0]:
        at = np.concatenate([[0], at])
    words = _hash_words(joined, at, np.flatnonzero(inside[1:] < inside[:-1]) + 1)
    ends = np.cumsum([len(text) + 1 for text in texts])
    per_text = np.diff(np.searchsorted(at, ends), prepend=0)

    # Words of text after text, with room behind each for a shingle that is not full.
    room = SHINGLE - 1
    number = np.repeat(np.arange(len(texts)), per_text)
    padded = np.zeros(len(words) + room * len(texts), dtype=np.uint64)
    padded[np.arange(len(words)) + number * room] = words
    count = len(padded) - room if len(texts) else 0
    sums = np.zeros(max(count, 0), dtype=np.uint64)
    for place, factor in enumerate(_ORDER):
        sums += padded[place : place + len(sums)] * factor

    kept = np.where(per_text > 0, np.maximum(per_text - room, 1), 0)
    starts = np.concatenate([[0], np.cumsum(kept)])
    first = np.cumsum(per_text + room) - (per_text + room)
    chosen = np.arange(starts[-1]) + np.repeat(first - starts[:-1], kept)
    return _mix(sums[chosen]), starts.astype(np.int64)


def _hash_words(
    joined: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> Hashes:
    """A hash of each word, joined[start:stop]: the polynomial of its bytes, modulo 2**64.

    It is a difference of two sums up to a place, with that place's power taken out.
    """
    powers, inverses = _powers(len(joined))
    sums = np.zeros(len(joined) + 1, dtype=np.uint64)
    np.cumsum(np.take(_LETTERS, joined) * powers, out=sums[1:])
    return _mix((sums[stops] - sums[starts]) * inverses[starts])


_tables = (np.ones(1, dtype=np.uint64), np.ones(1, dtype=np.uint64))


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """_BASE to the power of 0..count-1 and of 0..-(count-1), modulo 2**64; kept for later calls."""
    global _tables
    while len(_tables[0]) < count:
        done = len(_tables[0])
        factors = (pow(_BASE, sign * done, 1 << 64) for sign in (1, -1))
        _tables = (
            np.concatenate([_tables[0], _tables[0] * np.uint64(next(factors))]),
            np.concatenate([_tables[1], _tables[1] * np.uint64(next(factors))]),
        )
    return _tables[0][:count], _tables[1][:count]


@dataclass(frozen=True)
class HeldOut:
    """The shingles of texts that training must not see."""

    keys: Hashes
    """(distinct shingles,) in order"""
    starts: NDArray[np.int64]
    """(distinct shingles + 1,): where each one's texts begin in `texts`"""
    texts: NDArray[np.int32]
    """The texts that have it."""
    sizes: NDArray[np.int64]
    """(texts,): how many distinct shingles each has"""
    table: NDArray[np.uint8]
    """A bit for each value of a shingle's highest bits: whether any key has these."""

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> HeldOut:
        hashes, starts = shingles(texts)
        number = np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(starts))
        order = np.argsort(hashes, kind="stable")
        hashes, number = hashes[order], number[order]
        # Of neighbours that are the same shingle of the same text one stays.
        fresh = np.append(True, (hashes[1:] != hashes[:-1]) | (number[1:] != number[:-1]))
        hashes, number = hashes[fresh[: len(hashes)]], number[fresh[: len(number)]]
        keys, firsts = np.unique(hashes, return_index=True)
        bits = max(16, int(len(keys) * BITS_A_SHINGLE).bit_length())
        table = np.zeros(1 << (bits - 3), dtype=np.uint8)
        top = keys >> np.uint64(64 - bits)
        np.bitwise_or.at(table, top >> np.uint64(3), _bit(top))
        return cls(
            keys=keys,
            starts=np.append(firsts, len(hashes)).astype(np.int64),
            texts=number,
            sizes=np.bincount(number, minlength=len(texts)).astype(np.int64),
            table=table,
        )

    def save(self, folder: Path) -> None:
        for name, array in vars(self).items():
            save_array(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> HeldOut:
        """What `save` wrote, mapped: processes share it."""
        names = cls.__dataclass_fields__
        return cls(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names})

    def matches(self, texts: Sequence[bytes]) -> list[tuple[int, int]]:
        """(index in `texts`, held-out text) of each two that are near-duplicates."""
        hashes, starts = shingles(texts)
        found = self._known(hashes)
        if not len(found):
            return []
        owners = np.searchsorted(starts, found, side="right") - 1
        keys = np.searchsorted(self.keys, hashes[found])
        # A shingle that a text has twice counts once.
        pairs = np.unique(owners * len(self.keys) + keys)
        owners, keys = np.divmod(pairs, len(self.keys))
        counts = self.starts[keys + 1] - self.starts[keys]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        held = self.texts[np.repeat(self.starts[keys], counts) + within].astype(np.int64)
        both, shared = np.unique(
            np.repeat(owners, counts) * len(self.sizes) + held, return_counts=True
        )
        own, other = np.divmod(both, len(self.sizes))
        sizes = {int(i): _distinct(hashes[starts[i] : starts[i + 1]]) for i in np.unique(own)}
        own_sizes = np.array([sizes[int(i)] for i in own])
        fewer = np.minimum(own_sizes, self.sizes[other])
        near = shared >= np.maximum(SHARE * fewer, np.minimum(fewer, LEAST))
        return list(zip(own[near].tolist(), other[near].tolist(), strict=True))

    def _known(self, hashes: Hashes) -> NDArray[np.int64]:
        """Places of those that are keys."""
        if not len(self.keys):
            return np.zeros(0, dtype=np.int64)
        bits = len(self.table).bit_length() + 2
        top = hashes >> np.uint64(64 - bits)
        maybe = np.flatnonzero(self.table[top >> np.uint64(3)] & _bit(top))
        place = np.searchsorted(self.keys, hashes[maybe])
        sure = self.keys[np.minimum(place, len(self.keys) - 1)] == hashes[maybe]
        known: NDArray[np.int64] = maybe[sure]
        return known


def _bit(top: Hashes) -> NDArray[np.uint8]:
    bit: NDArray[np.uint8] = np.left_shift(1, top & np.uint64(7)).astype(np.uint8)
    return bit


def _distinct(hashes: Hashes) -> int:
    return len(np.unique(hashes))


def without_copies(texts: Sequence[bytes]) -> list[int]:
    """Which of the held-out texts to keep, in order: no near-duplicate of one that is kept."""
    twins: dict[int, set[int]] = {}
    for one, other in HeldOut.of(texts).matches(texts):
        if other < one:
            twins.setdefault(one, set()).add(other)
    gone: set[int] = set()
    for number in range(len(texts)):
        if twins.get(number, set()) - gone:
            gone.add(number)
    return [number for number in range(len(texts)) if number not in gone]
