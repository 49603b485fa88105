"""The terminal door: `harness serve`, `demo`, `replay`, `check`, `task`, `data`, `doctor`, `gc`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from harness import (
    baseline_command,
    confirm_command,
    judging,
    leaderboard_forms,
    replay_modes,
    replay_view,
    run_commands,
    task_commands,
)
from harness import demo as demo_session
from harness.appending import CannotAppend
from harness.claim import name_of
from harness.datasets import DataError, Dataset, Manifest, datasets
from harness.datasets import prepare as prepare_dataset
from harness.doctor import diagnose
from harness.ending import end_session, give_back_lost
from harness.export_command import export_session
from harness.exports import ExportError
from harness.hardware import gpus
from harness.jobs import ExecutorAway, UnknownExecutor, make_executor
from harness.jobs.plan import PlanError
from harness.printable import visible
from harness.recorded import RecordingError
from harness.render import duration
from harness.retention import cache_bytes, remove_expired, run_usage
from harness.settings import Settings
from harness.standings import Standings
from harness.store import Store
from harness.task import Task
from harness.terminal import (
    all_tasks,
    bad_input,
    fail,
    journal,
    known_profile,
    known_task,
    settings_here,
)
from harness.vetting import CasesError, NoSandbox, Verdict, read_cases, vet
from harness.web import viewer
from harness.workspace import StatePaths

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Research tasks for language-model agents. Settings are HARNESS_* variables.",
)
data_app = typer.Typer(no_args_is_help=True, help="The data sets that tests train and score on.")
app.add_typer(data_app, name="data")
app.add_typer(task_commands.app, name="task")
app.add_typer(baseline_command.app, name="baseline")


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
    name = baseline or next(iter(chosen.baselines), None)
    if name is None or name not in chosen.baselines:
        known = ", ".join(chosen.baselines) or "none"
        raise bad_input(f"no baseline {name!r}; baselines: {known}")
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


@app.command()
def view(
    files: Annotated[list[Path], typer.Argument(help="Recorded sessions.")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the link in a browser.")] = False,
) -> None:
    """Show recorded sessions in a browser, until interrupted."""
    settings = settings_here()
    try:
        viewer.view(files, settings.tasks_dir, port, lambda link: typer.echo(link), browser)
    except RecordingError as error:
        raise bad_input(visible(str(error))) from error
    except OSError as error:
        raise bad_input(f"cannot listen on 127.0.0.1:{port}: {error.strerror}") from error


@app.command()
def export(
    session: Annotated[str, typer.Argument(help="A recorded session's file, or a session's id.")],
    format: Annotated[
        str, typer.Option("--format", help="jsonl, atif, inspect, markdown or html.")
    ] = "html",
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write, or a folder for it; - prints. Left out: here."),
    ] = None,
) -> None:
    """Write a session in another form. Nothing that is hidden from agents is in it."""
    settings = settings_here()
    try:
        path = export_session(session, format, out, settings, Console())
    except (ExportError, RecordingError) as error:
        raise bad_input(visible(str(error))) from error
    except OSError as error:
        raise bad_input(f"{error.filename}: {error.strerror}") from error
    if path is not None:
        typer.echo(f"{path}")


@app.command()
def check(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    edits: Annotated[
        Path, typer.Option(help="JSON or YAML: a list of edits, or of cases with name and edits.")
    ],
    profile: Annotated[
        str | None, typer.Option(help="Take this profile's first steps at full size too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Verdicts as a JSON list.")] = False,
) -> None:
    """Check edits as a session's would be: 0 if all are ok, 1 if any is not, 2 for a bad file."""
    settings = settings_here()
    chosen = known_task(settings, task)
    if profile is not None:
        known_profile(chosen, profile)
    console = Console()
    verdicts: list[Verdict] = []
    try:
        cases = read_cases(edits)
        state, data = settings.state_dir.absolute(), settings.resolved_data_dir
        sandboxed = settings.sandbox != "none"
        found = vet(chosen, profile, cases, state, data, sandboxed=sandboxed)
        shown = sys.stderr.isatty()
        bar = Progress(console=Console(stderr=True), transient=True, disable=not shown)
        with bar:
            for verdict in bar.track(found, total=len(cases), description="checking"):
                verdicts.append(verdict)
                if not as_json:
                    _show_verdict(verdict, len(chosen.files) > 1, console)
    except (CasesError, PlanError, NoSandbox) as error:
        raise bad_input(str(error)) from error
    if as_json:
        typer.echo(json.dumps([verdict.as_json() for verdict in verdicts], indent=1))
    raise typer.Exit(0 if all(verdict.ok for verdict in verdicts) else 1)


def _show_verdict(verdict: Verdict, several_files: bool, console: Console) -> None:
    mark = Text("ok     ", style="green") if verdict.ok else Text("refused", style="red")
    console.print(mark.append(f" {verdict.name}", style="default"))
    for finding in verdict.findings:
        text = f"        {finding.describe(several_files=several_files)}"
        console.print(Text(text), soft_wrap=True)
    for warning in verdict.warnings:
        text = f"        warning: {warning.describe(several_files=several_files)}"
        console.print(Text(text, style="yellow"), soft_wrap=True)


@data_app.command("prepare")
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
    try:
        for name in profiles:
            folder = prepare_dataset(
                chosen, name, settings.resolved_data_dir, mirror=mirror, arguments=arguments or ()
            )
            typer.echo(f"{folder.name}: ready at {folder}")
    except DataError as error:
        raise fail(str(error)) from error


def _carried(task: Task, found: Sequence[Dataset]) -> list[str]:
    """A profile of each data set that can be made, and of use with as many GPUs as there are."""
    have = len(gpus())
    fitting = [name for name, profile in task.profiles.items() if profile.gpus <= have]
    makeable = [dataset.profiles for dataset in found if dataset.can_prepare]
    firsts = (next((name for name in names if name in fitting), None) for names in makeable)
    return [name for name in firsts if name is not None]


@data_app.command("status")
def data_status(
    task: Annotated[str | None, typer.Argument(help="All tasks if left out.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file and compare its sha256.")
    ] = False,
) -> None:
    """Which data sets are here and whole; exit code 1 if one is not what its manifest says."""
    settings = settings_here()
    tasks = [known_task(settings, task)] if task is not None else all_tasks(settings).values()
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


@app.command()
def leaderboard(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    profile: Annotated[str | None, typer.Option(help="Of this profile alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All there is, as the API.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A line for each row.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Tables for a page.")] = False,
) -> None:
    """Submissions and baselines on the split final, which agents are never shown."""
    settings = settings_here()
    chosen = known_task(settings, task)
    if profile is not None:
        known_profile(chosen, profile)
    if sum((as_json, as_csv, as_markdown)) > 1:
        raise bad_input("--json, --csv and --markdown are used one at a time")
    with journal(settings) as store:
        found = Standings(store, {chosen.name: chosen}).board(chosen.name)
    board = leaderboard_forms.of_profile(found, profile)
    if as_json:
        typer.echo(board.model_dump_json(indent=1))
    elif as_csv:
        typer.echo(leaderboard_forms.as_csv(board), nl=False)
    elif as_markdown:
        typer.echo(leaderboard_forms.markdown(board, chosen), nl=False)
    else:
        leaderboard_forms.show(board, chosen, Console())


app.command()(judging.review)
app.command()(judging.regrade)
app.command()(confirm_command.confirm)


def _state() -> StatePaths:
    return StatePaths(settings_here().state_dir.absolute())


def _ended_sessions(settings: Settings) -> set[str]:
    with journal(settings) as store:
        return {row.id for row in store.list_sessions() if row.closed}
