"""`harness check`: edits from a file, checked as a session's would be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from harness.jobs.plan import PlanError
from harness.state_folder import StateFolderError
from harness.terminal import bad_input, known_profile, known_task, settings_here
from harness.vetting import CasesError, NoSandbox, Verdict, read_cases, vet

app = typer.Typer()


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
    except (CasesError, PlanError, NoSandbox, StateFolderError) as error:
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
