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
from harness.checks.structure import Function, ScopeNode, walk

SELF, OWN, CLASS = "<self>", "<own>", "<class>"
"""The object that a locked class's method is called on; that of a region's class; any class."""

NEW, MADE = "<new>", "<made>"
"""An object that was just made, or a parameter of the model; a class or function of a region."""

UNKNOWN = "<builtin>"
"""A name that no scope binds."""


@dataclass
class Scope:
    """Names of a scope: what each surely or possibly stands for, None for any object."""

    names: dict[str, str | None] = field(default_factory=dict)
    is_class: bool = False
    mixed: set[str] = field(default_factory=set)
    """names that may stand for something unknown as well"""
    attributes: dict[str, str] = field(default_factory=dict)
    """of the module only: classes, and the model itself, that are kept under an attribute"""


def module_scope(facts: LockedFacts, own: Sequence[ast.stmt]) -> Scope:
    """The scope of a module, with what `own`, its regions' statements in it, bind."""
    names: dict[str, str | None] = {b.name: b.target for b in collect(own, deep=False).bound}
    for name in facts.module_bound:
        binding = facts.imports.get(name)
        names[name] = (binding.target if binding else None) or f"<locked>.{name}"
    return Scope(names)


def local_scopes(scopes: Sequence[ScopeNode]) -> tuple[list[Scope], str]:
    """The scopes below the module's, and the name of the class around the innermost one."""
    found, owner = [], ""
    for outer, node in pairwise(scopes):
        found.append(local_scope(outer, node))
        if isinstance(node, ast.ClassDef):
            owner = node.name
    return found, owner


def local_scope(outer: ScopeNode, node: ScopeNode) -> Scope:
    """The scope of a class or function that stands in `outer`."""
    scope = Scope(is_class=isinstance(node, ast.ClassDef))
    for binding in collect(node.body, deep=False).bound:
        scope.names[binding.name] = binding.target or scope.names.get(binding.name)
    if isinstance(node, Function):
        parameters = [parameter.arg for parameter in parameter_names(node.args)]
        scope.names.update(dict.fromkeys(parameters))
        scope.mixed.update(parameters)
        if isinstance(outer, ast.ClassDef) and parameters:
            scope.names[parameters[0]] = SELF
    return scope


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
                return self._attribute(value, attr)
            case ast.Subscript(value=ast.Attribute() | ast.Name() as value, slice=index) if (
                self.dotted(value) or ""
            ).startswith(SELF + "."):
                if isinstance(index, ast.Constant) and isinstance(index.value, str):
                    return self._attribute(value, index.value)  # as module containers have it
                return self.dotted(value)
            case ast.Call(func=ast.Name(id="type"), args=[_]):
                return CLASS
            case ast.Call(
                func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str(attr)), *_]
            ):
                return self._attribute(value, attr)
            case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in _PARTS:
                return self._part(self.dotted(value), attr)
            case ast.Call(func=function):
                made = self.dotted(function)
                # What a class of another module returns is an object of its own.
                last = made.rpartition(".")[2] if made and "." in made else ""
                return NEW if last[:1].isupper() and made and made[0] != "<" else None
        return self.among(node)

    def _attribute(self, value: ast.AST, attr: str) -> str | None:
        base = self.dotted(value)
        if base is None or is_safe(base):
            kept = self.scopes[0].attributes.get(attr)
            if kept is not None or base in (None, NEW, MADE):
                return kept
        return f"{base}.{attr}"

    def _part(self, owner: str | None, method: str) -> str | None:
        """What `module.parameters()` and its like hand out."""
        if owner is None or not owner.startswith(SELF):
            return None
        # The modules of the model begin with the model; whose children are is told by its owner.
        return NEW if "parameters" in method or "buffers" in method else owner

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
        shared = [name for name in found if name and not is_safe(name)]
        if shared or None in found:
            return shared[0] if shared else None
        return self._chief([name for name in found if name])

    def _chief(self, names: Sequence[str]) -> str | None:
        """Of several safe things that a value may be the one that most depends on."""
        ranks = {OWN: 0, SELF: 3}
        ranked = [(ranks.get(name, 2 if self.is_part(name) else 1), name) for name in names]
        rank, name = max(ranked, key=lambda pair: pair[0], default=(0, None))
        return name if rank else None

    def is_part(self, name: str) -> bool:
        """Whether locked code uses a part of the model; here none is known."""
        return False

    def alias(self, target: ast.AST, value: ast.AST | None) -> None:
        """Remember that the names in `target` may stand for what `value` does."""
        if value is None:
            return
        match target, value:
            # An index, or a name, stands beside what is looped over.
            case ast.Tuple(elts=[beside, inner]), ast.Call(func=ast.Name(id="enumerate")) if (
                value.args
            ):
                self.alias(inner, value.args[0])
                self.alias(beside, ast.Constant(0))
                return
            case ast.Tuple(elts=[beside, inner]), ast.Call(func=ast.Attribute(attr=attr)) if (
                attr in _PARTS and attr.startswith("named_")
            ):
                self._bind(inner, self.dotted(value))
                self._bind(beside, None)
                return
            case (ast.Tuple(elts=parts), ast.Call(func=ast.Name(id="zip"), args=values)) | (
                ast.Tuple(elts=parts),
                ast.Tuple(elts=values),
            ) if len(parts) == len(values) and not any(
                isinstance(part, ast.Starred) for part in (*parts, *values)
            ):
                for part, one in zip(parts, values, strict=True):
                    self.alias(part, one)
                return
        self._bind(target, self.dotted(value))

    def _bind(self, target: ast.AST, name: str | None) -> None:
        for node in walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.may_be(node.id, name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                last = (name or "").rpartition(".")[2]
                a_class = name == CLASS or (last[:1].isupper() and not is_safe(last))
                if name is not None and (name == SELF or a_class):
                    self.scopes[0].attributes.setdefault(node.attr, name)

    def may_be(self, id: str, name: str | None) -> None:
        """Remember one thing that a name stands for; None for any object.

        The first class or module stays. What is safe to assign on has to be so in each case.
        """
        for scope in reversed(self.scopes):
            if id not in scope.names:
                continue
            known = scope.names[id]
            if known is not None and not is_safe(known):
                return
            if name is None:
                scope.mixed.add(id)
                scope.names[id] = None
            elif not is_safe(name):
                scope.names[id] = name
            elif id not in scope.mixed:
                scope.names[id] = self._chief([name, *([known] if known else [])]) or name
            return


_PARTS = frozenset(
    prefix + part
    for prefix in ("", "named_")
    for part in ("parameters", "buffers", "children", "modules")
)


def is_safe(name: str) -> bool:
    """Whether it is the model, a part of it, or an object of the region's own."""
    return name.startswith((SELF, OWN, NEW, MADE))
