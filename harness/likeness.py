"""How alike two versions of the edited files are, up to formatting. Pure.

Formatting is what Python's syntax tree does not hold (comments, blanks, line breaks, quotes,
brackets that change nothing) and what stands for nothing (docstrings and other lone constants).
Names are not: code that was renamed is another, and its distance says how near it is. A file that
is no Python is compared by its lines, without blank ones and blanks at their ends.

Not guaranteed: that code which does the same is found to be the same.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from harness.diffs import blocks

Texts = Mapping[str, str]
"""files by name"""
Form = tuple[tuple[str, tuple[str, ...]], ...]
"""each file's name and its lines up to formatting, sorted by name"""

UNEDITED = ""
"""stands for the unedited files among the names of baselines"""


@dataclass(frozen=True)
class Likeness:
    """A submission beside the unedited files and the baselines."""

    same_as: str | None
    """what it is up to formatting: a baseline, or `UNEDITED`"""
    changed: int
    """lines taken away and put in, from the unedited files"""
    nearest: str
    """the baseline that it is nearest to; `UNEDITED` if there is none, or it has no edit"""
    distance: float
    """to that one: 0 for the same code, 1 for changes that have no line in common"""


class _WithoutNothing(ast.NodeTransformer):
    """Drops statements that are a lone constant."""

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node, ast.Constant):
            node.kind = None  # u"" is ""
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                kept = [each for each in block if not _is_nothing(each)]
                setattr(node, name, kept or [ast.Pass() for _ in block[:1]])
        return node


def _is_nothing(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def lines_of(text: str) -> tuple[str, ...]:
    """A file's lines up to formatting."""
    try:
        tree = _WithoutNothing().visit(ast.parse(text))
        return tuple(ast.unparse(tree).splitlines())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return tuple(line.rstrip() for line in text.splitlines() if line.strip())


def form_of(files: Texts) -> Form:
    return tuple((name, lines_of(files[name])) for name in sorted(files))


def lines_between(old: Form, new: Form) -> int:
    """Lines taken away and put in, over all files."""
    before, after = dict(old), dict(new)
    count = 0
    for name in before.keys() | after.keys():
        for kind, a, b, c, d in blocks(before.get(name, ()), after.get(name, ())):
            count += 0 if kind == "equal" else (b - a) + (d - c)
    return count


def likeness(files: Form, unedited: Form, baselines: Mapping[str, Form]) -> Likeness:
    """Of several baselines at one distance the first is named."""
    changed = lines_between(unedited, files)
    if not changed:
        return Likeness(UNEDITED, 0, UNEDITED, 0.0)
    nearest, distance = UNEDITED, 1.0
    same_as = None
    for name, form in baselines.items():
        theirs = lines_between(unedited, form)
        if not theirs:
            continue
        between = lines_between(form, files)
        if not between and same_as is None:
            same_as = name
        share = min(1.0, between / (changed + theirs))
        if share < distance or nearest == UNEDITED:
            nearest, distance = name, share
    return Likeness(same_as, changed, nearest, distance)
