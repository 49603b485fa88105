"""A test's result as the latest scoring rule has it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from harness.events import StageResult, TestFinished, TestRegraded

REGRADED: Final = ("metrics", "final", "final_windows")
"""what a rule makes of a stage's hidden values; all else stays as it was measured"""


def graded(result: TestFinished, regrade: TestRegraded) -> TestFinished:
    """The result with the numbers of `regrade`, and its version among the provenance.

    It is for readers and no event of a journal: nothing commits to it. What an audit or a
    process's record left stays, and a void test stays void. Hidden values are there as far as both
    events have theirs.
    """
    stages = tuple(_stage(stage, regrade) for stage in result.stages)
    private = None
    if result.private is not None or regrade.private is not None:
        private = {"values": _hidden(values_of(result), values_of(regrade))}
    return result.model_copy(
        update={
            "stages": stages,
            "scored": regrade.scored,
            "provenance": {**result.provenance, "task_version": regrade.task_version},
            "private": private,
        }
    )


def values_of(event: TestFinished | TestRegraded) -> Mapping[str, Mapping[str, Any]]:
    """Hidden values by stage; empty where the reader may not see them."""
    return (event.private or {}).get("values") or {}


def _stage(stage: StageResult, regrade: TestRegraded) -> StageResult:
    metrics = regrade.metrics.get(stage.name)
    if metrics is None:
        return stage.model_copy(update={"metrics": {}})
    changed: dict[str, Any] = {"metrics": metrics}
    if metrics and stage.state == "failed":  # its numbers did not fit the rule of then
        changed |= {"state": "done", "exit": 0, "reason": ()}
    return stage.model_copy(update=changed)


def _hidden(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys((*before, *after)):
        kept = {k: v for k, v in before.get(name, {}).items() if k not in REGRADED}
        found[name] = kept | dict(after.get(name, {}))
    return found
