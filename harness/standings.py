"""Leaderboards out of a journal, kept up to date at little cost.

A session is read again only if its journal has grown since (a closed one's does so by reviews and
regrades alone), and a board is made anew only if any session was. Safe for several threads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.board import LeaderboardView
from harness.errors import AgentError
from harness.events import Header
from harness.leaderboard import leaderboard
from harness.outcomes import Outcome, References, outcome_of
from harness.session import SessionState
from harness.store import Store
from harness.task import Task

log = logging.getLogger("harness.standings")


@dataclass
class _Kept:
    """What is known of one task."""

    outcomes: dict[str, tuple[int, Outcome | None]] = field(default_factory=dict)
    """by session: the number of the last event that was read, and what it came to"""
    references: dict[str, References] = field(default_factory=dict)
    """by the digest of the files that sessions start from"""
    board: LeaderboardView | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Standings:
    """The leaderboards of a server's tasks."""

    def __init__(self, store: Store, tasks: Mapping[str, Task]) -> None:
        self._store = store
        self._tasks = tasks
        self._kept = {name: _Kept() for name in tasks}

    def board(self, task_name: str) -> LeaderboardView:
        """The task's leaderboard as the journal has it now. KeyError for a task there is not.

        It is shared: not to be changed by who gets it.
        """
        task, kept = self._tasks[task_name], self._kept[task_name]
        with kept.lock:
            if self._catch_up(task, kept) or kept.board is None:
                kept.board = leaderboard(task, _known(kept))
            return kept.board

    def outcomes(self, task_name: str) -> list[Outcome]:
        """The task's sessions as the journal has them now. KeyError for a task there is not."""
        task, kept = self._tasks[task_name], self._kept[task_name]
        with kept.lock:
            self._catch_up(task, kept)
            return _known(kept)

    def _catch_up(self, task: Task, kept: _Kept) -> bool:
        """Read the sessions that have grown; whether there were any. With the lock held."""
        newest = self._store.last_events(task.name)
        changed = [name for name, seq in newest.items() if self._is_behind(kept, name, seq)]
        for name in changed:
            kept.outcomes[name] = self._read(task, kept, name, newest[name])
        # In the database's order, and of sessions that it still has.
        kept.outcomes = {name: kept.outcomes[name] for name in newest}
        return bool(changed)

    def _is_behind(self, kept: _Kept, name: str, seq: int) -> bool:
        known = kept.outcomes.get(name)
        return known is None or known[0] != seq

    def _read(self, task: Task, kept: _Kept, name: str, seq: int) -> tuple[int, Outcome | None]:
        try:
            loaded = self._store.load(name)
            assert loaded is not None, name  # sessions are never removed
            header, events = loaded
            found = outcome_of(task, header, events, _references(task, kept, header))
        except (ValueError, ArithmeticError, LookupError, AgentError) as error:
            # One journal that is broken, or a newer program's, must not keep people from others.
            log.error("session %s is left out of the leaderboard: %s", name, error)
            return seq, None
        return seq, found


def _known(kept: _Kept) -> list[Outcome]:
    return [outcome for _, outcome in kept.outcomes.values() if outcome is not None]


def _references(task: Task, kept: _Kept, header: Header) -> References:
    start = SessionState.start(header)
    key = start.files_digest
    if key not in kept.references:
        kept.references[key] = References.of(task, start.files)
    return kept.references[key]
