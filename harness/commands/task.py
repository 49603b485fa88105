"""`harness task`: what there is, what an agent is told, a new one, whether one is sound."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.datasets import datasets
from harness.prompt import build_prompt
from harness.scaffold import ScaffoldError, new_task, parse_regions
from harness.settings import Settings, no_task
from harness.soundness import CHECKS, Outcome, check_task
from harness.task import Task, TaskError, load_task, schema
from harness.terminal import all_tasks, bad_input, settings_here

app = typer.Typer(
    no_args_is_help=True, help="Tasks: what there is, a new one, whether it is sound."
)

Name = Annotated[str, typer.Argument(help="The task's name.")]


def _task(settings: Settings, name: str) -> Task:
    """One task, although others may be broken."""
    folder = _folder(settings, name)
    try:
        return load_task(folder)
    except TaskError as error:
        raise bad_input(f"{error}\nSee: harness task check {name}") from error


def _folder(settings: Settings, name: str) -> Path:
    folder = settings.tasks_dir / name
    if "/" not in name and (folder / "task.yaml").is_file():
        return folder
    known = ", ".join(_names(settings))
    if not known:
        raise bad_input(no_task(settings))
    raise bad_input(f"no task {name!r} in {settings.tasks_dir}; there are: {known}")


def _names(settings: Settings) -> list[str]:
    return sorted(path.parent.name for path in settings.tasks_dir.glob("*/task.yaml"))


@app.command("list")
def list_tasks(
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON list.")] = False,
) -> None:
    """The tasks, their profiles and baselines."""
    settings = settings_here()
    rows = [
        {
            "name": task.name,
            "version": task.version,
            "title": task.title,
            "profiles": list(task.profiles),
            "baselines": list(task.baselines),
        }
        for task in all_tasks(settings).values()
    ]
    if not rows:
        typer.echo(no_task(settings), err=as_json)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    if as_json or not rows:
        return
    table = Table("task", "version", "title", "profiles", "baselines")
    for row in rows:
        cells = (", ".join(cell) if isinstance(cell, list) else str(cell) for cell in row.values())
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)


@app.command()
def show(
    name: Name, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """A task's regions, stages, limits, metrics and data, the hidden ones too."""
    settings = settings_here()
    task = _task(settings, name)
    if as_json:
        typer.echo(json.dumps(task.model_dump(mode="json"), indent=1))
        return
    console = Console()
    console.print(Text(f"{task.name}, version {task.version}: {task.title}", style="bold"))
    console.print(Text(f"{task.folder}; {task.tests} tests a session"), soft_wrap=True)
    regions = Table("file", "region", "lines", "title")
    for file in task.files:
        for region in file.regions:
            empty = region.last < region.first
            lines = f"before {region.first}" if empty else f"{region.first}–{region.last}"
            regions.add_row(Text(file.name), Text(region.name), lines, Text(region.title))
    console.print(regions)
    _show_profiles(task, settings, console)
    metrics = Table("metric", "kind", "stage", "better is", "unit", "seen by agents", "profiles")
    for metric in task.metrics:
        metrics.add_row(
            Text(metric.name + (" (primary)" if metric.primary else "")),
            metric.kind,
            Text(metric.stage),
            metric.direction,
            Text(metric.unit),
            "no" if metric.hidden else "yes",
            Text(", ".join(metric.profiles or ("all",))),
        )
    console.print(metrics)
    for baseline in task.all_baselines():
        source = f" ({baseline.paper})" if baseline.paper else ""
        edits = f"{len(baseline.edits)} edits"
        console.print(Text(f"baseline {baseline.name}: {edits}{source}"), soft_wrap=True)


def _show_profiles(task: Task, settings: Settings, console: Console) -> None:
    ready = {
        profile: "ready" if own.ready else "not prepared"
        for own in datasets(task, settings.resolved_data_dir)
        for profile in own.profiles
    }
    table = Table("profile", "stage", "roles", "GPUs", "limits", "data")
    for profile_name, profile in task.profiles.items():
        for stage in profile.stages:
            limits = [
                f"{role} {stage.limits.seconds(role):g} s"
                for role in stage.roles
                if stage.limits.seconds(role) is not None
            ]
            table.add_row(
                Text(profile_name),
                Text(stage.label),
                ", ".join(stage.roles),
                str(stage.gpus),
                ", ".join(limits),
                Text(f"{profile.data.name}: {ready.get(profile_name, '?')}"),
            )
    console.print(table)


@app.command()
def prompt(
    name: Name,
    profile: Annotated[str | None, typer.Option(help="The first one if left out.")] = None,
) -> None:
    """What an agent is told at the start, but for results that a server has measured."""
    task = _task(settings_here(), name)
    chosen = profile or next(iter(task.profiles))
    if chosen not in task.profiles:
        raise bad_input(f"no profile {chosen!r}; profiles: {', '.join(task.profiles)}")
    files = task.shipped()
    typer.echo(build_prompt(task, chosen, files, {}), nl=False)


@app.command("schema")
def show_schema() -> None:
    """The JSON Schema of task.yaml, for editors."""
    typer.echo(schema_text(), nl=False)


def schema_text() -> str:
    """As tasks/task.schema.json holds it."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Its name, and its folder's.")],
    file: Annotated[
        Path, typer.Option(help="The Python file that agents will edit; it is copied.")
    ],
    regions: Annotated[str, typer.Option(help="Editable lines: 10-20,33-40.")],
) -> None:
    """Write a task that is sound already, to go on from."""
    settings = settings_here()
    try:
        folder = new_task(settings.tasks_dir, name, file, parse_regions(regions))
        schema_file = settings.tasks_dir / "task.schema.json"
        if not schema_file.exists():
            schema_file.write_text(schema_text(), encoding="utf-8")
    except ScaffoldError as error:
        raise bad_input(str(error)) from error
    except OSError as error:
        raise bad_input(f"{error.filename}: {error.strerror}") from error
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        typer.echo(f"{path}")
    typer.echo(f"Lines with TODO are yours to fill in. Then: harness task check {name}")


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Tasks, one or more.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every task there is.")] = False,
    profile: Annotated[
        str | None, typer.Option(help="The profile that is run; the smallest if left out.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="As a JSON list; of several, an object of lists by name.")
    ] = False,
) -> None:
    """Prove tasks sound: 0 if they are, 1 with what to mend, file and line, if one is not."""
    settings = settings_here()
    if bool(names) == everything:
        known = ", ".join(_names(settings)) or "none"
        raise bad_input(f"name tasks, or --all; there are: {known}")
    folders = [_folder(settings, name) for name in names or _names(settings)]
    console = Console()
    found: dict[str, list[Outcome]] = {}
    for folder in folders:
        if len(folders) > 1 and not as_json:
            console.print(Text(folder.name, style="bold"), soft_wrap=True)
        shown = None if as_json else console
        found[folder.name] = _checked(folder, settings, profile, shown)
    if as_json:
        values = {
            name: [_as_json(outcome) for outcome in outcomes] for name, outcomes in found.items()
        }
        one = next(iter(values.values())) if len(values) == 1 else values
        typer.echo(json.dumps(one, indent=1))
    raise typer.Exit(0 if all(o.ok for outcomes in found.values() for o in outcomes) else 1)


def _checked(
    folder: Path, settings: Settings, profile: str | None, console: Console | None
) -> list[Outcome]:
    """The outcome of every check, each printed on the console once it is known."""
    outcomes: list[Outcome] = []
    try:
        with Console(stderr=True).status("reading") if sys.stderr.isatty() else _Silent() as status:
            for outcome in check_task(folder, settings, profile, status.update):
                outcomes.append(outcome)
                if console is not None:
                    _show(outcome, console)
    except KeyError as error:
        name = folder.name
        raise bad_input(f"no profile {error.args[0]!r}; see: harness task show {name}") from error
    return outcomes


class _Silent:
    """Stands for a line that shows what is being done, where nobody looks."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, said: str) -> None:
        pass


def _show(outcome: Outcome, console: Console) -> None:
    if outcome.skipped:
        mark, style = "-   ", "dim"
    else:
        mark, style = ("ok  ", "green") if outcome.ok else ("BAD ", "red")
    line = Text(mark, style=style).append(f"{outcome.check}: {CHECKS[outcome.check]}", "default")
    if outcome.skipped:
        line.append(f" (not looked at: {outcome.skipped})")
    console.print(line, soft_wrap=True)
    for fault in outcome.faults:
        console.print(Text(f"    {_near(str(fault))}"), soft_wrap=True)
    for note in outcome.notes:
        console.print(Text(f"    note: {_near(note)}", style="yellow"), soft_wrap=True)


def _near(text: str) -> str:
    """Paths from the working folder, where they lie below it."""
    return text.removeprefix(f"{Path.cwd().resolve()}/")


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "check": outcome.check,
        "ok": outcome.ok,
        "skipped": outcome.skipped or None,
        "faults": [
            {"where": _near(fault.where), "message": fault.message} for fault in outcome.faults
        ],
        "notes": list(outcome.notes),
    }
