"""Checks that run an agent's code, as run directories of their own.

`contract` runs the edited files at a small size on a CPU; `preflight` takes the first steps of the
real thing. Either leaves findings, never a score, and is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from harness.checks.findings import (
    FINDINGS_BYTES,
    Finding,
    FindingsError,
    Report,
    read_findings,
)
from harness.jobs.plan import (
    ENDED_STEPS,
    FINAL_STATES,
    RunStatus,
    StepStatus,
    Surroundings,
    make_check_plan,
    prepare_run_dir,
    read_status,
    snapshot,
)
from harness.jobs.starting import Starting
from harness.regions import EditableFile
from harness.task import UNCOUNTED, Task
from harness.workspace import RunPaths, read_regular

Kind = Literal["contract", "preflight"]


def submit_check(
    starting: Starting,
    task: Task,
    profile: str,
    kind: Kind,
    files: Mapping[str, EditableFile],
    around: Surroundings,
) -> None:
    """Queue a check of the files, or leave it alone if it was begun. Raises PlanError, or
    NotStarted as `Starting.hand_over`."""
    if not around.paths.plan.exists():
        plan = make_check_plan(task, profile, kind, around)
        texts = {name: file.text for name, file in files.items()}
        prepare_run_dir(around.paths, plan, snapshot(task, texts), snapshot(task, {}))
    starting.hand_over(around.paths)


MAX_STARTS = 4
"""How often a check is begun whose runner dies: what brings it down each time is not run again."""


def check_report(
    starting: Starting, paths: RunPaths, files: Mapping[str, EditableFile]
) -> Report | None:
    """What a check came to; None while it goes on. One whose runner died is taken up again, up to
    three times. Raises NotStarted if its runner never comes up."""
    job = starting.executor.state(paths)
    status = read_status(paths)
    if status is not None and status.state in FINAL_STATES:
        return report_of(paths, status, files)
    if job.kind == "gone" and paths.plan.exists():
        if status is not None and status.starts >= MAX_STARTS:
            step = next(step for step in status.steps if step.state not in ENDED_STEPS)
            return _failed(step, f"it was interrupted {status.starts} times")
        starting.hand_over(paths)
    return None


def report_of(paths: RunPaths, status: RunStatus, files: Mapping[str, EditableFile]) -> Report:
    """The findings of the uncounted steps of a run directory."""
    report = Report()
    for step in status.steps:
        if step.role in UNCOUNTED and step.state not in ("waiting", "skipped"):
            report += _step_report(paths, step, files)
    return report


def _step_report(paths: RunPaths, step: StepStatus, files: Mapping[str, EditableFile]) -> Report:
    if step.state == "done" and step.role == "reference":
        return Report()
    if step.state == "done":
        try:
            content = read_regular(paths.findings(step.stage, step.role), FINDINGS_BYTES)
            if content is None:
                raise FindingsError("it left no findings")
            return read_findings(content, files)
        except ValueError as error:
            return _failed(step, str(error))
    reason = " ".join(line.strip() for line in step.reason) or f"exit code {step.exit}"
    return _failed(step, reason)


def _failed(step: StepStatus, reason: str) -> Report:
    """A check that could not be carried out stands in the way as a finding does."""
    message = f"the check {step.role} did not end well: {reason}".removesuffix(".")
    return Report((Finding(f"{step.role}-failed", "", 0, message),))
