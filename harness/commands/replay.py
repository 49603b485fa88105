"""`harness replay`: a recorded session played again, whole or by one of its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness import replay_modes, replay_view
from harness.terminal import bad_input, settings_here

app = typer.Typer()


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A recorded session.")],
    as_json: Annotated[bool, typer.Option("--json", help="Counts and differences only.")] = False,
    step: Annotated[bool, typer.Option("--step", help="One step at a time.")] = False,
    into: Annotated[
        Path | None, typer.Option(help="Write the files at each step to this new folder.")
    ] = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Prove from hashes what can be proved.")
    ] = False,
    run: Annotated[
        bool, typer.Option("--run", help="Run the recorded tests again on the replayed code.")
    ] = False,
    profile: Annotated[
        str | None, typer.Option(help="With --run: the profile, if not the recorded one.")
    ] = None,
) -> None:
    """Apply a recorded session's edits again and compare every answer with the record."""
    settings = settings_here()
    modes = [step, into is not None, certify, run]
    if sum(modes) > 1:
        raise bad_input("--step, --into, --certify and --run are used one at a time")
    if profile is not None and not run:
        raise bad_input("--profile is for --run")
    if not any(modes):
        raise typer.Exit(replay_view.run(file, as_json, Console(), settings.tasks_dir))
    raise typer.Exit(replay_modes.run(file, settings, step, into, certify, profile, as_json))
