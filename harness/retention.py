"""Disk that runs take, and what may be removed.

Guaranteed: of a finished test only checkpoints and scratch are ever removed (`out`, `kept`,
`cache`, `tmp`, `home`); its metrics.json with per-window losses and per-item outcomes, its final
files, logs, plan and status stay, and a test that has not finished is not touched at all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from harness.jobs.plan import FINAL_STATES, read_status
from harness.workspace import RunPaths, StatePaths


@dataclass(frozen=True)
class RunUsage:
    """What one run directory takes, in bytes."""

    session: str
    run: RunPaths
    total: int
    removable: int
    """checkpoints and scratch"""
    finished_at: float | None
    """seconds since the epoch; None while the test has not finished"""

    def expired(self, older_than_s: float, now: float) -> bool:
        return self.finished_at is not None and now - self.finished_at >= older_than_s


def run_usage(state: StatePaths) -> list[RunUsage]:
    """Every run directory, oldest session name first."""
    return [_usage(session, run) for session, run in _runs(state)]


def remove_expired(usages: list[RunUsage], older_than_s: float) -> int:
    """Remove what may be removed of tests that finished so long ago; returns the bytes freed."""
    freed = 0
    for usage in usages:
        if usage.expired(older_than_s, time.time()):
            for folder in _removable(usage.run):
                shutil.rmtree(folder, ignore_errors=True)
            freed += usage.removable - sum(map(_size, _removable(usage.run)))
    return freed


def _runs(state: StatePaths) -> Iterator[tuple[str, RunPaths]]:
    for folder in sorted(state.sessions.glob("*/runs/*")):
        if (folder / "plan.json").is_file():
            yield folder.parent.parent.name, RunPaths(folder)


def _removable(run: RunPaths) -> tuple[Path, ...]:
    return run.out, run.kept, run.cache, run.tmp, run.home


def _usage(session: str, run: RunPaths) -> RunUsage:
    status = read_status(run)
    finished = None
    if status is not None and status.state in FINAL_STATES and status.ended_at:
        finished = datetime.fromisoformat(status.ended_at).timestamp()
    return RunUsage(session, run, _size(run.root), sum(map(_size, _removable(run))), finished)


def _size(folder: Path) -> int:
    """Bytes of the regular files below a folder; links are not followed."""
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
        except OSError:
            continue  # it went away while we looked
    return total
