"""A result by its latest rule: what a regrade changes of it, and what stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.events import StageResult, TestFinished, TestRegraded
from harness.grades import graded, values_of
from harness.metrics import read_scores
from harness.regrading import refitted
from harness.task import Metric

HIDDEN = {"metrics": {"worst": 3.0}, "final": {"error": 0.2}, "final_windows": {"error": [0.2]}}


def finished(state: Any = "done", **more: Any) -> TestFinished:
    stages = (
        StageResult(name="fit", label="fit-toy", script="fit.sh", state=state, exit=1,
                    reason=("ERROR: metrics.json: error is missing",) if state != "done" else (),
                    metrics={"error": 0.1} if state == "done" else {}),
        StageResult(name="near", label="near-toy", script="near.sh", state="done",
                    metrics={"near": 5.0}),
    )  # fmt: skip
    values = {"fit": {**HIDDEN, "audit": {"cost": 1}, "conduct": {"run": {}}}}
    given: dict[str, Any] = {
        "number": 1, "attempt": 1, "scored": state == "done", "stages": stages,
        "provenance": {"task_version": 1, "seed": 42},
        "private": {"salt": "s", "values": values}, "private_digest": "d",
    }  # fmt: skip
    return TestFinished(**given | more)


def regrade(values: dict[str, Any] | None) -> TestRegraded:
    return TestRegraded(
        number=1, attempt=1, task_version=2, scored=True, metrics={"fit": {"error": 0.15}},
        private=None if values is None else {"salt": "t", "values": values},
    )  # fmt: skip


def test_numbers_are_replaced_and_what_was_measured_beside_them_stays() -> None:
    now = graded(finished(), regrade({"fit": {"metrics": {}, "final": {"error": 0.25}}}))
    assert [stage.metrics for stage in now.stages] == [{"error": 0.15}, {}]
    assert now.provenance == {"task_version": 2, "seed": 42}
    kept = {"audit": {"cost": 1}, "conduct": {"run": {}}}
    assert values_of(now) == {"fit": {**kept, "metrics": {}, "final": {"error": 0.25}}}
    again = graded(now, regrade({"fit": {"metrics": {"worst": 4.0}}}))
    assert values_of(again)["fit"]["metrics"] == {"worst": 4.0}
    assert "final" not in values_of(again)["fit"]


def test_numbers_that_did_not_fit_the_rule_of_then_are_a_result_now() -> None:
    now = graded(finished("failed"), regrade(None))
    assert (now.scored, now.stages[0].state, now.stages[0].reason) == (True, "done", ())
    assert graded(finished("timeout"), regrade(None)).stages[0].state == "timeout"


def test_without_hidden_values_there_are_none_after_it() -> None:
    now = graded(finished(private=None), regrade(None))
    assert (now.private, values_of(now)) == (None, {})
    assert now.stages[0].metrics == {"error": 0.15}


METRICS = [
    Metric(name="error", kind="scored", stage="fit", direction="lower", ranked=True),
    Metric(name="worst", kind="scored", stage="fit", direction="lower"),
    Metric(name="near", kind="scored", stage="fit", direction="higher", hidden=True),
]


def test_each_number_goes_where_the_task_wants_it_now() -> None:
    stored = {
        "metrics": {"error": 0.1, "near": 5.0, "dropped": 1.0},
        "per_window": {"error": [0.1], "near": [5.0]},
        "hidden": {
            "metrics": {"worst": 3.0},
            "final": {"error": 0.2, "dropped": 1.0},
            "per_window": {"error": [0.2], "near": [6.0]},
        },
    }
    scores = read_scores(
        refitted(json.dumps(stored), METRICS),
        visible=["error", "worst"], hidden=["near"], ranked=["error"],
    )  # fmt: skip
    assert scores.visible == {"error": 0.1, "worst": 3.0}
    assert (scores.hidden, scores.final) == ({"near": 5.0}, {"error": 0.2})
    # Of `final`, whatever the metric is now; none of it comes to where agents look.
    assert scores.hidden_per_window == {"error": [0.2], "near": [6.0]}
    assert scores.per_window == {"error": [0.1]}


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"hidden": 3}', '{"metrics": []}', '{"hidden": {"final": 1}}']
)
def test_another_shape_is_left_to_its_reader(text: str) -> None:
    assert refitted(text, METRICS) == text
    with pytest.raises(ValueError, match=r"metrics\.json"):
        read_scores(text, visible=["error"])
