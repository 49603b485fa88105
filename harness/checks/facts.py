"""What the locked code of a file binds and reads, worked out once for each unedited file."""

from __future__ import annotations

import ast
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from harness.checks.scopes import Binding, Names, collect
from harness.checks.structure import Function, Structure, children, read_structure, walk
from harness.regions import EditableFile

Path = tuple[str, ...]
"""Attributes from an object on: `("transformer", "ln_f")` of `self.transformer.ln_f`."""


@dataclass(frozen=True)
class Parts:
    """What locked code reads off the instances of one class, and so expects to find there."""

    read: frozenset[Path] = frozenset()
    """each object on the way too: `("transformer",)` of `self.transformer.ln_f(x)`"""
    called: frozenset[Path] = frozenset()

    def holds(self, path: Path) -> bool:
        """Whether it is an object that has parts among its attributes, and is none itself."""
        return path in self.read and path not in self.called

    def names(self, path: Path) -> frozenset[str]:
        """What locked code reads off the object at `path`."""
        length = len(path)
        return frozenset(p[length] for p in self.read if len(p) > length and p[:length] == path)


NO_PARTS = Parts()


@dataclass(frozen=True)
class LockedFacts:
    """Names and attributes of the locked code of one file."""

    structure: Structure
    names: Names
    """of the module, its functions' free names included; regions left out"""
    module_read: frozenset[str]
    """read in the module's scope, from anywhere"""
    module_bound: frozenset[str]
    imports: dict[str, Binding]
    """what the module's imports bind, by name"""
    modules: frozenset[str]
    """dotted names that are modules, `torch.nn` of `import torch.nn.functional` among them"""
    methods: dict[str, frozenset[str]]
    """by class: what it defines, and what locked code calls on a plain name, `model.eval()`"""
    module_attributes: frozenset[str]
    """read from modules: `cross_entropy` of `F.cross_entropy(…)`"""
    parts: dict[str, Parts]
    """by class: what locked code uses of its instances"""
    locked_methods: frozenset[str]
    """defined by a locked class"""
    shared_attributes: frozenset[str]
    """those of modules; methods, settings and special names of locked classes; methods that locked
    code calls on whatever object: assigned on what can't be told, they may change locked code"""

    def reads_line(self, name: str, after: int = 0) -> int | None:
        """The first line below `after` on which locked code reads a name of the module."""
        lines = [line for n, line in (*self.names.read, *self.names.free) if n == name]
        return min((line for line in lines if line > after), default=min(lines, default=None))


@lru_cache(maxsize=32)
def locked_facts(pristine: EditableFile) -> LockedFacts:
    """The facts of an unedited file. Raises SyntaxError if it does not parse."""
    structure = read_structure(pristine, ast.parse(pristine.text))
    names = collect(structure.tree.body, structure.is_region)
    imports = {b.name: b for b in names.bound if b.target is not None}
    modules: set[str] = set()
    for node in walk(structure.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                modules.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    called = _called_on_names(structure)
    of_modules = frozenset(_module_attributes(structure, imports))
    return LockedFacts(
        structure=structure,
        names=names,
        module_read=frozenset(names.all_read()),
        module_bound=frozenset(names.local()),
        imports=imports,
        modules=frozenset(modules),
        methods={
            node.name: called | {m.name for m in node.body if isinstance(m, Function)}
            for node in structure.tree.body
            if isinstance(node, ast.ClassDef) and not structure.is_region(node)
        },
        module_attributes=of_modules,
        parts={
            node.name: _parts(structure, node)
            for node in structure.tree.body
            if isinstance(node, ast.ClassDef) and not structure.is_region(node)
        },
        locked_methods=frozenset(_locked_methods(structure)),
        shared_attributes=of_modules | _shared_attributes(structure),
    )


def _locked_nodes(structure: Structure, within: ast.AST | None = None) -> list[ast.AST]:
    found: list[ast.AST] = []
    pending: list[ast.AST] = [within or structure.tree]
    while pending:
        node = pending.pop()
        if not structure.is_region(node):
            found.append(node)
            pending.extend(children(node))
    return found


def _module_attributes(structure: Structure, imports: dict[str, Binding]) -> set[str]:
    def rooted(node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in imports

    return {
        node.attr
        for node in _locked_nodes(structure)
        if isinstance(node, ast.Attribute) and rooted(node.value)
    }


def _locked_methods(structure: Structure) -> set[str]:
    return {
        part.name
        for node in _locked_nodes(structure)
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, Function) and not structure.is_region(part)
    }


def _shared_attributes(structure: Structure) -> set[str]:
    called: set[str] = set()
    settings: set[str] = set()
    plain: set[str] = set()  # what locked code itself sets, or looks for, on one object
    for node in _locked_nodes(structure):
        match node:
            case ast.Call(func=ast.Attribute(attr=attr)):
                called.add(attr)
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(attr)), *_]):
                plain.add(attr)
            case ast.Attribute(attr=attr, ctx=ast.Store()):
                plain.add(attr)
            case ast.ClassDef(body=body):
                fields = [part for part in body if isinstance(part, ast.AnnAssign)]
                settings.update(f.target.id for f in fields if isinstance(f.target, ast.Name))
    return _locked_methods(structure) | (called | settings) - plain


def _instance_names(structure: Structure) -> set[str]:
    """Names that hold an instance of a locked class somewhere: `self`, and what one is made for."""
    classes = {
        node.name
        for node in structure.tree.body
        if isinstance(node, ast.ClassDef) and not structure.is_region(node)
    }
    names = {"self"}
    for node in _locked_nodes(structure):
        if isinstance(node, ast.Assign) and any(
            isinstance(made, ast.Call)
            and isinstance(made.func, ast.Name)
            and made.func.id in classes
            for made in walk(node.value)
        ):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def _parts(structure: Structure, owner: ast.ClassDef) -> Parts:
    """What locked methods read off `self`, and other locked code off the names of instances."""
    inside = _locked_nodes(structure, owner)
    within = set(map(id, inside))
    outside = [node for node in _locked_nodes(structure) if id(node) not in within]
    instances = {
        target.id
        for node in outside
        if isinstance(node, ast.Assign)
        and any(
            isinstance(made, ast.Call) and getattr(made.func, "id", "") == owner.name
            for made in walk(node.value)
        )
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    read: set[Path] = set()
    called: set[Path] = set()
    for nodes, names in ((inside, {"self"}), (outside, instances)):
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                path = _path(node, names)
                read.update(path[:end] for end in range(1, len(path) + 1))
            elif isinstance(node, ast.Call):
                called.add(_path(node.func, names))
    return Parts(frozenset(read), frozenset(called - {()}))


def _path(node: ast.expr, names: Collection[str]) -> Path:
    """The attributes that an expression leads through from one of `names` on; else empty."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    return tuple(path) if isinstance(node, ast.Name) and node.id in names else ()


def _called_on_names(structure: Structure) -> frozenset[str]:
    """Attributes that locked code calls on an instance of a locked class."""
    instances = _instance_names(structure)
    called: set[str] = set()
    stored: set[str] = set()
    for node in walk(structure.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            stored.add(node.attr)
    for node in _locked_nodes(structure):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)):
                if name in instances:
                    called.add(attr)
    return frozenset(called - stored)
