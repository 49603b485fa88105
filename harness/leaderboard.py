"""A task's leaderboard out of its sessions' outcomes: groups, ranks, scale. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from harness.board import (
    GroupView,
    LeaderboardView,
    MetricView,
    PublishedView,
    RowView,
    ScaleView,
    Standing,
)
from harness.entries import Compared, Entry, SessionCounts, compared_with, entries_of
from harness.likeness import UNEDITED
from harness.outcomes import Comparable, Outcome
from harness.rows import CONFIRMED, row_of, verdict_of
from harness.scoring import LEVEL, Sample
from harness.task import Task

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
    "it is one seed, never better; nor is a row better of which tests ended without a score."
)


def leaderboard(task: Task, outcomes: Sequence[Outcome]) -> LeaderboardView:
    """Every group that has a result of a submission, a baseline or the unedited files.

    `outcomes` are all of the task's; those of profiles that it has no more are left out.
    """
    outcomes = [outcome for outcome in outcomes if outcome.profile in task.profiles]
    entries = entries_of(task, outcomes)
    told = SessionCounts(outcomes)
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


def _group(task: Task, key: Comparable, entries: Sequence[Entry], told: SessionCounts) -> GroupView:
    metric = task.primary(key.profile)
    unedited = next((e for e in entries if e.code == UNEDITED and e.results), None)
    base = unedited.sample if unedited is not None else None
    compared = [compared_with(entry, base, metric) for entry in entries]
    by_code = {c.entry.code: c for c in compared if c.entry.code is not None and c.own}
    for each in compared:
        if each.entry.session is not None and each.entry.session.likeness is not None:
            same = each.entry.session.likeness.same_as
            each.like = by_code.get(same) if same is not None else None
    baselines = [c for c in compared if c.entry.code not in (None, UNEDITED) and c.own]
    sign = 1 if metric.direction == "lower" else -1
    best = min(baselines, key=lambda c: sign * (c.value or 0.0), default=None)
    rows = [row_of(task, each, metric, base, best, unedited, told) for each in compared]
    _rank(rows, compared, sign)
    order: dict[Standing, int] = {"confirmed": 0, "unconfirmed": 1, "unranked": 2}
    rows.sort(key=lambda row: (order[row.standing], row.rank or 0, row.name, row.session or ""))
    scale = ScaleView(
        unedited=base.mean if base else None,
        best=best.value if best else None,
        baseline=best.entry.name if best else None,
        verdict=verdict_of(best) if best else None,
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
    run = f"harness baseline run {task.name} --all --profile {key.profile}"
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


def _rank(rows: Sequence[RowView], compared: Sequence[Compared], sign: int) -> None:
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
