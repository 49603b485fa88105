"""What an operator does: ps, cancel, logs, end; and sessions that end because nobody calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from conftest import Player, new_player
from fastapi.testclient import TestClient
from runs import wait_for

SLOW = {
    "op": "replace",
    "filename": "line_rate.py",
    "start_line": 9,
    "end_line": 10,
    "content": (
        "def rate(step):\n    import time; print('\\x1b[2Jworking'); time.sleep(30)\n"
        "    return FIRST_RATE"
    ),
}


def test_a_running_test_is_seen_and_cancelled(
    player: Player, harness: Callable[..., tuple[int, str]]
) -> None:
    assert player.call("edit", **SLOW)["ok"]
    player.call("test", wait_s=0)

    def log() -> str:
        return harness("logs", player.id, "--stage", "fit-toy", "--role", "run")[1]

    wait_for(lambda: "working" in log())
    assert "\x1b" not in log()
    assert log().startswith("── fit-toy, run ──\n")
    code, listed = harness("ps", "--json")
    [job] = json.loads(listed)
    assert (code, job["session"], job["job"], job["state"]) == (0, player.id, "test #1", "running")
    assert (job["stage"], job["role"]) == ("fit-toy", "run")
    assert player.id in harness("ps")[1]
    code, said = harness("end", player.id)
    assert code == 2
    assert f"first: harness cancel {player.id}" in said
    assert harness("cancel", player.id) == (0, f"{player.id}: test #1 is cancelled\n")
    wait_for(lambda: player.get()["budget"]["running"] is None)
    assert player.call("status")["budget"]["used"] == 0
    answers = [player.call("test", wait_s=0)]  # a further attempt, under the same number
    wait_for(lambda: json.loads(harness("ps", "--json")[1])[0]["job"] == "test #1, attempt 2")
    assert answers[0]["data"]["test"] == 1
    assert harness("cancel", player.id, "1")[0] == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("cancel", "nobody"), "session nobody has no test that waits or runs; see: harness ps"),
        (("logs", "nobody"), "no session nobody here, in "),
        (("end", "nobody"), "there is no session nobody in the database"),
    ],
)
def test_what_is_not_there(
    client: TestClient, harness: Callable[..., tuple[int, str]], args: tuple[str, ...], said: str
) -> None:
    code, output = harness(*args)
    assert code == 2
    assert said in output


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        ("nowhere", (2, "HARNESS_EXECUTOR is 'nowhere'; it may be one of: local, slurm")),
        ("slurm", (1, "squeue: ")),
    ],
)
def test_cancel_where_tests_cannot_be_reached(
    player: Player,
    harness: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    executor: str,
    said: tuple[int, str],
) -> None:
    player.call("edit", **SLOW)
    player.call("test", wait_s=0)
    monkeypatch.setenv("HARNESS_EXECUTOR", executor)
    monkeypatch.setenv("PATH", "/nonexistent")  # where there is no squeue
    code, output = harness("cancel", player.id)
    assert (code, said[1] in output) == (said[0], True), output


def test_nothing_to_list(client: TestClient, harness: Callable[..., tuple[int, str]]) -> None:
    assert harness("ps") == (0, "Nothing waits or runs.\n")
    assert harness("ps", "--json") == (0, "[]\n")


def test_logs_of_an_unknown_stage(player: Player, harness: Callable[..., tuple[int, str]]) -> None:
    player.call("test", wait_s=50)
    code, said = harness("logs", player.id, "--stage", "none")
    assert code == 2
    assert "--stage fit-toy --role run" in said
    code, said = harness("logs", player.id, "1", "--follow")
    assert code == 0
    assert "FIT: step=10, loss=0.0331" in said


def test_an_operator_ends_a_session(
    player: Player, harness: Callable[..., tuple[int, str]]
) -> None:
    player.call("test", wait_s=50)
    assert harness("end", player.id) == (0, f"{player.id}: ended; its test #1 was submitted\n")
    # The server finds out when it is called.
    assert player.get()["submitted"] == 1
    refused = player.call("edit", **SLOW)
    assert refused["text"] == "ERROR: This session is closed: test #1 was submitted."
    assert "is closed already" in harness("end", player.id)[1]


def test_a_session_that_nobody_calls_ends(start_server: Callable[..., TestClient]) -> None:
    client = start_server(session_idle_h=2.5 / 3600)
    tested, idle = new_player(client), new_player(client)
    tested.call("test", wait_s=50)
    deadline = time.monotonic() + 20
    while {tested.get()["state"], idle.get()["state"]} != {"submitted", "ended"}:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert tested.get()["submitted"] == 1
    closed = idle.call("view", filename="line_rate.py")
    assert closed["text"].startswith("ERROR: This session is closed: it was idle for 0.000694")
    last = json.loads(tested.get("/transcript").splitlines()[-1])
    assert (last["type"], last["by"]) == ("submitted", "end")
