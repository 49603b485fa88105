"""Stored results read again by a task's scoring rules as they are now.

A rule is what `task.yaml` says of scored metrics: which there are, which is primary, which are
hidden, which are ranked on the split `final`. What a test's run directory keeps in its
`metrics.json` is sorted anew by it; nothing is measured again. Which direction is better, units and
digits are in no result, so that a change of these needs no regrade.

A test is left alone, and said so, where its run directory is not here, where it was trained from
another locked text, or where the rule asks for a number that it does not have: it stays in the
group of its version.

Not guaranteed: that runs of an older version are comparable with those of the new one, if more
than the rule has changed between them. Whoever regrades says that they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.appending import append_to, state_of
from harness.events import TestFinished, TestRegraded, seal
from harness.grades import graded, values_of
from harness.jobs.plan import read_status
from harness.metrics import METRICS_BYTES, Scores
from harness.session import Attempt, SessionState
from harness.store import Store
from harness.task import Metric, Stage, Task
from harness.workspace import RunPaths, StatePaths, read_regular


@dataclass(frozen=True)
class Change:
    """One thing that is otherwise now."""

    what: str
    before: str
    now: str


@dataclass(frozen=True)
class Regrade:
    """What the rule makes of one finished test."""

    session: str
    number: int
    attempt: int
    event: TestRegraded | None = None
    """to be journaled; None if nothing changes"""
    changes: tuple[Change, ...] = ()
    problem: str = ""
    """why the test is left alone"""


class _LeftAlone(Exception):
    """The message says why."""


def sessions_of(store: Store, task: str) -> list[str]:
    """The ids of a task's sessions, oldest first."""
    return list(store.last_events(task))


def regrade_of(
    store: Store, task: Task, state: StatePaths, here: str | None, session_id: str
) -> list[Regrade]:
    """Of each finished test of a session; `here` is the state folder's name.

    Raises ValueError for a journal that does not hold together.
    """
    return _session(task, state, here, state_of(store, session_id))


def write(
    store: Store, task: Task, state: StatePaths, here: str | None, session_id: str
) -> list[Regrade]:
    """The same, and journal what changes. Raises appending.CannotAppend too."""
    found: list[Regrade] = []

    def events(session: SessionState) -> list[TestRegraded]:
        found[:] = _session(task, state, here, session)
        return [one.event for one in found if one.event is not None]

    append_to(store, session_id, events)
    return found


def _session(
    task: Task, state: StatePaths, here: str | None, session: SessionState
) -> list[Regrade]:
    return [
        _attempt(task, state, here, session, attempt)
        for attempt in session.attempts
        if attempt.result is not None
    ]


def _attempt(
    task: Task, state: StatePaths, here: str | None, session: SessionState, attempt: Attempt
) -> Regrade:
    header, before = session.header, attempt.result
    assert before is not None
    key = (header.session, attempt.number, attempt.attempt)
    try:
        if header.profile not in task.profiles:
            raise _LeftAlone(f"the task has no profile {header.profile} now")
        if header.locked_digest != task.locked_digest():
            raise _LeftAlone("it was trained from another locked text")
        if attempt.place is not None and attempt.place != here:
            raise _LeftAlone(
                "its run directory is in another state folder; run this with that server's settings"
            )
        paths = state.session(header.session).run(attempt.number, attempt.attempt)
        event = _event(task, header.profile, paths, before)
    except _LeftAlone as why:
        return Regrade(*key, problem=str(why))
    now = graded(before, event)
    changes = tuple(_changes(header.task_version, before, now))
    return Regrade(*key, event if changes else None, changes)


# ── reading ───────────────────────────────────────────────────────────────────────────────────


def _event(task: Task, profile: str, paths: RunPaths, before: TestFinished) -> TestRegraded:
    """As `results.collect` takes numbers, by the rule of now. Raises _LeftAlone."""
    states = {stage.name: stage.state for stage in before.stages}
    visible: dict[str, dict[str, float]] = {}
    hidden: dict[str, dict[str, Any]] = {}
    for stage in task.profile(profile).stages:
        try:
            scores = _scores(task, profile, stage, paths)
        except (ValueError, OSError, RecursionError) as error:
            if states.get(stage.name) == "failed":
                continue  # it had no numbers then, and has none now
            raise _LeftAlone(f"{stage.label}: {error}") from None
        if scores is None:
            continue
        visible[stage.name] = scores.visible if before.void is None else {}
        hidden[stage.name] = scores.private()
    primary = task.primary(profile)
    private, private_digest = seal(hidden)
    return TestRegraded(
        number=before.number,
        attempt=before.attempt,
        task_version=task.version,
        scored=any(primary.name in metrics for metrics in visible.values()),
        metrics=visible,
        private=private,
        private_digest=private_digest,
    )


def _scores(task: Task, profile: str, stage: Stage, paths: RunPaths) -> Scores | None:
    """A stage's numbers; None if it was not scored. Raises _LeftAlone and ValueError."""
    if not paths.plan.is_file():
        raise _LeftAlone("its run directory is gone")
    status = read_status(paths)
    if status is None:
        raise _LeftAlone("its run directory has no status")
    own = [step for step in status.steps if step.stage == stage.label]
    if "score" not in stage.roles or any(step.state not in ("done", "void") for step in own):
        return None
    text = read_regular(paths.step(stage.label, "score").metrics, METRICS_BYTES)
    if text is None:
        raise ValueError("no metrics.json is stored")
    scored = task.metrics_of(profile, stage.name, kind="scored")
    return task.read_scores(profile, stage.name, refitted(text, scored))


def refitted(text: str | bytes, metrics: Sequence[Metric]) -> str | bytes:
    """A stored metrics.json with each value where the task wants it now.

    What the task no longer names is left out. Losses by window stay on their split's side: those
    under `hidden` are of `final`. A file of another shape is given back as it is, for its reader
    to refuse.
    """
    raw = json.loads(text)
    hidden = raw.get("hidden", {}) if isinstance(raw, dict) else None
    if not isinstance(hidden, dict):
        return text
    shown, kept = raw.get("metrics", {}), hidden.get("metrics", {})
    final = hidden.get("final", {})
    if not all(isinstance(part, dict) for part in (shown, kept, final)):
        return text
    pool = {**kept, **shown}
    sides = {
        side: {m.name: pool[m.name] for m in metrics if m.hidden is side and m.name in pool}
        for side in (True, False)
    }
    names = {metric.name for metric in metrics}
    raw |= {"metrics": sides[False]}
    for part in ("per_window", "per_item"):
        if isinstance(raw.get(part), dict):
            raw[part] = {name: value for name, value in raw[part].items() if name in sides[False]}
    raw["hidden"] = hidden | {
        "metrics": sides[True],
        "final": {name: value for name, value in final.items() if name in names},
    }
    return json.dumps(raw)


# ── comparing ─────────────────────────────────────────────────────────────────────────────────


def _changes(version: int, before: TestFinished, now: TestFinished) -> Iterator[Change]:
    told = before.provenance.get("task_version", version)
    if told != now.provenance["task_version"]:
        yield Change("version of the task", f"{told}", f"{now.provenance['task_version']}")
    if before.scored != now.scored:
        yield Change("score", _scored(before), _scored(now))
    old, new = dict(_values(before)), dict(_values(now))
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            yield Change(" ".join(key), _number(old.get(key)), _number(new.get(key)))
    windows = [dict(_windows(result)) for result in (before, now)]
    for name in dict.fromkeys((*windows[0], *windows[1])):
        if windows[0].get(name) != windows[1].get(name):
            counts = [f"{len(side[name])}" if name in side else "–" for side in windows]
            yield Change(f"{name} losses by window", *counts)


def _scored(result: TestFinished) -> str:
    return "yes" if result.scored else "none"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.8g}"


def _values(result: TestFinished) -> Iterator[tuple[tuple[str, str], float]]:
    for stage in result.stages:
        for name, value in stage.metrics.items():
            yield (name, "shown"), value
    for hidden in values_of(result).values():
        for part, where in (("metrics", "hidden"), ("final", "on final")):
            for name, value in hidden.get(part, {}).items():
                yield (name, where), value


def _windows(result: TestFinished) -> Iterator[tuple[str, Sequence[float]]]:
    for hidden in values_of(result).values():
        yield from hidden.get("final_windows", {}).items()
