"""`harness export`: a session in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.export_command import export_session
from harness.exports import ExportError
from harness.printable import visible
from harness.recorded import RecordingError
from harness.terminal import bad_input, settings_here

app = typer.Typer()


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
    except BrokenPipeError:
        raise  # who read it has seen enough
    except OSError as error:
        raise bad_input(f"{error.filename}: {error.strerror}") from error
    if path is not None:
        typer.echo(f"{path}")
