"""A finished run directory as the one event that takes it into the journal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from harness.conduct import conduct
from harness.events import StageResult, TestFinished, seal
from harness.jobs.plan import RunStatus, StepStatus, read_plan, read_progress
from harness.metrics import METRICS_BYTES, CurvePoint, MetricsError, Scores, feedback_lines
from harness.task import Stage, Task
from harness.workspace import RunPaths, read_log, read_regular

FEEDBACK_LINES = 5
CURVE_POINTS = 500
LOG_BYTES = 64 << 20


def collect(
    task: Task,
    profile: str,
    paths: RunPaths,
    status: RunStatus,
    *,
    number: int,
    attempt: int,
    provenance: Mapping[str, Any],
) -> TestFinished:
    """Read a run directory whose runner has finished with `status`."""
    stages: list[StageResult] = []
    hidden: dict[str, Any] = {}
    curve: list[CurvePoint] = []
    plan = read_plan(paths)
    planned = {stage.label: stage for stage in plan.stages}
    for stage in task.profile(profile).stages:
        own = [step for step in status.steps if step.stage == stage.label]
        scores, problem = _scores(task, profile, stage, paths, own)
        log = read_log(paths.step(stage.label, "run").log, LOG_BYTES)
        if task.feedback is not None and not curve:
            curve = task.read_curve(profile, stage.name, log)
        feedback: Sequence[str] = ()
        if task.feedback is not None and task.metrics_of(profile, stage.name, kind="feedback"):
            feedback = feedback_lines(log, task.feedback.prefix, FEEDBACK_LINES)
        if scores is not None:
            hidden[stage.name] = scores.private() | {"audit": scores.audit}
        # For people only: it may name what an agent should not learn of the machine.
        if stage.label in planned and (found := conduct(task, plan, planned[stage.label], paths)):
            hidden[stage.name] = hidden.get(stage.name, {}) | {"conduct": found}
        stages.append(_stage_result(stage, own, feedback, scores, problem))
    void = next((stage.reason[0] for stage in stages if stage.state == "void"), None)
    if void is not None:  # one stage's numbers are worth no more than the others'
        stages = [stage.model_copy(update={"metrics": {}}) for stage in stages]
    primary = task.primary(profile)
    scored = any(primary.name in stage.metrics for stage in stages)
    private, private_digest = seal(hidden)
    return TestFinished(
        number=number,
        attempt=attempt,
        scored=scored,
        stages=tuple(stages),
        curve=tuple(_thinned(curve)),
        void=void,
        provenance={
            **provenance,
            "runs": _runs(paths, status),
            "checkpoints": _checkpoints(status),
        },
        private=private,
        private_digest=private_digest,
    )


def _runs(paths: RunPaths, status: RunStatus) -> dict[str, dict[str, float | None]]:
    """By stage, what training said last of its speed and its memory; nobody has checked it."""
    told = {
        step.stage: progress
        for step in status.steps
        if step.role == "run" and (progress := read_progress(paths.out, step.stage)) is not None
    }
    return {
        label: {"tokens_per_s": p.tokens_per_s, "peak_memory_bytes": p.peak_memory_bytes}
        for label, p in told.items()
    }


def _checkpoints(status: RunStatus) -> list[dict[str, Any]]:
    """The files that were scored, with their hashes."""
    return [kept.model_dump() for step in status.steps for kept in step.kept]


def _scores(
    task: Task, profile: str, stage: Stage, paths: RunPaths, steps: Sequence[StepStatus]
) -> tuple[Scores | None, str | None]:
    """The stage's checked numbers, or why there are none."""
    if any(step.state not in ("done", "void") for step in steps) or "score" not in stage.roles:
        return None, None
    try:
        text = read_regular(paths.step(stage.label, "score").metrics, METRICS_BYTES)
        if text is None:
            return None, "the stage's score left no metrics.json"
        return task.read_scores(profile, stage.name, text), None
    except MetricsError as error:
        # The message names fields, never values, so nothing hidden is in it.
        return None, str(error)
    except ValueError as error:
        return None, f"metrics.json: {error}"


def _stage_result(
    stage: Stage,
    steps: Sequence[StepStatus],
    feedback: Sequence[str],
    scores: Scores | None,
    problem: str | None,
) -> StageResult:
    state: Literal["done", "failed", "timeout", "void", "skipped"] = "done"
    exit_code: int | None = 0
    reason: tuple[str, ...] = ()
    limit = None
    bad = next((step for step in steps if step.state != "done"), None)
    if bad is not None:
        state = bad.state if bad.state in ("timeout", "void", "skipped") else "failed"
        exit_code, limit = bad.exit, bad.limit_s
        reason = tuple(bad.reason)
    elif problem is not None:
        state, exit_code, reason = "failed", 1, (f"ERROR: {problem}",)
    times = [
        (datetime.fromisoformat(step.ended_at) - datetime.fromisoformat(step.started_at))
        for step in steps
        if step.started_at is not None and step.ended_at is not None
    ]
    return StageResult(
        name=stage.name,
        label=stage.label,
        script=stage.script,
        state=state,
        exit=exit_code,
        reason=reason,
        seconds=round(sum(t.total_seconds() for t in times), 3) if times else None,
        limit_s=limit,
        feedback=tuple(feedback),
        metrics=scores.visible if scores else {},
    )


def _thinned(curve: Sequence[CurvePoint]) -> list[dict[str, float]]:
    """At most CURVE_POINTS of the curve, evenly, its last point included."""
    stride = math.ceil(len(curve) / CURVE_POINTS) or 1
    kept = list(curve[::-1][::stride][::-1])
    return [
        {"step": point.step}
        | {name: value for name, value in point.values.items() if value is not None}
        for point in kept
    ]
