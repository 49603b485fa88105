"""Sessions that a command plays for the house: on which server, test by test, what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from harness.access import fresh_key
from harness.client import Client, Patience, Session
from harness.datasets import prepare
from harness.demo import DemoError, ServerThere, running_server
from harness.metrics import format_value
from harness.prompt import visible_metrics
from harness.settings import Settings
from harness.task import Task
from harness.terminal import bad_input
from harness.wire import TestView

ANSWER_S = 10
"""how long a server at a given address may take to say that it is there"""


@dataclass
class Played:
    """What became of one baseline."""

    name: str
    seeds: tuple[int, ...]
    tests: list[TestView] = field(default_factory=list)
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem


@contextmanager
def named_server(url: str) -> Iterator[Client]:
    """A server that runs, with its key from HARNESS_API_KEY. Raises DemoError."""
    if not os.environ.get("HARNESS_API_KEY"):
        raise bad_input("--url needs the server's key in HARNESS_API_KEY")
    _require_answer(url)
    with Client(url, patience=Patience(total_s=600)) as client:
        yield client


def _require_answer(url: str) -> None:
    """Raises DemoError if nothing answers: later on a server that is away is waited for."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/healthz", timeout=ANSWER_S)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise DemoError(f"no server answers at {url}: {reason}") from error
    if answer.status_code >= 500:
        raise DemoError(f"no server answers at {url}: status {answer.status_code}")


@contextmanager
def own_server(settings: Settings, task: Task, profile: str, console: Console) -> Iterator[Client]:
    """One of our own on the state folder, with the profile's data. Raises DemoError, DataError."""
    prepare(task, profile, settings.resolved_data_dir, state_dir=settings.state_dir)
    key = fresh_key()
    own = settings.model_copy(update={"api_key": SecretStr(key)})
    try:
        with (
            running_server(own, console) as started,
            Client(started, api_key=key, patience=Patience(total_s=600)) as client,
        ):
            yield client
    except ServerThere as error:
        raise DemoError(
            f"{error}: give --url http://HOST:PORT, where it listens, with its key in "
            "HARNESS_API_KEY"
        ) from error


def progress_of(console: Console) -> Progress:
    """Bars that count tests; a row needs the field `said`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}"),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def tests_of(session: Session, played: Played, tell: Callable[[str], None]) -> Iterator[TestView]:
    """Each test of a session whose files are as they shall be; submits the last one with a score.

    Stops with `played.problem` set where one can't go on.
    """
    for number in range(1, len(played.seeds) + 1):
        begun = session.test(wait_s=0)
        if not begun.ok:
            played.problem = begun.text.splitlines()[0]
            break
        ended = session.wait(number, on_progress=lambda test: _tell(tell, test))
        if ended.state != "finished":
            played.problem = (ended.text or f"the test was {ended.state}").splitlines()[0]
            break
        yield ended
        if not ended.scored:
            played.problem = f"test #{number} ended without a score"
            break
    scored = [test.test for test in played.tests if test.scored]
    if scored:
        session.submit(scored[-1])


def _tell(tell: Callable[[str], None], test: TestView) -> None:
    step = f" {test.step} of {test.steps}" if test.role == "run" and test.steps else ""
    tell(f"{test.stage or test.state} {test.role or ''}{step}")


def show(task: Task, profile: str, played: Sequence[Played], console: Console) -> None:
    """What agents are shown of each test; headings fold where the terminal is narrow."""
    metrics = visible_metrics(task, profile)
    table = Table(title=f"{task.name}, profile {profile}: what agents are shown, by seed")
    table.add_column("played", overflow="fold")
    table.add_column("seed", justify="right", no_wrap=True)
    for metric in metrics:
        heading = f"{metric.name} ({metric.direction})"
        table.add_column(Text(heading, overflow="fold"), justify="right", overflow="fold")
    for one in played:
        for seed, test in zip(one.seeds, one.tests, strict=False):
            values = test.metrics or {}
            table.add_row(
                Text(one.name),
                str(seed),
                *(
                    format_value(values[m.name], m.decimals) if m.name in values else ""
                    for m in metrics
                ),
            )
    console.print(table)
    for one in played:
        if not one.ok:
            console.print(Text(f"{one.name}: {one.problem}", style="red"), soft_wrap=True)
