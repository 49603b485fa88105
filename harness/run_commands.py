"""What an operator sees and does with tests from a terminal: `harness ps`, `cancel`, `logs`.

All of it is in the run directories, so that no server is needed; one that runs sees a cancellation
within a second. Text that agents' code has printed is shown without control characters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from harness.jobs import Executor
from harness.jobs.plan import (
    FINAL_STATES,
    Plan,
    PlanError,
    RunStatus,
    given_gpus,
    read_plan,
    read_status,
)
from harness.printable import printable
from harness.workspace import RunPaths, StatePaths

LOG_SECONDS = 0.5
"""how often a log that is followed is looked at"""
PART = 1 << 16


class NoSuchRun(LookupError):
    """A session or test that is not in the state folder; the text says what there is."""


@dataclass(frozen=True)
class Job:
    """A test or check that is not finished."""

    run: RunPaths
    plan: Plan
    status: RunStatus

    @property
    def name(self) -> str:
        if self.run.is_check:
            return "check"
        attempt = f", attempt {self.plan.attempt}" if self.plan.attempt > 1 else ""
        return f"test #{self.plan.number}{attempt}"

    def as_json(self) -> dict[str, Any]:
        step, told = self.status.running, self.status.progress
        began = self.status.started_at
        age = (datetime.now(UTC) - datetime.fromisoformat(began)).total_seconds() if began else None
        return {
            "session": self.run.session,
            "job": self.name,
            "task": self.plan.task,
            "profile": self.plan.profile,
            "state": self.status.state,
            "gpus": given_gpus(self.run) if self.status.state == "running" else [],
            "needs_gpus": self.plan.gpus,
            "stage": step.stage if step else None,
            "role": step.role if step else None,
            "step": told.step if told else None,
            "steps": told.steps if told else None,
            "seconds_left": told.seconds_left if told else None,
            "seconds": None if age is None else round(age),
        }


def unfinished(state: StatePaths) -> list[Job]:
    """Tests and checks that wait or run, those that began first at the top."""
    found = []
    for run in state.all_runs():
        try:
            status, plan = read_status(run), read_plan(run)
        except (ValueError, PlanError):
            continue  # being made, or left by a preparation that was cut off
        if status is not None and status.state not in FINAL_STATES:
            found.append(Job(run, plan, status))
    return sorted(found, key=lambda job: (job.status.started_at is None, job.status.started_at))


def cancel(state: StatePaths, executor: Executor, session: str, number: int | None) -> Job:
    """End a session's test for good: it is given back, uncounted. Raises NoSuchRun."""
    own = [job for job in unfinished(state) if job.run.session == session and not job.run.is_check]
    wanted = [job for job in own if number is None or job.plan.number == number]
    if not wanted:
        what = f"test #{number}" if number is not None else "test"
        raise NoSuchRun(f"session {session} has no {what} that waits or runs; see: harness ps")
    executor.cancel(wanted[-1].run)
    return wanted[-1]


def last_run(state: StatePaths, session: str, number: int | None) -> RunPaths:
    """A session's latest test, or the latest attempt of one. Raises NoSuchRun."""
    found_here = [run for run in state.all_runs() if run.session == session]
    if not found_here and not _has(state, session):
        raise NoSuchRun(f"no session {session} here, in {state.sessions}; see: harness ps")
    own = [run for run in found_here if not run.is_check]
    plans = []
    for run in own:
        try:
            plans.append((read_plan(run), run))
        except PlanError:
            continue
    found = [
        (plan.number, plan.attempt, str(run.root), run)
        for plan, run in plans
        if number is None or plan.number == number
    ]
    if not found:
        known = ", ".join(str(n) for n in sorted({plan.number for plan, _ in plans}))
        has = f"its tests are {known}" if known else "it has none here"
        what = f"test #{number}" if number is not None else "test"
        raise NoSuchRun(f"session {session} has no {what} in {state.sessions}; {has}")
    return max(found)[-1]


def _has(state: StatePaths, session: str) -> bool:
    return state.sessions.is_dir() and any(p.name == session for p in state.sessions.iterdir())


def log_lines(
    run: RunPaths, stage: str | None, role: str | None, *, follow: bool = False
) -> Iterator[str]:
    """What the steps of a run have printed, each under its name; to the run's end if `follow`.

    Without control characters, but for line ends and tabs. Raises NoSuchRun if there is no such
    step.
    """
    status = read_status(run)
    assert status is not None
    steps = [
        (step.stage, step.role)
        for step in status.steps
        if stage in (None, step.stage) and role in (None, step.role)
    ]
    if not steps:
        known = ", ".join(f"--stage {s.stage} --role {s.role}" for s in status.steps)
        raise NoSuchRun(f"there is no such step; there are: {known}")
    for label, half in steps:
        path = run.step(label, half).log
        begun, taken, rest = False, 0, b""
        while True:
            # Asked first: what was printed before the end is then read.
            now = read_status(run)
            over = now is None or now.state in FINAL_STATES or bool(now.step(label, half).ended_at)
            if path.is_file():
                if not begun:
                    begun = True
                    yield f"── {label}, {half} ──\n"
                with path.open("rb") as file:
                    file.seek(taken)
                    while part := file.read(PART):
                        taken += len(part)
                        *whole, rest = (rest + part).split(b"\n")
                        yield from (_clean(line) + "\n" for line in whole)
            if over or not follow:
                break
            time.sleep(LOG_SECONDS)
        if rest:
            yield _clean(rest) + "\n"


def _clean(line: bytes) -> str:
    # A progress bar's carriage returns would overwrite what stands before them.
    return printable(line.decode("utf-8", errors="replace").replace("\r", "\n"))
