"""How much data a region's text may carry.

Guaranteed: bounds on the bytes of a region, on each literal, on literals together and on constants
in one display or call. Comments count in the bytes only, since code can't read them. A docstring is
kept by its function: `reach` forbids the known ways to it, and should there be one more, no more is
found there than in all other literals; one by one docstrings may be long.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence

from harness.checks.structure import Placed, children, walk
from harness.constraints import Limits
from harness.regions import Region

Report = Callable[[str, int, str], None]
"""Takes the rule, the line and the message."""


def check_size(limits: Limits, region: Region, report: Report) -> None:
    """Check the bytes of a region, of whatever language."""
    size = sum(len(line.encode()) + 1 for line in region.lines)
    if limits.region_bytes is not None and size > limits.region_bytes:
        report(
            "region-size",
            region.first,
            f"the region has {size} bytes, at most {limits.region_bytes} are accepted; "
            "shorten code or comments",
        )


def check_literals(limits: Limits, code: Sequence[Placed], first: int, report: Report) -> None:
    """Check the literals of a region's statements; `first` is the region's first line."""
    measure = _Measure(limits, report)
    for placed in code:
        measure.visit(placed.statement)
    if limits.literal_total is not None and measure.total > limits.literal_total:
        report(
            "literal-size",
            first,
            f"strings and docstrings of the region have {measure.total} characters together, at "
            f"most {limits.literal_total} are accepted; compute values instead of storing them, "
            "and explain in comments",
        )


def check_names(limits: Limits, code: Sequence[Placed], first: int, report: Report) -> None:
    """Check the names that a region makes up: `dir` and parameters' names can be read as text."""
    seen: set[str] = set()
    for placed in code:
        for node in walk(placed.statement):
            for name in _made_up(node):
                if name in seen:
                    continue
                seen.add(name)
                if limits.name_chars is not None and len(name) > limits.name_chars:
                    report(
                        "literal-size",
                        getattr(node, "lineno", first),
                        f"a name of {len(name)} characters, at most {limits.name_chars} are "
                        "accepted; take a shorter one",
                    )
    total = sum(map(len, seen))
    if limits.name_total is not None and total > limits.name_total:
        report(
            "literal-size",
            first,
            f"the names that the region binds have {total} characters together, at most "
            f"{limits.name_total} are accepted; take fewer or shorter ones",
        )


def _made_up(node: ast.AST) -> Sequence[str]:
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            return [name]
        case ast.arg(arg=name) | ast.keyword(arg=str(name)):
            return [name]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.alias(asname=str(name)):
            return [name]
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            return names
    return []


class _Measure(ast.NodeVisitor):
    def __init__(self, limits: Limits, report: Report) -> None:
        self.limits, self.report, self.total = limits, report, 0
        self.counted: set[int] = set()

    def visit(self, node: ast.AST) -> None:
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                self.total += len(text)  # a docstring, which may be as long as it likes by itself
                return
            case ast.Constant(value=str(text)):
                self.total += len(text)
                self._length(node, len(text))
            case ast.Constant(value=bytes(data)):
                self.total += len(data)
                self._length(node, len(data))
            case ast.Constant():
                length = (node.end_col_offset or 0) - node.col_offset
                self.total += length if length > 20 else 0  # a number may hold a text
                self._length(node, length)
            case ast.JoinedStr() | ast.BinOp(op=ast.Add()):
                if id(node) not in self.counted:
                    self._length(node, self._joined(node))
            case ast.List() | ast.Tuple() | ast.Set() | ast.Dict() | ast.Call():
                if id(node) not in self.counted:
                    self._collection(node)
        for child in children(node):
            self.visit(child)

    def _length(self, node: ast.expr, length: int) -> None:
        most = self.limits.literal_chars
        if most is not None and length > most:
            self.report(
                "literal-size",
                node.lineno,
                f"a literal of {length} characters, at most {most} are accepted; "
                "compute the value instead of storing it",
            )

    def _joined(self, node: ast.expr) -> int:
        """Characters of the literals that an f-string or a sum consists of."""
        length, parts = 0, 0
        pending: list[ast.expr] = [node]
        while pending:
            part = pending.pop()
            match part:
                case ast.Constant(value=str() | bytes() as text):
                    length, parts = length + len(text), parts + 1
                case ast.JoinedStr(values=values):
                    self.counted.add(id(part))
                    pending.extend(values)
                case ast.BinOp(op=ast.Add(), left=left, right=right):
                    self.counted.add(id(part))
                    pending += [left, right]
        # A single literal is reported as what it is.
        return length if parts > 1 else 0

    def _collection(self, node: ast.expr) -> None:
        parts: list[ast.expr]
        if isinstance(node, ast.Call):
            # What stands in a display among its arguments is counted there.
            parts = [*node.args, *(keyword.value for keyword in node.keywords)]
            parts = [p.operand if isinstance(p, ast.UnaryOp) else p for p in parts]
            count = sum(isinstance(part, ast.Constant) for part in parts)
        else:
            count = 0
            for part in walk(node):
                count += isinstance(part, ast.Constant)
                if isinstance(part, ast.List | ast.Tuple | ast.Set | ast.Dict):
                    self.counted.add(id(part))
        most = self.limits.collection_constants
        if most is not None and count > most:
            what = "call" if isinstance(node, ast.Call) else "collection"
            self.report(
                "collection-size",
                node.lineno,
                f"a {what} with {count} constants, at most {most} are accepted; "
                "compute the values instead of storing them",
            )
