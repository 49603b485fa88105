"""Many threads' small writes in few transactions, since a commit's price is the disk's.

Guaranteed: `write` returns when the transaction that holds the item is over, and raises what came
of it; items of one thread are written in its order. While a transaction is under way the items of
other threads gather, and go together into the next one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass
class _Entry(Generic[Item]):
    item: Item
    done: bool = False
    error: BaseException | None = None


class GroupCommit(Generic[Item]):
    def __init__(
        self, together: Callable[[Sequence[Item]], Sequence[BaseException | None]]
    ) -> None:
        """`together` writes items and tells for each what stood in its way, or raises for all."""
        self._together = together
        self._waiting: list[_Entry[Item]] = []
        self._busy = False
        self._turn = threading.Condition()

    def write(self, item: Item) -> None:
        """Write one item, with whatever else is waiting. Raises what its transaction raised."""
        entry = _Entry(item)
        with self._turn:
            self._waiting.append(entry)
            self._turn.wait_for(lambda: entry.done or not self._busy)
            if not entry.done:
                self._busy = True
                batch, self._waiting = self._waiting, []
        if not entry.done:
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
            with self._turn:
                for entry, outcome in zip(batch, errors, strict=True):
                    entry.done, entry.error = True, outcome
                self._busy = False
                self._turn.notify_all()
