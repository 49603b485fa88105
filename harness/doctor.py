"""What this machine has, what is missing, and the command that brings it."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from harness import hardware, sandbox
from harness.database import NoDatabase, parse_url
from harness.datasets import datasets
from harness.settings import Settings
from harness.store import Store
from harness.task import Task


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at. `remedy` is empty where nothing needs to be done."""

    what: str
    found: str
    ok: bool
    remedy: str = ""
    required: bool = True


def diagnose(settings: Settings, tasks: Mapping[str, Task]) -> Iterator[Diagnosis]:
    """Look at everything that tests need, cheapest first."""
    version = platform.python_version()
    yield Diagnosis("Python", version, sys.version_info >= (3, 11), "install Python 3.11 or newer")
    yield from _torch()
    found = hardware.gpus()
    yield Diagnosis(
        "GPU",
        ", ".join(f"{gpu.name} ({gpu.memory / 2**30:.0f} GiB)" for gpu in found) or "none",
        bool(found),
        "" if found else "without one, use a profile that needs none",
        required=False,
    )
    yield _tokenizer(settings, tasks)
    for task in tasks.values():
        for dataset in datasets(task, settings.resolved_data_dir):
            yield Diagnosis(
                f"data: {dataset.name}",
                str(dataset.folder) if dataset.ready else f"for {', '.join(dataset.profiles)}",
                dataset.ready,
                "" if dataset.ready else dataset.remedy,
                required=False,
            )
    if not tasks:
        yield Diagnosis("tasks", f"none in {settings.tasks_dir}", False, "set HARNESS_TASKS_DIR")
    yield _sandbox()
    yield _database(settings)
    yield _disk(settings.state_dir)


def _torch() -> Iterator[Diagnosis]:
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        yield Diagnosis("torch", "not installed", False, "make install")
        return
    major, minor = (int(part) for part in version.split(".")[:2])
    fits = (2, 11) <= (major, minor) < (2, 15)
    yield Diagnosis("torch", version, fits, "" if fits else "make install (2.11 to 2.14 is needed)")


TOKENIZER_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
TOKENIZER_FILES = tuple(
    hashlib.sha1((TOKENIZER_URL + name).encode()).hexdigest()
    for name in ("vocab.bpe", "encoder.json")
)
"""GPT-2's two files under the names that tiktoken looks for; data sets bring them along"""


def _tokenizer(settings: Settings, tasks: Mapping[str, Task]) -> Diagnosis:
    try:
        version = metadata.version("tiktoken")
    except metadata.PackageNotFoundError:
        return Diagnosis("tokenizer", "tiktoken is not installed", False, "make install")
    known = [d for task in tasks.values() for d in datasets(task, settings.resolved_data_dir)]
    for dataset in known:
        for first in dataset.folder.rglob(TOKENIZER_FILES[0]):
            if all((first.parent / name).is_file() for name in TOKENIZER_FILES):
                return Diagnosis(
                    "tokenizer", f"tiktoken {version}, GPT-2's files in {first.parent}", True
                )
    # Which data set would bring them is not known before it is there.
    return Diagnosis(
        "tokenizer",
        f"tiktoken {version}; no data set here has GPT-2's files",
        False,
        "needed only by tasks whose data set brings them",
        required=False,
    )


def _sandbox() -> Diagnosis:
    found = sandbox.find()  # tried for real
    if isinstance(found, sandbox.Problem):
        remedy = f"{found.remedy}; or set HARNESS_SANDBOX=none, for agents that you trust"
        return Diagnosis("sandbox", found.reason, False, remedy)
    return Diagnosis("sandbox", sandbox.version(found), True)


def _database(settings: Settings) -> Diagnosis:
    url = settings.resolved_database_url
    try:
        store = Store(url, upgrade=False)
        store.check()
        store.close()
    except NoDatabase as error:
        return _database_to_be(settings, str(error))
    except Exception as error:  # whatever a driver raises is the answer here
        reason = str(error).splitlines()[0]
        what = "one that answers" if settings.database_url else "a folder that can be used"
        return Diagnosis("database", reason, False, f"set {settings.database_setting} to {what}")
    return Diagnosis("database", url.rsplit("@", 1)[-1], True)


def _database_to_be(settings: Settings, found: str) -> Diagnosis:
    """`harness serve` makes the file, where it can."""
    folder = Path(str(parse_url(settings.resolved_database_url).database)).parent
    while not folder.exists():
        folder = folder.parent
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return Diagnosis("database", f"{found} yet; harness serve makes it", True)
    remedy = f"set {settings.database_setting} to what can be made; {folder} can't be written to"
    return Diagnosis("database", found, False, remedy)


def _disk(state_dir: Path) -> Diagnosis:
    folder = state_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Diagnosis(
        "disk",
        f"{free / 2**30:.0f} GiB free",
        free > 5 * 2**30,
        "harness gc --delete, or set HARNESS_STATE_DIR to a larger disk",
    )
