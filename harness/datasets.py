"""Prepared data sets: which are here, and the task's own command that makes one."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.task import Task


class DataError(RuntimeError):
    """A data set could not be made; the message says why and what to do."""


@dataclass(frozen=True)
class Dataset:
    """One data set of one task; several profiles may share it."""

    task: str
    name: str
    profiles: tuple[str, ...]
    folder: Path
    can_prepare: bool

    @property
    def ready(self) -> bool:
        return (self.folder / "manifest.json").is_file()

    @property
    def remedy(self) -> str:
        """What a person does to bring it."""
        if not self.can_prepare:
            return f"no command makes it; put the prepared folder at {self.folder}"
        return f"harness data prepare {self.task} --profile {self.profiles[0]}"


def datasets(task: Task, data_dir: Path) -> list[Dataset]:
    """The data sets that the task's profiles use, each once."""
    by_name: dict[str, list[str]] = {}
    for profile_name, profile in task.profiles.items():
        by_name.setdefault(profile.data.name, []).append(profile_name)
    return [
        Dataset(
            task.name,
            name,
            tuple(profiles),
            data_dir / name,
            task.profile(profiles[0]).data.prepare is not None,
        )
        for name, profiles in by_name.items()
    ]


def prepare(task: Task, profile: str, data_dir: Path) -> Path:
    """Make the profile's data set with the task's own command, unless it is there.

    Its output goes to the terminal. Raises DataError.
    """
    out = data_dir / task.profile(profile).data.name
    if (out / "manifest.json").is_file():
        return out
    command = task.prepare_command(profile, out)
    if command is None:
        raise DataError(
            f"{task.name} names no command that makes the data set {out.name}; "
            f"put the prepared folder at {out}"
        )
    data_dir.mkdir(parents=True, exist_ok=True)
    code = subprocess.run(command, check=False, env=os.environ.copy()).returncode
    if code != 0:
        raise DataError(f"making the data set {out.name} failed with exit code {code}; see above")
    return out
