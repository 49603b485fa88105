"""Estimates of how long runs take and when one that waits starts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from runs import prepare, stage

from harness.jobs.durations import Durations, Load, seconds_until_start
from harness.jobs.plan import Progress, RunStatus, new_status, read_plan


@pytest.mark.parametrize(
    ("capacity", "busy", "ahead", "need", "seconds"),
    [
        (1, [], [], 1, 0),
        (1, [Load(1, 30)], [], 1, 30),
        (2, [Load(1, 30)], [], 1, 0),
        (1, [Load(1, 30)], [Load(1, 10), Load(1, 5)], 1, 45),
        (2, [Load(1, 30), Load(1, 50)], [Load(2, 10)], 1, 60),
        (4, [Load(2, 30), Load(1, 99)], [Load(3, 10)], 2, 40),
        (2, [], [], 3, None),
    ],
)
def test_when_a_waiting_run_starts(
    capacity: int, busy: list[Load], ahead: list[Load], need: int, seconds: float | None
) -> None:
    assert seconds_until_start(capacity, busy, ahead, need) == seconds


def test_what_was_seen_comes_before_the_limit_and_a_steps_own_pace_before_both(
    tmp_path: Path,
) -> None:
    plan = read_plan(prepare(tmp_path, stage(tmp_path, "a", run="true", score="true", limit_s=100)))
    durations, fresh = Durations(), new_status(plan)
    assert durations.left(plan, fresh) == 200
    durations.learn(plan, _ended(new_status(plan), run=30, score=4))
    durations.learn(plan, _ended(new_status(plan), run=50, score=6))
    assert durations.left(plan, fresh) == 45
    fresh.steps[0].state = "running"
    fresh.steps[0].started_at = (datetime.now(UTC) - timedelta(seconds=10)).isoformat()
    assert durations.left(plan, fresh) == pytest.approx(35, abs=1)
    fresh.progress = Progress(stage="a", seconds_left=7)
    assert durations.left(plan, fresh) == 12


def _ended(status: RunStatus, **seconds: float) -> RunStatus:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for step in status.steps:
        step.state, step.started_at = "done", began.isoformat()
        step.ended_at = (began + timedelta(seconds=seconds[step.role])).isoformat()
    return status
