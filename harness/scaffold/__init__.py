"""`harness task new`: a folder that already is a sound task, for its author to go on from.

The files beside this one are what the folder gets; `{{…}}` in them is filled in.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from harness.soundness import cut_statement
from harness.workspace import SAFE_NAME

TEMPLATES = (
    "task.yaml",
    "instruction.md",
    "prepare.py",
    "scripts/main.sh",
    "scripts/running.py",
    "scripts/serving.py",
    "scripts/scoring.py",
)


class ScaffoldError(ValueError):
    """No folder is written; the message says what to mend."""


def parse_regions(text: str) -> list[tuple[int, int]]:
    """`10-20,33-40` as (first, last) lines. Raises ScaffoldError."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise ScaffoldError(f"--regions {part.strip()!r}: give lines as 10-20,33-40")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if first < 1:
            raise ScaffoldError(f"--regions {part.strip()}: the file's first line is 1")
        if last < first:
            raise ScaffoldError(f"--regions {part.strip()}: its last line is before its first")
        found.append((first, last))
    return sorted(found)


def new_task(tasks_dir: Path, name: str, file: Path, regions: Sequence[tuple[int, int]]) -> Path:
    """Write `tasks_dir/name`, with a copy of `file`; returns the folder. Raises ScaffoldError."""
    folder = tasks_dir / name
    if SAFE_NAME.fullmatch(name) is None:
        raise ScaffoldError(f"{name!r} cannot be a name: letters, digits, '.', '_' and '-'")
    if folder.exists():
        raise ScaffoldError(f"{folder} is there already; choose another name, or remove it")
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise ScaffoldError(f"--file {file}: it must be a Python file that can be imported")
    try:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except OSError as error:
        raise ScaffoldError(f"--file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ScaffoldError(f"--file {file}: it is not UTF-8") from None
    except SyntaxError as error:
        raise ScaffoldError(f"{file}:{error.lineno}: {error.msg}") from None
    _require_regions(file, text, tree, regions)
    try:
        _write(folder, name, file, regions)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _require_regions(
    file: Path, text: str, tree: ast.Module, regions: Sequence[tuple[int, int]]
) -> None:
    total = len(text.splitlines())
    before = -1
    for first, last in regions:
        if last > total:
            raise ScaffoldError(f"--regions {first}-{last}: {file} has {total} lines")
        if first <= before + 1:
            raise ScaffoldError(
                f"--regions {first}-{last}: at least one locked line must stand between two regions"
            )
        cut = cut_statement(text, tree, first, last)
        if cut is not None:
            raise ScaffoldError(
                f"--regions {first}-{last} cuts the statement in lines {cut[0]}-{cut[1]} of {file}"
            )
        before = last


def _write(folder: Path, name: str, file: Path, regions: Sequence[tuple[int, int]]) -> None:
    listed = "\n".join(
        f"      - {{name: region-{n}, title: region {n}, lines: [{first}, {last}]}}"
        for n, (first, last) in enumerate(regions, start=1)
    )
    words = {"name": name, "file": file.name, "module": file.stem, "regions": listed}
    for template in TEMPLATES:
        text = (resources.files(__name__) / f"{template}.in").read_text(encoding="utf-8")
        for key, value in words.items():
            text = text.replace(f"{{{{{key}}}}}", value)
        path = folder / template
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shutil.copyfile(file, folder / file.name)
