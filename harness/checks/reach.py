"""What the code of a region may reach: forbidden names, frames, modules, shared objects.

Guaranteed: no region names a forbidden name, calls what hands out a scope (`locals`, `eval`,
frames, cells), uses a module outside the task's list under any alias, or assigns an attribute of a
module, of a locked class or of a locked method. Not guaranteed: what a value is. An object that
reaches an assignment through a call, a container that a call made, or an attribute of an own object
is not followed; what then happens shows in the contract check and, since nothing is scored in the
process that runs this code, not in a score.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from harness.checks.facts import LockedFacts
from harness.checks.scopes import Binding, collect, import_bindings, parameter_names
from harness.checks.structure import Function, Placed, children, walk
from harness.constraints import Imports

Report = Callable[[str, ast.AST, str], None]
"""Takes the rule, the node and the message."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SCOPE_READERS = _words(
    "locals globals vars exec eval compile __import__ breakpoint open help exit quit input"
)
"""Builtins that hand out a scope, run text, or reach outside of the process."""

NAMED_ACCESS = frozenset({"getattr", "setattr", "delattr"})

INTROSPECTION = _words(
    """_getframe _current_frames currentframe f_locals f_globals f_builtins f_back f_code
    gi_frame gi_code gi_yieldfrom cr_frame cr_code cr_await ag_frame ag_code tb_frame tb_next
    cell_contents getsource getsourcelines getsourcefile getfile findsource getcomments getdoc
    getframeinfo getouterframes getinnerframes getclosurevars getmodule getmembers
    getmembers_static getattr_static get_type_hints get_annotations ForwardRef settrace setprofile
    mro attrgetter methodcaller as_function _call_impl _wrapped_call_impl _slow_forward
    func_globals"""
)
"""Attributes that lead from an object to scopes, code or source."""

_HOOK_TABLES = re.compile(r"_(global_)?(forward|backward|state_dict)\w*_hooks\w*")
_MODULE_HOOKS = re.compile(r"register_module_\w+")

ORDINARY_DUNDERS = frozenset(
    f"__{name}__"
    for name in _words(
        """init new post_init call name qualname class version len getitem setitem contains
    iter next add radd iadd sub rsub mul rmul imul truediv matmul rmatmul pow neg abs eq ne lt le gt
    ge hash repr str bool int float enter exit setattr"""
    )
)

SUPER_DUNDERS = ORDINARY_DUNDERS | frozenset(
    {"__getattr__", "__setattr__", "__delattr__", "__init_subclass__"}
    | {"__setstate__", "__getstate__", "__repr__"}
)

INTERCEPTORS = frozenset({"__torch_function__", "__torch_dispatch__", "__getattribute__"})
"""Methods by which an object takes over what others do with it."""

_TELLTALE = re.compile(
    r"__(globals|builtins|dict|code|closure|subclasses|mro|import|getattribute|traceback)__"
    r"|\b(f_locals|f_globals|f_back|tb_frame|gi_frame|cr_frame|_getframe|cell_contents)\b"
)

OUTWARD_MODULES = _words(
    """os sys builtins importlib subprocess io pathlib shutil ctypes gc threading _thread pickle
    multiprocessing socket urllib http atexit tempfile glob marshal traceback linecache pdb runpy
    pkgutil asyncio concurrent faulthandler resource fcntl mmap shelve sqlite3 ssl zipfile tarfile
    inspect"""
)
"""Modules that others hold as attributes (`torch.os`)."""

SELF, OWN, CLASS = "<self>", "<own>", "<class>"
"""The object that a locked class's method is called on; that of a region's class; any class."""

UNKNOWN = "<builtin>"


@dataclass
class Scope:
    """Names of a scope: what each surely or possibly stands for, None for any object."""

    names: dict[str, str | None] = field(default_factory=dict)
    is_class: bool = False


def check_forbidden(
    names: Iterable[str], code: Sequence[Placed], report: Callable[[str, ast.AST, str], None]
) -> None:
    """Check that statements neither read nor bind any of `names`, in whatever scope."""
    forbidden = frozenset(names)
    for placed in code:
        for node in walk(placed.statement):
            for name in sorted(forbidden.intersection(_names_of(node))):
                report(
                    "forbidden-name",
                    node,
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


def _is_dunder(name: str) -> bool:
    return len(name) > 4 and name.startswith("__") and name.endswith("__")


class Reach:
    """Walks the code of one region."""

    def __init__(
        self, facts: LockedFacts, imports: Imports | None, modules: Scope, report: Report
    ) -> None:
        """`modules` is the module's scope, regions included; it is filled with aliases."""
        self.facts, self.imports, self.report_to = facts, imports, report
        self.scopes: list[Scope] = [modules]
        self.kept: dict[int, Scope] = {}
        self.silent = True
        self.locked_class = ""
        self.depth = 0

    def check(self, code: Sequence[Placed], local: Sequence[Scope], locked_class: str) -> None:
        """Check statements that stand in the scopes `local`, from the outside in.

        `locked_class` is the class around them; empty if there is none.
        """
        self.locked_class = locked_class
        self.scopes[1:] = local
        self.depth = len(self.scopes)
        # A closure may use an alias that is made below it: the first round only learns them.
        for self.silent in (True, False):
            for placed in code:
                self.visit(placed.statement)

    def report(self, rule: str, node: ast.AST, message: str) -> None:
        if not self.silent:
            self.report_to(rule, node, message)

    # -- what an expression stands for -------------------------------------------------------

    def lookup(self, name: str) -> str | None:
        for depth, scope in enumerate(reversed(self.scopes)):
            if name in scope.names and (depth == 0 or not scope.is_class):
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
        # A display with the model in it is no way to rebind the model's methods.
        return next((name for name in found if name and name not in (SELF, OWN)), None)

    def alias(self, target: ast.AST, value: ast.AST | None) -> None:
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

    # -- the walk ----------------------------------------------------------------------------

    def visit_all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def visit(self, node: ast.AST) -> None:
        match node:
            case ast.Name():
                self._name(node)
                self._permit(node)
                self._module_value(node)
            case ast.Attribute():
                self._chain(node)
                self._permit(node)
                self._module_value(node)
            case ast.Call():
                self._call(node)
            case ast.Constant(value=str(text)):
                if _TELLTALE.search(text):
                    self._introspection(node, f"the text {text[:40]!r}")
            case ast.Import() | ast.ImportFrom():
                self._import(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._defined_name(node.name, node)
                self.visit_all(node.decorator_list)
                self._function(node, node.args, node.body)
            case ast.Lambda():
                self._function(node, node.args, [node.body])
            case ast.ClassDef():
                self.visit_all([*node.decorator_list, *node.bases, *node.keywords])
                self._within(node, collect(node.body, deep=False).bound, node.body, is_class=True)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                bound = collect(generator.target for generator in node.generators).bound
                for generator in node.generators:
                    self._within(node, bound, [], alias=(generator.target, generator.iter))
                self._within(node, bound, children(node))
            case ast.Expr(value=ast.Constant(value=str())):
                pass  # a docstring is a comment
            case ast.MatchClass():
                for attr in node.kwd_attrs:
                    self._attribute_name(attr, node, None)
                self.visit_all(children(node))
            case _:
                self.visit_all(children(node))
                self._assignments(node)

    def _assignments(self, node: ast.AST) -> None:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self.alias(target, value)
            case (
                ast.AnnAssign(target=target, value=value)
                | ast.NamedExpr(target=target, value=value)
            ):
                self.alias(target, value)
            case ast.For(target=target, iter=value) | ast.AsyncFor(target=target, iter=value):
                self.alias(target, value)
            case ast.withitem(context_expr=value, optional_vars=ast.AST() as target):
                self.alias(target, value)

    def _within(
        self,
        node: ast.AST,
        bound: Iterable[Binding],
        body: Sequence[ast.AST],
        *,
        is_class: bool = False,
        alias: tuple[ast.AST, ast.AST] | None = None,
    ) -> None:
        scope = self.kept.get(id(node))
        if scope is None:
            scope = self.kept[id(node)] = Scope(is_class=is_class)
            for binding in bound:
                if binding.how not in ("global", "nonlocal"):
                    scope.names[binding.name] = binding.target or scope.names.get(binding.name)
        self.scopes.append(scope)
        if alias:
            self.alias(*alias)
        self.visit_all(body)
        self.scopes.pop()

    def _function(
        self, node: Function | ast.Lambda, arguments: ast.arguments, body: Sequence[ast.AST]
    ) -> None:
        self.visit_all([*arguments.defaults, *arguments.kw_defaults])
        parameters = parameter_names(arguments)
        self.visit_all([parameter.annotation for parameter in parameters])
        if not isinstance(node, ast.Lambda):
            self.visit_all([node.returns])
        bound = [Binding(parameter.arg, parameter.lineno) for parameter in parameters]
        bound += collect(body, deep=False).bound
        if id(node) not in self.kept:
            self._within(node, bound, [])
            decorators = {d.id for d in getattr(node, "decorator_list", []) if hasattr(d, "id")}
            if self.scopes[-1].is_class and parameters and "staticmethod" not in decorators:
                locked = len(self.scopes) == self.depth and self.locked_class
                self.kept[id(node)].names[parameters[0].arg] = SELF if locked else OWN
        self._within(node, bound, body)

    # -- rules -------------------------------------------------------------------------------

    def _introspection(self, node: ast.AST, what: str) -> None:
        self.report(
            "introspection",
            node,
            f"{what} leads to scopes, code or files that are not the region's; "
            "pass what you need as an argument instead",
        )

    def _name(self, node: ast.Name, *, called: bool = False) -> None:
        name = node.id
        if not isinstance(node.ctx, ast.Load):
            self._defined_name(name, node)
            return
        if self.lookup(name) == UNKNOWN:
            if name in SCOPE_READERS:
                self._introspection(node, f"`{name}`")
            elif name in NAMED_ACCESS and not called:
                self._introspection(node, f"`{name}` under another name")
        if _is_dunder(name) and name not in ("__name__", "__class__", "__debug__"):
            self._introspection(node, f"`{name}`")

    def _defined_name(self, name: str, node: ast.AST) -> None:
        if name in INTERCEPTORS:
            self._introspection(node, f"`{name}` takes over operations of locked code, which")

    def _attribute_name(self, attr: str, node: ast.AST, base: ast.AST | None) -> None:
        is_super = isinstance(base, ast.Call) and getattr(base.func, "id", "") == "super"
        ordinary = SUPER_DUNDERS if is_super else ORDINARY_DUNDERS
        if (
            attr in INTROSPECTION
            or (_is_dunder(attr) and attr not in ordinary)
            or _HOOK_TABLES.fullmatch(attr)
            or _MODULE_HOOKS.fullmatch(attr)
        ):
            self._introspection(node, f"`{attr}`")

    def _chain(self, node: ast.Attribute) -> None:
        """An attribute, and the attributes that it is one of."""
        self._attribute_name(node.attr, node, node.value)
        base = self.dotted(node.value)
        if isinstance(node.ctx, ast.Load):
            if base == SELF and node.attr.startswith("register_") and "hook" in node.attr:
                self._patch(
                    node,
                    f"a hook on the whole model (`{node.attr}`) sees what its caller passes; "
                    "register it on a module of your own",
                )
        else:
            self._stored(node, node.value, node.attr)
        inner = node.value
        if isinstance(inner, ast.Attribute):
            self._chain(inner)
        elif isinstance(inner, ast.Name):
            self._name(inner)
        else:
            self.visit(inner)

    def _patch(self, node: ast.AST, message: str) -> None:
        self.report("patch", node, message)

    def _stored(self, node: ast.AST, base: ast.AST, attr: str) -> None:
        """An attribute of `base` that is assigned or deleted."""
        owner = self.dotted(base)
        if attr in INTERCEPTORS or attr == "__class__":
            self._introspection(node, f"assigning `{attr}`")
        elif owner == SELF:
            if attr in self.facts.methods.get(self.locked_class, ()):
                self._patch(
                    node,
                    f"`{attr}` is a method in locked lines; give yours another name",
                )
        elif owner is None:
            if attr in self.facts.module_attributes:
                self._patch(
                    node,
                    f"`{attr}` may be what locked code calls; give your attribute another name",
                )
        elif not owner.startswith((SELF + ".", OWN)):
            whose = "a class" if owner.startswith(CLASS) else f"`{owner.removeprefix('<locked>.')}`"
            self._patch(
                node,
                f"assigns `{attr}` of {whose}, which locked code shares; "
                "write a function or a subclass of your own instead",
            )

    def _call(self, node: ast.Call) -> None:
        function = node.func
        arguments: list[ast.AST] = [*node.args, *node.keywords]
        match function:
            case ast.Name(id=("getattr" | "setattr" | "delattr" | "hasattr") as name) if (
                self.lookup(name) == UNKNOWN
            ):
                self._name(function, called=True)
                arguments = self._named_access(node, name, arguments)
            case ast.Attribute(attr=("__setattr__" | "__delattr__") as name) if not (
                isinstance(function.value, ast.Call)  # super()
            ):
                if not isinstance(function.value, ast.Name):
                    self.visit(function.value)
                arguments = self._named_access(node, name.strip("_"), arguments)
            case _:
                self.visit(function)
        for keyword in node.keywords:
            if keyword.arg == "eval_str":
                self._introspection(node, "`eval_str`")
        self.visit_all(arguments)

    def _named_access(self, node: ast.Call, function: str, rest: list[ast.AST]) -> list[ast.AST]:
        """`getattr` and its like: the attribute by its name. Returns the arguments not yet seen."""
        if len(node.args) < 2 or any(isinstance(arg, ast.Starred) for arg in node.args[:2]):
            self._introspection(node, f"`{function}` with unpacked arguments")
            return rest
        base, name = node.args[0], node.args[1]
        attribute = ast.copy_location(ast.Attribute(base, "", ast.Load()), node)
        match name:
            case ast.Constant(value=str(attr)):
                attribute.attr = attr
                if function in ("setattr", "delattr"):
                    attribute.ctx = ast.Store()
                self._chain(attribute)
                self._permit(attribute)
                if function == "getattr":
                    self._module_value(attribute)
            case ast.JoinedStr(values=[ast.Constant(value=str(prefix)), *_]) if _harmless(prefix):
                self.visit_all([base, name])
            case _:
                self._introspection(node, f"`{function}` with a name that is no constant")
                self.visit_all([base, name])
        return rest[2:]

    # -- modules -----------------------------------------------------------------------------

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                self.report("import", node, "import * binds unknown names; name what you need")
            if node.level:
                self.report("import", node, "relative imports are not possible here; leave it out")
                return
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            targets = [f"{node.module}.{name}" for name in names if name != "*"]
            targets = targets or [str(node.module)]
        else:
            targets = names
        for target in targets:
            for part in target.split("."):
                self._attribute_name(part, node, None)
            self._permit_dotted(target, node)
        for binding in import_bindings(node):
            self._defined_name(binding.name, node)

    def _permit(self, node: ast.Name | ast.Attribute) -> None:
        """Judge a name with all of its attributes, not each part of it."""
        dotted = self.dotted(node)
        if dotted is not None and not dotted.startswith("<"):
            self._permit_dotted(dotted, node)

    def _permit_dotted(self, dotted: str, node: ast.AST) -> None:
        if self.imports is None:
            return
        outward = OUTWARD_MODULES.intersection(dotted.split(".")[1:])
        if not self.imports.permits(dotted) or outward:
            roots = ", ".join(sorted({name.split(".")[0] for name in self.imports.allowed}))
            self.report(
                "import", node, f"`{dotted}` may not be used in a region; allowed are: {roots}"
            )

    def _module_value(self, node: ast.Name | ast.Attribute) -> None:
        """A module that is handed around can't be followed."""
        if isinstance(node.ctx, ast.Load) and self.dotted(node) in self.facts.modules:
            self.report(
                "patch",
                node,
                f"the module `{self.dotted(node)}` is used as a value; "
                "write out the function that you need from it",
            )


def _harmless(prefix: str) -> bool:
    """Whether no name that begins so leads anywhere: `scale_` in `getattr(self, f"scale_{i}")`."""
    return (
        prefix.isidentifier()
        and prefix[0] != "_"
        and not any(name.startswith(prefix) for name in INTROSPECTION)
    )
