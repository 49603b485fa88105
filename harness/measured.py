"""What this server has measured of the unedited files and of the baselines.

Any finished test counts whose files are exactly those, whoever called it: same profile, same
version of the task, same locked text, and of each code those on the data, the hardware and the
torch of its newest test. Only visible metrics are read, as every agent's answer has them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from harness.edits import apply_edit
from harness.events import TestFinished, digest_of
from harness.likeness import UNEDITED
from harness.outcomes import surroundings
from harness.scoring import Result, sample
from harness.store import Store
from harness.task import Task

__all__ = ["UNEDITED", "MeasuredMean", "files_digest", "measured", "tests_of"]


@dataclass(frozen=True)
class MeasuredMean:
    """Visible metrics on the development split, averaged over seeds."""

    metrics: dict[str, float]
    seeds: int


def measured(store: Store, task: Task, profile: str, locked_digest: str) -> dict[str, MeasuredMean]:
    """By baseline, the unedited files under `UNEDITED`; those never tested are left out."""
    found = tests_of(store, task, profile, task.version, locked_digest, hidden=False)
    return {name: _mean(tests) for name, tests in found.items()}


def _mean(tests: Sequence[TestFinished]) -> MeasuredMean:
    values: dict[str, list[Result]] = defaultdict(list)
    for test in tests:
        seed = int(test.provenance.get("seed", 0))
        for stage in test.stages:
            for name, value in stage.metrics.items():
                values[name].append(Result(seed, value))
    means = {name: sample(results) for name, results in values.items()}
    return MeasuredMean(
        {name: each.mean for name, each in means.items()},
        max(each.size for each in means.values()),
    )


def tests_of(
    store: Store,
    task: Task,
    profile: str,
    version: int,
    locked_digest: str,
    *,
    hidden: bool,
) -> dict[str, list[TestFinished]]:
    """Finished tests with a score by baseline, `UNEDITED` first; of each the newest first.

    Without their private parts unless `hidden` is set, which is for people's pages.
    """
    names: dict[str, str] = {}
    for name in (UNEDITED, *task.baselines):
        names.setdefault(files_digest(task, name), name)
    found: dict[str, list[TestFinished]] = {name: [] for name in names.values()}
    for event in store.finished_tests(task.name, profile, list(names), hidden=hidden):
        told = event.provenance
        own = found.get(names.get(str(told.get("files_digest")), "\0"))
        same = (told.get("task_version"), told.get("locked_digest")) == (version, locked_digest)
        if own is None or not same or not event.scored:
            continue
        if not own or surroundings(told) == surroundings(own[0].provenance):
            own.append(event)
    return {name: tests for name, tests in found.items() if tests}


def files_digest(task: Task, baseline: str) -> str:
    """As a session's, of the files with a baseline's edits, or without any (`UNEDITED`)."""
    files = task.shipped()
    for edit in task.baseline(baseline).edits if baseline else ():
        after = apply_edit(files, edit).after
        files[after.name] = after
    return digest_of({name: file.sha256 for name, file in files.items()})
