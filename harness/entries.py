"""Which tests make which row of a leaderboard. Pure.

A row is a submission, a baseline or the unedited files, in one group of comparable results. Its
results are finished, scored tests of exactly those files: of a submission the submitted test and
its confirmations; of a baseline or the unedited files any test, whoever called it. What ran without
a sandbox, and what a disqualified session left or was confirmed by, is in no other row's results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from harness.likeness import UNEDITED
from harness.outcomes import Comparable, Outcome, TestOutcome
from harness.scoring import Difference, Result, Sample, difference, sample
from harness.task import Metric, Task

NAMES: Final = {UNEDITED: "unedited files"}


@dataclass
class Entry:
    """What becomes a row."""

    name: str
    code: str | None
    """of a baseline or the unedited files"""
    session: Outcome | None
    """of a submission"""
    results: list[TestOutcome]
    failed: list[TestOutcome]
    missing: set[int] = field(default_factory=set)
    """seeds of confirmations of which there is no finished test: refused, given back, not played"""

    @property
    def sample(self) -> Sample | None:
        # What ran without a sandbox is shown, but never added to what ran in one.
        sandboxed = [test for test in self.results if test.sandboxed]
        scored = [
            Result(test.seed, test.value, test.windows)
            for test in sandboxed or self.results
            if test.value is not None
        ]
        return sample(scored) if scored else None

    @property
    def fresh(self) -> int:
        """Seeds that the harness chose, for a confirmation or for code of its own."""
        if self.session is None:
            return len({test.seed for test in self.results})
        picked = {test.seed for test in self.results if test.purpose == "agent"}
        return len({test.seed for test in self.results} - picked)


@dataclass
class Compared:
    """An entry with its numbers."""

    entry: Entry
    own: Sample | None
    to_unedited: Difference | None
    like: Compared | None = None
    """what it is up to formatting, where that was measured"""

    @property
    def value(self) -> float | None:
        """What it is ranked by."""
        shown = self.like.own if self.like is not None else self.own
        return shown.mean if shown is not None else None


def compared_with(entry: Entry, base: Sample | None, metric: Metric) -> Compared:
    own = entry.sample
    compared = Compared(entry, own, None)
    if own is not None and base is not None and entry.code != UNEDITED:
        compared.to_unedited = difference(own, base, metric.direction)
    return compared


def entries_of(task: Task, outcomes: Sequence[Outcome]) -> dict[Comparable, list[Entry]]:
    house: dict[Comparable, dict[str, Entry]] = defaultdict(dict)
    agents: dict[Comparable, dict[str, Entry]] = defaultdict(dict)
    by_id = {outcome.session: outcome for outcome in outcomes}
    titles = NAMES | {baseline.name: baseline.title for baseline in task.all_baselines()}
    given: dict[str, set[int]] = defaultdict(set)
    played: dict[str, set[int]] = defaultdict(set)
    for outcome in outcomes:
        of = by_id.get(outcome.of or "") if outcome.purpose == "confirmation" else None
        disqualified = outcome.disqualified or (of is not None and of.disqualified)
        for test in () if disqualified else outcome.tests:
            if test.code is not None and test.sandboxed:
                name = titles.get(test.code, test.code)
                new = Entry(name, test.code, None, [], [])
                _take(house[test.group].setdefault(test.code, new), test)
        confirmed = outcome if outcome.purpose == "agent" else by_id.get(outcome.of or "")
        picked = confirmed.submitted if confirmed is not None else None
        if confirmed is None or picked is None or outcome.purpose == "baseline":
            continue
        mine = outcome.purpose == "agent"
        if not mine and outcome.disqualified:
            continue
        if not mine:
            given[confirmed.session] |= outcome.planned
        for test in (picked,) if mine else outcome.tests:
            if test.files_digest == picked.files_digest and (mine or test.sandboxed):
                new = Entry(confirmed.agent, None, confirmed, [], [])
                _take(agents[test.group].setdefault(confirmed.session, new), test)
                played[confirmed.session].add(test.seed)
    for group in agents.values():
        for session, entry in group.items():
            entry.missing = given[session] - played[session]
    keys = dict.fromkeys((*house, *agents))
    found = {key: [*house[key].values(), *agents[key].values()] for key in keys}
    return {key: rows for key, rows in found.items() if any(row.results for row in rows)}


def unplayed(outcomes: Iterable[Outcome], session: str) -> set[int]:
    """Seeds of closed confirmations of a session of which no test of its files has finished."""
    known = list(outcomes)
    own = [o for o in known if o.purpose == "confirmation" and o.of == session]
    files = {o.submitted.files_digest for o in known if o.session == session and o.submitted}
    tests = [test for outcome in own for test in outcome.tests]
    played = {test.seed for test in tests if test.files_digest in files}
    return {seed for outcome in own if outcome.state != "open" for seed in outcome.planned} - played


def _take(entry: Entry, test: TestOutcome) -> None:
    (entry.failed if test.value is None else entry.results).append(test)


class SessionCounts:
    """How many sessions an agent started, by its name and profile."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        for outcome in outcomes:
            if outcome.purpose == "agent":
                counts = self._counts[outcome.agent, outcome.profile]
                counts[0] += 1
                counts[1] += outcome.state == "open"
                counts[2] += outcome.state != "open" and not outcome.by_agent

    def of(self, outcome: Outcome) -> tuple[int, int, int]:
        """(started, open, abandoned)."""
        started, still_open, abandoned = self._counts[outcome.agent, outcome.profile]
        return started, still_open, abandoned
