"""`harness view`: recorded sessions as pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.printable import visible
from harness.recorded import RecordingError
from harness.terminal import bad_input, settings_here
from harness.web import viewer

app = typer.Typer()


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
