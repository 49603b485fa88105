"""Who pays for an interruption: runners that are killed while they check, before a test is counted,
and after; with a server and without one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Player, new_player
from fastapi.testclient import TestClient
from runs import prepare, stage, status_of, wait_for

from harness.jobs.local import LocalExecutor
from harness.jobs.plan import read_status
from harness.jobs.processes import living_runner
from harness.jobs.starting import Starting
from harness.probes import MAX_STARTS, check_report
from harness.workspace import RunPaths

SLOW = {
    "op": "replace",
    "filename": "line_model.py",
    "start_line": 7,
    "end_line": 8,
    "content": "def predict(s, x):\n    while True: pass",
}


def kill_runner(run: RunPaths) -> None:
    runner = living_runner(run)
    assert runner is not None
    runner.kill()


def run_of(tmp_path: Path, player: Player, attempt: int = 1) -> RunPaths:
    return RunPaths(tmp_path / "state/sessions" / player.id / f"runs/test-1.{attempt}")


def at_step(run: RunPaths, role: str, starts: int = 1) -> bool:
    status = read_status(run)
    running = status.running if status is not None else None
    return bool(status and running and running.role == role and status.starts == starts)


def kinds(player: Player) -> list[str]:
    found = [json.loads(line) for line in player.get("/transcript").splitlines()[1:]]
    return [one["type"] for one in found if one["type"].startswith("test_")]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """No resumption, and nothing is given back."""
    monkeypatch.setattr("harness.service.MAX_RESUMPTIONS", 0)
    monkeypatch.setattr("harness.service.MAX_RELEASES", 0)


def test_a_check_that_brings_its_runner_down_each_time_is_not_run_for_ever(tmp_path: Path) -> None:
    run = prepare(tmp_path, stage(tmp_path, "one", run="sleep 60"))
    executor = LocalExecutor()
    executor.submit(run)
    starting = Starting(executor)
    for starts in range(1, MAX_STARTS + 1):
        wait_for(lambda n=starts: at_step(run, "run", n) and living_runner(run))
        assert check_report(starting, run, {}) is None
        kill_runner(run)
        wait_for(lambda: executor.state(run).kind == "gone")
        report = check_report(starting, run, {})
        assert (report is None) == (starts < MAX_STARTS)
    assert report is not None
    [finding] = report.findings
    assert finding.message == "the check run did not end well: it was interrupted 4 times"
    assert executor.state(run).kind == "gone"


@pytest.mark.usefixtures("few")
def test_what_dies_before_it_is_counted_costs_nothing_however_often(
    client: TestClient, tmp_path: Path
) -> None:
    player = new_player(client, task="vetted-line")
    for attempt in (1, 2):
        player.call("test", wait_s=0)
        run = run_of(tmp_path, player, attempt)
        wait_for(lambda one=run: at_step(one, "preflight") and living_runner(one), 60)
        kill_runner(run)
        wait_for(lambda n=attempt: kinds(player).count("test_released") == n)
    assert kinds(player) == 2 * ["test_queued", "test_released"]
    answer = player.call("test", wait_s=50)
    assert answer["budget"] == {"tests": 2, "used": 1, "remaining": 1, "running": None}


@pytest.mark.usefixtures("few")
def test_what_dies_again_when_it_was_given_back_often_enough_counts(
    client: TestClient, tmp_path: Path
) -> None:
    player = new_player(client)
    begin(player)
    kill_runner(run_of(tmp_path, player))
    wait_for(lambda: kinds(player)[-1] == "test_finished")
    answer = player.call("status")
    assert answer["budget"]["used"] == 1
    assert "The test was interrupted too often." in answer["text"]


def test_a_runner_that_died_without_a_server_is_resumed_by_the_rule(
    start_server: Callable[..., TestClient], tmp_path: Path
) -> None:
    """A machine that is brought down gives no resumption for nothing."""
    first = start_server()
    player = new_player(first)
    begin(player)
    run = run_of(tmp_path, player)
    first.__exit__(None, None, None)
    kill_runner(run)
    back = Player(start_server(), player.id, player.token, player.created)
    wait_for(lambda: status_of(run).starts == 2)
    assert kinds(back) == ["test_queued", "test_counted", "test_resumed"]


@pytest.mark.parametrize("restart", [False, True])
def test_what_an_operator_cancels_is_given_back(
    start_server: Callable[..., TestClient], tmp_path: Path, restart: bool
) -> None:
    """One that trains, and one that waits, with a server and while none runs."""
    first = start_server()
    trains, waits = new_player(first), new_player(first)
    begin(trains)
    assert waits.text("test", wait_s=0).startswith("[Test #1] queued: place 1, about ")
    if restart:
        first.__exit__(None, None, None)
    for player in (waits, trains):
        run_of(tmp_path, player).cancel.touch()
    if restart:
        wait_for(lambda: living_runner(run_of(tmp_path, trains)) is None)
        first = start_server()
    for one in (trains, waits):
        player = Player(first, one.id, one.token, one.created)
        wait_for(lambda p=player: kinds(p)[-1] == "test_released")
        assert player.call("status")["budget"]["used"] == 0
        told = first.get(f"/v1/sessions/{player.id}/tests/1", headers=player.headers).json()
        assert told["text"] == (
            "ERROR: Test #1 was cancelled by this server's operator, and is given back, not "
            "counted. Call test() to run it again."
        )
        assert status_of(run_of(tmp_path, player)).state == "cancelled"


def begin(player: Player) -> None:
    """Its test is counted and trains without end."""
    player.call("edit", **SLOW)
    answer = player.call("test", wait_s=0)
    deadline = time.monotonic() + 60
    while answer["budget"]["used"] != 1:
        assert time.monotonic() < deadline, answer["text"]
        answer = player.call("status", wait_s=1)
