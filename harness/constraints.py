"""What an edit of a file may hold: the `constraints:` of a file in task.yaml.

Everything that a rule has to know of one task stands here: names, signatures, regions, keys,
limits. `harness.checks` knows Python only. A file without constraints
gets the structural rules alone.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Holds = Literal["statements", "definitions", "function", "literal"]


def _identifier(name: str) -> str:
    if not name.isidentifier():
        raise ValueError(f"{name!r} is no Python name")
    return name


def _dotted(name: str) -> str:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"{name!r} is no dotted Python name")
    return name


def _entry(name: str) -> str:
    return name if name.endswith("*") and _dotted(name[:-1] + "_") else _dotted(name)


def _scope(name: str) -> str:
    return _dotted(name) if name else name


def _attribute(name: str) -> str:
    _identifier(name.removesuffix("*") or "_")
    return name


AttributeName = Annotated[str, AfterValidator(_attribute)]
Identifier = Annotated[str, AfterValidator(_identifier)]
DottedName = Annotated[str, AfterValidator(_dotted)]
ModuleName = Annotated[str, AfterValidator(_entry)]
ScopeName = Annotated[str, AfterValidator(_scope)]
Limit = Annotated[int, Field(strict=True, ge=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class KeyRange(_Part):
    """A key that a literal dict may have, and its values."""

    name: str = Field(min_length=1)
    """The key."""
    min: Number
    """Smallest value accepted."""
    max: Number
    """Largest value accepted."""

    @model_validator(mode="after")
    def _ordered(self) -> KeyRange:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class RegionRules(_Part):
    """What one region may hold."""

    name: str
    """The region's name in the file's `regions`."""
    scope: ScopeName | None = None
    """The class or function whose body its statements stand in (`Model.forward`); the empty string
    is the module; left out, that of the unedited region's statements."""
    holds: Holds = "statements"
    """`definitions`: classes, functions, literal constants and imports. `function`: one undecorated
    `def` named as the one output. `literal`: one dict of numbers assigned to the one output."""
    outputs: tuple[Identifier, ...] = ()
    """Names that locked code reads and the region may bind; other than in `statements`, it must."""
    keys: tuple[KeyRange, ...] = ()
    """`literal` only: the keys that the dict may have."""

    @model_validator(mode="after")
    def _consistent(self) -> RegionRules:
        if self.holds in ("function", "literal") and len(self.outputs) != 1:
            raise ValueError(f"a region that holds a {self.holds} needs exactly one output")
        if self.keys and self.holds != "literal":
            raise ValueError("only a region that holds a literal has keys")
        return self


class Signature(_Part):
    """A function whose callers stand in locked lines."""

    name: DottedName
    """Its place in the file: `Layer.forward`."""
    parameters: str
    """As between the parentheses of its `def`; annotations are left out and never compared."""
    further: bool = False
    """Whether parameters with defaults, `*args` and `**kwargs` may follow."""

    @cached_property
    def arguments(self) -> ast.arguments:
        """The parameters as a syntax tree."""
        definition = ast.parse(f"def _({self.parameters}): pass").body[0]
        assert isinstance(definition, ast.FunctionDef)
        return definition.args

    @model_validator(mode="after")
    def _parses(self) -> Signature:
        try:
            tree = ast.parse(f"def _({self.parameters}): pass")
        except SyntaxError as error:
            raise ValueError(f"parameters {self.parameters!r}: {error.msg}") from None
        if len(tree.body) != 1:
            raise ValueError(f"parameters {self.parameters!r} are more than parameters")
        return self


class Imports(_Part):
    """Which modules a region may use, whether it imports them or finds them imported.

    A name is judged by the longest entry that it equals or lies below; `denied` wins a tie. A `*`
    at the end of an entry stands for the rest of a name: `numpy.linalg.e*`.

    A module holds the modules that it imports: `torch.nn.functional.torch` is all of torch again.
    So a dotted name leads on only through roots, classes (by their capital letter) and `through`.
    """

    allowed: tuple[ModuleName, ...]
    """Modules, each with all that lies below it but names that begin with an underscore; or single
    functions and classes of a module."""
    denied: tuple[ModuleName, ...] = ()
    """Modules, functions and classes out of those, each with all that lies below it."""
    through: tuple[ModuleName, ...] | None = None
    """Modules, and other names without a capital letter, that a dotted name may lead through. `.*`
    at the end of an entry stands for any one name. Left out, through all that is allowed."""

    def permits(self, dotted: str, *, private: bool = False) -> bool:
        """Whether `torch.nn.functional.relu`, say, may be used.

        A `private` name, of which a part begins with an underscore, needs an entry that shows it.
        """
        allowed = [a for a in self.allowed if _covers(a, dotted) and ("._" in a or not private)]
        denied = [d for d in self.denied if _covers(d, dotted)]
        return max(map(len, allowed), default=0) > max(map(len, denied), default=0)

    def direct(self, dotted: str, foreign: Collection[str] = ()) -> bool:
        """Whether no part of a name leads on to a module that is not listed.

        `foreign` are names of modules, which as parts of others stand for themselves.
        """
        if self.through is None:
            return True
        parts, open_to = dotted.split("."), self.through
        for end, part in enumerate(parts[1:], 2):
            name, last = ".".join(parts[:end]), end == len(parts)
            if any(name_matches(entry, name) for entry in open_to if not entry.endswith(".*")):
                continue
            if part in foreign and part != parts[end - 2]:  # random.random is no module
                return False
            if part.lstrip("_")[:1].isupper():
                return True  # a class holds no modules
            lists = f"{'.'.join(parts[: end - 1])}.*" in open_to
            on_the_way = any(e.startswith(name + ".") and _covers(e, dotted) for e in open_to)
            if not (last or lists or on_the_way or parts[end].startswith("__")):
                return False
        return True

    def leads(self, module: str) -> bool:
        """Whether something below a module is allowed, so that the module may be imported."""
        return any(entry.startswith(module + ".") for entry in self.allowed)


def name_matches(entry: str, name: str) -> bool:
    """Whether an entry stands for a name: itself, or what a `*` at its end leaves open."""
    return name.startswith(entry[:-1]) if entry.endswith("*") else name == entry


def _covers(entry: str, dotted: str) -> bool:
    if entry.endswith("*"):
        return dotted.startswith(entry[:-1])
    return dotted == entry or dotted.startswith(entry + ".")


class Limits(_Part):
    """How much data a region's text may carry; a limit that is left out does not apply."""

    region_bytes: Limit | None = None
    """Bytes of UTF-8 in a region, comments included."""
    literal_chars: Limit | None = None
    """Characters of a string, bytes or number literal, and of literals joined by `+`, but not of a
    docstring."""
    literal_total: Limit | None = None
    """Characters of all string and bytes literals of a region together, docstrings among them, and
    of numbers of more than 20 digits."""
    name_chars: Limit | None = None
    """Characters of a name; code can list names and read them as text."""
    name_total: Limit | None = None
    """Characters of the names that a region binds together, each counted once."""
    collection_constants: Limit | None = None
    """Constants in a list, tuple, set, dict or call, those of nested ones included."""


class Constraints(_Part):
    """The rules of one editable file, beyond its structure."""

    regions: tuple[RegionRules, ...] = ()
    """By the regions' names; a region that is not listed holds statements and has no outputs."""
    forbidden_names: tuple[Identifier, ...] = ()
    """Names that no region reads or binds, except where one is the region's own output."""
    protected_attributes: tuple[Identifier, ...] = ()
    """Attributes that no region assigns on objects of locked classes, besides the methods that the
    file defines and those that it calls."""
    forbidden_attributes: tuple[AttributeName, ...] = ()
    """Attributes that no region uses on objects other than its own, whatever these are: methods
    that read or write files, say. A `*` at the end stands for the rest of a name. One that begins
    with an underscore is not used on objects of locked classes either."""
    setters: tuple[Identifier, ...] = ()
    """Methods that set the attribute which an argument names, as `setattr` does."""
    imports: Imports | None = None
    """Modules that regions may use; all if left out."""
    signatures: tuple[Signature, ...] = ()
    """Functions that keep their parameters, wherever they stand."""
    limits: Limits = Limits()
    """Bounds on literals and on the size of a region."""

    @model_validator(mode="after")
    def _unique(self) -> Constraints:
        for names in ([r.name for r in self.regions], [s.name for s in self.signatures]):
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise ValueError(f"{twice[0]!r} is there twice")
        return self

    def region(self, name: str) -> RegionRules:
        """The rules of a region; the default ones if none are declared."""
        return next((r for r in self.regions if r.name == name), None) or RegionRules(name=name)

    def unknown_regions(self, names: Sequence[str]) -> list[str]:
        """Regions that have rules here and are not among `names`."""
        return [region.name for region in self.regions if region.name not in names]
