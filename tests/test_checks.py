"""Checks as an agent meets them: warnings, `check`, and tests that are refused at no cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Player, new_player
from fastapi.testclient import TestClient

from harness import service

MODEL = {"op": "replace", "filename": "line_model.py", "start_line": 7, "end_line": 8}
RATE = {"op": "replace", "filename": "line_rate.py", "start_line": 3, "end_line": 3}


def predict(body: str) -> dict[str, Any]:
    return MODEL | {"content": f"def predict(slope, x):\n    {body}"}


@pytest.fixture
def vetted(client: TestClient) -> Player:
    return new_player(client, task="vetted-line")


def finish(player: Player, tool: str, **args: Any) -> dict[str, Any]:
    """The tool's answer once what it waits for has come to an end."""
    for _ in range(5):
        answer = player.call(tool, wait_s=50, **args)
        if answer["data"].get("state") not in ("checking", "queued", "running"):
            return answer
    raise AssertionError(answer["text"])


def test_what_passes_is_tested(vetted: Player) -> None:
    checked = finish(vetted, "check")
    assert checked["text"] == "[Check] ok: nothing was found that stands in the way of a test."
    assert checked["data"]["facts"] == {"probes": 2.0, "rate": 0.05}
    answer = vetted.call("test", wait_s=50)
    assert answer["data"]["scored"]
    assert answer["budget"]["used"] == 1
    steps = [line["type"] for line in map(json.loads, vetted.get("/transcript").splitlines()[1:])]
    assert steps == ["tool_called", "test_queued", "test_counted", "test_finished", "tool_called"]


CASES = [
    (
        "a rule of the text",
        predict("return slope * points"),
        "line_model.py line 8 [forbidden-name]: ",
    ),
    (
        "the contract",
        predict("return slope * slope * x"),
        "line_model.py line 8 [linear]: predict(2, 3) is 12.0, not twice predict(1, 3) = 3.0",
    ),
    (
        "an exception in the contract",
        predict("return slope * x + nothing"),
        "line_model.py line 8 [exception]: predict raises NameError: name 'nothing' is not defined",
    ),
    (
        "the first steps",
        RATE | {"content": "FIRST_RATE = 3.0"},
        "line_rate.py line 3 [too-fast]: the first rate is 3.0, more than 2.0",
    ),
    (
        "a contract that does not end",
        predict("while True: pass"),
        "[contract-failed]: the check contract did not end well: "
        "It ran longer than its limit of 5 s",
    ),
    (
        "a contract whose process ends",
        predict("raise SystemExit"),
        "[contract-failed]: the check contract did not end well: it left no findings",
    ),
]


@pytest.mark.parametrize(("edit", "found"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_what_a_check_finds_costs_nothing(vetted: Player, edit: dict[str, Any], found: str) -> None:
    vetted.call("edit", **edit)
    checked = finish(vetted, "check")
    assert checked["ok"]
    assert checked["data"]["passed"] is False
    assert f"\nERROR: {found}" in checked["text"]
    refused = finish(vetted, "test")
    assert refused["ok"] is False
    assert refused["error"] == "test_refused"
    assert refused["text"].startswith(f"ERROR: Test not started, and not counted: {found}")
    assert refused["budget"] == {"tests": 2, "used": 0, "remaining": 2, "running": None}
    # The number is free again.
    vetted.call("undo")
    answer = vetted.call("test", wait_s=50)
    assert answer["data"]["test"] == 1
    assert answer["data"]["scored"]


def test_a_test_that_waits_for_its_check_goes_on_by_itself(vetted: Player) -> None:
    started = vetted.call("test", wait_s=0)
    assert started["text"] == (
        "[Test #1] checking, not counted yet. "
        "Nothing to do until then: call status(wait_s=50), or wait without calling."
    )
    assert started["budget"]["used"] == 0
    assert vetted.call("status", wait_s=50)["data"]["scored"]


def test_the_check_is_of_the_files_as_they_were_when_the_test_was_called(vetted: Player) -> None:
    vetted.call("test", wait_s=0)
    vetted.call("edit", **predict("return slope * slope * x"))
    assert vetted.call("status", wait_s=50)["data"]["scored"]
    assert finish(vetted, "check")["data"]["passed"] is False


def test_a_check_outlives_the_server(start_server: Callable[..., TestClient]) -> None:
    first = start_server()
    before = new_player(first, task="vetted-line")
    before.call("test", wait_s=0)
    first.__exit__(None, None, None)
    after = Player(start_server(), before.id, before.token, before.created)
    assert after.call("status", wait_s=50)["data"]["scored"]


def test_checks_are_limited_in_number(vetted: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    assert service.CHECK_LIMIT == 40
    monkeypatch.setattr(service, "CHECK_LIMIT", 3)
    for number in range(5):
        vetted.call("edit", **(RATE | {"content": f"FIRST_RATE = 0.{number:03d}1"}))
        answer = vetted.call("check", wait_s=0)
        if not answer["ok"]:
            break
    assert answer["error"] == "check_limit"
    assert answer["text"].startswith("ERROR: 3 checks were started in the last 10 minutes.")
    # A test is not held up by that.
    vetted.call("undo", n=number + 1)
    assert finish(vetted, "test")["data"]["scored"]


def test_a_task_without_checks_says_what_it_looked_at(player: Player) -> None:
    assert player.text("check") == "[Check] ok: nothing was found that stands in the way of a test."
    player.call("edit", **(MODEL | {"content": "def predict(:"}))
    assert player.call("check")["data"]["findings"][0]["rule"] == "syntax"
