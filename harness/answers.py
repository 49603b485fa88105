"""A test's state as the text that an agent reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness import render
from harness.budget import Budget
from harness.checks.findings import Report
from harness.errors import AgentError
from harness.events import StageResult, TestFinished
from harness.metrics import format_values


@dataclass(frozen=True)
class Answer:
    """What one tool call is answered with."""

    ok: bool
    text: str
    error: str | None = None
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_error(cls, error: AgentError, view: str = "", **data: Any) -> Answer:
        text = f"{error.text}\n\n{view}" if view else error.text
        return cls(False, text, error.code, data)


@dataclass(frozen=True)
class Progress:
    """How far a test is, as its run directory tells."""

    state: str
    """`checking`, `queued` or `running`"""
    place: int | None = None
    """in the queue, from 1"""
    stage: str | None = None
    role: str | None = None
    step: int | None = None
    steps: int | None = None
    seconds_left: float | None = None
    loss: float | None = None
    tokens_per_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value is not None}


NOTHING_TO_DO = "Nothing to do until then: call status(wait_s=50), or wait without calling."


def progress_text(number: int, progress: Progress) -> str:
    line = progress_line(number, progress)
    if progress.state == "queued" and progress.seconds_left is not None:
        return line
    return f"{line} {NOTHING_TO_DO}"


def progress_line(number: int, progress: Progress) -> str:
    """How far a test is, in a sentence."""
    if progress.state == "checking":
        return f"[Test #{number}] checking, not counted yet."
    if progress.state == "queued":
        place = f"place {progress.place or 1}"
        if progress.seconds_left is None:
            return f"[Test #{number}] queued: {place}."
        wait = render.duration(progress.seconds_left)
        return f"[Test #{number}] queued: {place}, about {wait} until it starts."
    parts = [progress.stage or "starting"]
    if progress.role in ("reference", "preflight"):
        parts.append("first steps, not counted yet")
    elif progress.role == "score":
        parts.append("scoring")
    elif progress.step is not None and progress.steps is not None:
        parts.append(f"step {progress.step} of {progress.steps}")
    if progress.seconds_left is not None and progress.role == "run":
        parts.append(f"about {render.duration(progress.seconds_left)} left")
    return f"[Test #{number}] running: {', '.join(parts)}."


def result_text(result: TestFinished, budget: Budget, decimals: Mapping[str, int]) -> str:
    """A finished test as `test`, `status` and `submit` show it."""
    head = (
        f"[Test #{result.number}] ({render.tests_remaining(budget.remaining)}; "
        "call submit(n=N) to choose which test result to submit as final)"
    )
    parts = [head]
    if result.provenance.get("sandbox") == "none":
        parts.append("[NOT RANKED: this server runs tests without a sandbox]")
    return "\n\n".join([*parts, *(stage_text(stage, decimals) for stage in result.stages)])


def stage_text(stage: StageResult, decimals: Mapping[str, int]) -> str:
    lines = [f"### {stage.label} ({stage.script})"]
    if stage.feedback:
        lines.append("Training metrics (last steps):")
        lines.extend(stage.feedback)
    if stage.metrics:
        lines.append(f"TEST_METRICS: {format_values(stage.metrics, decimals)}")
    if stage.state == "failed":
        lines.append(f"[COMMAND FAILED exit={stage.exit}]")
        lines.extend(stage.reason)
    elif stage.state == "timeout":
        lines.append(f"[TIMEOUT after {stage.limit_s:.0f} s]")
        lines.extend(stage.reason)
    elif stage.state == "void":
        lines.append(f"[AUDIT FAILED: {'; '.join(stage.reason)}]")
        lines.append("This test counts, and has no score.")
    elif stage.state == "skipped":
        lines.append(f"[SKIPPED: {'; '.join(stage.reason)}]")
    return "\n".join(lines)


def check_text(report: Report | None, *, several_files: bool, note: str = "") -> str:
    """What `check` says; `report` is None while checks go on."""
    if report is None:
        return (
            "[Check] running. Nothing to do until then: call check(wait_s=50), or wait without "
            "calling."
        )
    lines = []
    if report.ok:
        lines.append("[Check] ok: nothing was found that stands in the way of a test.")
    else:
        count = len(report.findings)
        what = "1 finding" if count == 1 else f"{count} findings"
        lines.append(f"[Check] {what}; test() is refused until this is mended:")
        lines.extend(f"ERROR: {f.describe(several_files=several_files)}." for f in report.findings)
    lines.extend(f"WARNING: {w.describe(several_files=several_files)}." for w in report.warnings)
    return "\n".join([*lines, note] if note else lines)


def idle_text(budget: Budget, last: TestFinished | None, decimals: Mapping[str, int]) -> str:
    """What `status` says while no test runs."""
    head = f"[Status] {render.tests_remaining(budget.remaining)}; no test is running."
    if last is None:
        return f"{head} Call test() to run one on the files as they are."
    return f"{head} The last result:\n\n{result_text(last, budget, decimals)}"
