"""Pure: a failed step's log cut down to the reason that an agent is shown.

In this order: the exception that ended the step, with its frames in the session's editable
files; the log's ``ERROR:`` lines; how the process ended.

Guaranteed: at most `LIMIT` lines of at most `LINE_LIMIT` characters, no frame of a file that is
not editable, no absolute path of more than one component, no control character.
Not guaranteed: that a log tells the truth. The agent's own code may print what it likes.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Collection
from dataclasses import dataclass

from harness.printable import printable

LIMIT = 20
LINE_LIMIT = 300
MESSAGE_LIMIT = 8
"""Lines of an exception's message that are kept; the rest of `LIMIT` is for its frames."""

# `[rank0]: ` is what torch puts before an uncaught exception, `[default0]:` what torchrun does.
_RANK = re.compile(r"^\[(?:rank|default)(\d+)\]: ?")
_START = re.compile(r"^\s*Traceback \(most recent call last\):$")
_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<where>.+))?$')
_REPEATED = re.compile(r"^\s+\[Previous line repeated \d+ more times?\]$")
_EXCEPTION = re.compile(r"^\s*(?P<type>[A-Za-z_][\w.]*)(?P<message>: .*)?$")
_MARKS = re.compile(r"^[\s^~]+$")
_USER_CODE = re.compile(r"^\s*from user code:\s*$")
_WORKER_SIGNAL = re.compile(r"exitcode\s*:\s*-(\d+) \(pid")
_PATH = re.compile(r"(?:(?<=file://)|(?<![\w.:/>-]))(?:/[^\s/'\"`:,;()<>\[\]{}|=*]+){2,}/?")

_SUPERVISORS = ("ChildFailedError",)
"""Exceptions that only report another process's failure."""


@dataclass(frozen=True)
class Frame:
    """One call of a traceback, in an editable file."""

    file: str
    line: int
    where: str
    source: str
    repeated: str = ""

    def lines(self) -> list[str]:
        place = f'  File "{self.file}", line {self.line}' + (
            f", in {self.where}" if self.where else ""
        )
        return [part for part in (place, self.source, self.repeated) if part]


@dataclass(frozen=True)
class Failure:
    """One exception as a log tells it."""

    exception: tuple[str, ...]
    """Type and message, by line."""
    frames: tuple[Frame, ...]
    """Its frames in editable files, outermost first."""


def failure_reason(
    log: str, files: Collection[str], exit_code: int, hidden_paths: Collection[str] = ()
) -> list[str]:
    """Why a step with this log and exit code failed, for the agent, at most LIMIT lines.

    `files` are the editable files' names as the task has them, `hidden_paths` folders of this
    machine to take out even where they contain blanks (the run directory, say).
    """
    lines = [printable(line) for line in log.split("\n")]
    failures = _failures(lines, files)
    told = next((failure for failure in failures if failure.frames), None)
    errors = _error_lines(lines)
    if told is None and not errors and failures:
        told = failures[0]
    if told is not None:
        reason = _told(told)
    elif errors:
        reason = errors[-LIMIT:]
    elif found := [int(n) for line in lines for n in _WORKER_SIGNAL.findall(line)]:
        reason = [f"A worker process was {_ended_by(found[0])}."]
    else:
        reason = [describe_exit(exit_code)]
    return [
        without_paths(line[: 8 * LINE_LIMIT], hidden_paths)[:LINE_LIMIT] for line in reason[:LIMIT]
    ]


def describe_exit(code: int) -> str:
    """One sentence on an exit code; 128 + N stands for signal N."""
    if code > 128 and code - 128 in set(signal.Signals):
        return f"The process was {_ended_by(code - 128)}."
    return f"The process ended with exit code {code} and printed no error."


def _ended_by(number: int) -> str:
    try:
        name = f"{signal.Signals(number).name}, signal {number}"
    except ValueError:
        name = f"signal {number}"
    hint = " and printed no error; running out of memory is the usual cause"
    return f"killed by {name}{hint}" if number == signal.SIGKILL else f"ended by {name}"


def without_paths(line: str, hidden_paths: Collection[str] = ()) -> str:
    """The line with the paths of this machine taken out; a file's last component stays."""
    for path in sorted(hidden_paths, key=len, reverse=True):
        line = line.replace(path.rstrip("/") + "/", "").replace(path.rstrip("/"), ".")
    return _PATH.sub(_shorten, line)


def _shorten(match: re.Match[str]) -> str:
    # Names of files help (`train.bin` is missing); names of folders tell of the machine.
    name = match[0].rstrip("/").rpartition("/")[2]
    is_file = re.search(r"[^.]\.[A-Za-z0-9]{1,12}$", name) and not match[0].endswith("/")
    return name if is_file else "<path>"


def _told(failure: Failure) -> list[str]:
    head = list(failure.exception[:MESSAGE_LIMIT])
    if len(failure.exception) > MESSAGE_LIMIT:
        head[-1] = f"  ... ({len(failure.exception) - MESSAGE_LIMIT + 1} more lines) ..."
    room = LIMIT - len(head)
    frames = [frame.lines() for frame in failure.frames]
    kept: list[list[str]] = []
    # The innermost frames say most.
    while frames and sum(map(len, kept)) + len(frames[-1]) <= room - (len(frames) > 1):
        kept.insert(0, frames.pop())
    left_out = [f"  ... ({len(frames)} more frames) ..."] if frames else []
    return [*head, *left_out, *(line for frame in kept for line in frame)]


def _error_lines(lines: list[str]) -> list[str]:
    found = [_RANK.sub("", line).rstrip() for line in lines]
    # Every rank prints the same line.
    return list(dict.fromkeys(line for line in found if line.startswith("ERROR:")))


# ---------------------------------------------------------------------------------------------
# Parsing


def _failures(lines: list[str], files: Collection[str]) -> list[Failure]:
    """The exception that ended each rank, in the order of the log.

    Of one rank the last traceback counts (earlier ones were caught, or are the causes of it);
    of several ranks the first, for the others then fail because that one is gone.
    """
    last: dict[str, tuple[int, Failure]] = {}
    ranks: dict[str, tuple[list[int], list[str]]] = {}
    for number, line in enumerate(lines):
        match = _RANK.match(line)
        numbers, own = ranks.setdefault(match[1] if match else "", ([], []))
        numbers.append(number)
        own.append(line[match.end() :] if match else line)
    for rank, (numbers, own) in ranks.items():
        index = 0
        while index < len(own):
            start = index
            index += 1
            if _START.match(own[start]):
                failure, index = _parse(own, start + 1, files)
            elif (frame := _FRAME.match(own[start])) and frame["where"] is None:
                # A script that does not parse: Python prints no head line above its place.
                failure, index = _parse(own, start, files)
            else:
                continue
            if failure and not _is_supervisor(failure):
                last[rank] = (numbers[start], failure)
    return [failure for _, failure in sorted(last.values(), key=lambda pair: pair[0])]


def _is_supervisor(failure: Failure) -> bool:
    name = failure.exception[0].partition(":")[0].rpartition(".")[2].strip()
    return name in _SUPERVISORS


def _parse(lines: list[str], start: int, files: Collection[str]) -> tuple[Failure | None, int]:
    """The failure whose traceback's frames begin at `start`, and the index behind it."""
    frames: list[Frame] = []
    index = _parse_frames(lines, start, files, frames)
    if index >= len(lines) or _START.match(lines[index]) or not _EXCEPTION.match(lines[index]):
        return None, max(index, start + 1)
    exception = [lines[index].strip()]
    index += 1
    while index < len(lines) and lines[index].strip() and not _START.match(lines[index]):
        if len(exception) >= 4 * LIMIT:
            break
        exception.append(lines[index].rstrip())
        index += 1
    # torch.compile tells the frames in question in the message, a few lines below.
    for below in range(index, min(index + 12, len(lines))):
        if _START.match(lines[below]):
            break
        if _USER_CODE.match(lines[below]):
            index = _parse_frames(lines, below + 1, files, frames)
            break
    return Failure(tuple(exception), tuple(frames)), index


def _parse_frames(lines: list[str], start: int, files: Collection[str], frames: list[Frame]) -> int:
    """Adds the frames from `start` on that lie in `files`; the index of the first other line."""
    index = start
    while index < len(lines) and (match := _FRAME.match(lines[index])):
        index += 1
        source = repeated = ""
        while index < len(lines) and lines[index].startswith(" "):
            line = lines[index]
            if _FRAME.match(line):
                break
            if _REPEATED.match(line):
                repeated = line.rstrip()
            elif not source and not _MARKS.match(line):
                source = f"    {line.strip()}"
            index += 1
        if name := _editable(match["file"], files):
            where = match["where"] or ""
            frames.append(Frame(name, int(match["line"]), where, source, repeated))
    return index


def _editable(path: str, files: Collection[str]) -> str | None:
    tail = path.removeprefix("./")
    return next((name for name in files if tail == name or tail.endswith("/" + name)), None)
