"""Every path of the server's state, of a session and of a run, named once; and safe reading.

What the agent's code may have written (anything under a run's ``out/`` and ``steps/``) is read
only through `read_regular`: a regular file, no link followed, never a pipe, never more than a
stated number of bytes. Not guaranteed: that the bytes are whole or make sense; who parses them
checks that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What may become one component of a path: no separator, no leading dot, at most 100 long."""


CHECKS = "checks"
"""The folder of a session's checks."""


def safe_name(name: str) -> str:
    """The name itself, if it may be a folder's or file's name here; else ValueError."""
    if SAFE_NAME.fullmatch(name) is None:
        raise ValueError(f"not usable as a file name: {name!r}")
    return name


@dataclass(frozen=True)
class StatePaths:
    """The server's own folder (``.harness/`` unless set otherwise)."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "harness.sqlite3"

    @property
    def claim(self) -> Path:
        """Locked by the living server."""
        return self.root / "server.lock"

    @property
    def name(self) -> Path:
        """Holds the folder's name among those that share a database."""
        return self.root / "name"

    @property
    def data(self) -> Path:
        """One folder for each prepared dataset."""
        return self.root / "data"

    def dataset(self, name: str) -> Path:
        return self.data / safe_name(name)

    @property
    def sessions(self) -> Path:
        return self.root / "sessions"

    @property
    def cache(self) -> Path:
        """What was measured of unedited files, kept between tests."""
        return self.root / "cache"

    def unedited(self, key: str) -> Path:
        """What scoring the unedited files left, for comparison; by task, profile and stage."""
        return self.cache / "unedited" / safe_name(key)

    def session(self, session_id: str) -> SessionPaths:
        return SessionPaths(self.sessions / safe_name(session_id))

    def all_runs(self) -> Iterator[RunPaths]:
        """Every run directory, of tests and of checks; session by session."""
        for session in sorted(self.sessions.glob("*")):
            for kind in ("runs", CHECKS):
                yield from (RunPaths(folder) for folder in sorted((session / kind).glob("*")))


@dataclass(frozen=True)
class SessionPaths:
    """One session's folder."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def check(self, digest: str) -> RunPaths:
        """The run directory of the checks of one set of files, by their digest."""
        return RunPaths(self.root / CHECKS / safe_name(digest))

    def run(self, number: int, attempt: int = 1) -> RunPaths:
        """The run directory of a test (both count from 1)."""
        return RunPaths(self.runs / f"test-{number}.{attempt}")


@dataclass(frozen=True)
class StepPaths:
    """One half of one stage: ``steps/<label>.<role>/``."""

    root: Path

    @property
    def log(self) -> Path:
        """stdout and stderr of the step's processes, merged."""
        return self.root / "log.txt"

    @property
    def exit(self) -> Path:
        """How the step ended; it exists exactly when the step is finished for good."""
        return self.root / "exit.json"

    @property
    def metrics(self) -> Path:
        """What a `score` half leaves."""
        return self.root / "metrics.json"

    @property
    def reference(self) -> Path:
        """What a `score` half leaves for comparison with others, if the files were unedited."""
        return self.root / "reference"


@dataclass(frozen=True)
class RunPaths:
    """One run directory: all that carrying out a test needs and leaves."""

    root: Path

    @property
    def session(self) -> str:
        """The id of the session that it belongs to."""
        return self.root.parents[1].name

    @property
    def name(self) -> str:
        """As its folder is called."""
        return self.root.name

    @property
    def is_check(self) -> bool:
        """Whether it is one of a session's checks, not of its tests."""
        return self.root.parent.name == CHECKS

    @property
    def plan(self) -> Path:
        """Written last when the directory is prepared: it exists exactly when that is done."""
        return self.root / "plan.json"

    @property
    def files(self) -> Path:
        """The snapshot: the editable files as they were, and their locked siblings."""
        return self.root / "files"

    @property
    def out(self) -> Path:
        """HARNESS_OUT of all `run` halves."""
        return self.root / "out"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def steps(self) -> Path:
        return self.root / "steps"

    def step(self, label: str, role: str) -> StepPaths:
        return StepPaths(self.steps / f"{safe_name(label)}.{safe_name(role)}")

    @property
    def cache(self) -> Path:
        """HARNESS_CACHE of the confined steps; it dies with the run."""
        return self.root / "cache"

    @property
    def kept(self) -> Path:
        """What the `run` halves left for scoring, out of their reach and hashed."""
        return self.root / "kept"

    @property
    def feed(self) -> Path:
        """Holds the socket between training and its feeder."""
        return self.root / "feed"

    @property
    def feed_socket(self) -> Path:
        return self.feed / "socket"

    def server(self, label: str) -> Path:
        """How the processes of a stage's role `serve` are started."""
        return self.root / f"serve.{safe_name(label)}.json"

    def role_out(self, label: str, role: str) -> Path:
        """HARNESS_OUT of a step: shared by the `run` halves; `score` and `feed` have their own.

        A check runs the agent's code, so what it writes lies apart from the step's log and exit.
        """
        if role in ("score", "feed"):
            return self.step(label, role).root
        if role == "run":
            return self.out
        return self.root / "checks" / f"{safe_name(label)}.{safe_name(role)}"

    @property
    def reference(self) -> Path:
        """The unedited snapshot, for checks that compare with it."""
        return self.root / "reference"

    def findings(self, label: str, role: str) -> Path:
        """What a check leaves."""
        return self.role_out(label, role) / "findings.json"

    def conduct(self, label: str, role: str) -> Path:
        """The record that the processes of a step kept of themselves."""
        return self.role_out(label, role) / f"conduct.{safe_name(label)}.jsonl"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def gpus(self) -> Path:
        """Which GPUs the run has; written by what starts the runner."""
        return self.root / "gpus.json"

    @property
    def hardware(self) -> Path:
        """What the runner found on its machine, for the result's provenance."""
        return self.root / "hardware.json"

    @property
    def runner(self) -> Path:
        """Which process carries it out: pid and create_time."""
        return self.root / "runner.json"

    @property
    def runner_log(self) -> Path:
        return self.root / "runner.log"

    @property
    def lock(self) -> Path:
        """Held (flock) by the living runner."""
        return self.root / "lock"

    @property
    def cancel(self) -> Path:
        """Its existence turns the end of the runner into a cancellation."""
        return self.root / "cancel"


PROGRESS_NAME = "progress.json"
"""A step may write this file in its HARNESS_OUT."""


def read_regular(path: Path, limit: int) -> bytes | None:
    """The content of a regular file that untrusted code may have made; None where there is none.

    Raises ValueError for a link, a pipe, a device, a folder, or more than `limit` bytes.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to must not hang.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            raise ValueError(f"{path.name} is not a regular file") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError(f"{path.name} is not a regular file")
        parts: list[bytes] = []
        left = limit + 1
        while left and (part := os.read(fd, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(fd)
    if not left:
        raise ValueError(f"{path.name} is larger than {limit} bytes")
    return b"".join(parts)


def read_log(path: Path, limit: int = 64 << 20) -> str:
    """A step's log as text; empty where there is none yet. Undecodable bytes are replaced."""
    return (read_regular(path, limit) or b"").decode("utf-8", errors="replace")


def write_atomic(path: Path, text: str) -> None:
    """Replaces the file in one step, so that a reader sees the old text or the new, whole."""
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def entries_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All that lies below a folder that untrusted code may have filled.

    Links are not followed; what a path cannot name, or goes away meanwhile, is left out. Any depth
    will do, unlike with Path.rglob.
    """
    waiting = [str(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                yield entry


def keep_files(source: Path, target: Path) -> None:
    """Copies what `source` holds and `target` does not yet; each file appears whole, for good."""
    for entry in entries_below(source):
        kept = target / Path(entry.path).relative_to(source)
        if entry.is_file(follow_symlinks=False) and not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                copy = shutil.copy(entry.path, folder)
                os.replace(copy, kept)


def remove_tree(folder: Path) -> None:
    """Removes a folder that untrusted code may have filled; what cannot be removed stays.

    shutil.rmtree raises RecursionError where folders are nested some hundred times.
    """
    subprocess.run(["rm", "-rf", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)
