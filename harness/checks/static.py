"""What can be told from a file's text alone, in milliseconds, after every edit.

Guaranteed, if nothing is found: the file compiles; locked code is what it was, at its place and
with its names; regions hold what the task's constraints say (`harness.constraints`), and name
nothing that these forbid. Not guaranteed: that the file runs, or that what it computes is fair. No
rule looks at which operations a model uses: that is for checks which run it.

    structure   which statements are locked, and whether an edit moved them
    facts       what locked code binds and reads
    rebinding   names that locked code needs        scopes   the rules of Python's scopes
    reach       what a region may name, import, assign
                                                    resolve  what an expression stands for
                                                    outward  Python's ways out of a scope
    kinds       definitions, functions, literals, signatures
    limits      sizes of regions and literals
    rules       all of these for one region
    compiling   what the compiler refuses               parts    what an edit left as it was
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, partial

from harness.checks.compiling import compile_touched, head_length, parse
from harness.checks.facts import LockedFacts, locked_facts
from harness.checks.findings import Finding
from harness.checks.kinds import check_signatures
from harness.checks.limits import check_size
from harness.checks.parts import parts_of
from harness.checks.resolve import module_scope
from harness.checks.rules import check_region
from harness.checks.structure import (
    Change,
    Structure,
    compare,
    read_structure,
)
from harness.constraints import Constraints
from harness.regions import EditableFile, Region

STRUCTURAL = frozenset({"syntax", "region-border", "locked-code"})
"""Rules that hold for every Python file, with constraints or without."""

RULES: Mapping[str, str] = {
    "syntax": "the file is Python",
    "encoding": "no region says that the file is in another encoding",
    "region-border": "no statement begins in a region and ends outside it",
    "locked-code": "locked statements keep their tree, their ancestors and their order",
    "region-scope": "statements of a region stand in its class, its function or the module",
    "region-content": "a region holds the kind of code that is declared for it",
    "missing-name": "a region defines what locked code needs from it",
    "rebound-name": "names that locked code reads are bound by locked code",
    "leaves-locked-code": "no return, yield, await, break or continue out of locked code",
    "forbidden-name": "forbidden names are neither read nor bound",
    "introspection": "no way to scopes, frames, code objects or source; no text is run",
    "patch": "nothing that locked code shares is assigned to",
    "import": "modules come from the task's list",
    "literal-dict": "a literal dict has known keys, and finite numbers in range",
    "signature": "functions that locked code calls keep their parameters",
    "region-size": "a region's bytes are bounded",
    "literal-size": "literals are bounded",
    "collection-size": "constants in a collection or call are bounded",
}
"""Every rule, with what it holds to."""


_NO_CONSTRAINTS = Constraints()


def find_all(
    files: Iterable[EditableFile],
    pristine: Mapping[str, EditableFile] | None = None,
    constraints: Mapping[str, Constraints] | None = None,
) -> list[Finding]:
    """Every finding in the edited files, in order; `pristine` and `constraints` by file name.

    A file that is missing from `pristine` is held to Python's syntax alone.
    """
    found: list[Finding] = []
    for file in files:
        unedited = (pristine or {}).get(file.name, file)
        found += check(unedited, file, (constraints or {}).get(file.name, _NO_CONSTRAINTS))
    return found


def check(
    pristine: EditableFile, edited: EditableFile, constraints: Constraints = _NO_CONSTRAINTS
) -> list[Finding]:
    """Every finding in an edited file, by line. Pure; answers are kept for the same arguments.

    Parts of the file that were clean before are not looked at again.
    """
    return list(_check(pristine, edited, constraints))


@lru_cache(maxsize=128)
def _check(
    pristine: EditableFile, edited: EditableFile, constraints: Constraints
) -> tuple[Finding, ...]:
    if edited.name.endswith(".py"):
        parts = parts_of(pristine, constraints)
        if parts is not None and parts.are_clean(edited):
            return ()
    return check_whole(pristine, edited, constraints)


def check_whole(
    pristine: EditableFile, edited: EditableFile, constraints: Constraints = _NO_CONSTRAINTS
) -> tuple[Finding, ...]:
    """As `check`, from the whole file and nothing that is kept of its earlier versions."""
    checker = _Checker(pristine, edited, constraints)
    checker.sizes()
    if edited.name.endswith(".py"):
        try:
            checker.python()
        except RecursionError:
            checker.too_deep()
    unique = {(f.rule, f.line, f.message): f for f in checker.found}
    return tuple(sorted(unique.values(), key=lambda f: (f.line, f.rule)))


class _Checker:
    def __init__(
        self, pristine: EditableFile, edited: EditableFile, constraints: Constraints
    ) -> None:
        self.pristine, self.edited, self.constraints = pristine, edited, constraints
        self.regions = {region.name: region for region in edited.regions}
        self.found: list[Finding] = []

    def add(self, rule: str, region: Region | None, line: int, message: str) -> None:
        if region is not None:
            line = max(region.first, min(line, region.last))
        line = max(1, min(line, len(self.edited.lines)))
        name = region.name if region else ""
        self.found.append(Finding(rule, self.edited.name, line, message, name))

    def _report(self, region: Region | None, rule: str, line: int, message: str) -> None:
        self.add(rule, region, line, message)

    def _report_line(self, rule: str, line: int, message: str) -> None:
        self.add(rule, self._to_blame(line), line, message)

    def too_deep(self) -> None:
        """Python gives up without a line on what is nested beyond its stack."""
        message = "an expression is nested too deeply; split it up"
        self.add("syntax", self._edited_region(), 1, message)

    def sizes(self) -> None:
        for region in self.edited.regions:
            check_size(self.constraints.limits, region, partial(self._report, region))

    def python(self) -> None:
        for region in self.edited.regions:
            for number, line in enumerate(region.lines, region.first):
                if number <= 2 and _COOKIE.match(line):
                    self.add("encoding", region, number, "the file is UTF-8; remove this comment")
        try:
            tree = parse(self.edited.text)
        except SyntaxError as error:
            self._syntax(error, repair=True)
            return
        except (MemoryError, ValueError):
            self.too_deep()
            return
        try:
            facts = locked_facts(self.pristine)
        except SyntaxError:
            return  # there is nothing to compare with
        structure = read_structure(self.edited, tree)
        broken = self._structure(facts.structure, structure)
        if not broken:
            try:
                head = head_length(tree.body)
                compile_touched(tree.body[:head], tree.body[head:], self.edited.regions)
            except SyntaxError as error:
                self._syntax(error, repair=False)
            except ValueError as error:
                self.add("syntax", self._edited_region(), 1, str(error))
        if self.constraints != _NO_CONSTRAINTS:
            self._rules(facts, structure, broken)

    # -- syntax and structure ----------------------------------------------------------------

    def _syntax(self, error: SyntaxError, *, repair: bool) -> None:
        line = min(error.lineno or 1, len(self.edited.lines))
        region = self._to_blame(line)
        self.add("syntax", region, line, str(error.msg))
        if not repair or region is None:
            return
        # The other regions are looked at as if this one had been left alone.
        index = self.edited.regions.index(region)
        original = self.pristine.regions[index]
        if region.lines == original.lines:
            return
        rest = _Checker(
            self.pristine, self.edited.with_region(index, original.lines), self.constraints
        )
        rest.python()
        last = rest.edited.regions[index].last
        shift = len(region.lines) - len(original.lines)

        def moved(number: int) -> int:
            return number + shift if number > last else number

        for finding in rest.found:
            if finding.region != region.name:
                text = re.sub(
                    r"\bline (\d+)", lambda m: f"line {moved(int(m[1]))}", finding.message
                )
                self.found.append(replace(finding, line=moved(finding.line), message=text))

    def _region_at(self, line: int) -> Region | None:
        return next((r for r in self.edited.regions if r.first <= line <= r.last), None)

    def _edited_region(self, before: int | None = None) -> Region | None:
        """The last region above a line that was edited; the first one if there is none."""
        pairs = zip(self.edited.regions, self.pristine.regions, strict=True)
        edited = [now for now, then in pairs if now.lines != then.lines]
        above = [region for region in edited if before is not None and region.first <= before]
        return above[-1] if above else next(iter(edited or self.edited.regions), None)

    def _to_blame(self, line: int) -> Region | None:
        """The region that a line is in, or that has most likely changed it."""
        return self._region_at(line) or self._edited_region(line)

    def _structure(self, pristine: Structure, edited: Structure) -> set[str]:
        """Check the structure; returns the regions whose statements make no sense by themselves."""
        broken = {region for region, _ in edited.crossing}
        scopes = {r.name: r.scope for r in self.constraints.regions if r.scope is not None}
        for change in compare(pristine, edited, scopes):
            region = self.regions.get(change.region or "") or self._to_blame(change.line)
            rule, message = self._said(change, region)
            self.add(rule, region, change.line, message)
            if region is not None:
                broken.add(region.name)
        return broken

    def _said(self, change: Change, region: Region | None) -> tuple[str, str]:
        if change.kind == "crosses":
            return (
                "region-border",
                "what begins here runs on into locked lines; close its block, brackets and "
                f"strings by line {region.last if region else change.line}, and indent as the "
                "locked lines around it do",
            )
        if change.kind == "attached":
            return (
                "locked-code",
                "this continues a statement of the locked lines above; "
                "begin with a statement of your own",
            )
        return (
            "locked-code",
            f"the locked line {change.line} no longer stands where it did; "
            "indent this region as the locked lines around it",
        )

    # -- the task's rules --------------------------------------------------------------------

    def _rules(self, facts: LockedFacts, structure: Structure, broken: set[str]) -> None:
        own = [placed.statement for _, placed in structure.placed() if not placed.scope]
        module = module_scope(facts, own)
        for region in self.edited.regions:
            if region.name not in broken:
                check_region(region, structure, facts, self.constraints, module, self._report)
        if not broken:
            check_signatures(structure, self.constraints, self._report_line)


_COOKIE = re.compile(r"[ \t\f]*#.*?coding[:=]")
