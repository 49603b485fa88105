"""Shards of tokens: a folder with train.bin, monitor.bin and meta.json. Knows no torch.

Which sequences make up a step depends on (seed, step, index in the global batch) alone: not on the
rank, nor on how many ranks share the work, nor on what was read before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

TOKEN_DTYPE = np.dtype("<u2")
HOW_TO_PREPARE = "Prepare it with: python nanoGPT/prepare_data.py shakespeare --out DIR"


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


class Shards:
    """The two token files that training reads.

    Args:
        folder: holds train.bin, monitor.bin and meta.json.
        seed: which order of sequences; not negative.
        sizes: how they are cut.

    Raises:
        ShardError: a file is missing, too short, or not made for this vocabulary.
    """

    def __init__(self, folder: Path, seed: int, sizes: Sizes) -> None:
        self._seed, self._sizes = seed, sizes
        meta = _read_meta(folder)
        ids = meta["vocab_size"]
        if ids > sizes.vocab_size:
            raise ShardError(
                f"the data has {ids} token ids, the model knows {sizes.vocab_size}. "
                f"Pass --vocab_size={ids} or more."
            )
        self._train = _open_tokens(folder, "train", meta, sizes.block_size)
        self._monitor = _open_tokens(folder, "monitor", meta, sizes.block_size)
        windows = min(sizes.eval_windows, (len(self._monitor) - 1) // sizes.block_size)
        self._window_starts = np.arange(windows, dtype=np.int64) * sizes.block_size

    def train(self, step: int, rank: int, world: int) -> Iterator[Rows]:
        """A rank's micro-batches of `step`; possibly none where ranks outnumber them."""
        span = len(self._train) - self._sizes.block_size
        starts = sequence_starts(self._seed, step, self._sizes.global_batch, span)
        return self._share(self._train, starts, "train.bin", rank, world)

    def monitor(self, rank: int, world: int) -> Iterator[Rows]:
        """A rank's share of the monitor windows, which follow each other without a gap."""
        return self._share(self._monitor, self._window_starts, "monitor.bin", rank, world)

    def _share(
        self,
        tokens: NDArray[np.uint16],
        starts: NDArray[np.int64],
        name: str,
        rank: int,
        world: int,
    ) -> Iterator[Rows]:
        micro_batch, block_size = self._sizes.micro_batch, self._sizes.block_size
        pieces = range(0, len(starts), micro_batch)
        for index in range(rank, len(pieces), world):
            chosen = starts[pieces[index] : pieces[index] + micro_batch]
            rows = np.stack([tokens[s : s + block_size + 1] for s in chosen])
            largest = int(rows.max())
            if largest >= self._sizes.vocab_size:
                raise ForeignToken(
                    f"{name} holds token id {largest}, beyond the model's vocabulary of "
                    f"{self._sizes.vocab_size} ids. Prepare the data again or raise --vocab_size."
                )
            yield Rows(index, rows)


def _read_meta(folder: Path) -> dict[str, Any]:
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


def _open_tokens(
    folder: Path, split: str, meta: dict[str, Any], block_size: int
) -> NDArray[np.uint16]:
    path = folder / f"{split}.bin"
    if not path.is_file():
        raise ShardError(f"no data: {path.name} is missing from HARNESS_DATA. {HOW_TO_PREPARE}")
    count = path.stat().st_size // TOKEN_DTYPE.itemsize
    # An interrupted copy leaves a shorter file, which would train without a word.
    declared = meta.get("splits", {}).get(split, {}).get("tokens", count)
    if count != declared:
        raise ShardError(
            f"{path.name} holds {count} tokens where meta.json says {declared}. {HOW_TO_PREPARE}"
        )
    if count <= block_size:
        raise ShardError(
            f"{path.name} holds {count} tokens, a sequence needs {block_size + 1}. {HOW_TO_PREPARE}"
        )
    tokens: NDArray[np.uint16] = np.memmap(path, dtype=TOKEN_DTYPE, mode="r", shape=(count,))
    return tokens
