"""Names that a region may not rebind or mention, and ways in which it may not leave locked code.

Guaranteed: what a name stands for where locked code reads it is what locked code, or a declared
output of a region, bound it to. Attributes of objects are another rule's matter (`reach`).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence

from harness.checks.facts import LockedFacts
from harness.checks.scopes import Binding, Names, collect, read_after
from harness.checks.structure import (
    Function,
    Placed,
    ScopeNode,
    Structure,
    children,
    first_line,
    walk,
)
from harness.constraints import RegionRules

Report = Callable[[str, int, str], None]
"""Takes the rule, the line and the message."""

RULE = "rebound-name"


def check_rebinding(
    structure: Structure,
    facts: LockedFacts,
    rules: RegionRules,
    code: Sequence[Placed],
    report: Report,
) -> None:
    """Check the names that one region's statements bind."""
    by_scope: dict[int, list[Placed]] = {}
    for placed in code:
        by_scope.setdefault(id(placed.scopes[-1]), []).append(placed)
    for group in by_scope.values():
        names = collect(placed.statement for placed in group)
        for binding in names.outer:
            if binding.how == "global":
                _check_global(facts, binding, report)
        scope = group[0].scopes[-1]
        if isinstance(scope, ast.Module):
            _check_module(structure, facts, rules, group, names, report)
        elif isinstance(scope, ast.ClassDef):
            _check_class(structure, scope, rules, names, report)
        else:
            _check_function(structure, facts, scope, rules, group, names, report)


def _check_global(facts: LockedFacts, binding: Binding, report: Report) -> None:
    if binding.name in facts.module_read | facts.module_bound:
        report(
            RULE,
            binding.line,
            f"`global {binding.name}` would change what locked code uses; take another name",
        )


def _check_module(
    structure: Structure,
    facts: LockedFacts,
    rules: RegionRules,
    group: Sequence[Placed],
    names: Names,
    report: Report,
) -> None:
    taken = facts.module_read | facts.module_bound
    if rules.holds == "statements":
        later = {name for name, _ in facts.names.free}
        for placed in group:
            later |= read_after(placed, structure.is_region)
        taken = frozenset(later)
    for binding in names.bound:
        if binding.name not in taken or binding.name in rules.outputs:
            continue
        if _same_import(facts, binding):
            continue
        report(
            RULE,
            binding.line,
            f"`{binding.name}` is what locked code uses under this name{_where(facts, binding)}; "
            "take another name",
        )


def _where(facts: LockedFacts, binding: Binding) -> str:
    line = facts.reads_line(binding.name)
    return "" if line is None or facts.structure.file.regions else f" (line {line})"


def _same_import(facts: LockedFacts, binding: Binding) -> bool:
    """`import math` again is no change, where locked code has it already."""
    locked = facts.imports.get(binding.name)
    return binding.target is not None and locked is not None and locked.target == binding.target


def _check_class(
    structure: Structure, scope: ast.ClassDef, rules: RegionRules, names: Names, report: Report
) -> None:
    locked = collect(scope.body, structure.is_region, deep=False)
    taken = locked.local() | {name for name, _ in locked.read}
    for binding in names.bound:
        if binding.name in taken and binding.name not in rules.outputs:
            report(
                RULE,
                binding.line,
                f"`{binding.name}` belongs to the locked part of class {scope.name}; "
                "take another name",
            )


def _check_function(
    structure: Structure,
    facts: LockedFacts,
    scope: Function,
    rules: RegionRules,
    group: Sequence[Placed],
    names: Names,
    report: Report,
) -> None:
    locked = collect([*scope.body], structure.is_region)
    own = locked.local() | {arg.arg for arg in walk(scope.args) if isinstance(arg, ast.arg)}
    read = locked.all_read()
    later = {name for name, _ in locked.free}
    for placed in group:
        later |= read_after(placed, structure.is_region)
    first = min(placed.statement.lineno for placed in group)

    def line_of(name: str, after: int = 0) -> int:
        lines = [line for n, line in (*locked.read, *locked.free) if n == name]
        return min((line for line in lines if line > after), default=lines[0])

    for binding in names.bound:
        name, line = binding.name, binding.line
        if binding.how in ("global", "nonlocal"):
            if name in own | read or (
                binding.how == "global" and name in facts.module_read | facts.module_bound
            ):
                what = f"`{binding.how} {name}` changes what `{name}` is in locked lines"
                report(RULE, line, f"{what}; take another name")
        elif name in rules.outputs or (binding.how == "annotate" and name in own):
            continue
        elif name in read - own and not (_same_import(facts, binding) and line_of(name) > first):
            report(
                RULE,
                line,
                f"binding `{name}` makes it a local name of {scope.name}, where line "
                f"{line_of(name)} means the one outside; take another name",
            )
        elif name in later and name in own:
            report(
                RULE,
                line,
                f"`{name}` is read again by the locked line {line_of(name, first)}; "
                "take another name" + _or_outputs(rules),
            )
    for binding in names.outer:
        if binding.how == "nonlocal" and binding.name in (own | read) - set(rules.outputs):
            report(
                RULE,
                binding.line,
                f"`nonlocal {binding.name}` would change a name of the locked lines, at any time; "
                "take another name",
            )


def _or_outputs(rules: RegionRules) -> str:
    shown = ", ".join(f"`{name}`" for name in rules.outputs)
    return f", or hand the result on in {shown}" if shown else ""


# ---------------------------------------------------------------------------------------------


def check_leaving(code: Sequence[Placed], report: Report) -> None:
    """Check that no statement leaves, or jumps in, the locked function around it."""
    for placed in code:
        scopes = placed.scopes
        in_loop = _in_locked_loop(placed, scopes[-1])
        _leaving(placed.statement, in_loop, scopes[-1], report)


def _in_locked_loop(placed: Placed, scope: ScopeNode) -> bool:
    for step in reversed(placed.path):
        if step.owner is scope:
            return False
        if isinstance(step.owner, ast.For | ast.AsyncFor | ast.While) and step.field == "body":
            return True
    return False


def _leaving(node: ast.AST, in_loop: bool, scope: ScopeNode, report: Report) -> None:
    where = getattr(scope, "name", "the module")
    match node:
        case ast.Return() | ast.Yield() | ast.YieldFrom() | ast.Await():
            word = {"YieldFrom": "yield"}.get(type(node).__name__, type(node).__name__.lower())
            report(
                "leaves-locked-code",
                node.lineno,
                f"`{word}` would leave {where} before its locked lines have run; "
                "assign the result and let them go on",
            )
        case ast.Break() | ast.Continue() if in_loop:
            word = type(node).__name__.lower()
            report(
                "leaves-locked-code",
                node.lineno,
                f"`{word}` would skip locked lines of the loop around this region; use `if`",
            )
        case ast.AsyncFor() | ast.AsyncWith():
            report(
                "leaves-locked-code",
                node.lineno,
                f"an asynchronous statement waits within {where}; use the plain one",
            )
    # A `break` in the body of a loop of its own is that loop's.
    own = node.body if isinstance(node, ast.For | ast.AsyncFor | ast.While) else ()
    for child in _inside(node):
        _leaving(child, in_loop and child not in own, scope, report)


def _inside(node: ast.AST) -> list[ast.AST]:
    """The parts that run in the same function."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            arguments = [*node.args.defaults, *node.args.kw_defaults]
            return [part for part in (*node.decorator_list, *arguments) if part is not None]
        case ast.Lambda():
            arguments = [*node.args.defaults, *node.args.kw_defaults]
            return [part for part in arguments if part is not None]
    return children(node)


# ---------------------------------------------------------------------------------------------


def check_forbidden(names: Iterable[str], code: Sequence[Placed], report: Report) -> None:
    """Check that statements neither read nor bind any of `names`, in whatever scope."""
    forbidden = frozenset(names)
    for placed in code:
        for node in walk(placed.statement):
            for name in sorted(forbidden.intersection(_names_of(node))):
                report(
                    "forbidden-name",
                    getattr(node, "lineno", first_line(placed.statement)),
                    f"`{name}` may not be read or bound in a region; do without it, or take "
                    "another name if you mean something else",
                )


def _names_of(node: ast.AST) -> Iterable[str | None]:
    match node:
        case ast.Name(id=name) | ast.arg(arg=name) | ast.MatchMapping(rest=name):
            return [name]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
            return [name]
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            return names
        case ast.alias():
            return [node.asname, *node.name.split(".")]
    return []
