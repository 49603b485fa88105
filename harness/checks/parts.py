"""Whether an edited file is clean, found out from those of its parts that an edit has changed.

A part is a run of whole statements of the module. Guaranteed: `Parts.are_clean` is True only if
`static.check_whole` finds nothing; False says nothing at all, and the whole file has to be looked
at. Why that is so:

    text        parts that are modules by themselves are, one below the other, the whole module
    structure   locked statements are compared by their places in locked segments, which a part cuts
                in both versions alike; a region's places are looked for in fewer statements, never
                in more
    compiling   what one statement of a module can break in another takes a `global`
    order       statements of the module itself, where a region may hold such, are looked at whole:
                what they may bind depends on what is read after them
    rules       a region's outcome is kept under all that they read of other regions: the names of
                the scopes around it, and what these stand for; it is how they leave the module's
                scope, which they fill

A region's statements are its lines, where each of them stands: the tokens between two statements
make the same statements again. Line numbers are those within a part, and no rule's verdict depends
on them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from harness.checks.compiling import compile_touched, head_length, parse
from harness.checks.facts import locked_facts
from harness.checks.kinds import check_signatures
from harness.checks.limits import check_size
from harness.checks.resolve import Scope, local_scope, module_scope
from harness.checks.rules import check_region
from harness.checks.structure import (
    Structure,
    compare,
    first_line,
    last_line,
    read_structure,
)
from harness.constraints import Constraints
from harness.regions import EditableFile, Segment

READ_PARTS = 64
"""trees that are kept of a file's parts; one of a hundred lines takes some hundred kilobytes"""

OUTCOMES = 1000
"""of regions that are kept: some kilobytes each"""

Lines = tuple[tuple[str, ...], ...]
"""What a part's regions hold, each as its lines."""

ScopeState = tuple[frozenset[tuple[str, str | None]], frozenset[str], frozenset[tuple[str, str]]]
"""A module's scope as a value."""

Question = tuple[int, int, tuple[str, ...], object, ScopeState]
"""What a region's outcome depends on: its part's number and its own there, its lines, where its
statements stand, with the scopes around them, and the module's scope."""

Position = tuple[int, int]
"""The number of a locked segment, and lines of it that stand before."""

_GLOBAL = re.compile(r"\bglobal\b")


class _Found(Exception):
    """A rule has something to say."""


@dataclass(frozen=True)
class _Read:
    """A part that is in order by itself."""

    structure: Structure
    own: tuple[ast.stmt, ...]
    """statements of regions that stand in the module itself"""
    around: tuple[object, ...]
    """of each region: where its statements stand, and the names in the scopes around these"""


class Parts:
    """One unedited file under its constraints, cut up."""

    def __init__(self, pristine: EditableFile, constraints: Constraints) -> None:
        """Raises SyntaxError or ValueError for a file that can't be cut up."""
        self._pristine, self._constraints = pristine, constraints
        self._facts = locked_facts(pristine)
        if not pristine.regions or pristine.regions[0].first <= 2:
            raise ValueError("a region could say how the file is encoded")
        self._scopes = {r.name: r.scope for r in constraints.regions if r.scope is not None}
        self._files = list(_cut(self._facts.structure))
        self._unedited = [read_structure(file, parse(file.text)) for file in self._files]
        body = self._unedited[0].tree.body
        self._head = body[: head_length(body)]
        if len(body) == len(self._head) or self._files[0].regions:
            raise ValueError("what a file begins with is not all locked")
        # Kept for this object, and gone with it.
        self._read = lru_cache(READ_PARTS)(self._read_part)
        self._outcomes: dict[Question, ScopeState] = {}

    def are_clean(self, edited: EditableFile) -> bool:
        """Whether nothing is found in an edited version. False also where that is not known."""
        if not self._same_frame(edited):
            return False
        regions = iter(segment.lines for segment in edited.segments[1::2])
        held = [tuple(next(regions) for _ in file.regions) for file in self._files]
        try:
            self._check(edited, held)
        except (_Found, SyntaxError, ValueError, MemoryError, RecursionError):
            return False
        return True

    def _same_frame(self, edited: EditableFile) -> bool:
        pristine = self._pristine
        return (
            edited.name == pristine.name
            and edited.final_newline == pristine.final_newline
            and edited.segments[::2] == pristine.segments[::2]
            and [s.region for s in edited.segments] == [s.region for s in pristine.segments]
        )

    def _check(self, edited: EditableFile, held: Sequence[Lines]) -> None:
        """Raises one of what `are_clean` takes for a no."""
        for region in edited.regions:
            check_size(self._constraints.limits, region, _found)
            if any(map(_GLOBAL.search, region.lines)):
                raise _Found
        parts = [self._read(index, lines) for index, lines in enumerate(held)]
        if self._constraints == Constraints():
            return
        scope = module_scope(self._facts, [node for part in parts for node in part.own])
        state = _state(scope)
        for index, part in enumerate(parts):
            for number, lines in enumerate(held[index]):
                question = (index, number, lines, part.around[number], state)
                known = self._outcomes.get(question)
                state = self._ask(question, part.structure) if known is None else known
        body = [statement for part in parts for statement in part.structure.tree.body]
        whole = Structure(edited, ast.Module(body, []))
        check_signatures(whole, self._constraints, _found)

    def _read_part(self, index: int, lines: Lines) -> _Read:
        unedited = self._unedited[index]
        if not lines:
            return _Read(unedited, (), ())
        file = self._files[index]
        for number, held in enumerate(lines):
            file = file.with_region(number, held)
        structure = read_structure(file, parse(file.text))
        if compare(unedited, structure, self._scopes):
            raise _Found
        compile_touched(self._head, structure.tree.body, file.regions)
        own = [(region, p.statement) for region, p in structure.placed() if not p.scope]
        if any(self._constraints.region(region).holds == "statements" for region, _ in own):
            raise _Found  # what they may bind depends on what other parts read after them
        return _Read(structure, tuple(node for _, node in own), tuple(_around(structure)))

    def _ask(self, question: Question, structure: Structure) -> ScopeState:
        """The module's scope as the rules leave it."""
        _, number, _, _, (names, mixed, attributes) = question
        scope = Scope(dict(names), mixed=set(mixed), attributes=dict(attributes))
        region = structure.file.regions[number]
        check_region(region, structure, self._facts, self._constraints, scope, _found)
        state = _state(scope)
        if len(self._outcomes) >= OUTCOMES:
            self._outcomes.clear()
        self._outcomes[question] = state
        return state


@lru_cache(maxsize=32)
def parts_of(pristine: EditableFile, constraints: Constraints) -> Parts | None:
    """None for a file that can't be cut up."""
    try:
        return Parts(pristine, constraints)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _found(*_: object) -> None:
    raise _Found


def _state(scope: Scope) -> ScopeState:
    return (
        frozenset(scope.names.items()),
        frozenset(scope.mixed),
        frozenset(scope.attributes.items()),
    )


def _around(structure: Structure) -> Iterator[object]:
    scopes: dict[int, ScopeState] = {}
    for code in structure.code.values():
        found = []
        for placed in code:
            places = tuple((structure.place(step.owner), step.field) for step in placed.path)
            for outer, node in pairwise(placed.scopes):
                if id(node) not in scopes:
                    scopes[id(node)] = _state(local_scope(outer, node))
            found.append((places, tuple(scopes[id(node)] for node in placed.scopes[1:])))
        yield tuple(found)


def _cut(structure: Structure) -> Iterator[EditableFile]:
    """The file's parts, each of them with the regions that stand in it, from the top."""
    file = structure.file
    last = len(file.segments) - 1
    end = (last, len(file.segments[last].lines))
    cuts = sorted({(0, 0), end, *_borders(structure)})
    start = cuts[0]
    for before, after in pairwise(cuts[1:]):
        # Neighbours without a region are one part.
        if start[0] == before[0] == after[0]:
            continue
        yield _part(file, start, before)
        start = before
    if cuts[-1] != start:
        yield _part(file, start, end)


def _borders(structure: Structure) -> Iterator[Position]:
    """Above and below each locked statement of the module, where that is in locked lines."""
    file = structure.file
    positions: dict[int, Position] = {}  # by line, that before it
    number = 0
    for index, segment in enumerate(file.segments):
        for offset in range(len(segment.lines)):
            number += 1
            if segment.region is None:
                positions[number] = (index, offset)
    for statement in structure.tree.body:
        first, last = first_line(statement), last_line(statement)
        if first in positions:
            yield positions[first]
        if last in positions:
            index, offset = positions[last]
            yield index, offset + 1


def _part(file: EditableFile, start: Position, end: Position) -> EditableFile:
    (first, skipped), (last, kept) = start, end
    if first == last:
        segments = [Segment(file.segments[first].lines[skipped:kept])]
    else:
        segments = [
            Segment(file.segments[first].lines[skipped:]),
            *file.segments[first + 1 : last],
            Segment(file.segments[last].lines[:kept]),
        ]
    whole_end = (len(file.segments) - 1, len(file.segments[-1].lines))
    return EditableFile(file.name, tuple(segments), file.final_newline or end != whole_end)
