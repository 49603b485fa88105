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
import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial

from harness.checks.facts import NO_PARTS, LockedFacts, Path
from harness.checks.outward import (
    ANNOUNCES,
    ENUMS,
    FIELD_ATTRIBUTE,
    FORMATS,
    INTERCEPTORS,
    INTROSPECTION,
    MUTATORS,
    NAMED_ACCESS,
    OUTWARD_MODULES,
    SCOPE_READERS,
    TELLTALE,
    is_dunder,
    leads_out,
)
from harness.checks.resolve import CLASS, MADE, OWN, SELF, UNKNOWN, Resolver, Scope, is_safe
from harness.checks.scopes import Binding, collect, import_bindings, parameter_names
from harness.checks.structure import Function, Placed, children, walk
from harness.constraints import Constraints, name_matches

Report = Callable[[str, ast.AST, str], None]
"""Takes the rule, the node and the message."""


class Reach(Resolver):
    """Walks the code of one region."""

    def __init__(
        self, facts: LockedFacts, constraints: Constraints, module: Scope, report: Report
    ) -> None:
        """`module` is the module's scope, regions included; it is filled with aliases."""
        super().__init__(module)
        self.facts, self.imports, self.report_to = facts, constraints.imports, report
        self.protected = frozenset(constraints.protected_attributes)
        self.forbidden = constraints.forbidden_attributes
        self.setters = frozenset(constraints.setters)
        roots = {name.split(".")[0] for name in self.imports.allowed} if self.imports else set()
        self.foreign = {
            name
            for name, binding in facts.imports.items()
            if (binding.target or "").split(".")[0] in roots
        }
        self.kept: dict[int, Scope] = {}
        self.texts: list[tuple[str, int, tuple[str, ...]]] = []
        self.decorators: set[int] = set()
        self.silent = True
        self.locked_class = ""
        self.parts = NO_PARTS
        self.annotation = False
        self.depth = 0

    def check(self, code: Sequence[Placed], local: Sequence[Scope], locked_class: str) -> None:
        """Check statements that stand in the scopes `local`, from the outside in.

        `locked_class` is the class around them; empty if there is none.
        """
        self.locked_class = locked_class
        self.parts = self.facts.parts.get(locked_class, NO_PARTS)
        self.scopes[1:] = local
        self.depth = len(self.scopes)
        # A closure may use an alias that is made below it: the first round only learns them.
        for self.silent in (True, False):
            for placed in code:
                self.visit(placed.statement)

    def report(self, rule: str, node: ast.AST, message: str) -> None:
        if not self.silent:
            self.report_to(rule, node, message)

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
            case ast.Subscript(ctx=ast.Store() | ast.Del()):
                self._item(node)
                self.visit_all(children(node))
            case ast.AnnAssign():
                self.visit(node.target)
                self._visit_annotation(node.annotation)
                self.visit_all([node.value])
                self._assignments(node)
            case ast.Constant(value=str(text)):
                if TELLTALE.search(text):
                    self._introspection(node, f"the text {text[:40]!r}")
            case ast.Import() | ast.ImportFrom():
                self._import(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._defined_name(node.name, node)
                self.may_be(node.name, None if node.decorator_list else MADE)
                self.decorators.update(map(id, node.decorator_list))
                self.visit_all(node.decorator_list)
                self._function(node, node.args, node.body)
            case ast.Lambda():
                self._function(node, node.args, [node.body])
            case ast.ClassDef():
                self._class_head(node)
                self._within(node, collect(node.body, deep=False).bound, node.body, is_class=True)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                bound = collect(generator.target for generator in node.generators).bound
                for generator in node.generators:
                    self._within(node, bound, [], alias=(generator.target, generator.iter))
                self._within(node, bound, children(node))
            case ast.For() | ast.AsyncFor():
                # Its body is looked at with what the loop binds.
                self.visit(node.iter)
                self.alias(node.target, node.iter)
                self.visit(node.target)
                with self._texts(node.target, node.iter, node.body):
                    self.visit_all(node.body)
                self.visit_all(node.orelse)
            case ast.Expr(value=ast.Constant(value=str())):
                pass  # a docstring is a comment
            case ast.MatchClass():
                for attr in node.kwd_attrs:
                    self._attribute_name(attr, node, None)
                self.visit_all(children(node))
            case _:
                self.visit_all(children(node))
                self._assignments(node)

    def _visit_annotation(self, node: ast.AST | None) -> None:
        before, self.annotation = self.annotation, True
        self.visit_all([node])
        self.annotation = before

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
            case ast.withitem(context_expr=value, optional_vars=ast.AST() as target):
                self.alias(target, value)
            case ast.AugAssign(target=ast.Name(id=name) as target):
                self.may_be(name, None)
            case (
                ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
                | ast.MatchMapping(rest=str(name))
            ):
                self.may_be(name, None)

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
        with contextlib.ExitStack() as texts:
            if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
                for generator in node.generators:
                    texts.enter_context(self._texts(generator.target, generator.iter, body))
            self.visit_all(body)
        self.scopes.pop()

    @contextlib.contextmanager
    def _texts(self, target: ast.AST, values: ast.AST, body: Sequence[ast.AST]) -> Iterator[None]:
        """Within a loop's body, its name stands for the texts that are written out in its head."""
        texts = _written_out(values)
        if not isinstance(target, ast.Name) or not texts:
            yield
            return
        names = collect(body)
        bound = [b.name for b in (*names.bound, *names.outer, *names.walrus)]
        if bound.count(target.id) > self._own(target, body):
            yield
            return
        self.texts.append((target.id, len(self.scopes), texts))
        yield
        self.texts.pop()

    @staticmethod
    def _own(target: ast.AST, body: Sequence[ast.AST]) -> int:
        """How often a loop's own target is among what its body binds: of a comprehension, once."""
        return sum(part is target for node in body for part in walk(node))

    def _texts_of(self, name: str) -> Sequence[str]:
        # A function that is made in the loop may be called behind it.
        here = [t for n, depth, t in self.texts if n == name and depth == len(self.scopes)]
        return here[-1] if here else ()

    def _function(
        self, node: Function | ast.Lambda, arguments: ast.arguments, body: Sequence[ast.AST]
    ) -> None:
        self.visit_all([*arguments.defaults, *arguments.kw_defaults])
        parameters = parameter_names(arguments)
        for parameter in parameters:
            self._visit_annotation(parameter.annotation)
        if not isinstance(node, ast.Lambda):
            self._visit_annotation(node.returns)
        bound = [Binding(parameter.arg, parameter.lineno) for parameter in parameters]
        bound += collect(body, deep=False).bound
        if id(node) not in self.kept:
            self._within(node, bound, [])
            self.kept[id(node)].mixed.update(parameter.arg for parameter in parameters)
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
            elif name == "type" and not (called or self.annotation):
                self._introspection(node, "`type` under another name makes classes, which")
        if is_dunder(name) and name not in ("__name__", "__class__", "__debug__"):
            self._introspection(node, f"`{name}`")

    def _class_head(self, node: ast.ClassDef) -> None:
        for keyword in node.keywords:
            if keyword.arg in (None, "metaclass"):
                self._introspection(node, "a class with a metaclass")
        bases = [self.dotted(base) or "" for base in node.bases]
        if CLASS in bases or any(getattr(base, "id", "") == "type" for base in node.bases):
            self._introspection(node, "a metaclass")
        assigned = [part for part in node.body if isinstance(part, ast.Assign)]
        if not assigned and any(base.startswith(ENUMS) for base in bases):
            self._introspection(node, "an enumeration without members, which makes classes,")
        self._defined_name(node.name, node)
        decorators = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
        known = all((self.dotted(d) or "<").split(".")[0] == "dataclasses" for d in decorators)
        self.may_be(node.name, MADE if known else None)
        self.visit_all([*node.decorator_list, *node.bases, *node.keywords])

    def _defined_name(self, name: str, node: ast.AST) -> None:
        if name in INTERCEPTORS:
            self._introspection(node, f"`{name}` takes over operations of locked code, which")

    def _attribute_name(self, attr: str, node: ast.AST, base: ast.AST | None) -> None:
        if leads_out(attr, on_super=_is_super(base) and self._in_own_class()):
            self._introspection(node, f"`{attr}`")
        owner = None if base is None else self.dotted(base)
        # The model is not the region's own: what begins with an underscore is its inside.
        own = owner == OWN or (owner == SELF and attr[0] != "_")
        if not own and any(map(partial(name_matches, name=attr), self.forbidden)):
            self.report(
                "forbidden-name",
                node,
                f"`.{attr}` may not be used in a region, whatever object it is of: it may read or "
                "write files, or replace what locked code uses",
            )
        if attr == ANNOUNCES and not own:
            self._patch(
                node,
                f"`{attr}` of an abstract class changes what others are taken for; "
                "derive from the class instead",
            )
        literal = isinstance(base, ast.Constant)
        if attr in FORMATS and not own:
            text = base.value if isinstance(base, ast.Constant) else ""
            if not literal:
                self._introspection(node, f"`{attr}` of a text that may name any attribute")
            for named in FIELD_ATTRIBUTE.findall(text) if isinstance(text, str) else ():
                self._attribute_name(named, node, None)

    def _in_own_class(self) -> bool:
        return any(scope.is_class for scope in self.scopes[self.depth :])

    def _methods(self) -> frozenset[str]:
        """Attributes of the model that locked code calls."""
        return self.facts.methods.get(self.locked_class, frozenset()) | self.protected

    def _path(self, owner: str | None) -> Path | None:
        """The way from the model to a part of it; None if it is no part of the model."""
        if owner is None or not owner.startswith(SELF):
            return None
        return tuple(owner.removeprefix(SELF).split(".")[1:])

    def is_part(self, name: str) -> bool:
        return self._path(name) in self.parts.called

    def _shared_names(self) -> frozenset[str]:
        """What locked code would find changed, were an object that can't be told one it shares."""
        return self.facts.shared_attributes | self.protected

    def _chain(self, node: ast.Attribute) -> None:
        """An attribute, and the attributes that it is one of."""
        self._attribute_name(node.attr, node, node.value)
        base = self.dotted(node.value)
        if isinstance(node.ctx, ast.Load):
            hook = node.attr.startswith("register_") and "hook" in node.attr
            if hook and base is not None and self.is_part(base):
                self._patch(
                    node,
                    f"a hook (`{node.attr}`) on a part that locked code calls changes what that "
                    "does; register it on a module of your own",
                )
            elif hook and base is not None and _is_shared(base):
                self._patch(
                    node,
                    f"a hook on the whole model (`{node.attr}`) sees what its caller passes; "
                    "register it on a module of your own",
                )
        else:
            self._stored(node, node.value, node.attr)
        self._inner(node.value)

    def _inner(self, node: ast.expr) -> None:
        """What an attribute is read from; a module is in order there."""
        if isinstance(node, ast.Attribute):
            self._chain(node)
        elif isinstance(node, ast.Name):
            self._name(node)
        else:
            self.visit(node)

    def _patch(self, node: ast.AST, message: str) -> None:
        self.report("patch", node, message)

    def _stored(self, node: ast.AST, base: ast.AST, attr: str) -> None:
        """An attribute of `base` that is assigned or deleted."""
        owner = self.dotted(base)
        path = self._path(owner)
        if attr in INTERCEPTORS or attr == "__class__":
            self._introspection(node, f"assigning `{attr}`")
        elif path is not None and (path in self.parts.called or (*path, attr) in self.parts.read):
            self._replaces(node, path, attr)
        elif owner == SELF:
            if attr in self._methods():
                self._patch(
                    node,
                    f"`{attr}` is what locked code calls on the model; give yours another name",
                )
        elif owner is None or owner.startswith((SELF + ".", OWN + ".")):
            shared = self._shared_names()
            if owner is not None:
                # A part of the model may have settings, and a forward, of its own; what is one
                # of several may be such as locked code calls.
                several = path is not None and self.parts.holds(path)
                shared = self.facts.locked_methods - (set() if several else {"forward"})
            if attr in shared or is_dunder(attr):
                self._patch(
                    node,
                    f"`{attr}` may be what locked code calls; give your attribute another name",
                )
        elif not is_safe(owner):
            whose = "a class" if owner.startswith(CLASS) else f"`{owner.removeprefix('<locked>.')}`"
            self._patch(
                node,
                f"assigns `{attr}` of {whose}, which locked code shares; "
                "write a function or a subclass of your own instead",
            )

    def _replaces(self, node: ast.AST, path: Path, attr: str) -> None:
        """A part of the model that locked code uses is replaced or changed."""
        if path in self.parts.called:
            what = f"`{attr}` of `self.{'.'.join(path)}` is"
        else:
            what = f"`self.{'.'.join((*path, attr))}` is"
        self._patch(
            node,
            f"{what} what locked code made and uses, and scoring expects; leave it as it is, and "
            "give yours another name",
        )

    def _item(self, node: ast.Subscript) -> None:
        """`base[index]` that is assigned or deleted."""
        owner = self.dotted(node.value)
        path = self._path(owner)
        if path is not None:
            key = node.slice.value if isinstance(node.slice, ast.Constant) else None
            if path and self.parts.holds(path) and not isinstance(key, str):
                self._replaces(node, path, "[…]")
            elif path and isinstance(key, str) and (*path, key) in self.parts.read:
                self._replaces(node, path, key)
        elif owner is not None and not is_safe(owner):
            self._patch(
                node,
                f"assigns an item of `{owner.removeprefix('<locked>.')}`, which locked code "
                "shares; write into an object of your own instead",
            )

    def _sets(self, node: ast.Call, function: ast.Attribute) -> None:
        """A method that puts something in place of a part of the model, by its name or in bulk."""
        path = self._path(self.dotted(function.value))
        if path is None:
            return
        if function.attr in MUTATORS and path and self.parts.holds(path):
            self._replaces(node, path, f"{function.attr}()")
        if function.attr in self.setters:
            names = [*node.args[:1], *(keyword.value for keyword in node.keywords)]
            for name in names:
                for text in self._texts_in(name):
                    *way, last = (*path, *text.split("."))
                    self._named(node, function.value, tuple(way), last)

    def _texts_in(self, name: ast.expr) -> Sequence[str]:
        match name:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.Name(id=listed):
                return self._texts_of(listed)
        return []

    def _named(self, node: ast.Call, base: ast.AST, way: Path, last: str) -> None:
        if way == self._path(self.dotted(base)):
            self._stored(node, base, last)
        elif way in self.parts.called or (*way, last) in self.parts.read:
            self._replaces(node, way, last)

    def _call(self, node: ast.Call) -> None:
        function = node.func
        arguments: list[ast.AST] = [*node.args, *node.keywords]
        if isinstance(function, ast.Attribute):
            self._sets(node, function)
        made = self.dotted(function) or ""
        if len(node.args) + len(node.keywords) > 1 and made.startswith(ENUMS):
            self._introspection(node, f"`{made}` that makes a class")
        elif made == CLASS and len(node.args) == 3:
            self._introspection(node, "a class's class that makes another")
        match function:
            case ast.Name(id="hasattr") if node.args:
                # It tells no more than a truth value, of a module as well.
                self._inner(node.args[0])
                arguments = arguments[1:]
            case ast.Name(id="type") if self.lookup("type") == UNKNOWN:
                if len(node.args) != 1 or isinstance(node.args[0], ast.Starred):
                    self._introspection(node, "`type` that makes a class")
            case ast.Name(id="isinstance" | "issubclass") if len(node.args) == 2:
                self.visit(node.args[0])
                self._visit_annotation(node.args[1])
                arguments = []
            case ast.Name(id=("getattr" | "setattr" | "delattr") as name) if (
                self.lookup(name) == UNKNOWN
            ):
                self._name(function, called=True)
                arguments = self._named_access(node, name, arguments)
            case ast.Attribute(attr="__setattr__" | "__delattr__", value=value) if (
                _is_super(value) and not self._in_own_class()
            ):
                self._patch(node, "assigns past the class; write `self.name = value` instead")
            case ast.Attribute(attr=("__setattr__" | "__delattr__") as name) if not (
                _is_super(function.value)
            ):
                self._inner(function.value)
                arguments = self._named_access(node, name.strip("_"), arguments)
            case _:
                self.visit(function)
                if self.dotted(function) == "functools.wraps" and id(node) not in self.decorators:
                    self._introspection(node, "`wraps` other than as a decorator")
        for keyword in node.keywords:
            if keyword.arg in ("eval_str", "assigned", "updated"):
                self._introspection(node, f"`{keyword.arg}`")
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
            case _ if self._harmless(_beginning(name), base):
                self.visit_all([base, name])
            case ast.Name(id=listed) if self._all_harmless(self._texts_of(listed), base):
                self.visit_all([base, name])
            case _:
                self.report(
                    "introspection",
                    node,
                    f"`{function}` with a name that may be any; write the name out, or let it "
                    'begin with a word of your own, as in f"gate_{i}"',
                )
                self.visit_all([base, name])
        return rest[2:]

    def _used(self, owner: str | None) -> frozenset[str]:
        """What locked code reads off an object of the model."""
        path = self._path(owner)
        return frozenset() if path is None else self.parts.names(path)

    def _harmless(self, prefix: str, base: ast.AST) -> bool:
        """Whether no name that begins so leads anywhere: `scale_` of `f"scale_{i}"`."""
        owner = self.dotted(base)
        taken = self._methods() | self.facts.module_attributes | INTROSPECTION | self._used(owner)
        taken |= self._shared_names() if owner is None else set()
        taken |= {name.rstrip("*") for name in self.forbidden}
        return (
            (owner is None or is_safe(owner))
            and prefix.isidentifier()
            and prefix[0] != "_"
            and not prefix.startswith("register_")
            and not any(name.startswith(prefix) for name in (*taken, "register_"))
        )

    def _all_harmless(self, names: Collection[str], base: ast.AST) -> bool:
        """Whether a name stands for some of these texts, and none of them leads anywhere."""
        owner = self.dotted(base)
        taken = self._methods() | self.facts.module_attributes | self._used(owner)
        taken |= self._shared_names() if owner is None else set()
        return (
            bool(names)
            and (owner is None or is_safe(owner))
            and not any(
                name in taken
                or not name.isidentifier()
                or is_dunder(name)
                or leads_out(name)
                or name.startswith("register_")
                or any(name_matches(entry, name) for entry in self.forbidden)
                for name in names
            )
        )

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
            root, *inner = target.split(".")
            for part in inner:
                self._attribute_name(part, node, None)
            if leads_out(root):
                self._introspection(node, f"`{root}`")
            leads_on = isinstance(node, ast.Import) and self.imports and self.imports.leads(target)
            if not leads_on:
                # What an import statement names as a module, others are found below.
                below = ".x" if isinstance(node, ast.Import) else ""
                self._permit_dotted(target, node, below)
        for binding in import_bindings(node):
            self._defined_name(binding.name, node)

    def _permit(self, node: ast.Name | ast.Attribute) -> None:
        """Judge a name with all of its attributes, not each part of it."""
        dotted = self.dotted(node)
        if dotted is not None and not dotted.startswith("<"):
            self._permit_dotted(dotted, node)

    def _permit_dotted(self, dotted: str, node: ast.AST, below: str = "") -> None:
        if self.imports is None:
            return
        inner = dotted.split(".")[1:]
        outward = OUTWARD_MODULES.intersection(part.strip("_") for part in inner)
        private = any(part.startswith("_") and not is_dunder(part) for part in inner)
        if outward or not self.imports.permits(dotted, private=private):
            roots = ", ".join(sorted({name.split(".")[0] for name in self.imports.allowed}))
            self.report(
                "import", node, f"`{dotted}` may not be used in a region; allowed are: {roots}"
            )
        elif not self.imports.direct(dotted + below, self.foreign):
            self.report(
                "import",
                node,
                f"`{dotted}` leads through a module that another one has imported, or that may not "
                "be used; name what you need by its own module",
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


def _beginning(node: ast.AST) -> str:
    """The constant text that a computed name begins with."""
    match node:
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            return text
        case ast.BinOp(op=ast.Add(), left=ast.Constant(value=str(text))):
            return text
        case ast.BinOp(op=ast.Add(), left=ast.BinOp() as left):
            return _beginning(left)
        case ast.BinOp(op=ast.Mod(), left=ast.Constant(value=str(text))):
            return text.partition("%")[0]
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
            return text.partition("{")[0]
    return ""


def _written_out(node: ast.AST) -> tuple[str, ...]:
    """The texts of a tuple or list of nothing else."""
    parts = node.elts if isinstance(node, ast.Tuple | ast.List) else []
    texts = [part.value for part in parts if isinstance(part, ast.Constant)]
    plain = tuple(text for text in texts if isinstance(text, str))
    return plain if len(plain) == len(parts) else ()


def _is_super(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "super"


def _is_shared(dotted: str) -> bool:
    """Whether it is the model itself, or a class: `nn.Module.register_forward_hook(self, …)`."""
    if dotted.startswith((SELF + ".", OWN)):
        return False
    return dotted.startswith("<") or dotted.split(".")[-1][:1].isupper()
