"""What an operator does with sessions and tests: `harness ps`, `cancel`, `logs`, `end`, `gc`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import run_commands
from harness.appending import CannotAppend
from harness.claim import name_of
from harness.commands.journal import journal
from harness.ending import end_session, give_back_lost
from harness.jobs import ExecutorAway, UnknownExecutor, make_executor
from harness.render import duration
from harness.retention import cache_bytes, remove_expired, run_usage
from harness.settings import Settings
from harness.store import Store
from harness.terminal import bad_input, fail, settings_here
from harness.workspace import StatePaths

app = typer.Typer()


@app.command()
def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove what may be removed; else only show it.")
    ] = False,
    older_than: Annotated[
        float, typer.Option(help="Days since a run finished, before anything of it is removed.")
    ] = 7.0,
) -> None:
    """Disk used by tests and checks. Metrics, per-window losses, per-item outcomes, files stay."""
    if not older_than >= 0:
        raise bad_input(f"--older-than is {older_than:g}; it may be 0 days or more")
    settings = settings_here()
    state = StatePaths(settings.state_dir.absolute())
    usages = run_usage(state, _ended_sessions(settings) if state.sessions.is_dir() else ())
    table = Table("session", "run", "total MiB", "can be freed MiB", "state")
    for usage in usages:
        table.add_row(
            usage.session,
            f"check {usage.run.root.name}" if usage.check else usage.run.root.name,
            f"{usage.total / 2**20:.1f}",
            f"{usage.removable / 2**20:.1f}",
            "finished" if usage.finished_at is not None else "not finished",
        )
    Console().print(table)
    cache = cache_bytes(state) / 2**20
    typer.echo(f"{cache:.1f} MiB in {state.cache}, which checks use again; it stays.")
    if delete:
        freed = remove_expired(usages, older_than * 86400)
        typer.echo(
            f"Freed {freed / 2**20:.1f} MiB: of what finished at least {older_than:g} days ago, "
            "and checks of sessions that ended."
        )
    else:
        removable = sum(usage.removable for usage in usages if usage.finished_at is not None)
        typer.echo(
            f"{removable / 2**20:.1f} MiB can be freed: harness gc --delete --older-than DAYS"
        )


@app.command()
def ps(
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON list.")] = False,
) -> None:
    """The tests and checks that wait or run."""
    jobs = run_commands.unfinished(_state())
    if as_json:
        typer.echo(json.dumps([job.as_json() for job in jobs], indent=1))
        return
    if not jobs:
        typer.echo("Nothing waits or runs.")
        return
    table = Table("session", "job", "profile", "state", "GPUs", "at", "left", "since")
    for job in map(run_commands.Job.as_json, jobs):
        at = f"{job['stage']}, {job['role']}" if job["stage"] else ""
        if job["step"] is not None:
            at += f", {job['step']} of {job['steps'] or '?'}"
        needs = f"needs {job['needs_gpus']}" if job["needs_gpus"] else ""
        left, since = (
            "" if job[name] is None else duration(job[name]) for name in ("seconds_left", "seconds")
        )
        gpus = ",".join(job["gpus"]) or needs
        cells = (job["session"], job["job"], job["profile"], job["state"], gpus, at, left, since)
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)


@app.command()
def cancel(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    test: Annotated[int | None, typer.Argument(help="The test's number; the one there is.")] = None,
    lost: Annotated[
        bool, typer.Option("--lost", help="Its server is gone for good with its state folder.")
    ] = False,
) -> None:
    """End a test for good. It is given back to the session, uncounted."""
    settings = settings_here()
    if lost:
        here = name_of(_state())
        _act(session, lambda store: give_back_lost(store, session, here))
        return
    try:
        job = run_commands.cancel(_state(), make_executor(settings.executor), session, test)
    except (run_commands.NoSuchRun, UnknownExecutor) as error:
        raise bad_input(str(error)) from error
    except ExecutorAway as error:
        raise fail(f"{error}; try again when it answers") from error
    typer.echo(f"{session}: {job.name} is cancelled")


@app.command()
def logs(
    session: Annotated[str, typer.Argument(help="The session's id.")],
    test: Annotated[int | None, typer.Argument(help="The test's number; the last one.")] = None,
    stage: Annotated[str | None, typer.Option(help="A stage's label; all.")] = None,
    role: Annotated[str | None, typer.Option(help="`run`, `score`, ...; all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the test ends.")] = False,
) -> None:
    """What a test's steps have printed. It may hold hidden values: not for agents."""
    try:
        run = run_commands.last_run(_state(), session, test)
        for line in run_commands.log_lines(run, stage, role, follow=follow):
            typer.echo(line, nl=False)
    except run_commands.NoSuchRun as error:
        raise bad_input(str(error)) from error


@app.command()
def end(session: Annotated[str, typer.Argument(help="The session's id.")]) -> None:
    """End a session: its last test with a score is submitted for it, if it has one."""
    reason = "its operator ended it"
    _act(session, lambda store: end_session(store, session, reason))


def _act(session: str, act: Callable[[Store], str]) -> None:
    """Do what is done to a session in the journal alone, and print what that was."""
    with journal(settings_here()) as store:
        try:
            said = act(store)
        except CannotAppend as error:
            raise bad_input(str(error)) from error
    typer.echo(f"{session}: {said}")


def _state() -> StatePaths:
    return StatePaths(settings_here().state_dir.absolute())


def _ended_sessions(settings: Settings) -> set[str]:
    with journal(settings) as store:
        return {row.id for row in store.list_sessions() if row.closed}
