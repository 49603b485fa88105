"""What pages show of a story, worked out when it is asked for. Pure but for a cache of colours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from markupsafe import Markup, escape
from pygments import highlight as pygments_highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

from harness.diffs import blocks, hunks
from harness.metrics import format_value
from harness.printable import visible
from harness.recorded import Said
from harness.regions import EditableFile
from harness.story import Happening, Story, StoryStep, StoryTest
from harness.task import Metric, Task
from harness.web.sources import Reference

MAX_COLOURED = 400_000
"""characters of a file above which it is shown without colours"""

Against = Literal["previous", "start"]


# ── code ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Line:
    """One line of a file as it is shown; `number` is None where a region is empty."""

    number: int | None
    code: Markup
    locked: bool
    changed: bool = False
    cut_above: bool = False
    """whether lines were taken away just above it"""
    region: str | None = None
    """the region's name, at its first line"""


@dataclass(frozen=True)
class DiffRow:
    kind: str
    """`equal`, `replace`, `delete`, `insert`"""
    old: int | None
    new: int | None
    old_code: Markup
    new_code: Markup


def coloured(file: EditableFile) -> tuple[Markup, ...]:
    """Each line as HTML that is safe to show, with Pygments' classes.

    Segments are coloured apart, so that of a new version only the edited region is: a text that
    spans a region's border may get another colour than it should.
    """
    if len(file.text) > MAX_COLOURED:
        return tuple(Markup(escape(visible(line))) for line in file.lines)
    return tuple(line for segment in file.segments for line in _coloured(file.name, segment.lines))


@lru_cache(maxsize=1024)
def _coloured(name: str, lines: tuple[str, ...]) -> tuple[Markup, ...]:
    # What a browser would obey is written out first, so that no colouring can hide it.
    shown = [visible(line, lines=True) for line in lines]
    try:
        lexer = get_lexer_for_filename(name, stripnl=False, ensurenl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False, ensurenl=False)
    html = pygments_highlight("\n".join(shown), lexer, HtmlFormatter(nowrap=True))
    found = tuple(Markup(line) for line in html.split("\n")[: len(lines)])
    if len(found) == len(lines):
        return found
    # A lexer that drops or adds a line would put every colour beside its line.
    return tuple(Markup(escape(line)) for line in shown)


class _Plain:
    """Lines that are escaped when they are asked for."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines

    def __getitem__(self, index: int) -> Markup:
        return Markup(escape(visible(self.lines[index])))


def file_lines(file: EditableFile, before: EditableFile | None) -> list[Line]:
    """The whole file, with what differs from `before` marked."""
    codes = coloured(file)
    changed: set[int] = set()
    cut: set[int] = set()
    if before is not None and before is not file:
        for kind, _, _, first, end in blocks(before.lines, file.lines):
            if kind == "delete":
                cut.add(first + 1)
            elif kind != "equal":
                changed.update(range(first + 1, end + 1))
    names = {region.first: region.name for region in file.regions}
    empty = {region.first for region in file.regions if not region.lines}
    found: list[Line] = []
    inside = {n for region in file.regions for n in range(region.first, region.last + 1)}
    for number, code in enumerate(codes, start=1):
        if number in empty:
            found.append(Line(None, Markup(""), False, number in cut, False, names[number]))
        found.append(
            Line(
                number,
                code,
                number not in inside,
                number in changed,
                number in cut,
                names.get(number) if number in inside else None,
            )
        )
    if len(codes) + 1 in empty:
        found.append(Line(None, Markup(""), False, False, False, names[len(codes) + 1]))
    return found


CHUNK = 50
"""lines that a browser lays out together"""


def chunks(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Runs of lines, none across a region's border: an edit changes the runs of its region."""
    run: list[Line] = []
    for line in lines:
        if run and (len(run) == CHUNK or run[-1].locked != line.locked or line.number is None):
            yield run
            run = []
        run.append(line)
    if run:
        yield run


def diff_hunks(
    old: EditableFile, new: EditableFile, context: int = 3, *, plain: bool = False
) -> list[list[DiffRow]]:
    """The changes with lines around, side by side; rows of a change are paired.

    `plain` leaves colours out, which many versions at once would take too long for.
    """
    blank = Markup("")
    before: Sequence[Markup] | _Plain
    after: Sequence[Markup] | _Plain
    if plain:
        before, after = _Plain(old.lines), _Plain(new.lines)
    else:
        before, after = coloured(old), coloured(new)
    return [
        [
            DiffRow(
                row.kind,
                row.old,
                row.new,
                before[row.old - 1] if row.old else blank,
                after[row.new - 1] if row.new else blank,
            )
            for row in hunk
        ]
        for hunk in hunks(old.lines, new.lines, context)
    ]


def unified(hunk: Sequence[DiffRow]) -> Iterator[tuple[str, int | None, int | None, Markup]]:
    """(sign, old number, new number, code) of a hunk, what was taken away first."""
    added: list[DiffRow] = []
    for row in hunk:
        if row.kind == "equal":
            for late in added:
                yield "+", None, late.new, late.new_code
            added.clear()
            yield " ", row.old, row.new, row.new_code
            continue
        if row.old is not None:
            yield "-", row.old, None, row.old_code
        if row.new is not None:
            added.append(row)
    for late in added:
        yield "+", None, late.new, late.new_code


# ── a step ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Attempted:
    """What a refused edit would have done, as far as it can be told."""

    file: str
    first: int | None
    last: int | None
    old: tuple[Line, ...]
    """the lines that it addressed, as they stand"""
    new: tuple[Markup, ...]
    """what it would have put there"""


def attempted(step: StoryStep) -> Attempted | None:
    """For a refused edit with arguments."""
    if step.ok or step.tool != "edit" or not step.args:
        return None
    file = step.files.get(step.file)
    content = step.args.get("content", step.args.get("new_str"))
    new = content if isinstance(content, str) else ""
    first, last = _number(step.args.get("start_line")), _number(step.args.get("end_line"))
    if first is None and (after := _number(step.args.get("after_line"))) is not None:
        first, last = after + 1, after
    old: list[Line] = []
    if file is not None and first is not None and last is not None:
        lines = {line.number: line for line in file_lines(file, None)}
        old = [lines[n] for n in range(max(1, first), min(last, first + 80) + 1) if n in lines]
    elif isinstance(step.args.get("old_str"), str):
        text = visible(str(step.args["old_str"]), lines=True)
        old = [Line(None, Markup(escape(line)), False) for line in text.split("\n")]
    shown = visible(new, lines=True).split("\n") if new else []
    return Attempted(
        step.file, first, last, tuple(old), tuple(Markup(escape(line)) for line in shown)
    )


def _number(value: object) -> int | None:
    try:
        return int(float(value)) if isinstance(value, str | int | float) else None
    except (ValueError, OverflowError):
        return None


def summary(step: StoryStep) -> str:
    """A step in a few words, for the timeline."""
    line = step.first_line
    if step.tool == "edit":
        line = line.removeprefix("OK: ").split(" in " + step.file, 1)[0]
    if step.tool == "undo" and step.ok:
        line = ", ".join(dict.fromkeys(change.after.name for change in step.changes))
    if step.tool == "view" and step.args:
        first = step.args.get("start_line")
        line = f"{step.args.get('filename') or step.file}" + (
            f", from line {first}" if first else ""
        )
    line = line.removeprefix("ERROR: ").removeprefix("[Status] ")
    return line if len(line) <= 160 else line[:157] + "…"


def arguments(step: StoryStep) -> list[tuple[str, str]]:
    """(name, text) of a call's arguments; a text stays a text, all else is as Python shows it."""
    if step.args is None:
        return [("arguments", "were not JSON")]
    return [(name, v if isinstance(v, str) else repr(v)) for name, v in step.args.items()]


def speech(item: Said | Happening) -> tuple[str, str]:
    """(who, text); who is empty for what merely happened."""
    return (item.role, item.text) if isinstance(item, Said) else ("", item.text)


def previous(story: Story, index: int, name: str, against: Against) -> EditableFile | None:
    """The version of a file to compare step `index` with."""
    if index == 0:
        return None
    return (story.start if against == "start" else story.files_at(index - 1)).get(name)


# ── tests ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Cell:
    text: str
    difference: str = ""
    better: bool | None = None


@dataclass(frozen=True)
class MetricRow:
    name: str
    title: str
    """unit and direction"""
    hidden: bool
    primary: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class MetricTable:
    columns: tuple[tuple[str, str], ...]
    """(title, note)"""
    rows: tuple[MetricRow, ...]
    base: str
    """the name of what the differences are to; empty if there is nothing"""


def metric_table(
    tests: Sequence[tuple[str, StoryTest]],
    references: Sequence[Reference],
    base: str | None,
    task: Task | None,
    profile: str,
) -> MetricTable:
    """Tests and references side by side, with each test's difference to the one named `base`."""
    known: dict[str, Metric] = {}
    if task is not None and profile in task.profiles:
        known = {m.name: m for m in task.metrics_of(profile, kind="scored")}
    elif task is not None:
        known = {m.name: m for m in task.metrics if m.kind == "scored"}
    chosen = next((r for r in references if r.name == base), None)
    if chosen is None:
        chosen = references[0] if references else None
    columns = [(title, "") for title, _ in tests] + [(r.name, r.note) for r in references]
    rows = []
    for kind in ("visible", "hidden", "final"):
        values = [_values(test, kind) for _, test in tests]
        others = [
            r.metrics if kind == "visible" else _reference(r, kind, known) for r in references
        ]
        names = dict.fromkeys(name for row in (*values, *others) for name in row)
        if kind == "visible":
            names = dict.fromkeys(n for n in names if not _is_hidden(known.get(n)))
        ordered = [name for name in known if name in names]
        ordered += [name for name in names if name not in known]
        for name in ordered:
            metric = known.get(name)
            base_values = (
                {}
                if chosen is None
                else chosen.metrics
                if kind == "visible"
                else _reference(chosen, kind, known)
            )
            cells = [_cell(row.get(name), base_values.get(name), metric) for row in values]
            cells += [Cell(_shown(row.get(name), metric)) for row in others]
            title = name if kind != "final" else f"{name} (final split)"
            rows.append(
                MetricRow(
                    title,
                    f"{metric.unit}, {metric.direction} is better".lstrip(", ") if metric else "",
                    kind != "visible",
                    bool(metric and metric.primary and kind == "visible"),
                    tuple(cells),
                )
            )
    return MetricTable(tuple(columns), tuple(rows), chosen.name if chosen else "")


def _is_hidden(metric: Metric | None) -> bool:
    return metric is not None and metric.hidden


def _values(test: StoryTest, kind: str) -> Mapping[str, float]:
    if kind == "visible":
        return test.metrics
    return test.hidden_metrics if kind == "hidden" else test.final_metrics


def _reference(reference: Reference, kind: str, known: Mapping[str, Metric]) -> Mapping[str, float]:
    if reference.test is not None:
        return _values(reference.test, kind)
    if kind == "final":
        return {}
    # What others published of a metric that we hide stands in the row of the hidden one.
    return {n: v for n, v in reference.metrics.items() if _is_hidden(known.get(n))}


def _shown(value: float | None, metric: Metric | None) -> str:
    if value is None:
        return "–"
    return format_value(value, metric.decimals if metric else 4)


def _cell(value: float | None, base: float | None, metric: Metric | None) -> Cell:
    if value is None or base is None:
        return Cell(_shown(value, metric))
    difference = value - base
    text = format_value(abs(difference), metric.decimals if metric else 4)
    sign = "+" if difference > 0 else "−" if difference < 0 else "±"
    better = None
    if metric is not None and difference != 0 and text.strip("0.") != "":
        better = (difference < 0) == (metric.direction == "lower")
    return Cell(_shown(value, metric), sign + text, better)


def curves(tests: Sequence[tuple[str, StoryTest]]) -> list[dict[str, Any]]:
    """A plot for each feedback metric: its name, and a line for each test that has it."""
    names = dict.fromkeys(
        name for _, test in tests for point in test.curve for name in point if name != "step"
    )
    plots: list[dict[str, Any]] = []
    for name in list(names)[:6]:
        lines = []
        for title, test in tests:
            points = [(p["step"], p[name]) for p in test.curve if name in p and "step" in p]
            lines.append((title, [step for step, _ in points], [value for _, value in points]))
        # One point is no curve; it stands among the feedback lines of its stage.
        if any(len(x) > 1 for _, x, _ in lines):
            shown = [{"name": title, "x": x, "y": y} for title, x, y in lines if x]
            plots.append({"metric": name, "lines": shown})
    return plots


_BAD_STAGES = {
    "failed": "failed",
    "timeout": "ran out of time",
    "void": "failed its audit",
    "no score": "shows no score",
}


def outcome(test: StoryTest) -> tuple[str, str]:
    """(class, words) of a test."""
    if test.state == "released":
        return "bad", "given back, not counted"
    if test.state != "finished":
        return "busy", test.state
    if test.void is not None:
        return "bad", f"audit failed: {test.void}"
    told = [
        f"{stage.label} {_BAD_STAGES[stage.state]}"
        for stage in test.stages
        if stage.state in _BAD_STAGES
    ]
    if told:
        return "bad", ", ".join(told)
    return ("good", "scored") if test.scored else ("bad", "no score")
