from __future__ import annotations

import json
from typing import Any

import pytest

from harness.metrics import (
    MetricsError,
    feedback_lines,
    format_value,
    format_values,
    read_curve,
    read_scores,
)

PREFIX = "FIT: "
PATTERNS = {"loss": r"\bloss=([0-9.]+|nan|inf)", "other": r"other=([0-9.]+)"}


def curve(log: str) -> list[tuple[int, dict[str, float | None]]]:
    points = read_curve(log, PREFIX, r"step=(\d+)", PATTERNS)
    return [(point.step, point.values) for point in points]


def test_feedback_lines_are_the_last_that_begin_with_the_prefix() -> None:
    log = "".join(f"FIT: step={i}\nsaid FIT: {i}\n" for i in range(9))
    assert feedback_lines(log, PREFIX, 5) == [f"FIT: step={i}" for i in range(4, 9)]
    assert feedback_lines(log, PREFIX, 0) == []
    assert len(feedback_lines(log, PREFIX)) == 9


def test_feedback_lines_are_made_harmless() -> None:
    assert feedback_lines("FIT: \x1b[31mred\x07\r\n", PREFIX) == ["FIT: red"]
    assert len(feedback_lines(PREFIX + "x" * 100_000, PREFIX)[0]) == 400


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", []),
        ("FIT: step=0, loss=1.5\nFIT: step=2, loss=1.0", [(0, {"loss": 1.5}), (2, {"loss": 1.0})]),
        # A resumed training prints steps again: the later line counts, and steps ascend.
        (
            "FIT: step=2, loss=9\nFIT: step=1, loss=2\nFIT: step=2, loss=1",
            [(1, {"loss": 2.0}), (2, {"loss": 1.0})],
        ),
        ("FIT: step=1, loss=nan, other=2", [(1, {"loss": None, "other": 2.0})]),
        ("FIT: step=1, loss=inf", [(1, {"loss": None})]),
        ("FIT: step=1, loss=1.2.3", [(1, {"loss": None})]),
        ("FIT: loss=1.0\nFIT: step=3\nFIT: nothing\nstep=1, loss=2", []),
        ("FIT: step=" + "9" * 5000 + ", loss=1", []),
    ],
)
def test_curve(log: str, expected: list[tuple[int, dict[str, float | None]]]) -> None:
    assert curve(log) == expected


GOOD: dict[str, Any] = {
    "metrics": {"a": 1.5, "b": 2},
    "per_window": {"a": [1.0, 2.0]},
    "per_item": {"b": [{"id": "x", "correct": 1, "likelihood": -3.5}]},
    "hidden": {
        "metrics": {"h": 3.0},
        "final": {"a": 1.75},
        "per_window": {"a": [1.5, 2.0]},
        "per_item": {"h": [{"id": "y", "correct": False}]},
    },
}


def scores(raw: object) -> Any:
    text = raw if isinstance(raw, str) else json.dumps(raw)
    return read_scores(text, visible=["a", "b"], hidden=["h"], ranked=["a"])


def test_scores_are_split_in_visible_and_hidden() -> None:
    got = scores(GOOD)
    assert got.visible == {"a": 1.5, "b": 2.0}
    assert got.hidden == {"h": 3.0}
    assert got.final == {"a": 1.75}
    assert got.per_item["b"][0].model_dump() == {"id": "x", "correct": 1, "likelihood": -3.5}
    assert got.hidden_per_window == {"a": [1.5, 2.0]}
    assert type(got).model_validate_json(got.model_dump_json()) == got


def without(*path: str) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(GOOD))
    part = copy
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    return copy


def having(value: object, *path: str) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(GOOD))
    part = copy
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", "Expecting value"),
        ("[]", "the whole"),
        ("[" * 100_000, "recursion"),
        (json.dumps(GOOD).replace("1.5", "NaN", 1), "NaN is not a finite number"),
        (json.dumps(GOOD).replace("1.5", "-Infinity", 1), "-Infinity is not"),
        (json.dumps(GOOD).replace("1.5", "1e999", 1), "1e999 is not"),
        (json.dumps(GOOD).replace("1.5", "9" * 400, 1), "metrics.a"),
        (having(True, "metrics", "a"), "metrics.a"),
        (having("1.5", "metrics", "a"), "metrics.a"),
        (having(None, "metrics", "a"), "metrics.a"),
        (without("metrics", "b"), "metrics: b is missing"),
        (without("hidden", "metrics", "h"), "hidden.metrics: h is missing"),
        (without("hidden", "final", "a"), "hidden.final: a is missing"),
        (without("hidden"), "hidden.final: a is missing"),
        (having(1.0, "metrics", "c"), "metrics: c is not a metric"),
        (having(1.0, "metrics", "h"), "metrics: h is not a metric"),
        (having([1.0], "per_window", "h"), "per_window: h is not"),
        (having([{"id": 1, "correct": 0}], "per_item", "h"), "per_item: h is not"),
        (having([{"id": 1}], "per_item", "b"), "per_item.b.0.correct"),
        (having({}, "other"), "other"),
    ],
)
def test_what_is_no_scores(raw: object, expected: str) -> None:
    with pytest.raises(MetricsError) as caught:
        scores(raw)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("value", "decimals", "expected"),
    [
        (2.27631, 4, "2.2763"),
        (54.125, 2, "54.12"),
        (-0.00001, 2, "0.00"),
        (-0.01, 2, "-0.01"),
        (7.0, 0, "7"),
        (-0.2, 0, "0"),
        (1e15, 1, "1000000000000000.0"),
    ],
)
def test_format_value(value: float, decimals: int, expected: str) -> None:
    assert format_value(value, decimals) == expected


def test_format_values_keeps_the_order_of_the_metrics() -> None:
    assert format_values({"b": 1.0, "a": 2.0, "c": 3.0}, {"a": 1, "b": 2, "d": 1}) == (
        "a=2.0, b=1.00"
    )
