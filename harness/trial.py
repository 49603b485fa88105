"""A task's unedited files played through a real session over HTTP, and all that came of it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console

from harness import sandbox
from harness.access import fresh_key
from harness.client import Client, HarnessError, Patience
from harness.demo import DemoError, running_server
from harness.events import TestFinished
from harness.jobs.plan import RunStatus, read_status
from harness.settings import Settings
from harness.store import Store
from harness.task import Task
from harness.workspace import StatePaths, read_log

LOG_BYTES = 1 << 20


class TrialError(RuntimeError):
    """There is no session to speak of; the message says why."""


@dataclass(frozen=True)
class Trial:
    """A session without an edit, from its start to its end."""

    answers: tuple[tuple[str, str], ...]
    """(call, text) of all that an agent was told"""
    status: RunStatus
    """of the run directory of its one test"""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """visible ones"""
    hidden: Sequence[tuple[str, str, float]] = ()
    """(kind, name, value): `metrics` or `final`"""
    logs: Mapping[str, str] = field(default_factory=dict)
    """what each stage's `run` printed, by label"""
    seconds: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """by label and role"""
    score_problems: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """why a stage gave no metrics, by the stage's name"""
    released: str = ""
    """why the test was given back, if it was"""


def play(task: Task, profile: str, settings: Settings, folder: Path) -> Trial:
    """A whole session in an empty folder: every file viewed, one test, submitted.

    Raises TrialError.
    """
    tasks = folder / "tasks"
    tasks.mkdir()
    # The server reads every task of its folder; others are none of this one's business.
    (tasks / task.folder.name).symlink_to(task.folder)
    key = fresh_key()
    chosen = settings.model_copy(
        update={
            "state_dir": folder / "state",
            "tasks_dir": tasks,
            "data_dir": settings.resolved_data_dir,
            "api_key": SecretStr(key),
            "sandbox": settings.sandbox if _sandboxed(settings) else "none",
        }
    )
    quiet = Console(file=io.StringIO())
    answers: list[tuple[str, str]] = []
    try:
        with (
            running_server(chosen, quiet) as url,
            Client(url, api_key=key, patience=Patience(total_s=60)) as client,
        ):
            session = client.create_session(task.name, profile=profile, agent="task check")
            answers.append(("the prompt", session.prompt))
            for name in [*(f.name for f in task.files), *(s.name for s in task.siblings if s.show)]:
                answers.append((f"view of {name}", session.view(name).text))
            begun = session.test(wait_s=0)
            answers.append(("test", begun.text))
            if not begun.ok:
                raise TrialError(begun.text)
            view = session.wait(1)
            answers += [("test", view.text or ""), ("GET /tests/1", view.model_dump_json())]
            for tool in ("status", "submit"):
                said = session.call(tool, {"n": 1} if tool == "submit" else {})
                answers += [(tool, said.text), (tool, json.dumps(said.data))]
            answers.append(("GET the session", session.state().model_dump_json()))
            answers.append(("GET /transcript", session.transcript()))
            metrics = dict(view.metrics or {})
            released = "" if view.state == "finished" else (view.text or f"it was {view.state}")
    except (DemoError, HarnessError) as error:
        raise TrialError(str(error)) from error
    return _read(task, profile, chosen.state_dir, session.id, answers, metrics, released)


def _sandboxed(settings: Settings) -> bool:
    return settings.sandbox != "none" and not isinstance(sandbox.find(), sandbox.Problem)


def _read(
    task: Task,
    profile: str,
    state: Path,
    session_id: str,
    answers: Sequence[tuple[str, str]],
    metrics: Mapping[str, float],
    released: str,
) -> Trial:
    paths = StatePaths(state).session(session_id).run(1)
    status = read_status(paths)
    if status is None:
        raise TrialError(released or "the test left no status.json")
    finished = _finished(state, session_id)
    hidden: list[tuple[str, str, float]] = []
    problems: dict[str, Sequence[str]] = {}
    if finished is not None:
        values: Mapping[str, Any] = (finished.private or {}).get("values", {})
        for by_stage in values.values():
            for kind in ("metrics", "final"):
                hidden += [(kind, name, value) for name, value in by_stage.get(kind, {}).items()]
        problems = {stage.name: stage.reason for stage in finished.stages if stage.reason}
    logs = {
        stage.label: read_log(paths.step(stage.label, "run").log, LOG_BYTES)
        for stage in task.profile(profile).stages
        if "run" in stage.roles
    }
    return Trial(
        tuple(answers), status, metrics, tuple(hidden), logs, _seconds(status), problems, released
    )


def _finished(state: Path, session_id: str) -> TestFinished | None:
    store = Store(f"sqlite:///{state / 'harness.sqlite3'}", upgrade=False)
    try:
        loaded = store.load(session_id)
    finally:
        store.close()
    events = loaded[1] if loaded is not None else []
    return next((event for event in events if isinstance(event, TestFinished)), None)


def _seconds(status: RunStatus) -> dict[tuple[str, str], float]:
    return {
        (step.stage, step.role): (
            datetime.fromisoformat(step.ended_at) - datetime.fromisoformat(step.started_at)
        ).total_seconds()
        for step in status.steps
        if step.started_at is not None and step.ended_at is not None
    }
