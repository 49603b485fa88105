"""A session from the saved text of a web page, read by its `Tool Input` blocks.

A block is JSON with a line number before every line; the answer's first line stands right after
the last brace. Indentation is lost, so of the answers only first lines and lengths can be
compared. What the files were at the start is worked back from the ranges in the prompt and the
first answer about each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.recorded import (
    RESTORED,
    VIEW_HEADER,
    Ranges,
    Recording,
    RecordingError,
    Step,
    fitting_file,
    kind,
)
from harness.regions import EditableFile

OUTLINE_NOTES = {
    "the task's own file": "The recording keeps an outline of the file only. Its text is that of "
    "this installation's file of the same name, length and regions, which may differ in wording.",
    "neutral lines": "The recording keeps an outline of the file only: its lines at the start are "
    "not known, and numbered lines stand for them.",
}
"""by where the start's text comes from"""

BLOCK = re.compile(r"^[ \t]*Tool Input[ \t]*$", re.MULTILINE)
_RANGE = re.compile(r"(\d{1,9})[–-](\d{1,9})")
_PROMPT_RANGE = re.compile(r"\(lines? (\d{1,9})(?:[–-](\d{1,9}))?\)")
_CHANGE = re.compile(
    r"OK: (?:Replaced (?:1 occurrence \()?lines (?P<first>\d{1,9})\.\.(?P<last>\d{1,9})\)? with "
    r"(?P<with>\d{1,9}) line|"
    r"Inserted (?P<inserted>\d{1,9}) line\(s\) after line (?P<after>\d{1,9}))"
)
_SHOWN_LINE = re.compile(r"^[ \t]*(\d{1,9})(?=[ |]|$)", re.MULTILINE)
_TEST_ANSWER = re.compile(r"^\[Test #\d.{0,4000}", re.MULTILINE)


@dataclass(frozen=True)
class AnsweredCall:
    step: Step
    file: str | None
    ranges: Ranges
    """the editable ranges after the call, as the answer's view has them"""


def read_page(text: str, candidates: Sequence[EditableFile]) -> Recording:
    prompt, *blocks = BLOCK.split(text)
    calls = [_page_call(block, number) for number, block in enumerate(blocks, start=1)]
    files, start = start_from_answers(prompt, calls, candidates)
    notes = [
        "The saved page has lost indentation: code is shown as it was saved, without it.",
        "The page does not name the tools; they are told by their arguments and answers.",
        OUTLINE_NOTES[start],
    ]
    return Recording(
        task=_page_field(prompt, "Task") or "unknown",
        agent=_page_field(prompt, "Agent Conversation"),
        files=files,
        start=start,
        steps=tuple(call.step for call in calls),
        format="page",
        notes=tuple(notes),
    )


def _page_field(prompt: str, name: str) -> str | None:
    for line in prompt.split("\n", 20)[:20]:
        if line.startswith(f"{name}: "):
            return line.removeprefix(f"{name}: ").strip()
    return None


def _page_call(block: str, number: int) -> AnsweredCall:
    lines = block.strip("\n").split("\n")
    numbered = []
    for count, line in enumerate(lines, start=1):
        if not line.startswith(str(count)):
            break
        numbered.append(line[len(str(count)) :])
    args, answer = _page_arguments(numbered, f"Tool Input block {number}")
    answer = "\n".join([answer, *lines[len(numbered) :]]).lstrip("\n")
    first_line = answer.split("\n", 1)[0].strip() or None
    header = VIEW_HEADER.search(answer)
    tool = _page_tool(args, first_line or "")
    shown = _TEST_ANSWER.search(answer, 1)
    restored = tuple(RESTORED.findall(answer)) if tool == "undo" else None
    ranges = ranges_in(header[2]) if header else ()
    step = Step(
        tool=tool,
        args=args,
        first_line=first_line,
        refused=(first_line or "").startswith("ERROR"),
        total_lines=int(header[3]) if header else None,
        restored=restored or None,
        aside=shown[0].strip() if shown else None,
        text=answer[: shown.start() if shown else None].rstrip() or None,
        cut=cut_short(answer, ranges),
    )
    return AnsweredCall(step, header[1] if header else None, ranges)


def cut_short(answer: str, ranges: Ranges) -> str | None:
    """Whether the page leaves out the end of an answer's view."""
    last = max((last for _, last in ranges), default=0)
    shown = {int(number) for number in _SHOWN_LINE.findall(answer)}
    if not ranges or last in shown:
        return None
    return "The record cuts this answer short: the view of the file below it is not whole."


def _page_arguments(numbered: Sequence[str], where: str) -> tuple[Mapping[str, Any] | None, str]:
    """The arguments at the start of the numbered lines, and what stands after them."""
    text = "\n".join(numbered).lstrip()
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RecordingError(f"{where}: holds half a surrogate pair") from None
    except RecursionError:
        raise RecordingError(f"{where}: is nested too deeply") from None
    except ValueError:
        # Arguments that were not JSON still end with their brace at a line's start.
        for index, line in enumerate(numbered):
            if index and line.lstrip().startswith("}"):
                rest = [line.lstrip()[1:], *numbered[index + 1 :]]
                return None, "\n".join(rest)
        raise RecordingError(f"{where}: its arguments have no end") from None
    if not isinstance(value, dict):
        raise RecordingError(f"{where}: the arguments must be an object, not {kind(value)}")
    unparsed = set(value) == {"error"}
    return (None if unparsed else value), text[end:].lstrip(" ")


def _page_tool(args: Mapping[str, Any] | None, first_line: str) -> str:
    """The page does not name the tool; arguments and answers do."""
    if first_line.startswith("[submit]"):
        return "submit"
    if first_line.startswith("[Test"):
        return "test"
    if first_line.startswith(("Undo", "Restored: ", "ERROR: Nothing to undo")):
        return "undo"
    if args is None or "op" in args or "content" in args:
        return "edit"
    return "unknown"


def ranges_in(text: str) -> Ranges:
    return tuple((int(first), int(last)) for first, last in _RANGE.findall(text))


def start_from_answers(
    prompt: str, calls: Sequence[AnsweredCall], candidates: Sequence[EditableFile]
) -> tuple[tuple[EditableFile, ...], str]:
    """The files before the first call, worked back from the first answer about each."""
    first_calls: dict[str, AnsweredCall] = {}
    for call in calls:
        if call.file is not None:
            first_calls.setdefault(call.file, call)
    if not first_calls:
        raise RecordingError("no answer in it shows the editable ranges, so no file can be shown")
    promised = tuple(
        (int(first), int(last or first)) for first, last in _PROMPT_RANGE.findall(prompt)
    )
    files, sources = [], []
    for name, call in first_calls.items():
        total, ranges = _before(call)
        if len(first_calls) == 1 and len(promised) == len(ranges):
            ranges = promised
        file, source = fitting_file(name, total, ranges, "the page's start", candidates)
        files.append(file)
        sources.append(source)
    return tuple(files), sources[0]


def _before(call: AnsweredCall) -> tuple[int, Ranges]:
    """Length and ranges before a call, from those after it."""
    total, ranges = call.step.total_lines or 0, call.ranges
    change = _CHANGE.match(call.step.first_line or "")
    if change is None:
        return total, ranges
    if change["inserted"] is not None:
        position, growth = int(change["after"]) + 1, int(change["inserted"])
    else:
        position = int(change["first"])
        growth = int(change["with"]) - (int(change["last"]) - position + 1)
    edited = max((i for i, (first, _) in enumerate(ranges) if first <= position), default=0)
    shifted = [
        (first - growth * (i > edited), last - growth * (i >= edited))
        for i, (first, last) in enumerate(ranges)
    ]
    return max(0, total - growth), tuple(shifted)
