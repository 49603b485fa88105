"""What the commands of the terminal share: errors of one line, the settings, tasks, the journal."""

from __future__ import annotations

from collections.abc import Mapping

import typer
from rich.console import Console
from rich.text import Text

from harness.settings import Settings, SettingsError, no_task, read_settings
from harness.task import Task, TaskError, find_tasks

BAD_INPUT = 2
"""exit code for a mistake in the command or its input"""


def fail(message: str, code: int = 1) -> typer.Exit:
    """Print the error; what it gives back is to be raised."""
    # An error is one line, however narrow the terminal: programs read it too.
    Console(stderr=True).print(Text(f"ERROR: {message}"), soft_wrap=True)
    return typer.Exit(code)


def bad_input(message: str) -> typer.Exit:
    """`fail` for a mistake of who typed the command."""
    return fail(message, BAD_INPUT)


def settings_here() -> Settings:
    """As the environment gives them. Raises typer.Exit, as all below."""
    try:
        return read_settings()
    except SettingsError as error:
        raise bad_input(str(error)) from error


def all_tasks(settings: Settings) -> Mapping[str, Task]:
    try:
        return find_tasks(settings.tasks_dir)
    except TaskError as error:
        raise bad_input(str(error)) from error


def known_task(settings: Settings, name: str | None) -> Task:
    """The task of that name; the first one for None."""
    tasks = all_tasks(settings)
    if name is None and tasks:
        name = next(iter(tasks))
    if not tasks:
        raise bad_input(no_task(settings))
    if name is None or name not in tasks:
        raise bad_input(f"no task {name!r}; tasks: {', '.join(tasks)}")
    return tasks[name]


def known_profile(task: Task, name: str) -> str:
    if name not in task.profiles:
        raise bad_input(f"no profile {name!r}; profiles: {', '.join(task.profiles)}")
    return name
