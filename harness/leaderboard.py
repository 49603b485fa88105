"""A task's leaderboard out of its sessions' outcomes. Pure.

A row is a submission, a baseline or the unedited files, in one group of comparable results. Its
results are finished, scored tests of exactly those files: of a submission the submitted test and
its confirmations; of a baseline or the unedited files any test, whoever called it. What ran without
a sandbox, and what a disqualified session left, is in no other row's results.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from harness.board import (
    CostView,
    DifferenceView,
    GroupView,
    IntervalView,
    LeaderboardView,
    MetricView,
    PublishedView,
    ReviewView,
    RowView,
    RunView,
    ScaleView,
    Standing,
    ValueView,
)
from harness.likeness import UNEDITED
from harness.outcomes import Comparable, Outcome, TestOutcome
from harness.scoring import (
    LEVEL,
    Difference,
    Interval,
    Result,
    Sample,
    at_equal_compute,
    difference,
    normalised,
    sample,
)
from harness.task import Metric, Task

CONFIRMED: Final = 2
"""seeds that the harness chose from which a row is confirmed"""

SCORE: Final = (
    "0 is the mean of the unedited files, 1 that of the best baseline of the same group, both over "
    "seeds on the split final: (unedited - row) / (unedited - best baseline), with the signs "
    "turned where higher is better. It has no bounds. A session without an edit has 0 whatever "
    "its luck, and one whose code is a baseline's up to formatting has that baseline's score. "
    "Where no baseline is better than the unedited files there is no scale and no score."
)
VERDICTS: Final = (
    "A row's mean over seeds less that of the unedited files has a variance from paired "
    "validation windows and one from seeds (Welch); both are added, with degrees of freedom by "
    f"Welch and Satterthwaite. If the two-sided {LEVEL:.0%} interval by Student's t does not hold "
    "0, the row is better or worse, else within noise. With fewer than two seeds on either side "
    "it is one seed, never better."
)
NAMES: Final = {UNEDITED: "unedited files"}


@dataclass
class _Entry:
    """What becomes a row."""

    name: str
    code: str | None
    """of a baseline or the unedited files"""
    session: Outcome | None
    """of a submission"""
    results: list[TestOutcome]
    failed: list[TestOutcome]

    @property
    def sample(self) -> Sample | None:
        scored = [
            Result(test.seed, test.value, test.windows)
            for test in self.results
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
class _Compared:
    """An entry with its numbers."""

    entry: _Entry
    own: Sample | None
    to_unedited: Difference | None
    like: _Compared | None = None
    """what it is up to formatting, where that was measured"""

    @property
    def value(self) -> float | None:
        """What it is ranked by."""
        shown = self.like.own if self.like is not None else self.own
        return shown.mean if shown is not None else None


def leaderboard(task: Task, outcomes: Sequence[Outcome]) -> LeaderboardView:
    """Every group that has a result of a submission, a baseline or the unedited files.

    `outcomes` are all of the task's; those of profiles that it has no more are left out.
    """
    outcomes = [outcome for outcome in outcomes if outcome.profile in task.profiles]
    entries = _entries(task, outcomes)
    told = _Sessions(outcomes)
    groups = [_group(task, key, found, told) for key, found in entries.items()]
    today = _todays_locked(outcomes, task)
    for group in groups:
        group.current = (group.task_version, group.locked_digest) == (task.version, today)
    profiles = list(task.profiles)
    groups.sort(
        key=lambda g: (not g.current, -g.task_version, profiles.index(g.profile), -len(g.rows))
    )
    return LeaderboardView(
        task=task.name,
        title=task.title,
        version=task.version,
        score_definition=SCORE,
        verdict_definition=VERDICTS,
        groups=groups,
        published=[
            PublishedView(name=p.name, profile=p.profile, metrics=p.metrics, note=p.note)
            for p in task.published
        ],
    )


def _todays_locked(outcomes: Sequence[Outcome], task: Task) -> str | None:
    """The locked text of the newest session of today's version."""
    newest = max(
        (o for o in outcomes if any(t.group.task_version == task.version for t in o.tests)),
        key=lambda o: o.created_at,
        default=None,
    )
    return newest.tests[-1].group.locked_digest if newest is not None else None


# ── which results make a row ──────────────────────────────────────────────────────────────────


def _entries(task: Task, outcomes: Sequence[Outcome]) -> dict[Comparable, list[_Entry]]:
    house: dict[Comparable, dict[str, _Entry]] = defaultdict(dict)
    agents: dict[Comparable, dict[str, _Entry]] = defaultdict(dict)
    by_id = {outcome.session: outcome for outcome in outcomes}
    titles = NAMES | {baseline.name: baseline.title for baseline in task.all_baselines()}
    for outcome in outcomes:
        for test in () if outcome.disqualified else outcome.tests:
            if test.code is not None and test.sandboxed:
                name = titles.get(test.code, test.code)
                new = _Entry(name, test.code, None, [], [])
                _take(house[test.group].setdefault(test.code, new), test)
        confirmed = outcome if outcome.purpose == "agent" else by_id.get(outcome.of or "")
        picked = confirmed.submitted if confirmed is not None else None
        if confirmed is None or picked is None or outcome.purpose == "baseline":
            continue
        mine = outcome.purpose == "agent"
        if not mine and outcome.disqualified:
            continue
        for test in (picked,) if mine else outcome.tests:
            if test.files_digest == picked.files_digest and (mine or test.sandboxed):
                new = _Entry(confirmed.agent, None, confirmed, [], [])
                _take(agents[test.group].setdefault(confirmed.session, new), test)
    keys = dict.fromkeys((*house, *agents))
    found = {key: [*house[key].values(), *agents[key].values()] for key in keys}
    return {key: rows for key, rows in found.items() if any(row.results for row in rows)}


def _take(entry: _Entry, test: TestOutcome) -> None:
    (entry.failed if test.value is None else entry.results).append(test)


class _Sessions:
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


# ── a group ───────────────────────────────────────────────────────────────────────────────────


def _group(task: Task, key: Comparable, entries: Sequence[_Entry], told: _Sessions) -> GroupView:
    metric = task.primary(key.profile)
    unedited = next((e for e in entries if e.code == UNEDITED and e.results), None)
    base = unedited.sample if unedited is not None else None
    compared = [_compared(entry, base, metric) for entry in entries]
    by_code = {c.entry.code: c for c in compared if c.entry.code is not None and c.own}
    for each in compared:
        if each.entry.session is not None and each.entry.session.likeness is not None:
            same = each.entry.session.likeness.same_as
            each.like = by_code.get(same) if same is not None else None
    baselines = [c for c in compared if c.entry.code not in (None, UNEDITED) and c.own]
    sign = 1 if metric.direction == "lower" else -1
    best = min(baselines, key=lambda c: sign * (c.value or 0.0), default=None)
    rows = [_row(task, each, metric, base, best, unedited, told) for each in compared]
    _rank(rows, compared, sign)
    order: dict[Standing, int] = {"confirmed": 0, "unconfirmed": 1, "unranked": 2}
    rows.sort(key=lambda row: (order[row.standing], row.rank or 0, row.name, row.session or ""))
    scale = ScaleView(
        unedited=base.mean if base else None,
        best=best.value if best else None,
        baseline=best.entry.name if best else None,
        verdict=best.to_unedited.verdict if best and best.to_unedited else None,
    )
    measured = {c.entry.code for c in baselines}
    missing = [b.title for b in task.all_baselines() if b.name not in measured]
    return GroupView(
        current=False,
        task_version=key.task_version,
        profile=key.profile,
        locked_digest=key.locked_digest,
        data=key.data,
        hardware=key.hardware,
        torch=key.torch,
        metric=MetricView(
            name=metric.name,
            unit=metric.unit,
            direction=metric.direction,
            decimals=metric.decimals,
        ),
        scale=scale,
        missing=missing,
        notes=_notes(task, key, base, scale, sign),
        rows=rows,
    )


def _notes(
    task: Task, key: Comparable, base: Sample | None, scale: ScaleView, sign: int
) -> list[str]:
    run = f"harness baseline run {task.name} --profile {key.profile}"
    if base is None:
        return [
            f"The unedited files were not measured in this group, so nothing is compared. {run}"
        ]
    notes = []
    if base.size < CONFIRMED:
        notes.append(
            f"The unedited files were measured with one seed, so no row can be better. {run}"
        )
    if scale.best is None:
        notes.append(f"No baseline was measured in this group, so that there is no score. {run}")
    elif sign * (base.mean - scale.best) <= 0:
        notes.append("No baseline is better than the unedited files here: there is no score.")
    elif scale.verdict != "better":
        notes.append(
            f"The best baseline, {scale.baseline}, is {_told(scale.verdict)}: the score's unit is "
            "no larger than what luck does."
        )
    return notes


def _told(verdict: str | None) -> str:
    return "known from one seed" if verdict in (None, "one seed") else str(verdict)


def _compared(entry: _Entry, base: Sample | None, metric: Metric) -> _Compared:
    own = entry.sample
    compared = _Compared(entry, own, None)
    if own is not None and base is not None and entry.code != UNEDITED:
        compared.to_unedited = difference(own, base, metric.direction)
    return compared


def _rank(rows: Sequence[RowView], compared: Sequence[_Compared], sign: int) -> None:
    """Ranks in each list; rows of one value share a rank."""
    for standing in ("confirmed", "unconfirmed"):
        own = [
            (sign * each.value, row)
            for row, each in zip(rows, compared, strict=True)
            if row.standing == standing and each.value is not None
        ]
        values = sorted(value for value, _ in own)
        for value, row in own:
            row.rank = 1 + values.index(value)


# ── a row ─────────────────────────────────────────────────────────────────────────────────────


def _row(
    task: Task,
    compared: _Compared,
    metric: Metric,
    base: Sample | None,
    best: _Compared | None,
    unedited: _Entry | None,
    told: _Sessions,
) -> RowView:
    entry, own = compared.entry, compared.own
    found = entry.session.likeness if entry.session is not None else None
    same_as = found.same_as if found is not None else None
    like = compared.like or compared
    is_unedited = UNEDITED in (entry.code, same_as)
    known = same_as is None or compared.like is not None
    score = 0.0 if is_unedited else None
    if not is_unedited and known and like.value is not None and base and best and best.own:
        score = normalised(like.value, base.mean, best.own.mean, metric.direction)
    unranked = _unranked(entry)
    standing: Standing = "confirmed" if _is_confirmed(entry) else "unconfirmed"
    review = entry.session.review if entry.session is not None else None
    return RowView(
        kind="submission" if entry.session else "unedited" if is_unedited else "baseline",
        name=entry.name,
        session=entry.session.session if entry.session else None,
        standing="unranked" if unranked else standing,
        rank=None,
        unranked=unranked,
        mean=own.mean if own else None,
        standard_error=own.standard_error if own else None,
        seeds=list(own.seeds) if own else [],
        fresh_seeds=entry.fresh,
        failed=len(entry.failed),
        difference=_difference(None if is_unedited else like.to_unedited),
        verdict="unedited"
        if is_unedited
        else like.to_unedited.verdict
        if like.to_unedited
        else None,
        score=score,
        same_as=same_as,
        changed_lines=found.changed if found else None,
        nearest=found.nearest if found else None,
        distance=found.distance if found else None,
        metrics=_metrics(task, metric, entry, own),
        cost=_cost(entry, unedited, base, told),
        review=review
        and ReviewView(
            verdict=review.verdict, category=review.category, note=review.note, at=review.at
        ),
        runs=[
            RunView(
                session=test.session,
                test=test.number,
                attempt=test.attempt,
                purpose=test.purpose,
                seed=test.seed,
                value=test.value,
                at=test.at,
                provenance=dict(test.provenance),
            )
            for test in (*entry.results, *entry.failed)
        ],
    )


def _is_confirmed(entry: _Entry) -> bool:
    return entry.fresh >= CONFIRMED and not entry.failed


def _unranked(entry: _Entry) -> str:
    if entry.session is not None and entry.session.disqualified:
        review = entry.session.review
        return f"disqualified: {review.category}" if review and review.category else "disqualified"
    if any(not test.sandboxed for test in entry.results):
        return "ran without a sandbox"
    return "" if entry.results else "no score on the final split"


def _difference(found: Difference | None) -> DifferenceView | None:
    if found is None:
        return None
    return DifferenceView(
        value=found.value,
        windows=_interval(found.windows),
        seeds=_interval(found.seeds),
        both=_interval(found.both),
    )


def _interval(found: Interval | None) -> IntervalView | None:
    if found is None:
        return None
    return IntervalView(
        low=found.low,
        high=found.high,
        standard_error=found.standard_error,
        degrees=found.degrees if math.isfinite(found.degrees) else None,
    )


def _metrics(task: Task, primary: Metric, entry: _Entry, own: Sample | None) -> list[ValueView]:
    if not entry.results:
        return []
    shown = []
    for metric in task.metrics_of(entry.results[0].group.profile, kind="scored"):
        if metric.name == primary.name:
            found, split = own, "final"
        else:
            told = [
                (t.seed, t.metrics[metric.name]) for t in entry.results if metric.name in t.metrics
            ]
            found = sample([Result(seed, value) for seed, (_, value) in told]) if told else None
            split = told[0][1][0] if told else ""
        if found is not None:
            shown.append(
                ValueView(
                    name=metric.name,
                    split="final" if split == "final" else "development",
                    hidden=metric.hidden,
                    mean=found.mean,
                    standard_error=found.standard_error,
                    seeds=found.size,
                )
            )
    return shown


def _cost(entry: _Entry, unedited: _Entry | None, base: Sample | None, told: _Sessions) -> CostView:
    session = entry.session
    started, still_open, abandoned = told.of(session) if session else (None, None, None)
    theirs = unedited.results if unedited is not None else []
    found = session.likeness if session is not None else None
    is_unedited = UNEDITED in (entry.code, found.same_as if found is not None else None)
    ratio = _ratio(
        _mean(test.training_s for test in entry.results), _mean(t.training_s for t in theirs)
    )
    speed = _ratio(_mean(t.speed for t in theirs), _mean(test.speed for test in entry.results))
    slope = _mean(t.slope for t in theirs)
    equal = None
    if base is not None and slope is not None and ratio is not None and not is_unedited:
        equal = at_equal_compute(base.mean, slope, ratio)
    added = [t.parameters_added for t in entry.results if t.parameters_added is not None]
    spent = session.tests if session else ()
    return CostView(
        gpu_hours=_mean(test.gpu_hours for test in entry.results),
        hours=_mean(test.hours for test in entry.results),
        spent_gpu_hours=_total(test.gpu_hours for test in spent),
        spent_hours=_total(test.hours for test in spent),
        parameters_added=added[0] if added else None,
        time_ratio=ratio,
        step_time_ratio=speed,
        unedited_at_equal_compute=equal,
        tests_used=session.used if session else None,
        tests_allowed=session.allowed if session else None,
        sessions_started=started,
        sessions_open=still_open,
        sessions_abandoned=abandoned,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def _ratio(over: float | None, under: float | None) -> float | None:
    return over / under if over and under else None
