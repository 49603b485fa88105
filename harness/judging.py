"""`harness review` and `harness regrade`: what people find of sessions, and of their numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from harness.appending import CannotAppend, append_to
from harness.claim import name_of
from harness.database import DatabaseRefused, one_line
from harness.printable import visible
from harness.regrading import Regrade, regrade_of, sessions_of, write
from harness.settings import Settings, SettingsError, read_settings
from harness.store import Store
from harness.task import Task, TaskError, find_tasks
from harness.verdicts import BadVerdict, reviewed
from harness.workspace import StatePaths

BAD_INPUT = 2
"""exit code for a mistake in the command or its input"""


def _fail(message: str, code: int = BAD_INPUT) -> typer.Exit:
    Console(stderr=True).print(Text(f"ERROR: {message}"), soft_wrap=True)
    return typer.Exit(code)


def _settings() -> Settings:
    try:
        return read_settings()
    except SettingsError as error:
        raise _fail(str(error)) from error


@contextmanager
def _journal(settings: Settings) -> Iterator[Store]:
    try:
        store = Store(settings.resolved_database_url, upgrade=False)
        try:
            yield store
        finally:
            store.close()
    except (DatabaseRefused, SQLAlchemyError) as error:
        said = one_line(error)
        raise _fail(f"HARNESS_DATABASE_URL leads to no database: {said}", 1) from error


# ── review ────────────────────────────────────────────────────────────────────────────────────


def review(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    verdict: Annotated[str, typer.Option(help="clean, suspect or disqualified.")],
    category: Annotated[
        str, typer.Option(help="The class of the fault, one of a list; its agent can read it.")
    ] = "",
    note: Annotated[str, typer.Option(help="For people with a key alone.")] = "",
) -> None:
    """Add a person's verdict to a session, closed or not. The latest counts."""
    try:
        event = reviewed(verdict, category, note.encode("utf-8", "replace").decode())
        with _journal(_settings()) as store:
            append_to(store, session, lambda _: [event])
    except (BadVerdict, CannotAppend) as error:
        raise _fail(visible(str(error))) from error
    typer.echo(f"{session}: {verdict}" + (f" ({category})" if category else ""))


# ── regrade ───────────────────────────────────────────────────────────────────────────────────


def regrade(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    apply: Annotated[
        bool, typer.Option("--apply", help="Write it into the journal; else only show it.")
    ] = False,
) -> None:
    """Read stored results again by the task's rules as they are now. Shows hidden values."""
    settings = _settings()
    chosen = _task(settings, task)
    state = StatePaths(settings.state_dir.absolute())
    here = name_of(state)
    found: list[Regrade] = []
    with _journal(settings) as store:
        sessions = sessions_of(store, chosen.name)
        shown = sys.stderr.isatty()
        with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
            for name in bar.track(sessions, description="reading"):
                try:
                    if apply:
                        found += write(store, chosen, state, here, name)
                    else:
                        found += regrade_of(store, chosen, state, here, name)
                except (CannotAppend, ValueError) as error:
                    found.append(Regrade(name, 0, 0, problem=str(error)))
    _show(found, chosen, applied=apply)


def _task(settings: Settings, name: str) -> Task:
    try:
        tasks = find_tasks(settings.tasks_dir)
    except TaskError as error:
        raise _fail(str(error)) from error
    if name not in tasks:
        raise _fail(f"no task {name!r} in {settings.tasks_dir}; there are: {', '.join(tasks)}")
    return tasks[name]


def _show(found: list[Regrade], task: Task, *, applied: bool) -> None:
    console = Console()
    changed = [one for one in found if one.event is not None]
    left = [one for one in found if one.problem]
    if changed:
        table = Table("session", "test", "what", "journal", "now")
        for one in changed:
            for change in one.changes:
                cells = (one.session, f"#{one.number}", change.what, change.before, change.now)
                table.add_row(*(Text(visible(cell)) for cell in cells))
        console.print(table)
    for one in left:
        test = f" test #{one.number}" if one.number else ""
        console.print(
            Text(f"{one.session}{test} is left alone: {visible(one.problem)}"), soft_wrap=True
        )
    same = len(found) - len(changed) - len(left)
    done = "were changed" if applied else "would change"
    console.print(
        Text(
            f"{task.name}, version {task.version}: {len(changed)} tests {done}, {same} stay as "
            f"they are, {len(left)} are left alone."
        ),
        soft_wrap=True,
    )
    if changed and not applied:
        console.print(
            Text(f"To write this into the journal: harness regrade {task.name} --apply"),
            soft_wrap=True,
        )
