"""What a name or an expression stands for, as far as the text tells: modules, classes, the model.

Follows imports, assignments, loops over displays and choices between values. It errs towards
taking a name for a module: that matters only where attributes of it are assigned.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from harness.checks.facts import LockedFacts
from harness.checks.scopes import collect, parameter_names
from harness.checks.structure import Function, ScopeNode, Structure, walk

SELF, OWN, CLASS = "<self>", "<own>", "<class>"
"""The object that a locked class's method is called on; that of a region's class; any class."""

UNKNOWN = "<builtin>"
"""A name that no scope binds."""


@dataclass
class Scope:
    """Names of a scope: what each surely or possibly stands for, None for any object."""

    names: dict[str, str | None] = field(default_factory=dict)
    is_class: bool = False


def module_scope(facts: LockedFacts, structure: Structure) -> Scope:
    """The scope of a module, with what its regions bind there."""
    own = [placed.statement for _, placed in structure.placed() if not placed.scope]
    names: dict[str, str | None] = {b.name: b.target for b in collect(own, deep=False).bound}
    for name in facts.module_bound:
        binding = facts.imports.get(name)
        names[name] = (binding.target if binding else None) or f"<locked>.{name}"
    return Scope(names)


def local_scopes(scopes: Sequence[ScopeNode]) -> tuple[list[Scope], str]:
    """The scopes below the module's, and the name of the class around the innermost one."""
    found, owner = [], ""
    for outer, node in pairwise(scopes):
        scope = Scope(is_class=isinstance(node, ast.ClassDef))
        for binding in collect(node.body, deep=False).bound:
            scope.names[binding.name] = binding.target or scope.names.get(binding.name)
        if isinstance(node, ast.ClassDef):
            owner = node.name
        elif isinstance(node, Function):
            parameters = [parameter.arg for parameter in parameter_names(node.args)]
            scope.names.update(dict.fromkeys(parameters))
            if isinstance(outer, ast.ClassDef) and parameters:
                scope.names[parameters[0]] = SELF
        found.append(scope)
    return found, owner


class Resolver:
    """Scopes, from the module's inwards, and what their names stand for."""

    def __init__(self, module: Scope) -> None:
        self.scopes: list[Scope] = [module]

    def lookup(self, name: str) -> str | None:
        """What a name stands for here: a dotted name, a mark, None for any object."""
        for depth, scope in enumerate(reversed(self.scopes)):
            if name not in scope.names or (depth and scope.is_class):
                continue
            # A class body reads the name further out until it has bound its own.
            if scope.names[name] is not None or not scope.is_class:
                return scope.names[name]
        return UNKNOWN

    def dotted(self, node: ast.AST) -> str | None:
        """`torch.nn.functional` for `F`, say; None for what could be any object."""
        match node:
            case ast.Name(id="__class__"):
                return CLASS
            case ast.Name(id=name):
                found = self.lookup(name)
                return None if found == UNKNOWN else found
            case ast.Attribute(attr="__class__"):
                return CLASS
            case ast.Attribute(value=value, attr=attr):
                base = self.dotted(value)
                return None if base is None else f"{base}.{attr}"
            case ast.Call(func=ast.Name(id="type"), args=[_]):
                return CLASS
            case ast.Call(
                func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str(attr)), *_]
            ):
                base = self.dotted(value)
                return None if base is None else f"{base}.{attr}"
        return self.among(node)

    def among(self, node: ast.AST) -> str | None:
        """What a choice or a display of values may hand out."""
        parts: Iterable[ast.expr | None]
        match node:
            case ast.NamedExpr(value=value) | ast.Starred(value=value):
                parts = [value]
            case ast.IfExp(body=body, orelse=orelse):
                parts = [body, orelse]
            case ast.BoolOp(values=values) | ast.Dict(values=values):
                parts = values
            case ast.Tuple(elts=elts) | ast.List(elts=elts) | ast.Set(elts=elts):
                parts = elts
            case ast.Subscript(value=ast.Tuple() | ast.List() | ast.Dict() as value):
                parts = [value]
            case _:
                return None
        found = [self.dotted(part) for part in parts if part is not None]
        return next((name for name in found if name and name != OWN), None)

    def alias(self, target: ast.AST, value: ast.AST | None) -> None:
        """Remember that the names in `target` may stand for what `value` does."""
        name = self.dotted(value) if value is not None else None
        if name is None:
            return
        for node in walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                for scope in reversed(self.scopes):
                    if node.id in scope.names:
                        if scope.names[node.id] is None:
                            scope.names[node.id] = name
                        break
