"""The terminal door: the `harness` command. A command's module is imported when it is asked for."""

from __future__ import annotations

import gc
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

MODULES = {
    "serve": "serving",
    "demo": "serving",
    "replay": "replay",
    "view": "view",
    "export": "export",
    "check": "check",
    "doctor": "serving",
    "gc": "running",
    "ps": "running",
    "cancel": "running",
    "logs": "running",
    "end": "running",
    "leaderboard": "leaderboard",
    "review": "judging",
    "regrade": "judging",
    "confirm": "confirm",
    "data": "data",
    "task": "task",
    "baseline": "baseline",
}
"""Each command and its module below harness.commands; one that has commands is its whole module."""


class _Commands(MutableMapping[str, Any]):
    """Typer's commands by name, each made from its module when it is asked for.

    What one command needs (a web framework, a database, numpy) costs the others no time.
    """

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self.made:
            gc.disable()  # an import makes no garbage: to look for it takes a tenth of the time
            try:
                module = import_module(f"harness.commands.{MODULES[name]}")
            finally:
                gc.enable()
            group = get_group(module.app)
            group.name = name
            self.made[name] = group.commands.get(name, group)
        return self.made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self.made[name] = command

    def __delitem__(self, name: str) -> None:
        del self.made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


class _Harness(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()


app = typer.Typer(
    cls=_Harness,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Research tasks for language-model agents. Settings are HARNESS_* variables.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(_version())
        raise typer.Exit


def _version() -> str:
    """The program's version, and in a checkout the revision, with `-dirty` if it was changed."""
    # Every command would wait for these.
    import subprocess
    from importlib import metadata
    from pathlib import Path

    said = f"harness {metadata.version('harness')}"
    root = Path(__file__).resolve().parent.parent
    if (root / ".git").exists():
        describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            done = subprocess.run(
                describe, cwd=root, capture_output=True, text=True, timeout=20, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return said  # no git, or none that reads this checkout
        said += f", revision {done.stdout.strip()}"
    return said


@app.callback()
def _harness(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_show_version,
            help="The version, and in a checkout the revision.",
        ),
    ] = False,
) -> None: ...
