"""Runners that do not come up: when the next one is tried, and when it is given up.

A runner has come up when its run's status tells of one start more than before. Guaranteed: one that
ends earlier (no Python, no memory, no process to be had, a status that it cannot write) is started
again after a pause that doubles each time, and at most `ATTEMPTS` times in a row; between two
attempts the run is in no queue, so that others have their turn.
Not kept: the count. A server that is started anew tries anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.jobs import Executor, ExecutorAway
from harness.jobs.plan import FINAL_STATES, PlanError, RunStatus, read_status
from harness.workspace import RunPaths, read_regular

ATTEMPTS = 8
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""with which a runner that never comes up is given up after two minutes"""

LOG_BYTES = 1 << 20


class NotStarted(RuntimeError):
    """A run whose runner did not come up, however often it was started; one line, for operators."""


@dataclass
class _Tried:
    starts: int
    """that the status told of before"""
    times: int = 0
    not_before: float = 0.0
    problem: str = ""


class Starting:
    """Hands runs over to one executor. Safe for many threads."""

    def __init__(self, executor: Executor, clock: Callable[[], float] = time.monotonic) -> None:
        self.executor = executor
        self._clock = clock
        self._lock = threading.Lock()
        self._tried: dict[RunPaths, _Tried] = {}

    def hand_over(self, run: RunPaths) -> None:
        """Submit a run that is not finished, unless its last runner did not come up just now.

        Raises NotStarted when it is given up, after which the next call begins to count anew;
        ExecutorAway, which is no attempt; ValueError or OSError if the status can't be read.
        """
        if self.executor.state(run).kind != "gone":
            self.executor.submit(run)  # which takes up what lives, and leaves the rest alone
            return
        status = read_status(run)
        if status is not None and status.state in FINAL_STATES:
            return
        with self._lock:
            starts = status.starts if status is not None else 0
            tried = self._tried.get(run)
            if tried is None or tried.starts != starts:
                tried = self._tried[run] = _Tried(starts)
            if tried.times >= ATTEMPTS:
                del self._tried[run]
                said = tried.problem or _last_line(run)
                raise NotStarted(f"its runner did not come up, {ATTEMPTS} times: {said}")
            if self._clock() < tried.not_before:
                return
            tried.times += 1
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (tried.times - 1))
            tried.not_before = self._clock() + pause
        try:
            self.executor.submit(run)
        except ExecutorAway:
            with self._lock:
                tried.times, tried.not_before = tried.times - 1, 0.0
            raise
        except (PlanError, OSError) as error:
            tried.problem = str(error)

    def waits(self, run: RunPaths, status: RunStatus) -> bool:
        """Whether a runner was asked for, and the status does not tell of it yet."""
        tried = self._tried.get(run)
        return tried is not None and tried.starts == status.starts

    def forget(self, run: RunPaths) -> None:
        """The run has come to its end."""
        with self._lock:
            self._tried.pop(run, None)


def _last_line(run: RunPaths) -> str:
    """What the runner said last."""
    try:
        said = (read_regular(run.runner_log, LOG_BYTES) or b"").decode(errors="replace").strip()
    except (ValueError, OSError):
        return "its log cannot be read"
    return said.splitlines()[-1] if said else "it said nothing"
