"""The edit operations: `replace`, `insert` and `str_replace` on a set of editable files.

Pure: arguments as an agent sent them in, a new version of one file or an `EditRefused` out.
The rules of newlines: CR LF and CR are read as LF; text is split on LF; one trailing LF adds no
line; the empty string is no line at all.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from harness.errors import BadArguments, EditRefused, NotEditable, NoUniqueMatch, OutsideRegions
from harness.regions import EditableFile, Region, format_ranges

OPERATIONS = ("replace", "insert", "str_replace")

# What an edit may carry: far above any honest one, far below what would hurt the server.
MAX_TEXT = 400_000
MAX_REGION = 100_000
"""characters of a region after an edit; longer ones would take seconds to check"""

_NUMBERED = re.compile(r"^ {0,5}(\d{1,6})(?:  |\| ?|\t| ?$)")


@dataclass(frozen=True)
class EditResult:
    """What an accepted edit did to one file."""

    before: EditableFile
    after: EditableFile
    region: int
    """Index of the region that was edited, from 0."""
    summary: str
    """The answer's first line."""


def apply_edit(files: Mapping[str, EditableFile], args: Mapping[str, Any]) -> EditResult:
    """Carry out one `edit` call.

    Raises BadArguments, NotEditable, OutsideRegions, NoUniqueMatch or EditRefused; `files` is
    never changed.
    """
    op = args.get("op")
    if op is None:
        raise BadArguments(f"'op' is required. Use {_OPERATION_LIST}.")
    if op == "create":
        raise EditRefused("allow_create is false; cannot create new files")
    if op not in OPERATIONS:
        raise BadArguments(f"Unknown op {op!r}. Use {_OPERATION_LIST}.")
    file = resolve_file(files, args.get("filename"))
    if op == "replace":
        return _replace(file, args)
    if op == "insert":
        return _insert(file, args)
    return _str_replace(file, args)


def require_size(result: EditResult) -> None:
    """Raises EditRefused if the edited region has become too long.

    Apart from `apply_edit`, so that a journal from before a change of the limit can be read.
    """
    region = result.after.regions[result.region]
    size = sum(len(line) + 1 for line in region.lines)
    if size > MAX_REGION:
        raise EditRefused(
            f"Region {region.name} would have {size} characters; at most {MAX_REGION} are "
            "accepted. Write less into it."
        )


def resolve_file(files: Mapping[str, EditableFile], filename: object) -> EditableFile:
    """The one editable file that `filename` names: in full, by its end, or with a longer path."""
    names = ", ".join(files)
    if filename is None:
        raise BadArguments(f"'filename' is required. Editable files: {names}.")
    if not isinstance(filename, str):
        raise BadArguments(f"'filename' must be a string. Editable files: {names}.")
    if filename in files:
        return files[filename]
    asked = _path_parts(filename)
    matches = [file for name, file in files.items() if asked == _path_parts(name)]
    if not matches:
        matches = [file for name, file in files.items() if _names_same(asked, _path_parts(name))]
    if len(matches) == 1:
        return matches[0]
    shown = " ".join(filename.split())[:200]
    if matches:
        several = ", ".join(match.name for match in matches)
        raise NotEditable(f"{shown} names several editable files: {several}. Give the path.")
    raise NotEditable(f"File not editable: {shown}. Editable files: {names}.")


def split_lines(text: str) -> tuple[str, ...]:
    """Text as an agent sends it, as lines: one trailing line feed adds none."""
    if text == "":
        return ()
    return tuple(text.removesuffix("\n").split("\n"))


_OPERATION_LIST = "'replace', 'insert' or 'str_replace'"


def _path_parts(filename: str) -> tuple[str, ...]:
    parts = PurePosixPath(filename.strip().replace("\\", "/")).parts
    return tuple(part for part in parts if part not in (".", "/"))


def _names_same(asked: tuple[str, ...], name: tuple[str, ...]) -> bool:
    """Whether one path is the end of the other."""
    shared = min(len(asked), len(name))
    return shared > 0 and asked[-shared:] == name[-shared:]


def _require(args: Mapping[str, Any], op: str, *names: str) -> None:
    if any(args.get(name) is None for name in names):
        quoted = " and ".join(f"'{name}'" for name in names)
        verb = "is" if len(names) == 1 else "are"
        raise BadArguments(f"{quoted} {verb} required for op='{op}'")


def line_number(args: Mapping[str, Any], name: str) -> int:
    """`128`, `128.0` and `"128"` are the same number; a truth value is none."""
    value = args[name]
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,9}(\.0*)?\s*", value):
        return int(float(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    raise BadArguments(f"'{name}' must be a whole number, not {_shown(value)}")


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _clean_text(args: Mapping[str, Any], name: str) -> str:
    value = args[name]
    if not isinstance(value, str):
        raise BadArguments(f"'{name}' must be a string, not {_shown(value)}")
    if len(value) > MAX_TEXT:
        raise BadArguments(
            f"'{name}' has {len(value)} characters; at most {MAX_TEXT} are accepted in one edit"
        )
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    for position, character in enumerate(text):
        if character in "\n\t":
            continue
        if unicodedata.category(character) in ("Cc", "Cs"):
            line = text.count("\n", 0, position) + 1
            raise BadArguments(
                f"'{name}' holds the control character U+{ord(character):04X} in its line {line}. "
                "Remove it; only tabs and line feeds are accepted."
            )
    return text


def _pasted_numbers(lines: Sequence[str]) -> list[int]:
    """The view's line numbers, if every one of `lines` begins with one and they count upwards."""
    matches = [_NUMBERED.match(line) for line in lines]
    numbers = [int(match.group(1)) for match in matches if match]
    if len(numbers) < len(lines) or not numbers:
        return []
    return numbers if numbers == list(range(numbers[0], numbers[0] + len(numbers))) else []


def _refuse_pasted_numbers(name: str, lines: Sequence[str], expected: frozenset[int]) -> None:
    """Refuse text that carries the view's line numbers.

    A single numbered line is refused only where its number is one of `expected`, since a text
    may begin with a number of its own.
    """
    numbers = _pasted_numbers(lines)
    if len(numbers) > 1 or expected.intersection(numbers):
        raise BadArguments(_pasted_message(name, numbers))


def _pasted_message(name: str, numbers: Sequence[int]) -> str:
    shown = f"{numbers[0]}, …, {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
    return (
        f"Every line of '{name}' begins with a line number ({shown}). "
        "Send the text alone, without the numbers that the view shows."
    )


def _only_lines(file: EditableFile) -> str:
    return f"You may only edit lines {format_ranges(file.regions)}."


def _replace(file: EditableFile, args: Mapping[str, Any]) -> EditResult:
    _require(args, "replace", "start_line", "end_line")
    _require(args, "replace", "content")
    start, end = line_number(args, "start_line"), line_number(args, "end_line")
    lines = split_lines(_clean_text(args, "content"))
    if end == start - 1:
        return _insert_at(file, end, lines, f"before line {start}")
    if end < start:
        raise BadArguments(
            f"start_line ({start}) is after end_line ({end}). To insert before line {start}, "
            f"use end_line={start - 1}."
        )
    index = _region_holding(file, start, end)
    if index is None:
        raise OutsideRegions(f"Lines {start}..{end} exceed the editable range. {_only_lines(file)}")
    _refuse_pasted_numbers("content", lines, frozenset({start}))
    region = file.regions[index]
    kept_before = region.lines[: start - region.first]
    kept_after = region.lines[end - region.first + 1 :]
    after = file.with_region(index, (*kept_before, *lines, *kept_after))
    summary = (
        f"OK: Replaced lines {start}..{end} with {len(lines)} line(s) in {file.name}. "
        f"Editable range: {format_ranges(after.regions)}."
    )
    return EditResult(file, after, index, summary)


def _insert(file: EditableFile, args: Mapping[str, Any]) -> EditResult:
    _require(args, "insert", "after_line")
    _require(args, "insert", "content")
    after_line = line_number(args, "after_line")
    lines = split_lines(_clean_text(args, "content"))
    return _insert_at(file, after_line, lines, f"after line {after_line}")


def _insert_at(
    file: EditableFile, after_line: int, lines: tuple[str, ...], where: str
) -> EditResult:
    index = _region_accepting(file, after_line)
    if index is None:
        places = ", ".join(f"{region.first - 1}–{region.last}" for region in file.regions)
        raise OutsideRegions(
            f"Cannot insert {where}: that is outside the editable range. {_only_lines(file)} "
            f"An insert may follow lines {places}."
        )
    _refuse_pasted_numbers("content", lines, frozenset({after_line, after_line + 1}))
    region = file.regions[index]
    cut = after_line - region.first + 1
    after = file.with_region(index, (*region.lines[:cut], *lines, *region.lines[cut:]))
    summary = (
        f"OK: Inserted {len(lines)} line(s) after line {after_line} in {file.name}. "
        f"Editable range: {format_ranges(after.regions)}."
    )
    return EditResult(file, after, index, summary)


def _region_holding(file: EditableFile, start: int, end: int) -> int | None:
    for index, region in enumerate(file.regions):
        if region.first <= start and end <= region.last:
            return index
    return None


def _region_accepting(file: EditableFile, after_line: int) -> int | None:
    for index, region in enumerate(file.regions):
        if region.first - 1 <= after_line <= region.last:
            return index
    return None


def _str_replace(file: EditableFile, args: Mapping[str, Any]) -> EditResult:
    _require(args, "str_replace", "old_str", "new_str")
    old, new = _clean_text(args, "old_str"), _clean_text(args, "new_str")
    if old == "":
        raise BadArguments("'old_str' must not be empty. To add lines, use op='insert'.")
    if old == new:
        raise BadArguments("'old_str' and 'new_str' are the same: nothing would change")
    matches = [
        (index, offset)
        for index, region in enumerate(file.regions)
        for offset in _occurrences(_region_text(region), old)
    ]
    if not matches:
        raise _no_match(file, old)
    if len(matches) > 1:
        numbers = ", ".join(
            str(_line_at(file.regions[index], offset)) for index, offset in matches[:20]
        )
        more = ", …" if len(matches) > 20 else ""
        raise NoUniqueMatch(
            f"old_str occurs {len(matches)} times in the editable range (lines {numbers}{more}). "
            "Add context so that it occurs once."
        )
    [(index, offset)] = matches
    region = file.regions[index]
    text = _region_text(region)
    first = _line_at(region, offset)
    last = first + old.removesuffix("\n").count("\n")
    _refuse_pasted_numbers("new_str", split_lines(new), frozenset({first}))
    changed = text[:offset] + new + text[offset + len(old) :]
    lines = split_lines(changed)
    after = file.with_region(index, lines)
    count = (last - first + 1) + len(lines) - len(region.lines)
    summary = (
        f"OK: Replaced 1 occurrence (lines {first}..{last}) with {count} line(s) in {file.name}. "
        f"Editable range: {format_ranges(after.regions)}."
    )
    return EditResult(file, after, index, summary)


def _region_text(region: Region) -> str:
    """The region with every line terminated, so that `old_str` may take whole lines with it."""
    return "".join(line + "\n" for line in region.lines)


def _occurrences(text: str, wanted: str) -> list[int]:
    """Where `wanted` occurs: a single place only if it is the only one, overlaps included.

    From the second on, overlapping ones are left out, since counting them can take minutes.
    """
    found = []
    position = text.find(wanted)
    while position >= 0:
        found.append(position)
        position = text.find(wanted, position + (1 if len(found) == 1 else len(wanted)))
    return found


def _line_at(region: Region, offset: int) -> int:
    return region.first + _region_text(region).count("\n", 0, offset)


def _no_match(file: EditableFile, old: str) -> EditRefused:
    """Why `old_str` cannot be replaced, as exactly as the file allows to say."""
    whole = "".join(line + "\n" for line in file.lines)
    spans = []
    for offset in _occurrences(whole, old)[:21]:
        first = whole.count("\n", 0, offset) + 1
        spans.append((first, first + old.removesuffix("\n").count("\n")))
    if spans:
        first, last = spans[0]
        if len(file.locked_lines(first, last)) < last - first + 1:
            return NoUniqueMatch(
                f"old_str crosses a border between locked and editable lines (lines "
                f"{first}..{last}). {_only_lines(file)}"
            )
        word = "line" if len(spans) == 1 and first == last else "lines"
        shown = ", ".join(f"{a}" if a == b else f"{a}..{b}" for a, b in spans[:20])
        more = ", …" if len(spans) > 20 else ""
        return NoUniqueMatch(
            f"old_str occurs only in locked lines ({word} {shown}{more}). {_only_lines(file)}"
        )
    if numbers := _pasted_numbers(split_lines(old)):
        return NoUniqueMatch(_pasted_message("old_str", numbers))
    near = _near_match(file, old)
    hint = (
        f"Lines {near[0]}..{near[1]} differ from it in white space only; copy them exactly."
        if near
        else "Call view to see the file as it is now."
    )
    return NoUniqueMatch(f"old_str does not occur in {file.name}. {hint}")


def _near_match(file: EditableFile, old: str) -> tuple[int, int] | None:
    wanted = [" ".join(line.split()) for line in split_lines(old)]
    if not any(wanted):
        return None
    for region in file.regions:
        have = [" ".join(line.split()) for line in region.lines]
        for start in range(len(have) - len(wanted) + 1):
            if have[start : start + len(wanted)] == wanted:
                return region.first + start, region.first + start + len(wanted) - 1
    return None
