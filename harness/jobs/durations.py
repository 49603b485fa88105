"""How long runs take, and when one that waits will start. Estimates, for people and agents.

What has been seen of a task's profile comes first, then a step's own pace, then its limit.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from harness.jobs.plan import Plan, RunStatus, StepStatus

KEPT = 20
"""Durations of one step that are remembered."""


class Durations:
    """Seconds that each step of a profile took, of the last runs that this process has seen."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str, str], deque[float]] = {}

    def learn(self, plan: Plan, status: RunStatus) -> None:
        """Take the steps that ended well."""
        for step in status.steps:
            began, ended = _time(step.started_at), _time(step.ended_at)
            if step.state == "done" and began is not None and ended is not None:
                seen = self._seen.setdefault(_key(plan, step), deque(maxlen=KEPT))
                seen.append((ended - began).total_seconds())

    def left(self, plan: Plan, status: RunStatus | None) -> float:
        """Seconds until the run is finished, if its present step began when the status says."""
        total = 0.0
        for step in status.steps if status is not None else ():
            if step.state == "waiting":
                total += self._typical(plan, step)
            elif step.state == "running":
                told = status.progress if status is not None else None
                if told is not None and told.seconds_left is not None:
                    total += told.seconds_left
                else:
                    began = _time(step.started_at) or datetime.now(UTC)
                    spent = (datetime.now(UTC) - began).total_seconds()
                    total += max(0.0, self._typical(plan, step) - spent)
        return total

    def _typical(self, plan: Plan, step: StepStatus) -> float:
        seen = self._seen.get(_key(plan, step))
        return median(seen) if seen else step.limit_s


def _key(plan: Plan, step: StepStatus) -> tuple[str, str, str, str]:
    return plan.task, plan.profile, step.stage, step.role


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True)
class Load:
    """A run that holds `units` of what is scarce for some more seconds."""

    units: int
    seconds: float


def seconds_until_start(
    capacity: int, busy: Sequence[Load], ahead: Sequence[Load], need: int
) -> float | None:
    """When `need` of `capacity` units are free for a run behind those `ahead`; nobody overtakes.

    None if it needs more than there are.
    """
    ends = [(load.seconds, load.units) for load in busy]
    heapq.heapify(ends)
    free = capacity - sum(load.units for load in busy)
    now = 0.0
    for load in (*ahead, Load(need, 0.0)):
        while free < load.units:
            if not ends:
                return None
            now, units = heapq.heappop(ends)
            free += units
        free -= load.units
        heapq.heappush(ends, (now + load.seconds, load.units))
    return now
