"""`harness review` and `harness regrade`: what people find of sessions, and of their numbers."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from harness.appending import CannotAppend, append_to
from harness.claim import name_of
from harness.commands.journal import journal
from harness.printable import visible
from harness.regrading import Regrade, regrade_of, sessions_of, write
from harness.task import Task
from harness.terminal import bad_input, known_task, settings_here
from harness.verdicts import BadVerdict, reviewed
from harness.workspace import StatePaths

app = typer.Typer()

# ── review ────────────────────────────────────────────────────────────────────────────────────


@app.command()
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
        with journal(settings_here()) as store:
            append_to(store, session, lambda _: [event])
    except (BadVerdict, CannotAppend) as error:
        raise bad_input(visible(str(error))) from error
    typer.echo(f"{session}: {verdict}" + (f" ({category})" if category else ""))


# ── regrade ───────────────────────────────────────────────────────────────────────────────────


@app.command()
def regrade(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    apply: Annotated[
        bool, typer.Option("--apply", help="Write it into the journal; else only show it.")
    ] = False,
) -> None:
    """Read stored results again by the task's rules as they are now. Shows hidden values."""
    settings = settings_here()
    chosen = known_task(settings, task)
    state = StatePaths(settings.state_dir.absolute())
    here = name_of(state)
    found: list[Regrade] = []
    with journal(settings) as store:
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
