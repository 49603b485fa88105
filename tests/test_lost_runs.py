"""Tests that cannot go on through no fault of the agent's: a runner that does not come up, a run
directory that is gone. Each ends, uncounted, says why, and is in nobody's way."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import Player, new_player
from fastapi.testclient import TestClient
from runs import prepare, stage, wait_for
from test_interruptions import begin, kill_runner, kinds, run_of

from harness.jobs.local import LocalExecutor
from harness.jobs.plan import read_status
from harness.jobs.processes import living_runner
from harness.jobs.starting import ATTEMPTS, NotStarted, Starting
from harness.workspace import RunPaths

NOT_STARTED = (
    "ERROR: Test #1 does not start on this server, through no fault of yours, and is given back, "
    "not counted. Its operator finds why in the server's log. Call test() to try again."
)


class Interpreter:
    """A Python that does not start for runners whose command line holds a word."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder, self._real = folder, sys.executable
        script = folder / "python"
        script.write_text(
            f'#!/bin/sh\nif grep -qs "" {folder}/broken && echo "$*" | grep -qf {folder}/broken\n'
            f'then echo "$*" >> {folder}/tried; echo no memory; exit 1; fi\n'
            f'exec {self._real} "$@"\n'
        )
        script.chmod(0o755)
        # Only where runners are started.
        patch.setattr("harness.jobs.local.sys", SimpleNamespace(executable=str(script)))

    def break_for(self, word: str) -> None:
        (self._folder / "broken").write_text(word + "\n")

    def mend(self) -> None:
        (self._folder / "broken").unlink()

    @property
    def tried(self) -> int:
        return len((self._folder / "tried").read_text().splitlines())


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interpreter:
    monkeypatch.setattr("harness.jobs.starting.ATTEMPTS", 4)
    monkeypatch.setattr("harness.jobs.starting.FIRST_PAUSE_S", 0.4)
    return Interpreter(tmp_path, monkeypatch)


def test_a_runner_that_does_not_come_up_is_given_up_and_in_nobodys_way(
    client: TestClient, interpreter: Interpreter
) -> None:
    player, other = new_player(client), new_player(client)
    interpreter.break_for(player.id)
    began = time.monotonic()
    assert player.call("test", wait_s=0)["ok"]
    wait_for(lambda: player.text("status").startswith("[Test #1] queued: place 1."))
    # There is one slot, and others get it meanwhile.
    assert other.call("test", wait_s=50)["data"]["state"] == "finished"
    answer = player.call("status", wait_s=50)
    assert time.monotonic() - began > 2.8
    told = answer if answer["error"] else {"text": player.get("/tests/1")["text"]}
    assert told["text"] == NOT_STARTED
    assert interpreter.tried == 4
    assert player.call("status")["budget"]["used"] == 0
    assert kinds(player) == ["test_queued", "test_released"]
    interpreter.mend()
    assert player.call("test", wait_s=50)["data"]["state"] == "finished"


def test_a_resumption_that_does_not_come_up_is_no_further_interruption(
    client: TestClient, tmp_path: Path, interpreter: Interpreter
) -> None:
    player = new_player(client)
    begin(player)
    interpreter.break_for(player.id)
    kill_runner(run_of(tmp_path, player))
    wait_for(lambda: kinds(player)[-1] == "test_released")
    assert kinds(player) == ["test_queued", "test_counted", "test_resumed", "test_released"]
    assert player.get("/tests/1")["text"] == NOT_STARTED
    assert player.call("status")["budget"]["used"] == 0


def test_pauses_grow_and_a_run_that_finds_no_gpu_is_given_up(tmp_path: Path) -> None:
    one = stage(tmp_path, "one", run="true").model_copy(update={"gpus": 1})
    run = prepare(tmp_path, one)
    now, at = 0.0, []
    starting = Starting(LocalExecutor(), clock=lambda: now)
    submit = starting.executor.submit

    def submitted(run: RunPaths) -> None:
        at.append(now)
        submit(run)

    starting.executor.submit = submitted  # type: ignore[method-assign]
    while len(at) < ATTEMPTS:
        starting.hand_over(run)
        now += 0.5
    with pytest.raises(NotStarted, match=r"did not come up, 8 times: it needs 1 GPU\(s\), there"):
        starting.hand_over(run)
    assert at == [0, 1, 3, 7, 15, 31, 63, 123]


def lose(run: RunPaths, how: str) -> None:
    if how == "gone":
        while run.root.exists():  # its runner writes into it
            shutil.rmtree(run.root, ignore_errors=True)
    else:
        run.status.write_text("{")


WHAT = {"gone": "its run directory is gone", "broken": "its status.json is broken"}


@pytest.mark.parametrize(
    ("how", "up"),
    [("gone", True), ("gone", False), ("broken", True)],
    ids=["gone", "gone-while-down", "broken"],
)
def test_a_test_whose_directory_is_lost_is_given_back(
    start_server: Callable[..., TestClient], tmp_path: Path, how: str, up: bool
) -> None:
    first = start_server()
    player = new_player(first)
    begin(player)
    run = run_of(tmp_path, player)
    runner = living_runner(run)
    assert runner is not None
    if not up:
        first.__exit__(None, None, None)
    if how == "broken":
        runner.suspend()  # it would write its status anew
    name = tmp_path / "state/name"
    away = name.rename(tmp_path / "name") if up and how == "gone" else None
    lose(run, how)
    if how == "broken":
        runner.kill()
    if away is not None:
        # A file system that is not mounted at the moment is no loss.
        time.sleep(1)
        assert kinds(player)[-1] == "test_counted"
        away.rename(name)
    if not up:
        player = Player(start_server(), player.id, player.token, player.created)
    wait_for(lambda: kinds(player)[-1] == "test_released")
    assert player.get("/tests/1")["text"] == (
        f"ERROR: Test #1 was lost on this server, since {WHAT[how]}, and is given back, not "
        "counted. Call test() to run it again."
    )
    wait_for(lambda: not runner.is_running() or runner.status() == psutil.STATUS_ZOMBIE)
    assert player.call("undo")["ok"]
    answer = player.call("test", wait_s=50)
    assert (answer["data"]["state"], answer["budget"]["used"]) == ("finished", 1)
    found = [json.loads(line) for line in player.get("/transcript").splitlines()[1:]]
    assert [one["kind"] for one in found if one["type"] == "test_released"] == ["lost"]
    status = read_status(run_of(tmp_path, player, 2))
    assert status is not None
    assert status.state == "finished"


def test_a_directory_that_cannot_be_read_is_given_up(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.service.UNREADABLE_TIMES", 3)
    player = new_player(client)
    begin(player)
    run = run_of(tmp_path, player)
    runner = living_runner(run)
    assert runner is not None
    run.root.chmod(0)
    try:
        if os.access(run.root, os.R_OK):
            pytest.skip(
                "root reads everything: setpriv --bounding-set=-dac_override,-dac_read_search"
            )
        wait_for(lambda: kinds(player)[-1] == "test_released")
        assert "since its run directory cannot be read" in player.get("/tests/1")["text"]
        assert player.call("status")["budget"]["used"] == 0
        wait_for(lambda: not runner.is_running() or runner.status() == psutil.STATUS_ZOMBIE)
    finally:
        run.root.chmod(0o700)
