"""The task's rules for the code of one region, one after the other."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from harness.checks.facts import LockedFacts
from harness.checks.kinds import check_kind, check_scope
from harness.checks.limits import check_literals, check_names
from harness.checks.reach import Reach
from harness.checks.rebinding import check_forbidden, check_leaving, check_rebinding
from harness.checks.resolve import Scope, local_scopes
from harness.checks.structure import Function, Placed, ScopeNode, Structure
from harness.constraints import Constraints
from harness.regions import Region

Report = Callable[[Region, str, int, str], None]
"""Takes the region, the rule, the line and the message."""


def check_region(
    region: Region,
    structure: Structure,
    facts: LockedFacts,
    constraints: Constraints,
    module: Scope,
    report: Report,
) -> None:
    """Check a region whose statements stand where they may; `module` is filled with aliases."""
    code = structure.code[region.name]
    rules = constraints.region(region.name)
    told = partial(report, region)

    def told_node(rule: str, node: ast.AST, message: str) -> None:
        report(region, rule, getattr(node, "lineno", region.first), message)

    scope = rules.scope
    if scope is None:
        before = facts.structure.code[region.name]
        scope = before[0].scope if before else None
    if scope is not None:
        check_scope(scope, code, told)
    check_kind(rules, code, region.first, told)
    check_literals(constraints.limits, code, region.first, told)
    check_names(constraints.limits, code, region.first, told)
    check_rebinding(structure, facts, rules, code, told)
    check_leaving([p for p in code if isinstance(p.scopes[-1], Function)], told)
    forbidden = set(constraints.forbidden_names) - set(rules.outputs)
    check_forbidden(forbidden, code, told)
    for scopes, group in _by_scopes(code):
        reach = Reach(facts, constraints, module, told_node)
        local, owner = local_scopes(scopes)
        reach.check(group, local, owner)


def _by_scopes(
    code: Sequence[Placed],
) -> Iterable[tuple[tuple[ScopeNode, ...], list[Placed]]]:
    groups: dict[tuple[int, ...], list[Placed]] = {}
    for placed in code:
        groups.setdefault(tuple(map(id, placed.scopes)), []).append(placed)
    return [(group[0].scopes, group) for group in groups.values()]
