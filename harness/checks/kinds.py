"""What kind of code a region holds, and the signatures of what others call.

A region of definitions binds functions, classes and literal constants; one of a function holds one
plain `def`; one of a literal holds one dict of numbers that our own code can read without running
anything.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from harness.checks.scopes import collect
from harness.checks.structure import Placed, Structure, first_line, walk
from harness.constraints import Constraints, RegionRules, Signature

Report = Callable[[str, int, str], None]
"""Takes the rule, the line and the message."""

Definition: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef"


def check_kind(rules: RegionRules, code: Sequence[Placed], first: int, report: Report) -> None:
    """Check what a region holds against what it should; `first` is the region's first line."""
    statements = [placed.statement for placed in code]
    if rules.holds == "definitions":
        _definitions(rules, statements, first, report)
    elif rules.holds == "function":
        _function(rules, statements, first, report)
    elif rules.holds == "literal":
        _literal(rules, statements, first, report)


def check_scope(scope: str, code: Sequence[Placed], report: Report) -> None:
    """Check that all statements of a region stand in one function, class or the module."""
    for placed in code:
        if placed.scope != scope:
            where = f"in the body of {scope}" if scope else "at the left margin, in the module"
            report(
                "region-scope",
                first_line(placed.statement),
                f"belongs {where}; indent it as the unedited lines were",
            )
            return


def _definitions(
    rules: RegionRules, statements: Sequence[ast.stmt], first: int, report: Report
) -> None:
    for statement in statements:
        if not _is_definition(statement):
            report(
                "region-content",
                first_line(statement),
                "this region holds only classes, functions, imports and names of literal "
                "constants; move other statements into a function",
            )
    bound = collect(statements, deep=False).local()
    for name in rules.outputs:
        if name not in bound:
            report(
                "missing-name",
                first,
                f"`{name}` is no longer defined here, and locked code uses it; define it again",
            )
        defined = [s for s in statements if getattr(s, "name", None) == name]
        if name in bound and not defined:
            report("missing-name", first, f"`{name}` must be a class or function; define it as one")


def _is_definition(statement: ast.stmt) -> bool:
    match statement:
        case ast.ClassDef() | ast.FunctionDef() | ast.Import() | ast.ImportFrom() | ast.Pass():
            return True
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.Assign(targets=targets, value=value):
            plain = all(isinstance(t, ast.Name) for t in targets)
            return plain and (is_literal(value) or _is_path(value))
        case ast.AnnAssign(target=ast.Name(), value=value):
            return value is None or is_literal(value) or _is_path(value)
    return False


def _is_path(node: ast.AST) -> bool:
    """Whether it is a name, or an attribute of one: `Tensor = torch.Tensor`."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def is_literal(node: ast.AST) -> bool:
    """Whether it is a constant, a quotient of two and the like, or a display of such."""
    match node:
        case ast.Constant():
            return True
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float())):
            return True
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), left=left, right=right):
            return all(map(_is_number, (left, right)))
        case ast.Tuple(elts=elts) | ast.List(elts=elts) | ast.Set(elts=elts):
            return all(map(is_literal, elts))
        case ast.Dict(keys=keys, values=values):
            return all(k is not None and is_literal(k) for k in keys) and all(
                map(is_literal, values)
            )
    return False


def _is_number(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    return isinstance(node, ast.BinOp | ast.UnaryOp) and is_literal(node)


def _function(
    rules: RegionRules, statements: Sequence[ast.stmt], first: int, report: Report
) -> None:
    [name] = rules.outputs
    found = False
    for statement in statements:
        if isinstance(statement, ast.FunctionDef) and statement.name == name and not found:
            found = True
            if statement.decorator_list:
                report(
                    "region-content",
                    first_line(statement),
                    f"`{name}` may not be decorated; remove the decorator",
                )
        else:
            report(
                "region-content",
                first_line(statement),
                f"this region holds one `def {name}` and nothing else; move this into it",
            )
    if not found:
        report("missing-name", first, f"`def {name}` is missing here; locked code calls it")


# ---------------------------------------------------------------------------------------------


def _literal(
    rules: RegionRules, statements: Sequence[ast.stmt], first: int, report: Report
) -> None:
    [name] = rules.outputs
    way_out = f"write `{name} = {{...}}` with keys and numbers written out"
    found = False
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=bound)], value=value) if (
                bound == name and not found
            ):
                found = True
            case _:
                report(
                    "region-content",
                    first_line(statement),
                    f"this region holds one assignment to `{name}` and nothing else; {way_out}",
                )
                found = found or name in collect([statement], deep=False).local()
                continue
        if not isinstance(value, ast.Dict):
            report("literal-dict", value.lineno, f"`{name}` is no literal dict; {way_out}")
            continue
        _entries(rules, value, report)
    if not found:
        report("missing-name", first, f"`{name}` is missing here; {way_out}")


def _entries(rules: RegionRules, node: ast.Dict, report: Report) -> None:
    ranges = {key.name: key for key in rules.keys}
    seen: set[str] = set()
    for key, value in zip(node.keys, node.values, strict=True):
        if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
            at = key or value
            report("literal-dict", at.lineno, "a key is no string; write each key out")
            continue
        allowed = ranges.get(key.value)
        if allowed is None:
            shown = ", ".join(ranges) or "none"
            short = repr(key.value[:40])
            report("literal-dict", key.lineno, f"{short} is no key that may be set, only {shown}")
            continue
        if key.value in seen:
            report("literal-dict", key.lineno, f"{key.value!r} is there twice; keep one")
        seen.add(key.value)
        number = _number(value)
        if number is None:
            report(
                "literal-dict",
                value.lineno,
                f"{key.value!r} needs a plain finite number, such as 1e-3",
            )
        elif not allowed.min <= number <= allowed.max:
            report(
                "literal-dict",
                value.lineno,
                f"{key.value!r} is out of range; choose from {allowed.min:g} to {allowed.max:g}",
            )


def _number(node: ast.expr) -> int | float | None:
    """The value of a number with at most one sign; None for anything else, infinity included."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        sign = -1 if isinstance(node.op, ast.USub) else 1
        node = node.operand
    if not isinstance(node, ast.Constant) or type(node.value) not in (int, float):
        return None
    value = node.value
    assert isinstance(value, int | float)
    return sign * value if isinstance(value, int) or math.isfinite(value) else None


# ---------------------------------------------------------------------------------------------


def check_signatures(structure: Structure, constraints: Constraints, report: Report) -> None:
    """Check that the functions which locked code calls keep their parameters."""
    for signature in constraints.signatures:
        *owners, name = signature.name.split(".")
        bodies: list[Sequence[ast.stmt]] = [structure.tree.body]
        for owner in owners:
            bodies = [
                statement.body
                for body in bodies
                for statement in body
                if isinstance(statement, ast.ClassDef) and statement.name == owner
            ]
        found = list(_found(bodies, name, structure.tree))
        if not found:
            lines = [
                first_line(c)
                for c in structure.tree.body
                if owners and isinstance(c, ast.ClassDef) and c.name == owners[0]
            ]
            # Where there is no such class either, or a region has to define it, that says so.
            if lines and not any(name in region.outputs for region in constraints.regions):
                report(
                    "signature",
                    lines[-1],
                    f"`{signature.name}` is missing; define `def {name}({signature.parameters})`",
                )
        for definition in found:
            if wrong := _mismatch(definition, signature):
                report(
                    "signature",
                    definition.lineno,
                    f"`{signature.name}` {wrong}; keep `def {name}({signature.parameters})`"
                    + (", further parameters need defaults" if signature.further else ""),
                )


def _found(
    bodies: Sequence[Sequence[ast.stmt]], name: str, tree: ast.Module
) -> Iterator[Definition | ast.stmt]:
    """The definitions of a function, those of base classes in the same file if it has none."""
    seen: set[int] = set()
    pending = list(bodies)
    while pending:
        body = pending.pop()
        if id(body) in seen:
            continue
        seen.add(id(body))
        own = [s for s in body if name in collect([s], deep=False).local()]
        yield from own
        if own:
            continue
        for owner in walk(tree):
            if isinstance(owner, ast.ClassDef) and owner.body is body:
                bases = {base.id for base in owner.bases if isinstance(base, ast.Name)}
                for statement in tree.body:
                    if isinstance(statement, ast.ClassDef) and statement.name in bases:
                        pending.append(statement.body)


def _mismatch(definition: ast.stmt, signature: Signature) -> str | None:
    """What is wrong with a definition; None if nothing is."""
    if not isinstance(definition, ast.FunctionDef):
        return "is no plain function"
    if any(getattr(d, "id", "") in ("staticmethod", "property") for d in definition.decorator_list):
        return "is no plain method"
    want, have = signature.arguments, definition.args
    wanted, given = _positional(want), _positional(have)
    if [ast.dump(a) for _, a in wanted if a] != [
        ast.dump(a) for _, a in given[: len(wanted)] if a
    ] or [(n, a is None) for n, a in wanted] != [(n, a is None) for n, a in given[: len(wanted)]]:
        return "has other parameters"
    if len(have.posonlyargs) > len(want.posonlyargs):
        return "has parameters that can't be given by name"
    more = given[len(wanted) :]
    needs = [d for d in have.kw_defaults if d is None]
    if signature.further:
        if any(default is None for _, default in more) or needs:
            return "has a further parameter without a default"
        return None
    extra = more or have.kwonlyargs or have.vararg or have.kwarg
    return "has further parameters" if extra else None


def _positional(arguments: ast.arguments) -> list[tuple[str, ast.expr | None]]:
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    missing = len(names) - len(arguments.defaults)
    defaults: list[ast.expr | None] = [*([None] * missing), *arguments.defaults]
    return list(zip(names, defaults, strict=True))
