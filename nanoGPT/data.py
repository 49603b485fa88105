"""The tokens that training reads: the only way to them.

A training process asks a `Feed` for two things only: the micro-batches of a step, each step once
and in order, and the monitor windows, once at each evaluation. `StreamFeed` gets them from a
feeder, a process of its own that holds the shards (feeder.py); `ShardFeed` reads the shards itself.
Both give the same batches.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from progress import RankError, StageError
from shards import TOKEN_DTYPE, ForeignToken, Rows, ShardError, Shards, Sizes


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

    def monitor(self, step: int) -> Iterator[MicroBatch]:
        """This rank's share of the fixed monitor windows, for the evaluation before `step`."""


def open_feed(sizes: Sizes, seed: int, rank: int, world: int, device: torch.device) -> Feed:
    """The feed of one of `world` ranks: from the feeder that HARNESS_CHANNEL names, or else from
    the folder that HARNESS_DATA names.

    Raises:
        StageError: neither is set, or the folder cannot be used.
    """
    if "HARNESS_CHANNEL" in os.environ:
        return StreamFeed(sizes, rank, world, device)
    if "HARNESS_DATA" not in os.environ:
        raise StageError("set HARNESS_DATA to the folder with the tokens.")
    return ShardFeed(Path(os.environ["HARNESS_DATA"]), seed, sizes, rank, world, device)


class ShardFeed:
    """Reads the shards in `folder`.

    Raises:
        StageError: a file is missing, too short, or not made for this vocabulary.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        sizes: Sizes,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self._rank, self._world, self._device = rank, world, torch.device(device)
        try:
            self._shards = Shards(folder, seed, sizes)
        except ShardError as error:
            raise StageError(str(error)) from error

    def train(self, step: int) -> Iterator[MicroBatch]:
        """This rank's micro-batches of `step`."""
        return self._placed(self._shards.train(step, self._rank, self._world))

    def monitor(self, step: int) -> Iterator[MicroBatch]:
        """This rank's share of the monitor windows, the same at every step."""
        return self._placed(self._shards.monitor(self._rank, self._world))

    def _placed(self, rows: Iterable[Rows]) -> Iterator[MicroBatch]:
        try:
            for part in rows:
                yield _place(part.index, part.tokens, self._device)
        except ForeignToken as error:
            raise RankError(str(error)) from error


class StreamFeed:
    """Takes what the feeder sends: every batch once, in the order of the run.

    It connects at its first use, and says from which step on this run needs batches. A feeder that
    is gone, refuses, or sends what does not fit `sizes` is a StageError of this rank.
    """

    def __init__(self, sizes: Sizes, rank: int, world: int, device: torch.device) -> None:
        self._sizes, self._rank, self._world, self._device = sizes, rank, world, device
        self._line: Any = None
        self._memory: Any = None

    def train(self, step: int) -> Iterator[MicroBatch]:
        """This rank's micro-batches of `step`."""
        return self._take("train", step, self._sizes.global_batch)

    def monitor(self, step: int) -> Iterator[MicroBatch]:
        """This rank's share of the monitor windows."""
        return self._take("monitor", step, self._sizes.eval_windows)

    def _take(self, kind: str, step: int, count: int) -> Iterator[MicroBatch]:
        """What the feeder has of this kind for this step, up to the end mark: `count` sequences
        over all ranks, or fewer if the monitor split is short."""
        import channel  # only where a feeder is: the harness puts it on the path

        whole, span = kind == "train", self._sizes.block_size + 1
        try:
            if self._line is None:
                self._connect(channel, step)
            for index in itertools.count(self._rank, self._world):
                self._line.send({"next": [kind, step]})
                answer = self._line.receive()
                if "refused" in answer:
                    raise RankError(f"the feeder gives no tokens: {answer['refused']}")
                most = min(self._sizes.micro_batch, count - index * self._sizes.micro_batch)
                if answer == {"end": True} and (most <= 0 or not whole):
                    return
                rows = answer.get("rows")
                if answer.get("index") != index or rows not in range(
                    most if whole else 1, most + 1
                ):
                    what = f"micro-batch {index} of {kind} {step}"
                    raise RankError(f"the feeder sent {str(answer)[:100]} for {what}.")
                yield _place(index, self._memory.view(TOKEN_DTYPE, (rows, span), 0), self._device)
        except channel.ChannelClosed as error:
            raise RankError(f"the feeder of tokens is gone ({error}). See its log.") from error
        except channel.ProtocolError as error:
            raise RankError(f"the feeder of tokens makes no sense ({error}).") from error

    def _connect(self, channel: Any, step: int) -> None:
        self._line = channel.connect()
        weakref.finalize(self, self._line.close)
        self._line.send({"rank": self._rank, "world": self._world, "start": step})
        welcome, fd = self._line.receive_with_fd()
        self._memory = channel.Memory(fd)
        self._memory.close()  # mapped it stays
        if "refused" in welcome:
            raise RankError(f"the feeder gives no tokens: {welcome['refused']}")
        rows, span = self._sizes.micro_batch, self._sizes.block_size + 1
        needed = rows * span * TOKEN_DTYPE.itemsize
        if welcome != {"rows": rows, "span": span} or self._memory.size < needed:
            raise RankError(f"the feeder has {str(welcome)[:100]}, not {rows} rows of {span}.")


def _place(index: int, rows: NDArray[np.uint16], device: torch.device) -> MicroBatch:
    """The rows as inputs and targets on the device."""
    block = torch.from_numpy(rows.astype(np.int64))

    def placed(part: torch.Tensor) -> torch.Tensor:
        # Always a copy: what shares memory with the inputs must not hold the targets.
        part = part.clone(memory_format=torch.contiguous_format)
        if device.type == "cpu":
            return part
        # Pinned memory lets the copy run behind the computation of the micro-batch before.
        return part.pin_memory().to(device, non_blocking=True)

    return MicroBatch(index, placed(block[:, :-1]), placed(block[:, 1:]))
