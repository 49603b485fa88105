"""`harness data`: the data sets that tests train and score on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from harness.datasets import DataError, Dataset, Manifest, datasets
from harness.datasets import prepare as prepare_dataset
from harness.hardware import gpus
from harness.settings import no_task
from harness.task import Task
from harness.terminal import all_tasks, bad_input, fail, known_profile, known_task, settings_here

app = typer.Typer(no_args_is_help=True, help="The data sets that tests train and score on.")


@app.command("prepare")
def data_prepare(
    task: Annotated[str | None, typer.Argument(help="The first task if left out.")] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(help="After --, for the task's own command.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Whose data set; of all that the GPUs here can carry if left out."),
    ] = None,
    mirror: Annotated[
        Path | None, typer.Option(help="A folder to take sources from, instead of a network.")
    ] = None,
) -> None:
    """Make a task's data sets; one that is there is left alone."""
    settings = settings_here()
    chosen = known_task(settings, task)
    if mirror is not None and not mirror.is_dir():
        raise bad_input(f"--mirror {mirror} is no folder")
    if profile is not None:
        profiles = [known_profile(chosen, profile)]
    else:
        profiles = _carried(chosen, datasets(chosen, settings.resolved_data_dir))
    ready = {own.name for own in datasets(chosen, settings.resolved_data_dir) if own.ready}
    try:
        for name in profiles:
            folder = prepare_dataset(
                chosen,
                name,
                settings.resolved_data_dir,
                state_dir=settings.state_dir,
                mirror=mirror,
                arguments=arguments or (),
            )
            typer.echo(f"{folder.name}: ready at {folder}")
            if arguments and folder.name in ready:
                typer.echo(
                    f"{' '.join(arguments)}: not used, since it is ready already; "
                    f"to make it anew, remove {folder}",
                    err=True,
                )
    except DataError as error:
        raise fail(str(error)) from error


def _carried(task: Task, found: Sequence[Dataset]) -> list[str]:
    """A profile of each data set that can be made, and of use with as many GPUs as there are."""
    have = len(gpus())
    fitting = [name for name, profile in task.profiles.items() if profile.gpus <= have]
    makeable = [dataset.profiles for dataset in found if dataset.can_prepare]
    firsts = (next((name for name in names if name in fitting), None) for names in makeable)
    return [name for name in firsts if name is not None]


@app.command("status")
def data_status(
    task: Annotated[str | None, typer.Argument(help="All tasks if left out.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file and compare its sha256.")
    ] = False,
) -> None:
    """Which data sets are here and whole; exit code 1 if one is not what its manifest says."""
    settings = settings_here()
    tasks = [known_task(settings, task)] if task is not None else all_tasks(settings).values()
    if not tasks:
        typer.echo(no_task(settings))
    whole = True
    for own in tasks:
        for dataset in datasets(own, settings.resolved_data_dir):
            whole = _show_dataset(dataset, verify, Console()) and whole
    raise typer.Exit(0 if whole else 1)


def _show_dataset(dataset: Dataset, verify: bool, console: Console) -> bool:
    """Tell of one data set; whether what is there is whole."""

    def say(what: str, text: str) -> None:
        console.print(Text(f"  {what:<10}{text}"), soft_wrap=True)

    title = f"{dataset.name}  ({dataset.task}: {', '.join(dataset.profiles)})"
    console.print(Text(title, style="bold"), soft_wrap=True)
    if not dataset.ready:
        say("state", f"missing: {dataset.remedy}")
        return True
    try:
        manifest = dataset.manifest()
    except DataError as error:
        say("state", str(error))
        return False
    faults = _verified(dataset, manifest) if verify else dataset.faults(manifest)
    say("state", "damaged" if faults else "ready")
    for fault in faults:
        say("", fault)
    if faults:
        say("", f"remove {dataset.folder}, then: {dataset.remedy}")
    say("folder", str(dataset.folder))
    if manifest.tokens:
        say("tokens", ", ".join(f"{name} {count:,}" for name, count in manifest.tokens.items()))
    for source in manifest.sources:
        revision = f" @ {source.revision}" if source.revision else ""
        say("source", f"{source.name}{revision}, {source.licence or 'licence not stated'}")
    size = sum(size for size, _ in manifest.files.values())
    if manifest.files and not faults:
        checked = "sizes and sha256" if verify else "sizes"
        say("files", f"{len(manifest.files)}, {size / 2**20:,.1f} MiB; {checked} match")
    say("manifest", f"sha256 {manifest.digest}")
    return not faults


def _verified(dataset: Dataset, manifest: Manifest) -> list[str]:
    total = sum(size for size, _ in manifest.files.values())
    shown = sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
        bar_task = bar.add_task(f"reading {dataset.name}", total=total)
        return dataset.verify(manifest, lambda size: bar.advance(bar_task, size))
