"""The tokens that training reads. Nothing else in this folder opens a shard.

A training process asks a `Feed` for two things only: the micro-batches of a step, each step once
and in order, and the monitor windows, once at each evaluation. So whatever serves those two calls
can stand in for `ShardFeed`, which reads `train.bin` and `monitor.bin` itself.

Which sequences make up a step depends on (seed, step, index in the global batch) alone: not on the
rank, nor on how many ranks share the work, nor on what was read before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from progress import RankError, StageError

TOKEN_DTYPE = np.dtype("<u2")
HOW_TO_PREPARE = "Prepare it with: python nanoGPT/prepare_data.py shakespeare --out DIR"


@dataclass(frozen=True)
class MicroBatch:
    """Some rows of a global batch, on the training device."""

    index: int
    """Its place among the micro-batches of the step, counted over all ranks."""
    inputs: torch.Tensor
    """(rows, block_size) int64 token ids."""
    targets: torch.Tensor
    """(rows, block_size) int64: the token that follows each input."""


class Feed(Protocol):
    """Where a rank gets its share of the tokens."""

    def train(self, step: int) -> Iterator[MicroBatch]:
        """This rank's micro-batches of `step`; possibly none where ranks outnumber them."""

    def monitor(self) -> Iterator[MicroBatch]:
        """This rank's share of the fixed monitor windows, always the same ones in order."""


def sequence_starts(seed: int, step: int, count: int, span: int) -> NDArray[np.int64]:
    """First token of each sequence of a global batch: (count,) positions in 0..span-1.

    A counter-based generator keyed by (seed, step) gives any step without the steps before it, and
    its raw words are the same in every version of numpy.
    """
    words = np.random.Philox(key=[seed, step]).random_raw(count)
    return (words % np.uint64(span)).astype(np.int64)


class ShardFeed:
    """Reads uint16 token files from a folder holding train.bin, monitor.bin and meta.json.

    Args:
        folder: the data folder of the run role.
        seed: which order of sequences; not negative.
        block_size: tokens in a sequence.
        vocab_size: ids that the model knows; every token read is below it.
        global_batch: sequences in a step, over all ranks.
        micro_batch: sequences in one forward pass.
        eval_windows: monitor windows at most in an evaluation.
        rank, world: which share of how many.
        device: where the tensors go.

    Raises:
        StageError: a file is missing, too short, or not made for this vocabulary.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        block_size: int,
        vocab_size: int,
        global_batch: int,
        micro_batch: int,
        eval_windows: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self._seed = seed
        self._block_size = block_size
        self._vocab_size = vocab_size
        self._global_batch = global_batch
        self._micro_batch = micro_batch
        self._rank = rank
        self._world = world
        self._device = torch.device(device)
        meta = _read_meta(folder)
        ids = meta["vocab_size"]
        if ids > vocab_size:
            raise StageError(
                f"the data has {ids} token ids, the model knows {vocab_size}. "
                f"Pass --vocab_size={ids} or more."
            )
        self._train = _open_tokens(folder, "train", meta, block_size)
        self._monitor = _open_tokens(folder, "monitor", meta, block_size)
        windows = min(eval_windows, (len(self._monitor) - 1) // block_size)
        self._window_starts = np.arange(windows, dtype=np.int64) * block_size

    def train(self, step: int) -> Iterator[MicroBatch]:
        """This rank's micro-batches of `step`."""
        span = len(self._train) - self._block_size
        starts = sequence_starts(self._seed, step, self._global_batch, span)
        return self._share(self._train, starts, "train.bin")

    def monitor(self) -> Iterator[MicroBatch]:
        """This rank's share of the monitor windows, which follow each other without a gap."""
        return self._share(self._monitor, self._window_starts, "monitor.bin")

    def _share(
        self, tokens: NDArray[np.uint16], starts: NDArray[np.int64], name: str
    ) -> Iterator[MicroBatch]:
        pieces = range(0, len(starts), self._micro_batch)
        for index in range(self._rank, len(pieces), self._world):
            chosen = starts[pieces[index] : pieces[index] + self._micro_batch]
            rows = np.stack([tokens[s : s + self._block_size + 1] for s in chosen])
            largest = int(rows.max())
            if largest >= self._vocab_size:
                raise RankError(
                    f"{name} holds token id {largest}, beyond the model's vocabulary of "
                    f"{self._vocab_size} ids. Prepare the data again or raise --vocab_size."
                )
            block = torch.from_numpy(rows.astype(np.int64))
            yield MicroBatch(index, self._place(block[:, :-1]), self._place(block[:, 1:]))

    def _place(self, block: torch.Tensor) -> torch.Tensor:
        # Always a copy: what shares memory with the inputs must not hold the targets.
        block = block.clone(memory_format=torch.contiguous_format)
        if self._device.type == "cpu":
            return block
        # Pinned memory lets the copy run behind the computation of the micro-batch before.
        return block.pin_memory().to(self._device, non_blocking=True)


class Sizes(Protocol):
    """The settings that decide how a feed cuts its tokens."""

    block_size: int
    vocab_size: int
    global_batch: int
    micro_batch: int
    eval_windows: int


def open_feed(sizes: Sizes, seed: int, rank: int, world: int, device: torch.device) -> Feed:
    """The feed of one of `world` ranks, from the folder that HARNESS_DATA names."""
    return ShardFeed(
        Path(os.environ["HARNESS_DATA"]),
        seed=seed,
        block_size=sizes.block_size,
        vocab_size=sizes.vocab_size,
        global_batch=sizes.global_batch,
        micro_batch=sizes.micro_batch,
        eval_windows=sizes.eval_windows,
        rank=rank,
        world=world,
        device=device,
    )


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    if not path.is_file():
        raise StageError(f"no data: meta.json is missing from HARNESS_DATA. {HOW_TO_PREPARE}")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"meta.json is not JSON ({error}). {HOW_TO_PREPARE}") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("vocab_size"), int):
        raise StageError(f"meta.json has no whole number 'vocab_size'. {HOW_TO_PREPARE}")
    return meta


def _open_tokens(
    folder: Path, split: str, meta: dict[str, Any], block_size: int
) -> NDArray[np.uint16]:
    path = folder / f"{split}.bin"
    if not path.is_file():
        raise StageError(f"no data: {path.name} is missing from HARNESS_DATA. {HOW_TO_PREPARE}")
    count = path.stat().st_size // TOKEN_DTYPE.itemsize
    # An interrupted copy leaves a shorter file, which would train without a word.
    declared = meta.get("splits", {}).get(split, {}).get("tokens", count)
    if count != declared:
        raise StageError(
            f"{path.name} holds {count} tokens where meta.json says {declared}. {HOW_TO_PREPARE}"
        )
    if count <= block_size:
        raise StageError(
            f"{path.name} holds {count} tokens, a sequence needs {block_size + 1}. {HOW_TO_PREPARE}"
        )
    tokens: NDArray[np.uint16] = np.memmap(path, dtype=TOKEN_DTYPE, mode="r", shape=(count,))
    return tokens
