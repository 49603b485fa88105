"""A leaderboard as text: the cells that people read, Markdown, CSV.

Guaranteed: names and notes, which agents and reviewers choose, are shown without control
characters, stay in their cell, and are no formula to a spreadsheet.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.board import GroupView, IntervalView, LeaderboardView, MetricView, RowView
from harness.metrics import format_value
from harness.printable import visible
from harness.task import Task

HEADINGS = ("#", "Row", "Result", "Difference", "Verdict", "Score", "Code", "Cost", "Sessions")
LISTS = {
    "confirmed": "Confirmed by fresh seeds",
    "unconfirmed": "Not confirmed",
    "unranked": "Not ranked",
}


@dataclass(frozen=True)
class Line:
    """A row as people read it; every field is one line."""

    rank: str
    name: str
    result: str
    difference: str
    verdict: str
    score: str
    code: str
    cost: str
    sessions: str

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            self.rank,
            self.name,
            self.result,
            self.difference,
            self.verdict,
            self.score,
            self.code,
            self.cost,
            self.sessions,
        )


def line_of(row: RowView, metric: MetricView) -> Line:
    return Line(
        rank=str(row.rank or "–"),
        name=visible(row.name),
        result=result_text(row, metric),
        difference=difference_text(row, metric),
        verdict=", ".join(filter(None, (row.verdict or "–", visible(row.unranked), _suspect(row)))),
        score="–" if row.score is None else signed(row.score, 2),
        code=code_text(row),
        cost=cost_text(row, metric),
        sessions=sessions_text(row),
    )


def result_text(row: RowView, metric: MetricView) -> str:
    if row.mean is None:
        return "no score"
    text = format_value(row.mean, metric.decimals)
    if row.standard_error is not None:
        text += f" ± {format_value(row.standard_error, metric.decimals)}"
    text += f", {_count(len(row.seeds), 'seed')}"
    if row.failed:
        text += f", {row.failed} without a score"
    if row.missing:
        text += f", {_count(row.missing, 'seed')} not played"
    return text


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def difference_text(row: RowView, metric: MetricView) -> str:
    if row.difference is None:
        return "–"
    found = row.difference
    text = signed(found.value, metric.decimals)
    shown = found.both or found.windows or found.seeds
    if shown is None:
        return text
    return f"{text} [{interval_text(shown, metric)}]" + ("" if found.both else " from windows")


def interval_text(interval: IntervalView, metric: MetricView) -> str:
    return f"{signed(interval.low, metric.decimals)}, {signed(interval.high, metric.decimals)}"


def signed(value: float, decimals: int) -> str:
    text = format_value(abs(value), decimals)
    if not text.strip("0."):
        return text
    return ("−" if value < 0 else "+") + text


def code_text(row: RowView) -> str:
    if row.same_as == "":
        return "no edit"
    if row.same_as is not None:
        return f"is {row.same_as}"
    if row.changed_lines is None:
        return "–"
    text = _count(row.changed_lines, "line")
    if row.nearest and row.distance is not None:
        text += f", {row.distance:.2f} from {row.nearest}"
    return text


def cost_text(row: RowView, metric: MetricView) -> str:
    cost = row.cost
    found = []
    if cost.gpu_hours is not None:
        found.append(f"{_hours(cost.gpu_hours, 'GPU-')} a test")
    elif cost.hours is not None:
        found.append(f"{_hours(cost.hours, '')} a test")
    if cost.parameters_added is not None:
        found.append(f"{cost.parameters_added:+,} parameters")
    if cost.step_time_ratio is not None:
        found.append(f"{cost.step_time_ratio:.2f} x step time")
    elif cost.time_ratio is not None:
        found.append(f"{cost.time_ratio:.2f} x time")
    if cost.unedited_at_equal_compute is not None:
        equal = format_value(cost.unedited_at_equal_compute, metric.decimals)
        found.append(f"unedited at equal compute about {equal}")
    return ", ".join(found) or "–"


def _hours(hours: float, unit: str) -> str:
    if hours >= 0.95:
        return f"{hours:.1f} {unit}h"
    return f"{hours * 60:.1f} {unit}min" if hours >= 1 / 60 else f"{hours * 3600:.1f} {unit}s"


def sessions_text(row: RowView) -> str:
    cost = row.cost
    if cost.sessions_started is None:
        return "–"
    started = _count(cost.sessions_started, "session")
    text = f"{cost.tests_used} of {cost.tests_allowed} tests, {started}"
    if cost.sessions_abandoned:
        text += f", {cost.sessions_abandoned} abandoned"
    if cost.sessions_open:
        text += f", {cost.sessions_open} open"
    return text


def _suspect(row: RowView) -> str:
    if row.review is None or row.review.verdict != "suspect":
        return ""
    return f"suspect: {visible(row.review.category)}" if row.review.category else "suspect"


def group_title(group: GroupView) -> str:
    return f"Profile {group.profile}, version {group.task_version}, {visible(group.hardware)}"


def group_facts(group: GroupView) -> str:
    return (
        f"data {visible(group.data)[:40]}, torch {visible(group.torch)}, "
        f"locked text {group.locked_digest[:12]}"
    )


def ranked_by(group: GroupView) -> str:
    metric = group.metric
    unit = f", {metric.unit}" if metric.unit else ""
    return f"Ranked by {metric.name}{unit} on the split final; {metric.direction} is better."


def of_profile(board: LeaderboardView, profile: str | None) -> LeaderboardView:
    """Its groups and published results of one profile, or all of it."""
    if profile is None:
        return board
    return board.model_copy(
        update={
            "groups": [group for group in board.groups if group.profile == profile],
            "published": [row for row in board.published if row.profile in (None, profile)],
        }
    )


def published_table(board: LeaderboardView, task: Task) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of what others published."""
    digits = {metric.name: metric.decimals for metric in task.metrics if metric.kind == "scored"}
    names = list(dict.fromkeys(name for row in board.published for name in row.metrics))
    rows = [
        [
            visible(row.name),
            row.profile or "–",
            *(
                format_value(row.metrics[name], digits.get(name, 4)) if name in row.metrics else "–"
                for name in names
            ),
            visible(row.note),
        ]
        for row in board.published
    ]
    return ["Row", "Profile", *names, "Note"], rows


def show(board: LeaderboardView, task: Task, console: Console) -> None:
    """On a terminal."""
    if not board.groups:
        console.print(Text(f"Nothing was measured yet: harness baseline run {board.task} --all"))
    for group in board.groups:
        console.print(Text(group_title(group), style="bold"), soft_wrap=True)
        console.print(Text(f"{group_facts(group)}. {ranked_by(group)}"), soft_wrap=True)
        for note in group.notes:
            console.print(Text(note, style="yellow"), soft_wrap=True)
        for standing, title in LISTS.items():
            rows = [row for row in group.rows if row.standing == standing]
            if rows:
                table = Table(*HEADINGS, title=title, title_justify="left")
                for row in rows:
                    table.add_row(*map(Text, line_of(row, group.metric).cells))
                console.print(table)
    if board.published:
        headings, rows_of = published_table(board, task)
        table = Table(*headings, title="Published elsewhere, not ranked with ours")
        for cells in rows_of:
            table.add_row(*map(Text, cells))
        console.print(table)


# ── Markdown ──────────────────────────────────────────────────────────────────────────────────

_MARKS = re.compile(r"([\\`*_{}\[\]<>|#~&])")


def markdown(board: LeaderboardView, task: Task) -> str:
    parts = [f"# Leaderboard of {_escaped(board.task)}"]
    if not board.groups:
        parts.append("Nothing was measured yet.")
    for group in board.groups:
        parts += [f"## {_escaped(group_title(group))}", _escaped(group_facts(group)) + "."]
        parts.append(_escaped(ranked_by(group)))
        parts += [f"Note: {_escaped(note)}" for note in group.notes]
        for standing, title in LISTS.items():
            lines = [line_of(row, group.metric) for row in group.rows if row.standing == standing]
            if lines:
                parts.append(f"### {title}")
                parts.append(_table(HEADINGS, [line.cells for line in lines]))
    if board.published:
        headings, rows = published_table(board, task)
        parts += ["## Published elsewhere, not ranked with ours", _table(headings, rows)]
    parts += [
        f"Score: {_escaped(board.score_definition)}",
        f"Verdicts: {_escaped(board.verdict_definition)}",
    ]
    return "\n\n".join(parts) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *([_escaped(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    return _MARKS.sub(r"\\\1", text)


# ── CSV ───────────────────────────────────────────────────────────────────────────────────────

COLUMNS = (
    "profile", "task_version", "hardware", "torch", "data", "locked_digest", "current",
    "standing", "rank", "kind", "name", "session", "metric", "mean", "standard_error", "seeds",
    "fresh_seeds", "failed", "missing", "difference", "low", "high", "verdict", "score", "same_as",
    "changed_lines", "nearest", "distance", "gpu_hours", "hours", "parameters_added",
    "time_ratio", "step_time_ratio", "unedited_at_equal_compute", "tests_used",
    "sessions_started", "sessions_abandoned", "review", "unranked",
)  # fmt: skip


def as_csv(board: LeaderboardView) -> str:
    """A line for each row of each group; published results are not among them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for group in board.groups:
        for values in _records(group):
            writer.writerow([_plain(values[name]) for name in COLUMNS])
    return out.getvalue()


def _records(group: GroupView) -> Iterator[dict[str, object]]:
    for row in group.rows:
        both = row.difference.both if row.difference else None
        yield {
            **group.model_dump(include=set(COLUMNS)),
            **row.model_dump(include=set(COLUMNS)),
            **row.cost.model_dump(include=set(COLUMNS)),
            "metric": group.metric.name,
            "seeds": " ".join(map(str, row.seeds)),
            "difference": row.difference.value if row.difference else None,
            "low": both.low if both else None,
            "high": both.high if both else None,
            "review": row.review.verdict if row.review else None,
        }


def _plain(value: object) -> object:
    if not isinstance(value, str):
        return value
    shown = visible(value)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") else shown
