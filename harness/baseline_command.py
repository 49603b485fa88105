"""`harness baseline run`: baselines trained and scored as agents' edits are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from harness.access import fresh_key
from harness.client import Client, HarnessError, Patience, Session
from harness.datasets import DataError, prepare
from harness.demo import DemoError, running_server
from harness.hardware import gpus
from harness.likeness import UNEDITED
from harness.metrics import format_value
from harness.prompt import visible_metrics
from harness.settings import Settings, SettingsError, read_settings
from harness.task import Task, TaskError, find_tasks
from harness.wire import BaselineRequest, TestView

app = typer.Typer(no_args_is_help=True, help="Baselines: played as agents' edits are.")

BAD_INPUT = 2
"""exit code for a mistake in the command or its input"""

PLAIN = "unedited"
"""what the unedited files are called on the command line"""


def fail(message: str, code: int = BAD_INPUT) -> typer.Exit:
    Console(stderr=True).print(Text(f"ERROR: {message}"), soft_wrap=True)
    return typer.Exit(code)


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


@app.callback()
def _commands() -> None:
    """Keeps `run` a command of its own."""


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    names: Annotated[
        list[str] | None, typer.Argument(help="Baselines; `unedited` is the file as shipped.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="The unedited files and every baseline.")
    ] = False,
    profile: Annotated[
        str | None, typer.Option(help="The profile; the first that the GPUs here can carry.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Like 42,43,44; the profile's and the two after it.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="A server that runs, with its key in HARNESS_API_KEY; else one is run."),
    ] = None,
) -> None:
    """Train and score baselines with several seeds each; the leaderboard then ranks by them."""
    settings = settings_here()
    chosen = known_task(settings, task)
    profile_name = profile or settings.profile or _carried(chosen)
    if profile_name not in chosen.profiles:
        raise fail(f"no profile {profile_name!r}; profiles: {', '.join(chosen.profiles)}")
    if everything == bool(names):
        raise fail(f"name baselines, or --all; there are: {', '.join((PLAIN, *chosen.baselines))}")
    wanted = [PLAIN, *chosen.baselines] if everything else list(dict.fromkeys(names or ()))
    for name in wanted:
        if name != PLAIN and name not in chosen.baselines:
            known = ", ".join((PLAIN, *chosen.baselines))
            raise fail(f"no baseline {name!r}; there are: {known}")
    own_seed = chosen.profile(profile_name).seed
    numbers = _seeds(seeds) if seeds is not None else (own_seed, own_seed + 1, own_seed + 2)
    console = Console()
    try:
        with serving(settings, chosen, profile_name, url, console) as client:
            played = play(client, chosen, profile_name, wanted, numbers, console)
    except (DemoError, DataError, HarnessError) as error:
        raise fail(str(error), 1) from error
    show(chosen, profile_name, played, console)
    console.print(f"On the split that ranks: harness leaderboard {task} --profile {profile_name}")
    raise typer.Exit(0 if all(one.ok for one in played) else 1)


def settings_here() -> Settings:
    try:
        return read_settings()
    except SettingsError as error:
        raise fail(str(error)) from error


def known_task(settings: Settings, name: str) -> Task:
    try:
        tasks = find_tasks(settings.tasks_dir)
    except TaskError as error:
        raise fail(str(error)) from error
    if name not in tasks:
        raise fail(f"no task {name!r}; tasks: {', '.join(tasks) or 'none'}")
    return tasks[name]


def _carried(task: Task) -> str:
    """The first profile that the GPUs here can carry."""
    have = len(gpus())
    fitting = [name for name, profile in task.profiles.items() if profile.gpus <= have]
    return (fitting or list(task.profiles))[0]


def _seeds(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise fail(f"--seeds {text!r}: give whole numbers as 42,43,44") from None
    if len(set(found)) < len(found):
        raise fail(f"--seeds {text!r}: each seed once")
    return found


@contextmanager
def serving(
    settings: Settings, task: Task, profile: str, url: str | None, console: Console
) -> Iterator[Client]:
    """The server that was named, or one of our own on the state folder."""
    if url is not None:
        if not os.environ.get("HARNESS_API_KEY"):
            raise fail("--url needs the server's key in HARNESS_API_KEY")
        with Client(url, patience=Patience(total_s=600)) as client:
            yield client
        return
    prepare(task, profile, settings.resolved_data_dir)
    key = fresh_key()
    own = settings.model_copy(update={"api_key": SecretStr(key)})
    with (
        running_server(own, console) as started,
        Client(started, api_key=key, patience=Patience(total_s=600)) as client,
    ):
        yield client


def play(
    client: Client,
    task: Task,
    profile: str,
    names: Sequence[str],
    seeds: tuple[int, ...],
    console: Console,
) -> list[Played]:
    """A session for each baseline, all at once: the server's queue says what runs.

    Raises HarnessError if the server can't be reached.
    """
    with progress_of(console) as bar, ThreadPoolExecutor(len(names)) as pool:

        def one(name: str) -> Played:
            row = bar.add_task(name, total=len(seeds), said="")
            played = Played(name, seeds)
            for test in _tests(client, task, profile, played, lambda s: bar.update(row, said=s)):
                played.tests.append(test)
                bar.update(row, advance=1, said="")
            bar.update(row, said=played.problem[:80])
            return played

        return list(pool.map(one, names))


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


def _tests(
    client: Client, task: Task, profile: str, played: Played, tell: Callable[[str], None]
) -> Iterator[TestView]:
    """Each test once it has ended; stops with `played.problem` set where one can't go on."""
    name = UNEDITED if played.name == PLAIN else played.name
    session = client.create_session(
        task.name,
        profile=profile,
        agent=f"baseline {played.name}",
        baseline=BaselineRequest(name=name, seeds=list(played.seeds)),
    )
    for edit in task.baseline(name).edits if name != UNEDITED else ():
        answer = session.call("edit", edit)
        if not answer.ok:
            played.problem = f"its edit was refused: {answer.text.splitlines()[0]}"
            return
    yield from tests_of(session, played, tell)


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
    table = Table(title=f"{task.name}, profile {profile}: what agents are shown, by seed")
    metrics = visible_metrics(task, profile)
    table.add_column("baseline")
    table.add_column("seed", justify="right")
    for metric in metrics:
        table.add_column(f"{metric.name} ({metric.direction})", justify="right")
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
        if not one.ok:
            table.add_row(Text(one.name), "", Text(one.problem, style="red"))
    console.print(table)
