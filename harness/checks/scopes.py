"""Names: what code binds, what it reads, and what locked code still reads after a region.

Follows Python's own rules of scope: parameters, comprehensions, class bodies, `global` and
`nonlocal`, and each of the statements that bind. Conservative where the flow of control is not
plain: a name counts as read unless it is assigned first on every way.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from harness.checks.structure import Placed, children

Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True)
class Binding:
    """One place that binds, deletes or declares a name."""

    name: str
    line: int
    target: str | None = None
    """what an import binds it to, as a dotted name"""
    module: bool = False
    """whether `target` is surely a module"""
    how: str = "bind"
    """`bind`, `delete`, `annotate` (no value), `global` or `nonlocal`"""


@dataclass
class Names:
    """The names of some code within one scope."""

    bound: list[Binding] = field(default_factory=list)
    read: list[tuple[str, int]] = field(default_factory=list)
    free: list[tuple[str, int]] = field(default_factory=list)
    """read by functions defined here, whenever they are called"""
    outer: list[Binding] = field(default_factory=list)
    """bound by functions and classes defined here, but not in their own scope"""
    walrus: list[Binding] = field(default_factory=list)
    """bound by a comprehension in the scope around it"""

    def declared(self, how: str) -> set[str]:
        return {binding.name for binding in self.bound if binding.how == how}

    def local(self) -> set[str]:
        """What is a name of this scope."""
        elsewhere = self.declared("global") | self.declared("nonlocal")
        return {binding.name for binding in self.bound} - elsewhere

    def all_read(self) -> set[str]:
        return {name for name, _ in self.read} | {name for name, _ in self.free}


Skip: TypeAlias = "Callable[[ast.AST], bool]"


def _nothing(node: ast.AST) -> bool:
    return False


def collect(nodes: Iterable[ast.AST], skip: Skip = _nothing, *, deep: bool = True) -> Names:
    """The names of statements or expressions of one scope; what `skip` names is left out.

    Not `deep`, the bodies of functions and classes are left out too, which is enough to know what
    the scope's own names are where no inner one declares them `nonlocal`.
    """
    collector = _Collector(skip, deep=deep)
    for node in nodes:
        collector.visit(node)
    return collector.names


def import_bindings(node: ast.Import | ast.ImportFrom) -> list[Binding]:
    """What an import statement binds; a star binds what can't be told and is left out."""
    if isinstance(node, ast.Import):
        return [
            Binding(
                alias.asname or alias.name.partition(".")[0],
                node.lineno,
                alias.name if alias.asname else alias.name.partition(".")[0],
                module=True,
            )
            for alias in node.names
        ]
    package = "." * node.level + (node.module or "")
    return [
        Binding(alias.asname or alias.name, node.lineno, f"{package}.{alias.name}")
        for alias in node.names
        if alias.name != "*"
    ]


def parameter_names(arguments: ast.arguments) -> list[ast.arg]:
    """All parameters, in the order in which they are written."""
    found = [*arguments.posonlyargs, *arguments.args]
    found += [arguments.vararg] if arguments.vararg else []
    found += arguments.kwonlyargs
    return found + ([arguments.kwarg] if arguments.kwarg else [])


_NAMING = (
    ast.Name, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda,
    ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.NamedExpr,
    ast.AugAssign, ast.AnnAssign, ast.Global, ast.Nonlocal, ast.ExceptHandler, ast.MatchAs,
    ast.MatchStar, ast.MatchMapping,
)  # fmt: skip
"""what is not told by its parts alone"""


class _Collector:
    def __init__(self, skip: Skip, *, deep: bool = True, comprehension: bool = False) -> None:
        self.names = Names()
        self.skip, self.deep = skip, deep
        self.comprehension = comprehension

    def bind(self, name: str | None, node: ast.AST, how: str = "bind") -> None:
        if name is not None:
            self.names.bound.append(Binding(name, getattr(node, "lineno", 1), how=how))

    def visit_all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def visit(self, node: ast.AST) -> None:
        if self.skip(node):
            return
        if not isinstance(node, _NAMING):
            for part in children(node):
                self.visit(part)
            return
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                self.names.read.append((name, node.lineno))
            case ast.Name(id=name, ctx=context):
                self.bind(name, node, "delete" if isinstance(context, ast.Del) else "bind")
            case ast.Import() | ast.ImportFrom():
                self.names.bound += import_bindings(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.bind(node.name, node)
                self.visit_all(node.decorator_list)
                self.visit_all([node.returns])
                self._function(node.args, node.body, getattr(node, "type_params", []))
            case ast.Lambda():
                self._function(node.args, [node.body], [])
            case ast.ClassDef():
                self.bind(node.name, node)
                self.visit_all([*node.decorator_list, *node.bases, *node.keywords])
                self._class(node)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._comprehension(node)
            case ast.NamedExpr(target=ast.Name(id=name)) if self.comprehension:
                self.names.walrus.append(Binding(name, node.lineno))
                self.visit(node.value)
            case ast.AugAssign(target=ast.Name(id=name)):
                self.names.read.append((name, node.lineno))
                self.visit_all([node.value, node.target])
            case ast.AnnAssign(target=ast.Name(id=name), value=None):
                self.visit(node.annotation)
                self.bind(name, node, "annotate")
            case ast.Global() | ast.Nonlocal():
                how = "global" if isinstance(node, ast.Global) else "nonlocal"
                for name in node.names:
                    self.bind(name, node, how)
            case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
                self.visit_all(children(node))
                self.bind(node.name, node)
            case ast.MatchMapping():
                self.visit_all(children(node))
                self.bind(node.rest, node)
            case _:
                self.visit_all(children(node))

    def _function(
        self, arguments: ast.arguments, body: Sequence[ast.AST], type_params: Sequence[ast.AST]
    ) -> None:
        parameters = parameter_names(arguments)
        self.visit_all([*arguments.defaults, *arguments.kw_defaults])
        self.visit_all([parameter.annotation for parameter in parameters])
        if not self.deep:
            return
        inner = _Collector(self.skip)
        for parameter in parameters:
            inner.bind(parameter.arg, parameter)
        for type_parameter in type_params:
            inner.bind(getattr(type_parameter, "name", None), type_parameter)
        inner.visit_all(body)
        names = inner.names
        local = names.local()
        self.names.free += [item for item in (*names.read, *names.free) if item[0] not in local]
        self._outer(names, local)

    def _class(self, node: ast.ClassDef) -> None:
        if not self.deep:
            return
        inner = _Collector(self.skip)
        inner.visit_all(node.body)
        names = inner.names
        local = names.local()
        self.names.read += [item for item in names.read if item[0] not in local]
        self.names.free += names.free  # functions do not see the names of a class around them
        self._outer(names, set())

    def _comprehension(self, node: Comprehension) -> None:
        first = node.generators[0]
        self.visit(first.iter)
        inner = _Collector(self.skip, deep=self.deep, comprehension=True)
        for generator in node.generators:
            inner.visit(generator.target)
        for generator in node.generators:
            inner.visit_all([*generator.ifs, None if generator is first else generator.iter])
        inner.visit_all([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])
        names = inner.names
        local = names.local()
        read = [item for item in names.read if item[0] not in local]
        (self.names.free if isinstance(node, ast.GeneratorExp) else self.names.read).extend(read)
        self.names.free += [item for item in names.free if item[0] not in local]
        (self.names.walrus if self.comprehension else self.names.bound).extend(names.walrus)
        self._outer(names, local)

    def _outer(self, names: Names, local: set[str]) -> None:
        """Pass on what an inner scope binds further out: `local` are the names that end there."""
        for how in ("global", "nonlocal"):
            for name in names.declared(how):
                lines = [b.line for b in names.bound if b.name == name and b.how != how]
                # Declared and only read, it changes nothing.
                self.names.outer += [Binding(name, line, how=how) for line in lines[:1]]
        self.names.outer += [
            binding
            for binding in names.outer
            if binding.how == "global" or binding.name not in local
        ]


# ---------------------------------------------------------------------------------------------
# What is read later

Flow: TypeAlias = "tuple[set[str], set[str] | None]"
"""Names read before they are assigned; names assigned on every way through, None if there is no
way through."""


def exposed(statements: Sequence[ast.stmt], skip: Skip) -> Flow:
    """The flow of names through statements of one scope, those that `skip` names left out."""
    read: set[str] = set()
    assigned: set[str] = set()
    for statement in statements:
        if skip(statement):
            continue
        more, then = _flow(statement, skip)
        read |= more - assigned
        if then is None:
            return read, None
        assigned |= then
    return read, assigned


def _expressions(
    nodes: Iterable[ast.AST | None], skip: Skip = _nothing
) -> tuple[set[str], set[str]]:
    names = collect((node for node in nodes if node is not None), skip)
    assigned = {binding.name for binding in names.bound if binding.how == "bind"}
    return names.all_read(), assigned


def _flow(statement: ast.stmt, skip: Skip) -> Flow:
    match statement:
        case ast.If():
            read, assigned = _expressions([statement.test])
            ways = [exposed(statement.body, skip), exposed(statement.orelse, skip)]
            for more, _ in ways:
                read |= more - assigned
            through = [then for _, then in ways if then is not None]
            return read, assigned | set.intersection(*through) if through else None
        case ast.For() | ast.AsyncFor():
            read, assigned = _expressions([statement.iter])
            more, targets = _expressions([statement.target])
            body, _ = exposed(statement.body, skip)
            return read | more | (body - targets) | exposed(statement.orelse, skip)[0], assigned
        case ast.While():
            read, assigned = _expressions([statement.test])
            read |= exposed(statement.body, skip)[0] - assigned
            return read | (exposed(statement.orelse, skip)[0] - assigned), assigned
        case ast.With() | ast.AsyncWith():
            read, assigned = _expressions(statement.items)
            more, then = exposed(statement.body, skip)
            return read | (more - assigned), None if then is None else then | assigned
        case ast.Try() | ast.TryStar():
            read = exposed(statement.body, skip)[0] | exposed(statement.orelse, skip)[0]
            for handler in statement.handlers:
                read |= _expressions([handler.type])[0]
                read |= exposed(handler.body, skip)[0] - {handler.name or ""}
            more, then = exposed(statement.finalbody, skip)
            return read | more, then
        case ast.Match():
            read, assigned = _expressions([statement.subject])
            for case in statement.cases:
                more, targets = _expressions([case.pattern, case.guard])
                read |= more | (exposed(case.body, skip)[0] - targets)
            return read, assigned
        case ast.Return() | ast.Raise():
            return _expressions([statement])[0], None
        case _:
            return _expressions([statement], skip)


def read_after(placed: Placed, skip: Skip) -> set[str]:
    """Names whose value locked code of the same scope reads once `placed` has run."""
    live: set[str] = set()
    assigned: set[str] = set()
    for step in reversed(placed.path):
        siblings = getattr(step.owner, step.field)
        if step.field not in ("handlers", "cases"):
            after = siblings[siblings.index(step.child) + 1 :]
            more, then = exposed(after, skip)
            live |= more - assigned
            assigned |= then or set()
        if isinstance(step.owner, ast.For | ast.AsyncFor | ast.While | ast.Try | ast.TryStar):
            # Round again, or on to a handler; what is assigned below here may not have been.
            live |= _flow(step.owner, skip)[0]
        if isinstance(step.owner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            break
    return live
