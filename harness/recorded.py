"""What a recorded session holds, whichever format it was kept in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from harness.events import AnyEvent, Header
from harness.regions import EditableFile, RegionError

# Far above any file that people edit; an outline can claim any length in a few bytes.
MAX_FILE_LINES = 200_000

# No character class here may run over a bar or a line end: that keeps hostile input linear.
VIEW_HEADER = re.compile(
    r"^\[Current file: ([^|\n]{1,300}) \| editable: ([^|\n]{0,4000}) \| total: (\d{1,9}) lines\]",
    re.MULTILINE,
)
RESTORED = re.compile(r"Restored: (\S{1,300})")

Ranges = tuple[tuple[int, int], ...]


class RecordingError(ValueError):
    """The file is no recording that can be read; the message is one line."""


@dataclass(frozen=True)
class Said:
    """What a model, or somebody else, thought or said between two calls."""

    role: str
    text: str
    at: datetime | None = None


@dataclass(frozen=True)
class Step:
    """One recorded call, and as much of its answer as the format keeps."""

    tool: str
    args: Mapping[str, Any] | None
    """None where the arguments were not JSON"""
    first_line: str | None = None
    """of the answer"""
    refused: bool = False
    total_lines: int | None = None
    """the file's length after the call"""
    restored: tuple[str, ...] | None = None
    """the files that an undo put back, one for each edit taken back"""
    sha256: Mapping[str, str] | None = None
    """of the changed files' whole new text"""
    closed: str | None = None
    """what every answer begins with by now, if the session was closed before this call"""
    aside: str | None = None
    """what the record shows after this answer without a call of its own"""
    text: str | None = None
    """the answer, as far as the format keeps it"""
    error: str | None = None
    """the code of a refusal"""
    seconds: float | None = None
    """from the call's arrival to its answer"""
    at: datetime | None = None
    """when it was answered"""
    said: tuple[Said, ...] = ()
    """between the call before and this one"""
    cut: str | None = None
    """what the format has cut short of this step, in a sentence"""


@dataclass(frozen=True)
class Recording:
    """One session: what it started from and what was called."""

    task: str
    agent: str | None
    files: tuple[EditableFile, ...]
    start: str
    """where the start's text comes from, for people"""
    steps: tuple[Step, ...]
    chain_break: str | None = None
    """where the hash chain breaks, in a sentence; formats without a chain never break"""
    format: str = "ours"
    """`ours`, `trace`, `outline`, `page`, `conversation` or `ATIF`"""
    said: tuple[Said, ...] = ()
    """after the last call"""
    notes: tuple[str, ...] = ()
    """what this format does not keep, or keeps otherwise than it was, each a sentence"""
    header: Header | None = None
    """of a transcript of ours"""
    events: tuple[AnyEvent, ...] = ()
    """of a transcript of ours, all of them"""


def fitting_file(
    name: str, total: int, ranges: Ranges, where: str, candidates: Sequence[EditableFile]
) -> tuple[EditableFile, str]:
    """The task's file of this outline, or as many lines that say nothing."""
    for candidate in candidates:
        theirs = tuple((region.first, region.last) for region in candidate.regions)
        if candidate.name == name and len(candidate.lines) == total and theirs == ranges:
            return candidate, "the task's own file"
    if total > MAX_FILE_LINES:
        raise RecordingError(f"{where}: a file of {total} lines is too long")
    lines = [f"# line {number} of the start" for number in range(1, total + 1)]
    return cut_file(name, lines, ranges, where), "neutral lines"


def cut_file(name: str, lines: Sequence[str], ranges: Ranges, where: str) -> EditableFile:
    text = "".join(line + "\n" for line in lines)
    regions = [(f"region {n}", first, last) for n, (first, last) in enumerate(ranges, start=1)]
    try:
        return EditableFile.from_text(name, text, regions)
    except RegionError as error:
        raise RecordingError(f"{where}: {error}") from None


def kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a truth value"}
    return "null" if value is None else kinds.get(type(value), "a number")


def as_object(value: object, what: str) -> Mapping[str, Any]:
    """The value itself. Raises RecordingError, which calls it `what`, if it is no object."""
    if not isinstance(value, dict):
        raise RecordingError(f"{what} must be an object, not {kind(value)}")
    return value


def as_list(value: object, what: str) -> list[Any]:
    """The value itself. Raises RecordingError, which calls it `what`, if it is no list."""
    if not isinstance(value, list):
        raise RecordingError(f"{what} must be a list, not {kind(value)}")
    return value
