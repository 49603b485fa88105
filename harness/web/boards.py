"""What the leaderboard's page shows: groups, lists, lines, and where an interval lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.board import GroupView, IntervalView, LeaderboardView, MetricView, RowView, ValueView
from harness.leaderboard_forms import (
    LISTS,
    Line,
    group_facts,
    group_title,
    interval_text,
    line_of,
    of_profile,
    published_table,
    ranked_by,
)
from harness.metrics import format_value
from harness.task import Task

WIDTH = 120
"""of an interval's picture, in its own units; 0 is in the middle"""

_MARKS = {"better": "good", "worse": "bad", "tests failed": "busy"}


@dataclass(frozen=True)
class Bar:
    """An interval between the picture's ends."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class ShownRow:
    row: RowView
    line: Line
    mark: str
    """class of the verdict"""
    bar: Bar | None
    intervals: tuple[tuple[str, str], ...]
    """(where from, the interval)"""
    metrics: tuple[tuple[str, str], ...]
    """(name, value)"""


@dataclass(frozen=True)
class ShownGroup:
    group: GroupView
    title: str
    facts: str
    ranked_by: str
    lists: tuple[tuple[str, str, tuple[ShownRow, ...]], ...]
    """(standing, title, rows), those that have any"""


def values(board: LeaderboardView, task: Task, profile: str) -> dict[str, Any]:
    """What the template needs; of all profiles if `profile` is empty."""
    chosen = profile or None
    shown = of_profile(board, chosen)
    headings, published = published_table(shown, task)
    return {
        "task": task,
        "board": board,
        "profile": chosen,
        "profiles": list(task.profiles),
        "groups": [_group(group, task) for group in shown.groups],
        "published": published,
        "published_headings": headings,
        "width": WIDTH,
    }


def _group(group: GroupView, task: Task) -> ShownGroup:
    ranked = [row for row in group.rows if row.standing != "unranked"]
    reach = max((_reach(row) for row in ranked), default=0.0)
    digits = {metric.name: metric.decimals for metric in task.metrics if metric.kind == "scored"}
    rows = [(row.standing, _row(row, group.metric, reach, digits)) for row in group.rows]
    lists = []
    for standing, title in LISTS.items():
        own = tuple(shown for theirs, shown in rows if theirs == standing)
        if own:
            lists.append((standing, title, own))
    return ShownGroup(group, group_title(group), group_facts(group), ranked_by(group), tuple(lists))


def _row(row: RowView, metric: MetricView, reach: float, digits: dict[str, int]) -> ShownRow:
    found = row.difference
    named: Sequence[tuple[str, IntervalView | None]] = (
        (
            ("windows", found.windows),
            ("seeds", found.seeds),
            ("both, which the verdict goes by", found.both),
        )
        if found
        else ()
    )
    return ShownRow(
        row,
        line_of(row, metric),
        _MARKS.get(row.verdict or "", ""),
        _bar(row, reach),
        tuple((name, interval_text(each, metric)) for name, each in named if each is not None),
        tuple((_named(value), _valued(value, digits.get(value.name, 4))) for value in row.metrics),
    )


def _named(value: ValueView) -> str:
    return f"{value.name} ({value.split}{', hidden from agents' if value.hidden else ''})"


def _valued(value: ValueView, decimals: int) -> str:
    text = format_value(value.mean, decimals)
    if value.standard_error is not None:
        text += f" ± {format_value(value.standard_error, decimals)}"
    return text


def _interval(row: RowView) -> IntervalView | None:
    found = row.difference
    return (found.both or found.windows or found.seeds) if found else None


def _reach(row: RowView) -> float:
    """How far a picture has to go from 0 to hold the row's difference, its interval too."""
    interval = _interval(row)
    ends = [interval.low, interval.high] if interval else []
    ends.append(row.difference.value if row.difference else 0.0)
    return max(abs(end) for end in ends)


def _bar(row: RowView, reach: float) -> Bar | None:
    interval = _interval(row)
    if row.difference is None or interval is None or not reach or row.standing == "unranked":
        return None

    def place(value: float) -> float:
        return round(WIDTH / 2 * (1 + 0.95 * value / reach), 2)

    return Bar(place(interval.low), place(row.difference.value), place(interval.high))
