"""The text that an agent reads: pure functions from values to the answers of docs/protocol.md."""

from __future__ import annotations

from collections.abc import Sequence

from harness.regions import EditableFile, Region, format_ranges

# Regions that an edit did not touch are shown by their ends; the edited one nearly always whole.
SHORT_REGION = 6
EDITED_REGION = 60
LOCKED_CONTEXT = 2

PAGE_LINES = 150
MAX_ANSWER = 10_000


def numbered_line(number: int, text: str, *, locked: bool) -> str:
    """A line of a view: its number in six columns, two blanks (`| ` if locked), the text."""
    return f"{number:6d}{'| ' if locked else '  '}{text}"


def current_file_header(file: EditableFile) -> str:
    return (
        f"[Current file: {file.name} | editable: {format_ranges(file.regions)} | "
        f"total: {len(file.lines)} lines]"
    )


def current_file_view(file: EditableFile, edited: int | None = None) -> str:
    """The view that follows every answer to `edit`; `edited` is the region's index, from 0."""
    parts = [current_file_header(file)]
    shown_to = None  # the last line shown, to tell a gap from a border
    for index, region in enumerate(file.regions):
        before: Sequence[int] = ()
        after: Sequence[int] = ()
        if index == edited:
            before = range(max(1, region.first - LOCKED_CONTEXT), region.first)
            after = range(region.last + 1, min(len(file.lines), region.last + LOCKED_CONTEXT) + 1)
            before = [n for n in before if n in file.locked_lines(n, n) and n > (shown_to or 0)]
            after = [n for n in after if n in file.locked_lines(n, n)]
        first_shown = before[0] if before else region.first
        if shown_to is not None and first_shown > shown_to + 1:
            parts.append("    ...")
        parts.extend(numbered_line(n, file.lines[n - 1], locked=True) for n in before)
        parts.extend(_region_view(region, EDITED_REGION if index == edited else SHORT_REGION))
        parts.extend(numbered_line(n, file.lines[n - 1], locked=True) for n in after)
        shown_to = after[-1] if after else region.last
    return "\n".join(parts)


def _region_view(region: Region, whole_up_to: int) -> list[str]:
    count = len(region.lines)
    if count == 0:
        return [f"       (empty region {region}: insert with after_line={region.last})"]
    lines = [
        numbered_line(region.first + offset, text, locked=False)
        for offset, text in enumerate(region.lines)
    ]
    if count <= whole_up_to:
        return lines
    ends = max(3, whole_up_to // 2)
    return [*lines[:ends], f"       ... ({count - 2 * ends} more lines) ...", *lines[-ends:]]


def file_page(file: EditableFile, start: int, end: int) -> str:
    """Lines start..end of a file, at most a page, and where to go on."""
    last = min(end, start + PAGE_LINES - 1, len(file.lines))
    locked = set(file.locked_lines(start, last))
    header = current_file_header(file) if file.regions else read_only_header(file)
    parts = [header]
    parts.extend(
        numbered_line(n, file.lines[n - 1], locked=n in locked) for n in range(start, last + 1)
    )
    if last < min(end, len(file.lines)):
        left = min(end, len(file.lines)) - last
        parts.append(
            f"    ... ({left} more lines: call view with filename={file.name!r}, "
            f"start_line={last + 1})"
        )
    return "\n".join(parts)


def read_only_header(file: EditableFile) -> str:
    return f"[Current file: {file.name} | read-only | total: {len(file.lines)} lines]"


def numbered_listing(file: EditableFile) -> str:
    """The whole file for the prompt, every line numbered, locked lines marked."""
    locked = set(file.locked_lines(1, len(file.lines)))
    return "\n".join(
        numbered_line(number, text, locked=number in locked)
        for number, text in enumerate(file.lines, start=1)
    )


def clip(text: str, limit: int = MAX_ANSWER) -> str:
    """At most `limit` characters: head and tail, cut at line ends, and what is left out."""
    if len(text) <= limit:
        return text
    room = limit - 60  # for the line that stands between the two
    head_end = text.rfind("\n", 0, room * 2 // 3)
    head_end = head_end if head_end > 0 else room * 2 // 3
    tail_start = text.find("\n", len(text) - (room - head_end))
    tail_start = tail_start + 1 if tail_start >= 0 else len(text) - (room - head_end)
    left_out = tail_start - head_end
    return f"{text[:head_end]}\n[... {left_out} characters left out ...]\n{text[tail_start:]}"


def duration(seconds: float) -> str:
    """`3 h 05 min`, `12 min`, `40 s`."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def tests_remaining(count: int) -> str:
    return f"{count} test remaining" if count == 1 else f"{count} tests remaining"
