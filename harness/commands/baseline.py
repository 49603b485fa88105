"""`harness baseline run`: baselines trained and scored as agents' edits are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer
from rich.console import Console

from harness.client import Client, HarnessError
from harness.datasets import DataError
from harness.demo import DemoError
from harness.hardware import gpus
from harness.house_sessions import Played, named_server, own_server, progress_of, show, tests_of
from harness.likeness import UNEDITED
from harness.task import Task
from harness.terminal import bad_input, fail, known_profile, known_task, settings_here
from harness.wire import BaselineRequest, TestView

app = typer.Typer(no_args_is_help=True, help="Baselines: played as agents' edits are.")

PLAIN = "unedited"
"""what the unedited files are called on the command line"""


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
    known_profile(chosen, profile_name)
    known = [PLAIN, *chosen.baselines]
    if everything == bool(names):
        raise bad_input(f"name baselines, or --all; there are: {', '.join(known)}")
    wanted = known if everything else list(dict.fromkeys(names or ()))
    for name in wanted:
        if name not in known:
            raise bad_input(f"no baseline {name!r}; there are: {', '.join(known)}")
    own_seed = chosen.profile(profile_name).seed
    numbers = _seeds(seeds) if seeds is not None else (own_seed, own_seed + 1, own_seed + 2)
    console = Console()
    try:
        server = own_server(settings, chosen, profile_name, console)
        with server if url is None else named_server(url) as client:
            played = play(client, chosen, profile_name, wanted, numbers, console)
    except (DemoError, DataError, HarnessError) as error:
        raise fail(str(error)) from error
    show(chosen, profile_name, played, console)
    ranked = f"harness leaderboard {task} --profile {profile_name}"
    console.print(f"On the split that ranks: {ranked}", soft_wrap=True)
    raise typer.Exit(0 if all(one.ok for one in played) else 1)


def _carried(task: Task) -> str:
    """The first profile that the GPUs here can carry."""
    have = len(gpus())
    fitting = [name for name, profile in task.profiles.items() if profile.gpus <= have]
    return (fitting or list(task.profiles))[0]


def _seeds(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise bad_input(f"--seeds {text!r}: give whole numbers as 42,43,44") from None
    if len(set(found)) < len(found):
        raise bad_input(f"--seeds {text!r}: each seed once")
    return found


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
