"""Which statements of a file are locked, which belong to a region, and whether an edit moved any.

Guaranteed, if `compare` finds nothing: every statement that starts in locked lines has the syntax
tree, the ancestors and the order of the unedited file, and no statement of a region reaches beyond
it. Trees are compared by place: a statement that begins and ends at the same byte of the same
locked segment consists of the same tokens, since the parser was between two statements where it
began. That is as exact as a comparison of trees, and takes a tenth of the time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from harness.regions import EditableFile

Unit: TypeAlias = ast.stmt | ast.ExceptHandler | ast.match_case
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
ScopeNode: TypeAlias = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

LISTS = ("body", "handlers", "cases", "orelse", "finalbody")
"""The fields of a statement that hold statements, or parts with statements of their own."""


@dataclass(frozen=True)
class Step:
    """One level on the way from the module to a statement: `child` stands in `owner.<field>`."""

    owner: ast.AST
    field: str
    child: ast.AST


@dataclass(frozen=True)
class Placed:
    """A statement that starts in a region, outermost first: those within it are not listed."""

    statement: ast.stmt
    path: tuple[Step, ...]

    @property
    def scopes(self) -> tuple[ScopeNode, ...]:
        """The module and the classes and functions around it, from the outside in."""
        return tuple(step.owner for step in self.path if isinstance(step.owner, ScopeNode))

    @property
    def scope(self) -> str:
        """`GPT.forward`; empty in the module."""
        return ".".join(s.name for s in self.scopes if not isinstance(s, ast.Module))


@dataclass(frozen=True)
class Locked:
    """A part of the tree that starts in locked lines; equal ones are the same code."""

    key: tuple[object, ...]
    line: int = field(compare=False)
    lists: tuple[tuple[str, bool, tuple[Locked, ...]], ...]
    """(field, whether it holds anything, the locked parts in it)"""
    opened: tuple[tuple[str, int], ...] = field(compare=False)
    """(field, line) of the first part in each list that a region has put something in"""


Place: TypeAlias = tuple[object, ...]
"""Where a locked part begins: its type, its segment, the line in that."""


@dataclass
class Structure:
    """A parsed file, taken apart."""

    file: EditableFile
    tree: ast.Module
    code: dict[str, list[Placed]] = field(default_factory=dict)
    """by region, its statements in order"""
    crossing: list[tuple[str, Unit]] = field(default_factory=list)
    """(region, part) for what starts in a region and ends outside it"""
    locked: tuple[Locked, ...] = ()
    """the locked statements of the module"""
    owned: set[int] = field(default_factory=set)
    """`id` of every statement in `code`"""
    places: dict[int, Place] = field(default_factory=dict)
    """where each locked part begins, by `id`"""
    _slots: dict[str, set[Place]] = field(default_factory=dict)

    def place(self, owner: ast.AST) -> Place:
        """The same for the same locked statement of two versions; empty for the module."""
        return self.places.get(id(owner), ())

    def slots(self, region: str) -> set[Place]:
        """The bodies that a region of this file, the unedited one, is part of.

        These are all that go on below the region, those in which its statements stand, and, where
        it has none, the function or class above it that its comments are indented for.
        """
        if region not in self._slots:
            self._slots[region] = self._find_slots(region)
        return self._slots[region]

    def _find_slots(self, name: str) -> set[Place]:
        [region] = [r for r in self.file.regions if r.name == name]
        slots = {(), *(self.place(placed.path[-1].owner) for placed in self.code[name])}
        locked = [unit for unit in walk(self.tree) if isinstance(unit, Unit)]
        locked = [unit for unit in locked if id(unit) in self.places]
        last_above = max((first_line(u) for u in locked if first_line(u) < region.first), default=0)
        text = [line for line in region.lines if line.strip()]
        column = len(text[0]) - len(text[0].lstrip()) if text and not self.code[name] else -1
        for unit in locked:
            body: list[Unit] = getattr(unit, "body", [])
            if not body or first_line(unit) >= region.first:
                continue
            goes_on = last_line(unit) > region.last
            ends_here = last_line(unit) >= last_above and isinstance(unit, ScopeNode)
            if goes_on or (ends_here and getattr(body[0], "col_offset", -1) == column):
                slots.add(self.place(unit))
        return slots

    def is_region(self, node: ast.AST) -> bool:
        """Whether it is a statement of a region, and the outermost one."""
        return id(node) in self.owned

    def placed(self) -> Iterator[tuple[str, Placed]]:
        for region, statements in self.code.items():
            for statement in statements:
                yield region, statement


_NO_CODE = frozenset({"ctx", "op", "ops"})
_TEXTS = frozenset({"id", "attr", "arg", "kind", "type_comment", "module", "level", "asname"})

_fields: dict[type[ast.AST], tuple[str, ...]] = {}
"""by type of node, those that may hold code"""


def children(node: ast.AST) -> list[ast.AST]:
    """The parts of a node, without operators and contexts: `ast.iter_child_nodes`, only faster."""
    found: list[ast.AST] = []
    kind = type(node)
    fields = _fields.get(kind)
    if fields is None:
        unwanted = _NO_CODE | _TEXTS
        fields = _fields[kind] = tuple(name for name in kind._fields if name not in unwanted)
    for name in fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            found += [part for part in value if isinstance(part, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all that it consists of, in no particular order."""
    pending = [node]
    while pending:
        part = pending.pop()
        yield part
        pending += children(part)


def first_line(unit: Unit) -> int:
    """The line on which it begins, its decorators included."""
    if isinstance(unit, ast.match_case):
        return unit.pattern.lineno
    decorators: list[ast.expr] = getattr(unit, "decorator_list", [])
    return min([unit.lineno, *(decorator.lineno for decorator in decorators)])


def last_line(unit: Unit) -> int:
    if isinstance(unit, ast.match_case):
        return last_line(unit.body[-1])
    return unit.end_lineno or unit.lineno


def read_structure(file: EditableFile, tree: ast.Module) -> Structure:
    """Take a parsed file apart."""
    return _Reader(file, tree).read()


class _Reader:
    def __init__(self, file: EditableFile, tree: ast.Module) -> None:
        self.result = Structure(file, tree, {region.name: [] for region in file.regions})
        self.segments: list[int] = [0]  # by line, from 1
        self.starts: list[int] = []
        for index, segment in enumerate(file.segments):
            self.starts.append(len(self.segments))
            self.segments += [index] * len(segment.lines)

    def read(self) -> Structure:
        [(_, _, units)], _ = self._lists(self.result.tree, ("body",), ())
        self.result.locked = units
        return self.result

    def _lists(
        self, owner: ast.AST, fields: tuple[str, ...], path: tuple[Step, ...]
    ) -> tuple[tuple[tuple[str, bool, tuple[Locked, ...]], ...], tuple[tuple[str, int], ...]]:
        lists, opened = [], []
        for name in fields:
            children: list[Unit] | None = getattr(owner, name, None)
            if children is None:
                continue
            kept = []
            for child in children:
                line = first_line(child)
                region = self.result.file.segments[self.segments[line]].region
                step = (*path, Step(owner, name, child))
                if region is None:
                    kept.append(self._locked(child, line, step))
                    continue
                opened.append((name, line))
                if self.segments[last_line(child)] != self.segments[line]:
                    self.result.crossing.append((region, child))
                if isinstance(child, ast.stmt):
                    self.result.owned.add(id(child))
                    self.result.code[region].append(Placed(child, step))
                else:
                    # A region has given a locked `try` or `match` a branch of its own.
                    kept.append(self._locked(child, line, step))
            lists.append((name, bool(children), tuple(kept)))
        return tuple(lists), tuple(opened)

    def _locked(self, unit: Unit, line: int, path: tuple[Step, ...]) -> Locked:
        lists, opened = self._lists(unit, LISTS, path)
        key: Place = (type(unit).__name__, *self._place(line))
        self.result.places[id(unit)] = key
        if not isinstance(unit, ast.match_case):
            key = (*key, unit.col_offset)
            if not lists:
                key = (*key, *self._place(last_line(unit)), unit.end_col_offset)
        return Locked(key, line, lists, opened)

    def _place(self, line: int) -> tuple[int, int]:
        segment = self.segments[line]
        return segment, line - self.starts[segment]


@dataclass(frozen=True)
class Change:
    """A difference to the unedited file's structure."""

    kind: str
    """`crosses`: what starts at `line` runs on past its region. `attached`: what starts there
    continues a locked statement. `moved`: the locked line `line` has become something else."""
    line: int
    region: str | None = None


def compare(
    pristine: Structure, edited: Structure, scopes: Mapping[str, str] | None = None
) -> list[Change]:
    """How locked code differs; nothing if it is the same.

    `scopes` names, by region, a class or function that it may continue even if it is the first to.
    """
    changes = [Change("crosses", first_line(unit), name) for name, unit in edited.crossing]
    if pristine.locked == edited.locked:
        return changes + list(_misplaced(pristine, edited, scopes or {}))
    found = list(_differences(pristine.locked, edited.locked))
    attached = [change for change in found if change.kind == "attached"]
    # What moved did so because of what crosses or is attached, if there is such.
    return changes + attached or found[:1] or [Change("moved", 1)]


def _misplaced(
    pristine: Structure, edited: Structure, scopes: Mapping[str, str]
) -> Iterator[Change]:
    """Statements of regions that continue a locked statement which was complete before them."""
    for region, code in edited.code.items():
        if not code:
            continue
        slots = pristine.slots(region)
        for placed in code:
            owner = placed.path[-1].owner
            allowed = isinstance(owner, ScopeNode) and placed.scope == scopes.get(region)
            if not allowed and edited.place(owner) not in slots:
                yield Change("attached", first_line(placed.statement), region)


def _differences(old: tuple[Locked, ...], new: tuple[Locked, ...]) -> Iterator[Change]:
    for before, after in zip(old, new, strict=False):
        if before == after:
            continue
        if before.key != after.key:
            yield Change("moved", after.line)
            return
        opened = dict(reversed(after.opened))
        for (name, _, old_parts), (_, holds, new_parts) in zip(
            before.lists, after.lists, strict=True
        ):
            before_holds = next(holds for n, holds, _ in before.lists if n == name)
            if holds and not before_holds:
                yield Change("attached", opened.get(name, after.line))
            elif holds != before_holds:
                yield Change("moved", after.line)
            else:
                yield from _differences(old_parts, new_parts)
    if len(old) != len(new):
        longer = new if len(new) > len(old) else old
        yield Change("moved", longer[min(len(old), len(new))].line)
