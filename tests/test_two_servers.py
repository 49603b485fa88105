"""Two servers on one database, each with a state folder of its own: neither can spoil a session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Player, new_player
from fastapi.testclient import TestClient
from runs import wait_for
from sqlalchemy import text as sql
from test_api import RAISES, SLOWER
from typer.testing import CliRunner

from harness.claim import Claim, FolderTaken
from harness.cli import app
from harness.ending import end_session
from harness.events import MessageKept, chain_break
from harness.jobs.processes import living_runner
from harness.session import Session
from harness.store import Store
from harness.workspace import RunPaths, StatePaths

Pair = tuple[Player, Player]


@pytest.fixture
def pair(start_server: Callable[..., TestClient], tmp_path: Path, database_url: str) -> Pair:
    """One session, called through two servers."""
    first = start_server(database_url=database_url, state_dir=tmp_path / "state")
    second = start_server(database_url=database_url, state_dir=tmp_path / "state-2")
    player = new_player(first)
    return player, Player(second, player.id, player.token, player.created)


def test_what_one_server_wrote_the_other_shows(pair: Pair) -> None:
    here, there = pair
    assert there.get()["state"] == "open"
    here.call("edit", **SLOWER)
    assert "FIRST_RATE = 0.02" in there.get("/files/line_rate.py")
    assert there.call("undo")["ok"]
    assert "FIRST_RATE = 0.02" not in here.get("/files/line_rate.py")
    # Each goes on where the other stopped, without being told to try again.
    for player in (here, there, there, here):
        assert player.call("edit", **SLOWER)["ok"]
        assert player.call("undo", n=1)["ok"]
    assert here.get("/transcript") == there.get("/transcript")


def test_a_call_that_was_answered_here_is_not_done_again_there(pair: Pair) -> None:
    here, there = pair
    there.get()
    first = here.call("edit", key="a", **SLOWER)
    assert there.call("edit", key="a", **SLOWER)["text"] == first["text"]
    assert len(here.get("/transcript").splitlines()) == 2
    response = there.client.post(
        f"/v1/sessions/{there.id}/tools/undo",
        json={},
        headers=there.headers | {"Idempotency-Key": "a"},
    )
    assert (response.status_code, response.json()["error"]["code"]) == (409, "key_conflict")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_test_is_followed_by_the_server_that_has_its_folder(pair: Pair, tmp_path: Path) -> None:
    here, there = pair
    slow = "def predict(s, x):\n    return s * x + 0 * sum(range(10_000))"
    here.call("edit", **(RAISES | {"content": slow}))
    here.call("test", wait_s=0)
    # What is added through the other is news to the one that takes the result in.
    message = {"role": "assistant", "text": "It runs."}
    kept = there.client.post(
        f"/v1/sessions/{there.id}/messages", json=message, headers=there.headers
    )
    assert kept.status_code == 201
    # The other joins it and starts nothing; its long poll ends when the first took the result in.
    joined = there.call("test", wait_s=50)
    assert joined["data"]["state"] == "finished", joined
    assert joined["budget"] == here.get()["budget"]
    assert joined["budget"]["used"] == 1
    assert not (tmp_path / "state-2" / "sessions").exists()
    events = [json.loads(line) for line in there.get("/transcript").splitlines()][1:]
    types = [event["type"] for event in events if event["type"].startswith("test_")]
    assert types == ["test_queued", "test_counted", "test_finished"]
    # Either may be asked for the next one.
    assert there.call("undo")["ok"]
    assert there.call("test", wait_s=50)["budget"]["used"] == 2
    assert here.call("submit", n=2)["ok"]
    assert there.text("undo").startswith("ERROR: This session is closed")


def test_a_server_that_starts_leaves_the_tests_of_others_alone(
    start_server: Callable[..., TestClient], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'journal.sqlite3'}"
    here = new_player(start_server(database_url=url))
    slow = "def predict(s, x):\n    return s * x + 0 * sum(range(300_000))"
    here.call("edit", **(RAISES | {"content": slow}))
    here.call("test", wait_s=0)
    second = start_server(database_url=url, state_dir=tmp_path / "state-2")
    there = Player(second, here.id, here.token, here.created)
    time.sleep(1.5)  # several looks of its watch
    assert there.call("status")["text"].startswith("[Test #1] running")
    events = [json.loads(line) for line in there.get("/transcript").splitlines()][1:]
    assert not [event for event in events if event["type"] in ("test_resumed", "test_released")]
    assert not (tmp_path / "state-2" / "sessions").exists()


def hammer(player: Player, name: str, rounds: int, answered: list[str], refused: list[str]) -> None:
    """Edits and undoes; keeps the key of what was answered and the code of what was not."""
    for number in range(rounds):
        key = f"{name}-{number}"
        response = player.client.post(
            f"/v1/sessions/{player.id}/tools/{'edit' if number % 2 else 'undo'}",
            json=SLOWER,
            headers=player.headers | {"Idempotency-Key": key},
        )
        if response.status_code == 200:
            answered.append(key)
        else:
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "1"
            refused.append(response.json()["error"]["code"])


def test_hammering_one_session_through_both_keeps_its_chain_whole(
    pair: Pair, database_url: str
) -> None:
    answered: list[str] = []
    refused: list[str] = []
    threads = [
        threading.Thread(target=hammer, args=(player, f"{at}-{i}", 12, answered, refused))
        for at, player in zip(("here", "there"), pair, strict=True)
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answered) + len(refused) == 72
    assert set(refused) <= {"session_moved_on"}
    store = Store(database_url)
    loaded = store.load(pair[0].id)
    store.close()
    assert loaded is not None
    header, events = loaded
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert chain_break(header, events) is None
    # What was answered is there once; what was refused is not there.
    assert sorted(event.key for event in events) == sorted(answered)
    here, there = pair
    assert here.get("/transcript") == there.get("/transcript")
    assert here.get("/files/line_rate.py") == there.get("/files/line_rate.py")


def test_a_journal_that_moves_on_without_end_is_told_to_the_client(
    start_server: Callable[..., TestClient], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third writer is always first; the call gives up with nothing done."""
    client = start_server(database_url=database_url)
    player = new_player(client)
    other = Store(database_url)
    loaded = other.load(player.id)
    assert loaded is not None
    rival = Session(
        loaded[0],
        loaded[1],
        append=lambda added, closes: other.append(player.id, added, closes=closes),
        seed=1,
        decimals={},
        read_only={},
        static_check=lambda files: [],
    )
    store: Store = client.app.state.service.store  # type: ignore[attr-defined]
    append = store.append

    def second(*args: Any, **kwargs: Any) -> None:
        rival.record(MessageKept(role="user", text="first"))
        append(*args, **kwargs)

    monkeypatch.setattr(store, "append", second)
    response = client.post(
        f"/v1/sessions/{player.id}/tools/edit", json=SLOWER, headers=player.headers
    )
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert response.json()["error"]["code"] == "session_moved_on"
    monkeypatch.undo()
    assert player.call("edit", **SLOWER)["ok"]
    lines = [json.loads(line) for line in player.get("/transcript").splitlines()]
    assert [line.get("tool") for line in lines if line.get("type") == "tool_called"] == ["edit"]
    other.close()


@pytest.mark.parametrize("next_call", ["read", "edit"])
def test_a_database_that_was_put_back_to_an_earlier_state_is_read_again(
    either_player: Player, next_call: str
) -> None:
    """Lost is what it lost, and nothing else: no gap, and no restart is needed."""
    player = either_player
    for _ in range(3):
        player.call("edit", **SLOWER)
    store: Store = player.client.app.state.service.store  # type: ignore[attr-defined]
    with store.engine.begin() as connection:
        connection.execute(sql("DELETE FROM events WHERE seq > 1"))
    address = f"/v1/sessions/{player.id}"
    response = (
        player.client.get(address, headers=player.headers)
        if next_call == "read"
        else player.client.post(f"{address}/tools/edit", json=SLOWER, headers=player.headers)
    )
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "session_moved_on"
    assert player.call("edit", **SLOWER)["ok"]
    loaded = store.load(player.id)
    assert loaded is not None
    assert len(loaded[1]) == 2
    assert chain_break(*loaded) is None


HOLD = """
import sys, time
from pathlib import Path
from harness.claim import Claim
from harness.workspace import StatePaths
claim = Claim(StatePaths(Path(sys.argv[1])))
print(claim.name, flush=True)
time.sleep(600)
"""


def test_a_state_folder_has_one_server_at_a_time(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        name = holder.stdout.readline().strip()
        with pytest.raises(FolderTaken) as taken:
            Claim(StatePaths(tmp_path))
        assert str(taken.value) == (
            f"{tmp_path} is in use by another server (process {holder.pid} on "
            f"{os.uname().nodename}); stop that one, or give this one a folder of its own"
        )
        served = subprocess.run(
            [sys.executable, "-m", "server"],
            env=os.environ | {"HARNESS_STATE_DIR": str(tmp_path), "HARNESS_PORT": "0"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert served.returncode == 2
        assert served.stderr == f"ERROR: HARNESS_STATE_DIR can't be used: {taken.value}\n"
        assert not (tmp_path / "harness.sqlite3").exists()
    finally:
        holder.kill()
        holder.communicate()
    # However it ended, the next one gets the folder, with its name.
    claim = Claim(StatePaths(tmp_path))
    assert claim.name == name
    claim.release()


def test_open_sessions_of_a_key_are_counted_over_servers_and_restarts(
    start_server: Callable[..., TestClient], tmp_path: Path, database_url: str
) -> None:
    limited = {"database_url": database_url, "limit_open_sessions": 3}
    first = start_server(**limited)
    second = start_server(state_dir=tmp_path / "state-2", **limited)
    new_player(first)
    oldest = new_player(second)
    clients = [first, second] * 3

    def opened(client: TestClient) -> int:
        return client.post("/v1/sessions", json={"task": "two-files"}).status_code

    with ThreadPoolExecutor(len(clients)) as pool:
        assert sorted(pool.map(opened, clients)) == [201, 429, 429, 429, 429, 429]
    first.__exit__(None, None, None)
    again = start_server(**limited)
    assert [opened(again), opened(second)] == [429, 429]
    store = Store(database_url)
    end_session(store, oldest.id, "it is enough")
    store.close()
    assert [opened(again), opened(second)] == [201, 429]


def test_a_test_whose_server_is_gone_for_good_is_given_back_by_the_operator(
    start_server: Callable[..., TestClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'journal.sqlite3'}"
    gone = start_server(database_url=url)
    player = new_player(gone)
    player.call("edit", **(RAISES | {"content": "def predict(s, x):\n    while True: pass"}))
    player.call("test", wait_s=0)
    run = RunPaths(tmp_path / "state/sessions" / player.id / "runs/test-1.1")
    wait_for(lambda: living_runner(run))
    gone.__exit__(None, None, None)
    there = start_server(database_url=url, state_dir=tmp_path / "state-2")
    player = Player(there, player.id, player.token, player.created)
    assert player.text("status").startswith("[Test #1] running")
    monkeypatch.setenv("HARNESS_DATABASE_URL", url)

    def cancel_lost(state: str) -> tuple[int, str]:
        monkeypatch.setenv("HARNESS_STATE_DIR", str(tmp_path / state))
        result = CliRunner().invoke(app, ["cancel", player.id, "--lost"])
        return result.exit_code, result.output

    assert cancel_lost("state")[0] == 2  # its own, which is not lost
    assert cancel_lost("state-2") == (0, f"{player.id}: test #1 is given back\n")
    assert cancel_lost("state-2")[0] == 2
    assert player.get("/tests/1")["text"] == (
        "ERROR: Test #1 was lost with the server that ran it, and is given back, not counted. "
        "Call test() to run it again."
    )
    player.call("undo")
    assert player.call("test", wait_s=50)["budget"]["used"] == 1
    # Should it come back, it ends what nobody waits for.
    start_server(database_url=url)
    wait_for(lambda: living_runner(run) is None)
