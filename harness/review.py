"""What bears on fair play in a session, each matter with the step or the test that it comes from.

Pure. Matters are for a person to judge: an honest session has refusals, and a large literal may be
a table that somebody needed. Not covered: which processes ran and which paths were opened inside
a test; nothing records that yet, and the sandbox, not a record, is what holds them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.diffs import changed_lines
from harness.regions import EditableFile
from harness.story import Files, Story, StoryStep, StoryTest

LONG_TEXT = 200
"""characters of a text or bytes literal from which it is told"""
LONG_LIST = 40
"""numbers in one list, tuple, set or dictionary from which it is told"""

_MENTIONS = re.compile(
    r"\b(open|eval|exec|compile|__import__|globals|getattr|setattr)\s*\("
    r"|\b(subprocess|socket|ctypes|importlib|inspect|gc|sys|os|shutil|pathlib|signal|threading"
    r"|multiprocessing|pickle|marshal|atexit|builtins)\b"
    r"|/(?:proc|dev|etc|sys)/"
)
_PRINTED = re.compile(r"\b[A-Z]{2,}_METRICS\b|_METRICS\b")


@dataclass(frozen=True)
class Matter:
    text: str
    step: int | None = None
    test: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class Section:
    title: str
    about: str
    matters: tuple[Matter, ...]
    nothing: str
    """what is said where there is no matter"""


def review(story: Story, unedited: StoryTest | None = None) -> tuple[Section, ...]:
    """`unedited` is a finished test of the unedited files, to compare compute with."""
    return (
        _section(
            "The record",
            "Whether it hangs together.",
            _record(story),
            "The hash chain is whole, and every recorded version follows from the recorded edits.",
        ),
        _section(
            "Refused calls",
            "What was attempted and not let through, by rule.",
            _refusals(story),
            "No call was refused.",
        ),
        _section(
            "Tests that were not counted",
            "Refused by a check, interrupted or cancelled.",
            _released(story),
            "Every test that was queued was counted.",
        ),
        _section(
            "Audits",
            "What the scorer measured when it asked again, where this reader may see it.",
            _audits(story),
            "No audit failed, and none has left figures here.",
        ),
        _section(
            "Compute",
            "Time and speed beside the unedited file.",
            _compute(story, unedited),
            "No finished test has times.",
        ),
        _section(
            "Printed numbers",
            "Edited lines that print what looks like a metric. Such lines are feedback only: "
            "what is scored never comes from them.",
            _printed(story),
            "No edited line prints what looks like a metric.",
        ),
        _section(
            "Large literals",
            f"Texts of {LONG_TEXT} characters or more and collections of {LONG_LIST} numbers or "
            "more, in the edited regions of tested and final files.",
            _literals(story),
            "None.",
        ),
        _section(
            "What edited lines mention",
            "Names that reach beyond a model: files, processes, interpreters, other modules.",
            _mentions(story),
            "Nothing that reaches beyond a model.",
        ),
        Section(
            "Processes and paths",
            "What ran and what was opened inside a test.",
            (),
            "No record of it is kept; the sandbox is what holds it.",
        ),
    )


def _section(title: str, about: str, matters: Iterator[Matter], nothing: str) -> Section:
    return Section(title, about, tuple(matters), nothing)


def _record(story: Story) -> Iterator[Matter]:
    recording = story.recording
    if recording.chain_break is not None:
        yield Matter(f"The hash chain is broken: {recording.chain_break}.")
    if recording.header is None:
        yield Matter("This format has no hash chain: nothing proves that the record is whole.")
    for step in story.steps:
        if step.verdict == "diverged":
            yield Matter(
                "Played again, it differs from its record.", step.index, None, step.notes[-1]
            )


def _refusals(story: Story) -> Iterator[Matter]:
    by_rule: dict[str, list[StoryStep]] = {}
    for step in story.steps:
        if not step.ok:
            by_rule.setdefault(step.error or "refused", []).append(step)
    for rule, steps in sorted(by_rule.items(), key=lambda item: -len(item[1])):
        for step in steps:
            yield Matter(f"{rule}: {step.first_line.removeprefix('ERROR: ')}", step.index)


def _released(story: Story) -> Iterator[Matter]:
    for test in story.tests:
        if test.state != "released":
            continue
        rules = sorted({str(finding.get("rule", "")) for finding in test.findings} - {""})
        named = f" ({', '.join(rules)})" if rules else ""
        yield Matter(f"Test #{test.number}{named}", test.step, test.number, test.reason)


def _audits(story: Story) -> Iterator[Matter]:
    for test in story.results:
        if test.void is not None:
            yield Matter(
                f"Test #{test.number}: its audit failed: {test.void}.", test.step, test.number
            )
        for stage in test.stages:
            for name, value in flattened(stage.hidden.get("audit") or {}):
                yield Matter(
                    f"Test #{test.number}, {stage.label}: {name}", None, test.number, value
                )


def flattened(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of every leaf of a JSON value."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flattened(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple) and value and len(value) <= 20:
        for number, item in enumerate(value):
            yield from flattened(item, f"{prefix}[{number}]")
    elif isinstance(value, list | tuple) and value:
        yield prefix, f"{len(value)} values"
    elif value is not None and value != {} and value != []:
        yield prefix, f"{value:.6g}" if isinstance(value, float) else str(value)


def _compute(story: Story, unedited: StoryTest | None) -> Iterator[Matter]:
    theirs = {stage.label: stage for stage in unedited.stages} if unedited else {}
    speeds = _speeds(unedited) if unedited else {}
    for test in story.results:
        for stage in test.stages:
            if stage.seconds is None:
                continue
            text = f"Test #{test.number}, {stage.label}: {stage.seconds:.1f} s"
            other = theirs.get(stage.label)
            if other is not None and other.seconds:
                text += f", {stage.seconds / other.seconds:.2f} times the unedited file's"
            yield Matter(text, test.step, test.number)
        for label, speed in _speeds(test).items():
            text = f"Test #{test.number}, {label}: {speed:,.0f} tokens/s, as training said"
            if speeds.get(label):
                text += f", {speed / speeds[label]:.2f} times the unedited file's"
            yield Matter(text, test.step, test.number)


def _speeds(test: StoryTest) -> dict[str, float]:
    runs = test.provenance.get("runs")
    found: dict[str, float] = {}
    for label, told in (runs if isinstance(runs, Mapping) else {}).items():
        speed = told.get("tokens_per_s") if isinstance(told, Mapping) else None
        if isinstance(speed, int | float):
            found[str(label)] = float(speed)
    return found


def _added(step: StoryStep) -> Iterator[tuple[int, str]]:
    """The lines that an edit put in, with their numbers after it."""
    for change in step.changes if step.tool == "edit" else ():
        for number in sorted(changed_lines(change.before.lines, change.after.lines)):
            yield number, change.after.lines[number - 1]


def _printed(story: Story) -> Iterator[Matter]:
    for step in story.steps:
        for number, line in _added(step):
            if _PRINTED.search(line):
                yield Matter(f"line {number}", step.index, None, line.strip())


def _mentions(story: Story) -> Iterator[Matter]:
    for step in story.steps:
        found = [(n, line) for n, line in _added(step) if _MENTIONS.search(_code_of(line))]
        for number, line in found[:10]:
            yield Matter(f"line {number}", step.index, None, line.strip())
        if len(found) > 10:
            yield Matter(f"and {len(found) - 10} more lines of this step", step.index)


def _code_of(line: str) -> str:
    return "" if line.lstrip().startswith("#") else line


def _literals(story: Story) -> Iterator[Matter]:
    seen: set[str] = set()
    versions: list[tuple[int | None, Files]] = [
        *((test.number, test.files) for test in story.tests),
        (None, story.files_at(len(story.steps))),
    ]
    for number, files in versions:
        for file in files.values():
            if file is story.start.get(file.name) or file.sha256 in seen:
                continue
            seen.add(file.sha256)
            for line, text in _large(file):
                yield Matter(f"line {line}: {text}", _first_with(story, file, line), number)


def _large(file: EditableFile) -> Iterator[tuple[int, str]]:
    try:
        tree = ast.parse(file.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        yield 1, "the file is no Python that can be read, so its literals are not known"
        return
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if not any(region.first <= line <= region.last for region in file.regions):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            if len(node.value) >= LONG_TEXT:
                yield line, f"a literal of {len(node.value)} characters"
        elif isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
            items: Sequence[Any] = node.values if isinstance(node, ast.Dict) else node.elts
            count = sum(isinstance(item, ast.Constant) for item in items)
            if count >= LONG_LIST:
                yield line, f"a collection of {count} values"


def _first_with(story: Story, file: EditableFile, line: int) -> int | None:
    """The step that brought this line in."""
    text = file.lines[line - 1]
    for step in story.steps:
        for change in step.changes:
            after = change.after
            if after.name == file.name and text in after.lines and text not in change.before.lines:
                return step.index
    return None
