"""What one session comes to on a leaderboard: its finished tests with what is hidden of them, its
submission, what was found of it. Read from the journal alone; hidden values included.

Guaranteed: the same journal and task give the same outcome, so that one of a closed session stays
true until a review or a regrade is added.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeGuard

import numpy as np

from harness.edits import apply_edit
from harness.errors import AgentError
from harness.events import (
    AnyEvent,
    Header,
    Reviewed,
    TestFinished,
    digest_of,
)
from harness.grades import values_of
from harness.likeness import UNEDITED, Form, Likeness, form_of, likeness
from harness.regions import EditableFile
from harness.scoring import Floats, decline
from harness.session import Attempt, SessionState
from harness.task import Task

Files = Mapping[str, EditableFile]

LARGEST = 1e100
"""a value beyond it is no score: its square could not be reckoned with"""


@dataclass(frozen=True)
class Comparable:
    """What results must have in common to be ranked together."""

    task_version: int
    profile: str
    locked_digest: str
    data: str
    hardware: str
    torch: str


@dataclass(frozen=True)
class TestOutcome:
    """A finished test."""

    __test__ = False
    session: str
    purpose: Literal["agent", "baseline", "confirmation"]
    number: int
    attempt: int
    seed: int
    at: datetime | None
    group: Comparable
    files_digest: str
    code: str | None
    """the baseline that these files are to the byte, or `UNEDITED`; None for others"""
    sandboxed: bool
    value: float | None
    """the primary metric on `final`; None without a score"""
    windows: Floats | None
    metrics: Mapping[str, tuple[str, float]]
    """every other scored metric: its split and value"""
    hours: float | None
    gpu_hours: float | None
    """None where no stage has a GPU"""
    training_s: float | None
    """seconds of the stages that train"""
    speed: float | None
    """tokens/s, as training told it"""
    parameters_added: int | None
    slope: float | None
    """of the curve of the feedback metric that is named as the primary one (`scoring.decline`)"""
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A session."""

    session: str
    purpose: Literal["agent", "baseline", "confirmation"]
    of: str | None
    agent: str
    profile: str
    created_at: datetime
    state: Literal["open", "submitted", "ended"]
    submitted: TestOutcome | None
    by_agent: bool
    """whether the agent itself submitted"""
    tests: tuple[TestOutcome, ...]
    """finished ones"""
    planned: frozenset[int]
    """seeds that the harness gave it"""
    used: int
    allowed: int
    likeness: Likeness | None
    """of what was submitted"""
    review: Reviewed | None

    @property
    def disqualified(self) -> bool:
        return self.review is not None and self.review.verdict == "disqualified"


@dataclass(frozen=True)
class References:
    """The unedited files that sessions started from, and the task's baselines on them."""

    unedited: Form
    baselines: Mapping[str, Form]
    digests: Mapping[str, str]
    """names by the digest of the files"""

    @classmethod
    def of(cls, task: Task, start: Files) -> References:
        """A baseline whose edits do not fit these files, of an older version say, is left out."""
        forms: dict[str, Form] = {}
        digests = {_digest(start): UNEDITED}
        for baseline in task.all_baselines():
            files = dict(start)
            try:
                for edit in baseline.edits:
                    after = apply_edit(files, edit).after
                    files[after.name] = after
            except AgentError:
                continue
            forms[baseline.name] = _form(files)
            digests.setdefault(_digest(files), baseline.name)
        return cls(_form(start), forms, digests)


def outcome_of(
    task: Task, header: Header, events: Sequence[AnyEvent], references: References
) -> Outcome:
    """Raises ValueError for a journal that does not hold together.

    `references` are those of the header's files (`References.of`).
    """
    state = SessionState.start(header)
    for event in events:
        state.apply(event)
    # A session that tested several versions of its files says of none that it is the baseline.
    consistent = len({attempt.files_digest for attempt in state.attempts}) == 1
    played = header.of if header.purpose == "baseline" and consistent else None
    tests: dict[int, TestOutcome] = {}
    for attempt in state.attempts:
        if attempt.result is not None:
            tests[attempt.number] = _test(task, header, attempt, references, played)
    submitted = tests.get(state.submitted.number) if state.submitted else None
    found: Likeness | None = None
    if submitted is not None and header.purpose == "agent":
        tested = next(a for a in state.attempts if a.number == submitted.number and a.result)
        # Today's baselines were others when the task had another version.
        today = submitted.group.task_version == task.version
        baselines = references.baselines if today else {}
        found = likeness(_form(tested.files), references.unedited, baselines)
    return Outcome(
        session=header.session,
        purpose=header.purpose,
        of=header.of,
        agent=header.agent_name or "unnamed agent",
        profile=header.profile,
        created_at=header.created_at,
        state="submitted" if state.submitted else "ended" if state.ended else "open",
        submitted=submitted,
        by_agent=state.submitted is not None and state.submitted.by == "agent",
        tests=tuple(tests.values()),
        planned=frozenset(header.seeds),
        used=state.budget.used,
        allowed=header.tests,
        likeness=found,
        review=state.review,
    )


def _test(
    task: Task,
    header: Header,
    attempt: Attempt,
    references: References,
    played: str | None,
) -> TestOutcome:
    """`played` is the baseline that the session says it played."""
    result = attempt.result
    assert result is not None
    version, scored = _version(result, header), result.scored
    hidden = values_of(result)
    visible = {stage.name: stage.metrics for stage in result.stages}
    value, windows, slope = None, None, None
    metrics: dict[str, tuple[str, float]] = {}
    if header.profile in task.profiles:
        primary = task.primary(header.profile)
        own = hidden.get(primary.stage, {})
        value = own.get("final", {}).get(primary.name) if scored else None
        losses = own.get("final_windows", {}).get(primary.name)
        windows = np.array(losses, dtype=np.float64) if losses else None
        slope = decline(result.curve, primary.name)
        for metric in task.metrics_of(header.profile, kind="scored"):
            theirs = hidden.get(metric.stage, {})
            places = (
                ("final", theirs.get("final", {})),
                ("development", theirs.get("metrics", {})),
                ("development", visible.get(metric.stage, {})),
            )
            found = next(((s, v[metric.name]) for s, v in places if metric.name in v), None)
            if found is not None and scored and metric.name != primary.name and _usable(found[1]):
                metrics[metric.name] = found
    hours, gpu_hours = _hours(task, header.profile, version, result)
    told = result.provenance
    code = references.digests.get(attempt.files_digest)
    if version != task.version and code != UNEDITED:
        # Of a baseline as it was then there is no hash: the session that played it is believed.
        code = played or None
    return TestOutcome(
        session=header.session,
        purpose=header.purpose,
        number=attempt.number,
        attempt=attempt.attempt,
        seed=attempt.seed,
        at=result.at,
        group=Comparable(
            version,
            header.profile,
            header.locked_digest,
            *surroundings(told),
        ),
        files_digest=attempt.files_digest,
        code=code,
        sandboxed=told.get("sandbox") != "none",
        value=float(value) if _usable(value) else None,
        windows=windows,
        metrics=metrics,
        hours=hours,
        gpu_hours=gpu_hours,
        training_s=_training_seconds(result),
        speed=_speed(result),
        parameters_added=_parameters_added(hidden),
        slope=slope,
        provenance=told,
    )


def _usable(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) <= LARGEST


def _version(result: TestFinished, header: Header) -> int:
    version = result.provenance.get("task_version")
    return version if isinstance(version, int) else header.task_version


def surroundings(provenance: Mapping[str, Any]) -> tuple[str, str, str]:
    """(data, hardware, torch) of a result, as far as they bear on its numbers."""
    torch = str(provenance.get("torch") or "unknown")
    return (
        _data(provenance.get("data")),
        _hardware(provenance),
        ".".join(torch.split(".")[:2]),
    )


def _data(told: object) -> str:
    if not isinstance(told, Mapping):
        return "unknown"
    manifest = told.get("manifest_sha256")
    return f"{told.get('name')} {manifest}" if manifest else f"{told.get('name')}"


def _hardware(told: Mapping[str, Any]) -> str:
    """GPUs by name and number; a CPU by its kind alone, since results hardly depend on more."""
    gpus = Counter(str(name) for name in told.get("gpus") or ())
    if gpus:
        return " + ".join(f"{count} x {name}" for name, count in sorted(gpus.items()))
    return f"CPU {told.get('machine') or 'unknown'}"


def _hours(
    task: Task, profile: str, version: int, result: TestFinished
) -> tuple[float | None, float | None]:
    """(hours, GPU-hours) of a test; a stage that today's task lacks held all of the run's GPUs."""
    known = {}
    if profile in task.profiles and version == task.version:
        known = {stage.name: stage.gpus for stage in task.profile(profile).stages}
    held = len(result.provenance.get("gpus") or ())
    timed = [stage for stage in result.stages if stage.seconds is not None]
    if not timed:
        return None, None
    hours = sum(stage.seconds or 0.0 for stage in timed) / 3600
    gpu_hours = sum((stage.seconds or 0.0) * known.get(stage.name, held) for stage in timed) / 3600
    return hours, gpu_hours if held else None


def _training_seconds(result: TestFinished) -> float | None:
    """Of the stages of which training told something; of all, if there is none."""
    told = result.provenance.get("runs") or {}
    seconds = [
        stage.seconds
        for stage in result.stages
        if stage.seconds is not None and (stage.label in told or not told)
    ]
    return sum(seconds) if seconds else None


def _speed(result: TestFinished) -> float | None:
    for told in (result.provenance.get("runs") or {}).values():
        speed = told.get("tokens_per_s") if isinstance(told, Mapping) else None
        if isinstance(speed, int | float) and speed > 0:
            return float(speed)
    return None


def _parameters_added(hidden: Mapping[str, Mapping[str, Any]]) -> int | None:
    """What an audit says under `cost`, where the task's scorer counts."""
    for stage in hidden.values():
        cost = (stage.get("audit") or {}).get("cost")
        if isinstance(cost, Mapping):
            own, usual = cost.get("numbers"), cost.get("unedited_numbers")
            if isinstance(own, int | float) and isinstance(usual, int | float):
                return int(own - usual)
    return None


def _digest(files: Files) -> str:
    """As a session's `files_digest`."""
    return digest_of({name: file.sha256 for name, file in files.items()})


def _form(files: Files) -> Form:
    return form_of({name: file.text for name, file in files.items()})
