"""A file as a tuple of segments, locked and editable in turn.

Guaranteed: a locked segment is never rebuilt. Every edit makes a new `EditableFile` that shares
the locked segments with the old one, so no sequence of edits can change a locked byte, and
`locked_digest` is the same from the first version to the last.

Line numbers are derived from the segments, 1-based and inclusive, and exist for people and agents
only. An empty region at line 128 reads first=128, last=127. A line is what stands between two
line feeds; nothing else ends a line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain


class RegionError(ValueError):
    """A file and its regions do not fit together: a maintainer's mistake, never an agent's."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of lines; `region` is the region's name, or None where the lines are locked."""

    lines: tuple[str, ...]
    region: str | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """Where a region stands in one version of a file."""

    name: str
    first: int
    last: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.first}–{self.last}"


@dataclass(frozen=True)
class EditableFile:
    """One version of a file: `segments` alternates locked, editable, locked, …, locked.

    The first and the last segment are locked and may be empty; a locked segment between two
    regions has at least one line. `final_newline` says whether the last line is terminated.
    """

    name: str
    segments: tuple[Segment, ...]
    final_newline: bool = True

    @classmethod
    def from_text(
        cls, name: str, text: str, regions: Sequence[tuple[str, int, int]]
    ) -> EditableFile:
        """Cut `text` at `regions`, a sequence of (name, first line, last line) in order.

        Raises RegionError if a region is out of order, outside the file, touches its neighbour, or
        reaches the end of a file whose last line has no line feed.
        """
        lines = tuple(text.split("\n"))
        final_newline = lines[-1] == ""
        if final_newline:
            lines = lines[:-1]
        segments: list[Segment] = []
        position = 0  # lines already handed out
        for index, (region, first, last) in enumerate(regions):
            if first < 1 or last < first - 1 or last > len(lines):
                raise RegionError(
                    f"{name}: region {region} ({first}–{last}) does not fit a file of "
                    f"{len(lines)} lines"
                )
            if first - 1 < position + (1 if index else 0):
                raise RegionError(
                    f"{name}: region {region} ({first}–{last}) overlaps or touches the one "
                    f"before it; leave at least one locked line between two regions"
                )
            segments.append(Segment(lines[position : first - 1]))
            segments.append(Segment(lines[first - 1 : last], region))
            position = last
        segments.append(Segment(lines[position:]))
        if regions and position == len(lines) and not final_newline:
            # An edit would then decide whether the locked line above keeps its line feed.
            raise RegionError(
                f"{name}: region {regions[-1][0]} reaches a last line without a line feed; add one"
            )
        return cls(name, tuple(segments), final_newline)

    @cached_property
    def lines(self) -> tuple[str, ...]:
        return tuple(chain.from_iterable(segment.lines for segment in self.segments))

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The regions with their present line numbers, in order."""
        found = []
        position = 0
        for segment in self.segments:
            if segment.region is not None:
                first, last = position + 1, position + len(segment.lines)
                found.append(Region(segment.region, first, last, segment.lines))
            position += len(segment.lines)
        return tuple(found)

    @property
    def text(self) -> str:
        body = "\n".join(self.lines)
        return body + "\n" if self.final_newline and self.lines else body

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def locked_digest(self) -> str:
        """A digest of every locked byte and of where the regions stand between them."""
        digest = hashlib.sha256(self.name.encode())
        for segment in self.segments:
            if segment.region is None:
                # The count makes the cut part of what is hashed.
                digest.update(f"\0{len(segment.lines)}\0".encode())
                digest.update("\n".join(segment.lines).encode())
        digest.update(b"\n" if self.final_newline else b"")
        return digest.hexdigest()

    def with_region(self, index: int, lines: Sequence[str]) -> EditableFile:
        """The version in which the region number `index` (from 0) holds `lines`."""
        position = 2 * index + 1
        segment = Segment(tuple(lines), self.segments[position].region)
        segments = (*self.segments[:position], segment, *self.segments[position + 1 :])
        return EditableFile(self.name, segments, self.final_newline)

    def locked_lines(self, first: int, last: int) -> tuple[int, ...]:
        """Those of the lines first..last that are locked."""
        return tuple(
            number
            for number in range(first, last + 1)
            if not any(region.first <= number <= region.last for region in self.regions)
        )


def format_ranges(regions: Sequence[Region]) -> str:
    """`88–99, 128–130`: an en dash within a range, a comma and a blank between two."""
    return ", ".join(str(region) for region in regions)


def locked_digest(files: Sequence[EditableFile], siblings: Sequence[tuple[str, bytes]]) -> str:
    """One digest over the locked bytes of all editable files and the whole of their siblings."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.locked_digest}\n".encode())
    for name, content in siblings:
        digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()
