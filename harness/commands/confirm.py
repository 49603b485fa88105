"""`harness confirm`: a submission trained again, with seeds that nobody could know before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from harness.client import Client, HarnessError, Session
from harness.commands.journal import journal
from harness.datasets import DataError
from harness.demo import DemoError
from harness.events import AnyEvent, Header
from harness.house_sessions import Played, named_server, own_server, progress_of, show, tests_of
from harness.printable import visible
from harness.recorded import RecordingError
from harness.recordings import parse_recordings
from harness.settings import Settings
from harness.submissions import NoSubmission, Submission, submission_of
from harness.terminal import bad_input, fail, known_task, settings_here
from harness.wire import ConfirmationRequest, TestView

app = typer.Typer()


@app.command()
def confirm(
    session: Annotated[str, typer.Argument(help="The id of the session whose submission it is.")],
    seeds: Annotated[
        int, typer.Option(help="How many seeds of the server's choice, each a test.")
    ] = 2,
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
        raise bad_input(visible(str(error))) from error
    except (DemoError, DataError, HarnessError, RecordingError) as error:
        raise fail(visible(str(error))) from error
    ranked = f"harness leaderboard {task.name} --profile {found.header.profile}"
    console.print(f"On the split that ranks: {ranked}", soft_wrap=True)
    raise typer.Exit(0 if played.ok else 1)


@contextmanager
def _opened(
    settings: Settings, session: str, url: str | None, console: Console
) -> Iterator[tuple[Client, Submission]]:
    """A server, and what was submitted. Raises NoSubmission."""
    if url is not None:
        with named_server(url) as client:
            [recording] = parse_recordings(client.transcript(session))
            assert recording.header is not None
            yield client, submission_of(recording.header, recording.events)
        return
    header, events = _loaded(settings, session)
    found = submission_of(header, events)
    task = known_task(settings, header.task)
    if header.profile not in task.profiles:
        raise NoSubmission(f"{task.name} has no profile {header.profile} now")
    with own_server(settings, task, header.profile, console) as client:
        yield client, found


def _loaded(settings: Settings, session: str) -> tuple[Header, list[AnyEvent]]:
    with journal(settings) as store:
        loaded = store.load(session)
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
