"""Files of data sets on the Hugging Face hub, or of a folder that mirrors some of them.

A mirror is laid out as the hub's repositories are, `MIRROR/OWNER/NAME/path/of/a/file`; so is what
`hf download OWNER/NAME --repo-type dataset --local-dir MIRROR/OWNER/NAME` makes.

What a repository gave the first time is written down: its revision, and each file's size and
sha256. From then on that revision is asked for, and a file that differs is refused, wherever it
comes from. Nobody vouches for the first time but the hub.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from corpus.files import DataError, read_json, replace_json, sha256_of

PINS = "pins.json"
"""{repository: {"revision", "files": {name: {"bytes", "sha256"}}}}, beside what was downloaded"""
READERS = 4
"""Threads that download or hash."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, on this machine."""

    name: str
    """Its path in the repository, or as it was given."""
    path: Path
    bytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"name": self.name, "bytes": self.bytes, "sha256": self.sha256}


@dataclass(frozen=True)
class Fetched:
    """What a repository gave."""

    repository: str
    revision: str | None
    """The commit; None where a mirror does not know it."""
    files: tuple[SourceFile, ...]


@dataclass(frozen=True)
class Origin:
    """Where repositories come from."""

    downloads: Path
    """Keeps what the hub gave, and the pins."""
    mirror: Path | None = None
    """Used instead of the hub, which is then never asked."""

    def fetch(self, repository: str, patterns: Sequence[str], most: int | None = None) -> Fetched:
        """The files of `repository` that match any of `patterns`, by name, the first `most` of
        them; each compared with what it was the first time.

        Raises DataError if there are none, they cannot be had, or one differs.
        """
        pinned = (read_json(self.downloads / PINS) or {}).get(repository, {})
        if self.mirror is not None:
            folder = self.mirror / repository
            revision, names = _mirrored(folder, repository)
        else:
            folder = self.downloads / "hub" / repository
            revision, names = _listed(repository, pinned.get("revision"))
        chosen = _matching(names, patterns)[:most]
        if not chosen:
            where = folder if self.mirror is not None else f"{repository} at {revision}"
            raise DataError(f"{where} has no file named like {' or '.join(patterns)}")
        if self.mirror is None:
            _download(repository, revision, chosen, folder)
        elif revision is None:
            revision = _revision_of(folder, chosen)
        files = tuple(describe_files(chosen, folder))
        self._pin(repository, revision, files, pinned)
        return Fetched(repository, revision, files)

    def _pin(
        self,
        repository: str,
        revision: str | None,
        files: Sequence[SourceFile],
        pinned: dict[str, Any],
    ) -> None:
        known = dict(pinned.get("files", {}))
        for file in files:
            found = {"bytes": file.bytes, "sha256": file.sha256}
            if known.setdefault(file.name, found) != found:
                raise DataError(
                    f"{file.path} is not the {file.name} of {repository} that was used before: "
                    f"{file.bytes} bytes, sha256 {file.sha256[:12]}..., then "
                    f"{known[file.name]['bytes']} bytes, {known[file.name]['sha256'][:12]}.... "
                    f"Fetch it again; or if the new one is wanted, take {repository} out of "
                    f"{self.downloads / PINS}"
                )
        self.downloads.mkdir(parents=True, exist_ok=True)
        pins = read_json(self.downloads / PINS) or {}
        pins[repository] = {"revision": pinned.get("revision") or revision, "files": known}
        replace_json(self.downloads / PINS, pins)


def describe_files(names: Iterable[str], folder: Path) -> list[SourceFile]:
    """Size and sha256 of each file of `folder`; reads all of them."""

    def describe(name: str) -> SourceFile:
        path = folder / name
        return SourceFile(name, path, path.stat().st_size, sha256_of(path))

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(describe, names))


def _matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Names that match the first of `patterns` that any name matches, in order."""
    ordered = sorted(names)
    for pattern in patterns:
        if found := [name for name in ordered if fnmatch.fnmatchcase(name, pattern)]:
            return found
    return []


def _mirrored(folder: Path, repository: str) -> tuple[str | None, list[str]]:
    if not folder.is_dir():
        raise DataError(
            f"the mirror has no folder {folder}. With a connection, `hf download {repository} "
            f"--repo-type dataset --local-dir {folder}` brings it"
        )
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in files]
    return None, [name for name in names if not name.startswith(".")]


def _revision_of(folder: Path, names: Sequence[str]) -> str | None:
    """The commit that `hf download` noted beside each file, if it is the same for all."""
    commits: set[str] = set()
    for name in names:
        try:
            note = folder / ".cache" / "huggingface" / "download" / f"{name}.metadata"
            commits.add(note.read_text(encoding="utf-8").split("\n", 1)[0].strip())
        except OSError:
            return None
    return commits.pop() if len(commits) == 1 else None


def _listed(repository: str, pinned: str | None) -> tuple[str, list[str]]:
    """(commit, names of all files) as the hub has them at the pinned or newest commit."""
    from huggingface_hub import HfApi

    info = _ask(repository, lambda: HfApi().dataset_info(repository, revision=pinned))
    return str(info.sha), [file.rfilename for file in info.siblings or ()]


def _download(repository: str, revision: str | None, names: Sequence[str], folder: Path) -> None:
    """Bring files into `folder`; what is there whole is left alone, what is not goes on."""
    from huggingface_hub import hf_hub_download

    def bring(name: str) -> None:
        hf_hub_download(repository, name, repo_type="dataset", revision=revision, local_dir=folder)

    with ThreadPoolExecutor(READERS) as pool:
        _ask(repository, lambda: list(pool.map(bring, names)))


def _ask(repository: str, question: Callable[[], Any]) -> Any:
    """What the hub answers; all that can go wrong on the way is one DataError."""
    from huggingface_hub import errors

    # Of whichever HTTP library the client was built on: a connection that is refused is one, too.
    http_error = cast(type[Exception], errors.HfHubHTTPError.__bases__[0])
    try:
        return question()
    except (
        OSError,
        http_error,
        errors.HFValidationError,
        errors.RevisionResolutionError,
    ) as error:
        local = isinstance(error, OSError) and error.errno is not None
        if local and not isinstance(error, (ConnectionError, TimeoutError)):
            raise  # a full disk, a folder that may not be written
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise DataError(
            f"could not fetch {repository} from the hub: {reason.rstrip('.')}. With a connection, "
            "run this again: it goes on where it stopped. Without one, bring the repository "
            f"elsewhere with `hf download {repository} --repo-type dataset --local-dir "
            f"MIRROR/{repository}` and pass --mirror MIRROR"
        ) from error


def mirror_folder(argument: Path | None) -> Path | None:
    """--mirror, or else HARNESS_MIRROR. Raises DataError if it is no folder."""
    chosen = argument or (Path(text) if (text := os.environ.get("HARNESS_MIRROR")) else None)
    if chosen is not None and not chosen.is_dir():
        raise DataError(f"the mirror {chosen} is no folder")
    return chosen
