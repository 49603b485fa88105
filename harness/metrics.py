"""Pure: a stage's log as feedback lines and a curve, a score's metrics.json as checked numbers.

Guaranteed of a `Scores`: every number is finite, every declared metric is there, nothing that
was not declared is, and hidden values stand in the hidden fields only.
Not guaranteed: anything about feedback. The agent's own code prints it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from harness.printable import printable

LINE_LIMIT = 400
"""Characters of a feedback line that are kept."""


METRICS_BYTES = 64 << 20
"""The largest metrics.json that is read."""

VOID_CATEGORIES = (
    "not causal",
    "depends on the batch",
    "changes itself",
    "copies training data",
)
"""What an audit may find; all that an agent is told of it."""


class MetricsError(ValueError):
    """A metrics.json that can't be taken; the message lists all that is wrong with it."""


class CurvePoint(BaseModel):
    """What one feedback line says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    """The optimizer step, as printed."""
    values: dict[str, float | None]
    """By metric; None for a value that was printed but is not finite."""


class ItemOutcome(BaseModel):
    """One item of an evaluation; a task may add keys of its own."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    id: str | int
    """The item's name, unique within its metric."""
    correct: bool | int | float
    """1 for a right answer, 0 for a wrong one (or a share of a point)."""


class Scores(BaseModel):
    """The scored numbers of one stage, visible and hidden apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    visible: dict[str, float] = {}
    """Shown to the agent; measured on the development split."""
    per_window: dict[str, list[float]] = {}
    """Losses by window of visible metrics, in the order of the windows."""
    per_item: dict[str, list[ItemOutcome]] = {}
    """Outcomes by item of visible metrics."""
    hidden: dict[str, float] = {}
    """Values of the metrics that the task hides."""
    final: dict[str, float] = {}
    """Ranked metrics on the final split."""
    hidden_per_window: dict[str, list[float]] = {}
    """Losses by window that no agent may see."""
    hidden_per_item: dict[str, list[ItemOutcome]] = {}
    """Outcomes by item that no agent may see."""
    audit: dict[str, JsonValue] = {}
    """What an audit measured; for people only."""

    def private(self) -> dict[str, Any]:
        """What no agent may see of the numbers themselves, as a test's event keeps it."""
        windows = self.hidden_per_window.items()
        return {
            "metrics": self.hidden,
            "final": self.final,
            "final_windows": {name: losses for name, losses in windows if name in self.final},
        }


class _Hidden(BaseModel):
    model_config = ConfigDict(extra="forbid")

    metrics: dict[str, float] = {}
    final: dict[str, float] = {}
    per_window: dict[str, list[float]] = {}
    per_item: dict[str, list[ItemOutcome]] = {}
    audit: dict[str, JsonValue] = {}


class _MetricsFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    void: str | None = None
    metrics: dict[str, float] = {}
    per_window: dict[str, list[float]] = {}
    per_item: dict[str, list[ItemOutcome]] = {}
    hidden: _Hidden = _Hidden()


# ---------------------------------------------------------------------------------------------
# Feedback


def feedback_lines(log: str, prefix: str, limit: int | None = None) -> list[str]:
    """The lines of a log that begin with `prefix`, in order; the last `limit` if one is given.

    Control characters are dropped and a line is cut at LINE_LIMIT characters.
    """
    found = [
        printable(line)[:LINE_LIMIT].rstrip() for line in log.split("\n") if line.startswith(prefix)
    ]
    return found if limit is None else found[max(0, len(found) - limit) :]


def read_curve(log: str, prefix: str, step: str, patterns: Mapping[str, str]) -> list[CurvePoint]:
    """The feedback lines as points, ascending by step.

    `step` and each of `patterns` (metric name -> pattern) are regular expressions with one
    group. A line without a step or without any value gives no point. Of two lines for one step
    the later counts: a resumed training prints some steps again.
    """
    step_re = re.compile(step)
    value_res = {name: re.compile(pattern) for name, pattern in patterns.items()}
    points: dict[int, CurvePoint] = {}
    for line in feedback_lines(log, prefix):
        found = step_re.search(line)
        number = _integer(found[1]) if found else None
        if number is None:
            continue
        values: dict[str, float | None] = {}
        for name, pattern in value_res.items():
            if match := pattern.search(line):
                values[name] = _finite(match[1])
        if values:
            points[number] = CurvePoint(step=number, values=values)
    return [points[number] for number in sorted(points)]


def _integer(text: str) -> int | None:
    # int() refuses very long digit strings with ValueError, as it does other text.
    try:
        return int(text)
    except ValueError:
        return None


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# ---------------------------------------------------------------------------------------------
# Scores


def read_scores(
    text: str | bytes,
    *,
    visible: Iterable[str],
    hidden: Iterable[str] = (),
    ranked: Iterable[str] = (),
) -> Scores:
    """A metrics.json, checked against the names that the stage's metrics have.

    `visible` and `hidden` must be there exactly; `ranked` (a subset of both together) must be
    under ``hidden.final``. Raises MetricsError with everything that is wrong.
    """
    visible, hidden, ranked = set(visible), set(hidden), set(ranked)
    try:
        raw = json.loads(text, parse_constant=_not_finite, parse_float=_finite_or_refuse)
        file = _MetricsFile.model_validate(raw, strict=True)
    except ValidationError as e:
        problems = [f"{_dotted(error['loc'])}: {error['msg']}" for error in e.errors()[:20]]
        raise MetricsError("metrics.json: " + "; ".join(problems)) from None
    except (ValueError, RecursionError) as e:
        raise MetricsError(f"metrics.json: {e}") from None
    if file.void is not None:  # an audit failed: nothing of it counts
        return Scores(audit=file.hidden.audit)
    problems = [
        *_names("metrics", file.metrics, required=visible, allowed=visible),
        *_names("per_window", file.per_window, required=set(), allowed=visible),
        *_names("per_item", file.per_item, required=set(), allowed=visible),
        *_names("hidden.metrics", file.hidden.metrics, required=hidden, allowed=hidden),
        *_names("hidden.final", file.hidden.final, required=ranked, allowed=visible | hidden),
    ]
    if problems:
        raise MetricsError("metrics.json: " + "; ".join(problems))
    return Scores(
        visible=file.metrics,
        per_window=file.per_window,
        per_item=file.per_item,
        hidden=file.hidden.metrics,
        final=file.hidden.final,
        hidden_per_window=file.hidden.per_window,
        hidden_per_item=file.hidden.per_item,
        audit=file.hidden.audit,
    )


def void_category(text: str | bytes) -> str | None:
    """What a metrics.json says of a failed audit; None if there was none.

    Raises MetricsError for a category that there is not, ValueError for what is no JSON object.
    """
    raw = json.loads(text)
    category = raw.get("void") if isinstance(raw, dict) else None
    if category is not None and category not in VOID_CATEGORIES:
        raise MetricsError(f"metrics.json: void: is none of {', '.join(VOID_CATEGORIES)}")
    return category


def _names(
    field: str, given: Mapping[str, Any], *, required: set[str], allowed: set[str]
) -> list[str]:
    missing = sorted(required - given.keys())
    unknown = sorted(given.keys() - allowed)
    return [f"{field}: {name} is missing" for name in missing] + [
        f"{field}: {name} is not a metric of this stage that belongs here" for name in unknown
    ]


def _not_finite(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a finite number")


def _finite_or_refuse(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _not_finite(text)
    return value


def _dotted(loc: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in loc) or "(the whole)"


# ---------------------------------------------------------------------------------------------
# Text


def format_value(value: float, decimals: int) -> str:
    """The value with that many decimals, and no minus sign before a zero."""
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def format_values(values: Mapping[str, float], decimals: Mapping[str, int]) -> str:
    """``name=value, name=value`` in the order of `decimals`; names without a value are left out."""
    return ", ".join(
        f"{name}={format_value(values[name], digits)}"
        for name, digits in decimals.items()
        if name in values
    )
