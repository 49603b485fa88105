"""Two versions of a file line by line: what was taken away, what was put in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

# Above this many lines on both sides together, a line-by-line match takes too long.
MAX_MATCHED_LINES = 4000
CONTEXT = 2

Kind = Literal["equal", "replace", "delete", "insert"]


@dataclass(frozen=True)
class Row:
    """A line of a side-by-side diff; None where a side has no line there. Numbers from 1."""

    kind: Kind
    old: int | None
    new: int | None


def blocks(old: Sequence[str], new: Sequence[str]) -> list[tuple[Kind, int, int, int, int]]:
    """(kind, old from, old to, new from, new to), half-open from 0, which cover both whole."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    old_part, new_part = old[head : len(old) - tail], new[head : len(new) - tail]
    found: list[tuple[Kind, int, int, int, int]] = []
    if head:
        found.append(("equal", 0, head, 0, head))
    if old_part and new_part and len(old_part) + len(new_part) <= MAX_MATCHED_LINES:
        matcher = SequenceMatcher(None, old_part, new_part)
        for kind, a, b, c, d in matcher.get_opcodes():
            found.append((kind, head + a, head + b, head + c, head + d))
    elif old_part or new_part:
        kind = "replace" if old_part and new_part else "delete" if old_part else "insert"
        found.append((kind, head, len(old) - tail, head, len(new) - tail))
    if tail:
        found.append(("equal", len(old) - tail, len(old), len(new) - tail, len(new)))
    return found


def changed_lines(old: Sequence[str], new: Sequence[str]) -> frozenset[int]:
    """The numbers of the lines of `new` that `old` has not, or has otherwise."""
    return frozenset(
        number
        for kind, _, _, first, end in blocks(old, new)
        if kind != "equal"
        for number in range(first + 1, end + 1)
    )


def diff_lines(
    old: Sequence[str], new: Sequence[str], context: int = CONTEXT
) -> Iterator[tuple[str, int, str]]:
    """(sign, line number from 1, text) of each line of the diff, with a little context.

    A line taken away has its old number, any other its new one.
    """
    for hunk in hunks(old, new, context):
        added: list[tuple[str, int, str]] = []
        for row in hunk:
            if row.kind == "equal":
                yield from added
                added.clear()
                assert row.new is not None
                yield " ", row.new, new[row.new - 1]
                continue
            if row.old is not None:
                yield "-", row.old, old[row.old - 1]
            if row.new is not None:
                added.append(("+", row.new, new[row.new - 1]))
        yield from added


def hunks(old: Sequence[str], new: Sequence[str], context: int = CONTEXT) -> list[list[Row]]:
    """The changes with `context` equal lines around, in order; within a change, paired rows."""
    found: list[list[Row]] = []
    found_blocks = blocks(old, new)
    for position, (kind, a, b, c, d) in enumerate(found_blocks):
        if kind != "equal":
            rows = [
                Row(
                    kind,
                    a + offset + 1 if a + offset < b else None,
                    c + offset + 1 if c + offset < d else None,
                )
                for offset in range(max(b - a, d - c))
            ]
            if not found:
                found.append([])
            found[-1].extend(rows)
            continue
        equal = [Row("equal", a + n + 1, c + n + 1) for n in range(b - a)]
        first, last = position == 0, position == len(found_blocks) - 1
        if first and last:
            return []
        if first:
            found.append(equal[-context:] if context else [])
        elif last:
            found[-1].extend(equal[:context])
        elif len(equal) <= 2 * context:
            found[-1].extend(equal)
        else:
            found[-1].extend(equal[:context])
            found.append(equal[-context:] if context else [])
    return found
