"""Text to trees, and what the compiler alone refuses: `nonlocal` without a name, say."""

from __future__ import annotations

import ast
import threading
import warnings
from collections.abc import Sequence

from harness.checks.structure import first_line, last_line
from harness.regions import Region

# warnings.catch_warnings changes state of the whole process.
_warnings_lock = threading.Lock()


def parse(text: str) -> ast.Module:
    """Raises SyntaxError, and MemoryError or ValueError for what is nested too deeply."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def head_length(body: Sequence[ast.stmt]) -> int:
    """How many statements a module begins with that must come first, docstrings included."""
    start = 0
    while start < len(body) and (
        isinstance(body[start], ast.Expr) or getattr(body[start], "module", "") == "__future__"
    ):
        start += 1
    return start


def compile_touched(
    head: Sequence[ast.stmt], rest: Sequence[ast.stmt], regions: Sequence[Region]
) -> None:
    """Compile those statements of `rest` that a region has a part in: the others compile.

    Raises SyntaxError or ValueError.
    """
    touched = [
        statement
        for statement in rest
        if any(
            first_line(statement) <= region.last and region.first <= last_line(statement)
            for region in regions
        )
    ]
    # What must come first in a file comes too late in any region below here.
    here = ast.Pass(lineno=1, col_offset=0, end_lineno=1, end_col_offset=0)
    tree = ast.Module([*head, here, *touched], [])
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compile(tree, "<edited>", "exec", dont_inherit=True)
