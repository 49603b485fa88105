"""`harness serve`, `demo` and `doctor`: a server, a session to look at, what is missing here."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import demo as demo_session
from harness.datasets import DataError
from harness.doctor import diagnose
from harness.terminal import (
    all_tasks,
    bad_input,
    fail,
    known_profile,
    known_task,
    settings_here,
)

app = typer.Typer()


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    profile: Annotated[str | None, typer.Option(help="Profile of sessions that name none.")] = None,
) -> None:
    """Serve the tasks over HTTP until interrupted."""
    flags = {"HARNESS_HOST": host, "HARNESS_PORT": port, "HARNESS_PROFILE": profile}
    os.environ.update({name: str(value) for name, value in flags.items() if value is not None})
    settings_here()
    # The composition root stands above the doors, so it is started, not imported.
    os.execv(sys.executable, [sys.executable, "-m", "server"])


@app.command()
def demo(
    task: Annotated[str | None, typer.Option(help="The first task if left out.")] = None,
    profile: Annotated[str | None, typer.Option(help="A profile that needs no GPU.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Whose edits are played.")] = None,
) -> None:
    """Play a whole session over HTTP, for real, and measure the unedited file beside it."""
    settings = settings_here()
    chosen = known_task(settings, task)
    without_gpu = [name for name, p in chosen.profiles.items() if p.gpus == 0]
    if profile is None and not without_gpu:
        raise fail(f"every profile of {chosen.name} needs a GPU; name one with --profile")
    if not chosen.baselines:
        raise bad_input(
            f"{chosen.name} has no baseline to play; write one below baselines/, named in task.yaml"
        )
    name = baseline or next(iter(chosen.baselines))
    if name not in chosen.baselines:
        raise bad_input(f"no baseline {name!r}; baselines: {', '.join(chosen.baselines)}")
    try:
        demo_session.run(
            settings,
            chosen,
            known_profile(chosen, profile or without_gpu[0]),
            chosen.baseline(name),
            Console(),
        )
    except (demo_session.DemoError, DataError) as error:
        raise fail(str(error)) from error


@app.command()
def doctor() -> None:
    """What is here, what is missing, and the command that brings it."""
    settings = settings_here()
    table = Table("", "what", "found", "what to do")
    broken = False
    for finding in diagnose(settings, all_tasks(settings)):
        mark = "ok" if finding.ok else ("MISSING" if finding.required else "-")
        broken = broken or (finding.required and not finding.ok)
        remedy = "" if finding.ok else finding.remedy
        table.add_row(mark, finding.what, Text(finding.found), Text(remedy))
    Console().print(table)
    raise typer.Exit(1 if broken else 0)
