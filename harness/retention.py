"""Disk that runs take, and what may be removed.

Guaranteed: of a finished test only checkpoints and scratch are ever removed (`out`, `kept`,
`cache`, `tmp`, `home`); its metrics.json with per-window losses and per-item outcomes, its final
files, logs, plan and status stay. A check has no result that counts, and is made again if it is
asked for: a finished one is removed whole. What has not finished is not touched at all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from harness.jobs.plan import FINAL_STATES, read_status
from harness.workspace import RunPaths, StatePaths, entries_below, remove_tree


@dataclass(frozen=True)
class RunUsage:
    """What one run directory takes, in bytes."""

    session: str
    run: RunPaths
    check: bool
    """whether it is a check's; else a test's"""
    session_ended: bool
    total: int
    removable: int
    """all of a check; checkpoints and scratch of a test"""
    finished_at: float | None
    """seconds since the epoch; None while the run has not finished"""

    def expired(self, older_than_s: float, now: float) -> bool:
        """Whether what is removable may go: nobody asks for a check of a session that ended."""
        if self.finished_at is None:
            return False
        return now - self.finished_at >= older_than_s or (self.check and self.session_ended)


def run_usage(state: StatePaths, ended: Collection[str] = ()) -> list[RunUsage]:
    """Every run directory, by session and name; `ended` are the ids of sessions that ended."""
    return [_usage(session, run, session in ended) for session, run in _runs(state)]


def cache_bytes(state: StatePaths) -> int:
    """What is kept of unedited files between checks; it is bounded by the number of versions."""
    return _size(state.cache)


def remove_expired(usages: list[RunUsage], older_than_s: float) -> int:
    """Remove what may be removed of runs that finished so long ago; returns the bytes freed.

    Raises ValueError for a negative age.
    """
    if not older_than_s >= 0:
        raise ValueError(f"an age is 0 or more, not {older_than_s:g}")
    freed = 0
    for usage in usages:
        if usage.expired(older_than_s, time.time()):
            if usage.check:
                _remove_whole(usage.run.root)
            else:
                for folder in _scratch(usage.run):
                    remove_tree(folder)
            freed += usage.removable - _removable(usage.run, usage.check)
    return freed


def _remove_whole(folder: Path) -> None:
    """Out of the way in one step, so that a server never finds half a check."""
    aside = folder.with_name(f"{folder.name}.removed")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return
    except OSError:  # left over from a removal that was cut short
        remove_tree(aside)
        folder.rename(aside)
    remove_tree(aside)


def _runs(state: StatePaths) -> Iterator[tuple[str, RunPaths]]:
    for run in state.all_runs():
        if run.plan.is_file():
            yield run.session, run


def _scratch(run: RunPaths) -> tuple[Path, ...]:
    return run.out, run.kept, run.cache, run.tmp, run.home


def _removable(run: RunPaths, check: bool) -> int:
    return _size(run.root) if check else sum(map(_size, _scratch(run)))


def _usage(session: str, run: RunPaths, session_ended: bool) -> RunUsage:
    status = read_status(run)
    finished = None
    if status is not None and status.state in FINAL_STATES and status.ended_at:
        finished = datetime.fromisoformat(status.ended_at).timestamp()
    total, check = _size(run.root), run.is_check
    return RunUsage(session, run, check, session_ended, total, _removable(run, check), finished)


def _size(folder: Path) -> int:
    """Bytes of the regular files below a folder; links are not followed."""
    total = 0
    for entry in entries_below(folder):
        with contextlib.suppress(OSError):  # it went away while we looked
            if entry.is_file(follow_symlinks=False):
                total += entry.stat(follow_symlinks=False).st_size
    return total
