"""Many threads' small writes in few transactions, since a commit's price is the disk's.

Guaranteed: `write` returns when the transaction that holds the item is over, and raises what came
of it; items of one thread are written in its order. While a transaction is under way the items of
other threads gather, and go together into the next one. A thread is woken once: when its item is
written, or to write what has gathered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass
class _Entry(Generic[Item]):
    item: Item
    done: bool = False
    error: BaseException | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)
    """released, by whichever thread, when its own may go on"""


class GroupCommit(Generic[Item]):
    def __init__(
        self, together: Callable[[Sequence[Item]], Sequence[BaseException | None]]
    ) -> None:
        """`together` writes items and tells for each what stood in its way, or raises for all."""
        self._together = together
        self._waiting: list[_Entry[Item]] = []
        self._busy = False
        self._lock = threading.Lock()

    def write(self, item: Item) -> None:
        """Write one item, with whatever else is waiting. Raises what its transaction raised."""
        entry = _Entry(item)
        entry.turn.acquire()
        with self._lock:
            self._waiting.append(entry)
            waits, self._busy = self._busy, True
        if waits:
            entry.turn.acquire()
        if not entry.done:
            with self._lock:
                batch, self._waiting = self._waiting, []
            self._write(batch)
        if entry.error is not None:
            raise entry.error

    def _write(self, batch: list[_Entry[Item]]) -> None:
        errors: Sequence[BaseException | None] = [RuntimeError("not written")] * len(batch)
        try:
            errors = self._together([entry.item for entry in batch])
        except BaseException as error:
            errors = [error] * len(batch)
            if not isinstance(error, Exception):
                raise
        finally:
            for entry, outcome in zip(batch, errors, strict=True):
                entry.done, entry.error = True, outcome
                entry.turn.release()
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._busy = following is not None
            if following is not None:
                following.turn.release()
