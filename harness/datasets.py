"""Prepared data sets: which are here and whole, and the task's own command that makes one.

A prepared folder has a manifest.json, written last. What is read of it here, each part only if it
is there: `splits` (name -> {"tokens"}), `sources` (a list with `name`, `revision`, `licence`), and
`files` (path in the folder -> {"bytes", "sha256"}).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.state_folder import UMASK, StateFolderError, cannot_use, state_folder
from harness.task import Task

READERS = 4
"""Threads that hash files."""


class DataError(RuntimeError):
    """A data set could not be made; the message says why and what to do."""


@dataclass(frozen=True)
class SourceNote:
    """Where a data set, or a part of it, comes from."""

    name: str
    revision: str | None
    """A commit or a version."""
    licence: str | None


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder says of itself."""

    digest: str
    """sha256 of manifest.json"""
    tokens: dict[str, int]
    """How many each split has."""
    sources: tuple[SourceNote, ...]
    files: dict[str, tuple[int, str | None]]
    """Each file's path in the folder -> its size in bytes, its sha256."""


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

    def manifest(self) -> Manifest:
        """What manifest.json says. Raises DataError if it is not one."""
        path = self.folder / "manifest.json"
        try:
            content = path.read_bytes()
            said = json.loads(content)
            files = said.get("files")
            return Manifest(
                digest=hashlib.sha256(content).hexdigest(),
                tokens={k: int(v["tokens"]) for k, v in said.get("splits", {}).items()},
                sources=tuple(map(_note, said.get("sources", ()))),
                files={name: (int(own["bytes"]), own.get("sha256")) for name, own in files.items()}
                if isinstance(files, dict)
                else {},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} is damaged ({error}): remove {self.folder}, then: {self.remedy}"
            ) from error

    def faults(self, manifest: Manifest) -> list[str]:
        """What is not as the manifest says, without reading the files: one line each."""
        found = []
        for name, (size, _) in manifest.files.items():
            path = self.folder / name
            if not path.is_file():
                found.append(f"{name} is missing")
            elif path.stat().st_size != size:
                found.append(f"{name} has {path.stat().st_size} bytes instead of {size}")
        found.extend(self._foreign_parts(manifest))
        return found

    def verify(self, manifest: Manifest, tell: Callable[[int], None]) -> list[str]:
        """`faults`, and files whose content is another; reads all of them.

        `tell` is called with the size of each file that was read.
        """
        found = self.faults(manifest)
        named = [
            (name, size, sha256)
            for name, (size, sha256) in manifest.files.items()
            if sha256 is not None and (self.folder / name).is_file()
        ]
        with ThreadPoolExecutor(READERS) as pool:
            hashes = pool.map(lambda one: _sha256(self.folder / one[0]), named)
            for (name, size, sha256), own in zip(named, hashes, strict=True):
                tell(size)
                if own != sha256:
                    found.append(f"{name} has another sha256 than the manifest says")
        return found

    def _foreign_parts(self, manifest: Manifest) -> Iterator[str]:
        """A part's meta.json names the manifest that it was written with."""
        for path in sorted(self.folder.glob("*/meta.json")):
            try:
                named = json.loads(path.read_text(encoding="utf-8")).get("manifest")
            except (OSError, ValueError, AttributeError):
                named = ""
            if named not in (None, manifest.digest):
                yield f"{path.relative_to(self.folder)} belongs to another manifest"


def _note(source: dict[str, Any]) -> SourceNote:
    revision = source.get("revision") or source.get("version")
    return SourceNote(
        name=str(source.get("repository") or source["name"]),
        revision=None if revision is None else str(revision),
        licence=source.get("licence"),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def prepare(
    task: Task,
    profile: str,
    data_dir: Path,
    *,
    state_dir: Path | None = None,
    mirror: Path | None = None,
    arguments: Sequence[str] = (),
) -> Path:
    """Make the profile's data set with the task's own command, unless it is there.

    Closed to other users where the data lies in `state_dir`, as all there is.
    `mirror` is handed on as HARNESS_MIRROR: a folder to take sources from, instead of a network;
    `arguments` are added to the command. Its output goes to the terminal. Raises DataError.
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
    inside = state_dir is not None and data_dir.is_relative_to(state_dir.absolute())
    try:
        if state_dir is not None and inside:
            state_folder(state_dir)
        data_dir.mkdir(mode=0o700 if inside else 0o777, parents=True, exist_ok=True)
    except StateFolderError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        variable = "HARNESS_STATE_DIR" if inside else "HARNESS_DATA_DIR"
        raise DataError(cannot_use(variable, data_dir, error)) from error
    environment = os.environ.copy()
    if mirror is not None:
        environment["HARNESS_MIRROR"] = str(mirror.absolute())
    code = subprocess.run(
        [*command, *arguments], check=False, env=environment, umask=UMASK if inside else -1
    ).returncode
    if code != 0:
        raise DataError(f"making the data set {out.name} failed with exit code {code}; see above")
    return out
