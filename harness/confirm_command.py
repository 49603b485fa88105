"""`harness confirm`: a submission trained again, with seeds that nobody could know before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from harness.baseline_command import (
    Played,
    fail,
    known_task,
    progress_of,
    serving,
    settings_here,
    show,
    tests_of,
)
from harness.client import Client, HarnessError, Patience, Session
from harness.database import DatabaseRefused, one_line
from harness.datasets import DataError
from harness.demo import DemoError
from harness.events import AnyEvent, Header
from harness.printable import visible
from harness.recorded import RecordingError
from harness.recordings import parse_recordings
from harness.settings import Settings
from harness.store import Store
from harness.submissions import NoSubmission, Submission, submission_of
from harness.wire import ConfirmationRequest, TestView


def confirm(
    session: Annotated[str, typer.Argument(help="The id of the session whose submission it is.")],
    seeds: Annotated[int, typer.Option(help="How many fresh seeds, each a test.")] = 2,
    url: Annotated[
        str | None,
        typer.Option(help="A server that runs, with its key in HARNESS_API_KEY; else one is run."),
    ] = None,
) -> None:
    """Train a submission again with fresh seeds; the leaderboard then ranks it as confirmed."""
    settings = settings_here()
    console = Console()
    try:
        with _opened(settings, session, url, console) as (client, found):
            task = known_task(settings, found.header.task)
            played = Played(f"session {session}", ())
            _play(client, found, seeds, played, console)
        show(task, found.header.profile, [played], console)
    except NoSubmission as error:
        raise fail(visible(str(error))) from error
    except (DemoError, DataError, HarnessError, RecordingError) as error:
        raise fail(visible(str(error)), 1) from error
    profile = found.header.profile
    console.print(f"On the split that ranks: harness leaderboard {task.name} --profile {profile}")
    raise typer.Exit(0 if played.ok else 1)


@contextmanager
def _opened(
    settings: Settings, session: str, url: str | None, console: Console
) -> Iterator[tuple[Client, Submission]]:
    """A server, and what was submitted. Raises NoSubmission."""
    if url is not None:
        if not os.environ.get("HARNESS_API_KEY"):
            raise fail("--url needs the server's key in HARNESS_API_KEY")
        with Client(url, patience=Patience(total_s=600)) as client:
            [recording] = parse_recordings(client.transcript(session))
            assert recording.header is not None
            yield client, submission_of(recording.header, recording.events)
        return
    header, events = _loaded(settings, session)
    found = submission_of(header, events)
    task = known_task(settings, header.task)
    if header.profile not in task.profiles:
        raise NoSubmission(f"{task.name} has no profile {header.profile} now")
    with serving(settings, task, header.profile, None, console) as client:
        yield client, found


def _loaded(settings: Settings, session: str) -> tuple[Header, list[AnyEvent]]:
    try:
        store = Store(settings.resolved_database_url, upgrade=False)
        loaded = store.load(session)
        store.close()
    except (DatabaseRefused, SQLAlchemyError) as error:
        said = one_line(error)
        raise fail(f"HARNESS_DATABASE_URL leads to no database: {said}", 1) from error
    if loaded is None:
        raise NoSubmission(f"there is no session {session} in the database")
    return loaded


def _play(client: Client, found: Submission, seeds: int, played: Played, console: Console) -> None:
    """Raises HarnessError if the server can't be reached or refuses the session."""
    header = found.header
    own = client.create_session(
        header.task,
        profile=header.profile,
        agent=f"confirmation of {header.agent_name or 'unnamed agent'}"[:200],
        confirmation=ConfirmationRequest(session=header.session, seeds=seeds),
    )
    [recording] = parse_recordings(own.transcript())
    assert recording.header is not None
    played.seeds = recording.header.seeds
    with progress_of(console) as bar:
        row = bar.add_task(played.name, total=len(played.seeds), said="")
        for test in _tests(own, found, played, lambda said: bar.update(row, said=said)):
            played.tests.append(test)
            bar.update(row, advance=1, said="")
        bar.update(row, said=played.problem[:80])


def _tests(
    own: Session, found: Submission, played: Played, tell: Callable[[str], None]
) -> Iterator[TestView]:
    for edit in found.edits():
        answer = own.call("edit", edit)
        if not answer.ok:
            played.problem = f"an edit was refused: {answer.text.splitlines()[0]}"
            return
    for name, file in found.files.items():
        if own.file(name) != file.text:
            played.problem = f"{name} did not become what was submitted"
            return
    yield from tests_of(own, played, tell)
