"""Shards of tokens, as a folder's meta.json lists them for each split. Knows no torch.

A split is read as if its files (train-00000.bin, train-00001.bin, ...) were one. Which sequences
make up a step depends on (seed, step, index in the global batch) alone: not on the rank, nor on how
many ranks share the work, nor on what was read before, nor on where a file ends.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

TOKEN_DTYPE = np.dtype("<u2")
HOW_TO_PREPARE = "Prepare it with: python nanoGPT/prepare_data.py DATASET --out DIR"


class ShardError(Exception):
    """Tokens that cannot be used; the message says why, and what to do."""


class ForeignToken(ShardError):
    """One that only the rank whose rows hold it comes to."""


class Sizes(Protocol):
    """The settings that decide how tokens are cut into batches."""

    @property
    def block_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def global_batch(self) -> int: ...
    @property
    def micro_batch(self) -> int: ...
    @property
    def eval_windows(self) -> int: ...


@dataclass(frozen=True)
class Rows:
    """A micro-batch as it is read."""

    index: int
    """Its place among the micro-batches of the step, counted over all ranks."""
    tokens: NDArray[np.uint16]
    """(rows, block_size + 1) token ids: inputs and the one after the last."""


def sequence_starts(seed: int, step: int, count: int, span: int) -> NDArray[np.int64]:
    """First token of each sequence of a global batch: (count,) positions in 0..span-1.

    A counter-based generator keyed by (seed, step) gives any step without the steps before it, and
    its raw words are the same in every version of numpy.
    """
    words = np.random.Philox(key=[seed, step]).random_raw(count)
    return (words % np.uint64(span)).astype(np.int64)


class Split:
    """The tokens of one split: its shards, one after the other.

    Args:
        folder: holds the shards.
        name: of the split.
        meta: the folder's meta.json, as `read_meta` returns it.

    Raises:
        ShardError: a shard is missing, or its size is not what meta.json says.
    """

    def __init__(self, folder: Path, name: str, meta: dict[str, Any]) -> None:
        self.name = name
        self._digests: list[tuple[Path, str]] = []
        files: list[NDArray[np.uint16]] = []
        try:
            listed = [(s["file"], s["tokens"], s["sha256"]) for s in meta["splits"][name]["shards"]]
        except (KeyError, TypeError):
            raise ShardError(f"meta.json lists no shards of {name}. {HOW_TO_PREPARE}") from None
        for file, declared, sha256 in listed:
            path = folder / Path(file).name
            if not path.is_file():
                raise ShardError(
                    f"no data: {path.name} is missing from HARNESS_DATA. {HOW_TO_PREPARE}"
                )
            count, odd = divmod(path.stat().st_size, TOKEN_DTYPE.itemsize)
            # An interrupted copy leaves a shorter file, which would train without a word.
            if count != declared or odd:
                raise ShardError(
                    f"{path.name} holds {count} tokens where meta.json says {declared}. "
                    f"{HOW_TO_PREPARE}"
                )
            self._digests.append((path, sha256))
            if count:  # an empty file cannot be mapped
                files.append(np.memmap(path, dtype=TOKEN_DTYPE, mode="r", shape=(count,)))
        self._files = files
        self._ends = list(itertools.accumulate(map(len, files)))

    def __len__(self) -> int:
        """How many tokens there are."""
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, stop: int) -> NDArray[np.uint16]:
        """Tokens start..stop-1, which may lie in several files."""
        number = bisect.bisect_right(self._ends, start)
        parts = []
        while start < stop and number < len(self._files):
            first = self._ends[number] - len(self._files[number])
            part = self._files[number][start - first : stop - first]
            parts.append(part)
            start += len(part)
            number += 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=TOKEN_DTYPE)

    def digests(self) -> list[tuple[Path, str]]:
        """Each shard's file and the sha256 that it should have."""
        return list(self._digests)


def check_digest(path: Path, sha256: str) -> None:
    """Raises ShardError if a shard's content is not what meta.json says. Reads all of it."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ShardError(f"{path.name} cannot be read ({error.strerror}).") from error
    if found != sha256:
        raise ShardError(
            f"{path.name} is not the shard that meta.json describes: its sha256 differs. "
            f"{HOW_TO_PREPARE}"
        )


class Shards:
    """The two splits that training reads.

    Args:
        folder: holds meta.json and the shards of `train` and `monitor`.
        seed: which order of sequences; not negative.
        sizes: how they are cut.

    Raises:
        ShardError: a file is missing, not as long as meta.json says, too short, or not made for
            this vocabulary. Contents are compared by `check_digest` only: that takes long.
    """

    def __init__(self, folder: Path, seed: int, sizes: Sizes) -> None:
        self._seed, self._sizes = seed, sizes
        meta = read_meta(folder)
        ids = meta["vocab_size"]
        if ids > sizes.vocab_size:
            raise ShardError(
                f"the data has {ids} token ids, the model knows {sizes.vocab_size}. "
                f"Pass --vocab_size={ids} or more."
            )
        self._train = _open(folder, "train", meta, sizes.block_size)
        self._monitor = _open(folder, "monitor", meta, sizes.block_size)
        windows = min(sizes.eval_windows, (len(self._monitor) - 1) // sizes.block_size)
        self._window_starts = np.arange(windows, dtype=np.int64) * sizes.block_size

    def train(self, step: int, rank: int, world: int) -> Iterator[Rows]:
        """A rank's micro-batches of `step`; possibly none where ranks outnumber them."""
        span = len(self._train) - self._sizes.block_size
        starts = sequence_starts(self._seed, step, self._sizes.global_batch, span)
        return self._share(self._train, starts, rank, world)

    def monitor(self, rank: int, world: int) -> Iterator[Rows]:
        """A rank's share of the monitor windows, which follow each other without a gap."""
        return self._share(self._monitor, self._window_starts, rank, world)

    def digests(self) -> list[tuple[Path, str]]:
        """Each shard's file and the sha256 that it should have."""
        return self._train.digests() + self._monitor.digests()

    def _share(
        self, split: Split, starts: NDArray[np.int64], rank: int, world: int
    ) -> Iterator[Rows]:
        micro_batch, block_size = self._sizes.micro_batch, self._sizes.block_size
        pieces = range(0, len(starts), micro_batch)
        for index in range(rank, len(pieces), world):
            chosen = starts[pieces[index] : pieces[index] + micro_batch]
            rows = np.stack([split.read(s, s + block_size + 1) for s in chosen.tolist()])
            largest = int(rows.max())
            if largest >= self._sizes.vocab_size:
                raise ForeignToken(
                    f"the split {split.name} holds token id {largest}, beyond the model's "
                    f"vocabulary of {self._sizes.vocab_size} ids. Prepare the data again or raise "
                    "--vocab_size."
                )
            yield Rows(index, rows)


def read_meta(folder: Path) -> dict[str, Any]:
    """A folder's meta.json. Raises ShardError if it is missing or makes no sense."""
    path = folder / "meta.json"
    if not path.is_file():
        raise ShardError(f"no data: meta.json is missing from HARNESS_DATA. {HOW_TO_PREPARE}")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ShardError(f"meta.json is not JSON ({error}). {HOW_TO_PREPARE}") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("vocab_size"), int):
        raise ShardError(f"meta.json has no whole number 'vocab_size'. {HOW_TO_PREPARE}")
    return meta


def _open(folder: Path, name: str, meta: dict[str, Any], block_size: int) -> Split:
    split = Split(folder, name, meta)
    if len(split) <= block_size:
        raise ShardError(
            f"the split {name} holds {len(split)} tokens, a sequence needs {block_size + 1}. "
            f"{HOW_TO_PREPARE}"
        )
    return split
