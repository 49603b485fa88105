"""A leaderboard's row: result, difference, score, cost, provenance. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, Literal

from harness.board import (
    CostView,
    DifferenceView,
    IntervalView,
    ReviewView,
    RowView,
    RunView,
    Standing,
    ValueView,
)
from harness.entries import Compared, Entry, SessionCounts
from harness.likeness import UNEDITED
from harness.scoring import (
    Difference,
    Interval,
    Result,
    Sample,
    Verdict,
    at_equal_compute,
    normalised,
    sample,
)
from harness.task import Metric, Task

CONFIRMED: Final = 2
"""seeds that the harness chose from which a row is confirmed"""


def row_of(
    task: Task,
    compared: Compared,
    metric: Metric,
    base: Sample | None,
    best: Compared | None,
    unedited: Entry | None,
    told: SessionCounts,
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
    unranked = _unranked(compared, same_as)
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
        missing=len(entry.missing),
        difference=_difference(None if is_unedited else like.to_unedited),
        verdict="unedited" if is_unedited else verdict_of(like),
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


def verdict_of(compared: Compared) -> Literal[Verdict, "tests failed"] | None:
    """Results that remain after others failed may be the lucky ones: they are never better."""
    if compared.to_unedited is None:
        return None
    found = compared.to_unedited.verdict
    return "tests failed" if found == "better" and compared.entry.failed else found


def _is_confirmed(entry: Entry) -> bool:
    return entry.fresh >= CONFIRMED and not entry.failed and not entry.missing


def _unranked(compared: Compared, same_as: str | None) -> str:
    entry = compared.entry
    if entry.session is not None and entry.session.disqualified:
        review = entry.session.review
        return f"disqualified: {review.category}" if review and review.category else "disqualified"
    submitted = entry.session.submitted if entry.session is not None else None
    tests = (*entry.results, *((submitted,) if submitted is not None else ()))
    if any(not test.sandboxed for test in tests):
        return "ran without a sandbox"
    if entry.results and same_as is not None and compared.like is None:
        of = "the unedited files" if same_as == UNEDITED else f"the baseline {same_as}"
        return f"its code is that of {of}, which this group has no result of"
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


def _metrics(task: Task, primary: Metric, entry: Entry, own: Sample | None) -> list[ValueView]:
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


def _cost(
    entry: Entry, unedited: Entry | None, base: Sample | None, told: SessionCounts
) -> CostView:
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
