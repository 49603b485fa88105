"""The database being away for a while: 503 with Retry-After, and afterwards all is well."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Player, new_player
from fastapi.testclient import TestClient
from postgres import Cluster
from sqlalchemy import event
from sqlalchemy import text as sql
from sqlalchemy.exc import DBAPIError
from test_api import RAISES, SLOWER
from test_store import call

from harness import database
from harness.events import Header, chain_break, parse_event
from harness.store import Store


def post(player: Player, tool: str, key: str | None = None, **args: Any) -> httpx.Response:
    headers = player.headers | ({"Idempotency-Key": key} if key else {})
    return player.client.post(f"/v1/sessions/{player.id}/tools/{tool}", json=args, headers=headers)


def assert_away(response: httpx.Response) -> None:
    assert response.status_code == 503, response.text
    assert response.headers["Retry-After"] == "5"
    assert response.json()["error"] == {
        "code": "database_unavailable",
        "message": "The database does not answer.",
        "hint": "Try again in a moment.",
    }


def store_of(client: TestClient) -> Store:
    store: Store = client.app.state.service.store  # type: ignore[attr-defined]
    return store


def journal(player: Player) -> list[Any]:
    """The session's events, whose chain is whole."""
    lines = [json.loads(line) for line in player.get("/transcript").splitlines()]
    events = [parse_event(line) for line in lines[1:]]
    assert chain_break(Header.model_validate(lines[0]), events) is None
    return events


# ── PostgreSQL ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.postgresql
def test_postgresql_goes_down_and_comes_back(
    start_server: Callable[..., TestClient], postgres: Cluster, tmp_path: Path
) -> None:
    url = postgres.new_database()
    client = start_server(database_url=url)
    player = new_player(client)
    slow = "def predict(s, x):\n    return s * x + 0 * sum(range(10_000))"
    player.call("edit", **(RAISES | {"content": slow}))
    player.call("test", wait_s=0)
    postgres.stop()
    try:
        assert_away(post(player, "edit", key="a", **SLOWER))
        assert_away(post(player, "view", filename="line_rate.py"))
        assert_away(post(player, "status"))
        for path in ("", "/transcript", "/files/line_rate.py"):
            address = f"/v1/sessions/{player.id}{path}"
            assert_away(client.get(address, headers=player.headers))
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "not_ready")
        assert_away(client.post("/v1/sessions", json={"task": "two-files"}))
        assert client.get("/healthz").status_code == 200
        # The test goes on meanwhile, and ends.
        status = tmp_path / "state/sessions" / player.id / "runs/test-1.1/status.json"
        deadline = time.monotonic() + 60
        while json.loads(status.read_text())["state"] != "finished":
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        postgres.start()
    assert player.call("edit", key="a", **SLOWER)["ok"]
    assert player.call("status", wait_s=50)["data"]["state"] == "finished"
    assert client.get("/readyz").status_code == 200
    calls = [event.tool for event in journal(player) if event.type == "tool_called"]
    assert calls == ["edit", "test", "edit", "status"]
    assert player.text("undo") == "Undo complete:\nRestored: line_rate.py"


class Proxy:
    """Between the server and PostgreSQL; it can cut a line at a COMMIT.

    `before`: the COMMIT never arrives; `after`: its answer never does; `late`: it arrives when the
    server has already been told that the line is cut.
    """

    def __init__(self, port: int) -> None:
        self.cut: str | None = None
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            deaf, answered = threading.Event(), threading.Event()

            def back() -> None:
                with contextlib.suppress(OSError):
                    while data := server.recv(65536):
                        if deaf.is_set():
                            answered.set()
                        else:
                            client.sendall(data)

            thread = threading.Thread(target=back, daemon=True)
            thread.start()
            with contextlib.suppress(OSError):
                while data := client.recv(65536):
                    cut = self.cut if data.endswith(b"\x0bCOMMIT\0") else None
                    if cut is None:
                        server.sendall(data)
                        continue
                    self.cut = None
                    deaf.set()
                    if cut == "after":
                        server.sendall(data)
                        answered.wait(10)
                    client.shutdown(socket.SHUT_RDWR)
                    if cut == "late":
                        time.sleep(0.3)
                        server.sendall(data)
                        answered.wait(10)
                    break
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def proxied(
    start_server: Callable[..., TestClient], postgres: Cluster
) -> Iterator[tuple[Proxy, Player]]:
    proxy = Proxy(postgres.port)
    url = postgres.new_database().replace(str(postgres.port), str(proxy.port))
    yield proxy, new_player(start_server(database_url=url))
    proxy.close()


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("cut", "then"),
    [(cut, then) for cut in ("before", "after") for then in ("repeat", "read", "undo", "test")]
    + [("late", "repeat")],
)
def test_a_connection_that_breaks_while_it_commits(
    proxied: tuple[Proxy, Player], cut: str, then: str
) -> None:
    """The call is not answered; what comes next is told what the journal has, either way."""
    proxy, player = proxied
    done = cut == "after"
    proxy.cut = cut
    assert_away(post(player, "edit", key="a", **SLOWER))
    match then:
        case "repeat":
            assert player.call("edit", key="a", **SLOWER)["ok"]
            done = True
        case "read":
            assert ("FIRST_RATE = 0.02" in player.get("/files/line_rate.py")) is done
        case "undo":
            assert player.call("undo")["ok"] is done
        case "test":
            answer = player.call("test", wait_s=0)
            assert answer["data"]["state"] in ("queued", "running")
            [queued] = [event for event in journal(player) if event.type == "test_queued"]
            [before] = [e for e in journal(player) if e.seq == queued.seq - 1] or [None]
            assert (before is not None and before.tool == "edit") is done
    edits = [event for event in journal(player) if event.type == "tool_called"]
    assert [event.key for event in edits if event.tool == "edit"] == ["a"] * done


@pytest.mark.postgresql
def test_a_test_whose_queueing_was_cut_off_is_started_once(
    proxied: tuple[Proxy, Player],
) -> None:
    proxy, player = proxied
    proxy.cut = "after"
    assert_away(post(player, "test", wait_s=0))
    finished = player.call("test", wait_s=50)
    assert finished["data"]["state"] == "finished"
    assert finished["budget"]["used"] == 1
    types = [event.type for event in journal(player)]
    assert types == ["test_queued", "test_counted", "test_finished", "tool_called"]


@pytest.mark.postgresql
@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_result_whose_taking_in_was_cut_off_is_taken_once(
    proxied: tuple[Proxy, Player], cut: str
) -> None:
    proxy, player = proxied
    slow = "def predict(s, x):\n    return s * x + 0 * sum(range(10_000))"
    player.call("edit", **(RAISES | {"content": slow}))
    player.call("test", wait_s=0)
    proxy.cut = cut
    finished = player.call("status", wait_s=50)
    assert proxy.cut is None
    assert finished["data"]["state"] == "finished"
    types = [event.type for event in journal(player) if event.type != "tool_called"]
    assert types == ["test_queued", "test_counted", "test_finished"]


# ── SQLite ────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def no_room(store: Store) -> Iterator[None]:
    """The disk is full: the database may not grow by a page."""

    def limit(connection: Any, _record: Any) -> None:
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages}")

    store.engine.dispose()
    event.listen(store.engine, "connect", limit)
    try:
        yield
    finally:
        event.remove(store.engine, "connect", limit)
        store.engine.dispose()


def until_full(call: Callable[[], httpx.Response]) -> int:
    """How often it was answered before there was no room for it."""
    for answered in range(100):
        response = call()
        if response.status_code not in (200, 201):
            assert_away(response)
            return answered
    raise AssertionError("there was always room")


def test_a_full_disk_leaves_nothing_half_done(client: TestClient, tmp_path: Path) -> None:
    player = new_player(client)
    session = {"task": "two-files"}
    with no_room(store_of(client)):
        made = until_full(lambda: client.post("/v1/sessions", json=session))
        answered = until_full(lambda: post(player, "view", filename="loop.py"))
        # What can be read without writing still is.
        assert len(journal(player)) == answered
        # There may be room for something small, but not for long.
        small = until_full(lambda: post(player, "undo"))
        assert len(journal(player)) == answered + small
        assert_away(post(player, "test", wait_s=0))
    run = tmp_path / "state/sessions" / player.id / "runs/test-1.1"
    assert run.is_dir()
    assert player.call("edit", **SLOWER)["ok"]
    # The folder that was made for the test that was not begun is not taken for this one's.
    assert player.call("test", wait_s=50)["budget"]["used"] == 1
    assert "FIRST_RATE = 0.02" in (run / "files/line_rate.py").read_text()
    assert [event.type for event in journal(player)][answered + small :] == [
        "tool_called", "test_queued", "test_counted", "test_finished", "tool_called",
    ]  # fmt: skip
    assert len(store_of(client).list_sessions()) == 1 + made


def test_no_room_for_a_run_directory_starts_no_test(client: TestClient, tmp_path: Path) -> None:
    player = new_player(client)
    full = tmp_path / "state/sessions" / player.id / "runs/test-1.1/files/line_rate.py"
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    response = post(player, "test", wait_s=0)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "60")
    assert response.json()["error"]["code"] == "disk_full"
    assert journal(player) == []
    full.unlink()
    assert player.call("test", wait_s=50)["budget"]["used"] == 1


def test_a_database_that_another_program_locks(
    start_server: Callable[..., TestClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.2)
    player = new_player(start_server())
    other = sqlite3.connect(tmp_path / "state" / "harness.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert_away(post(player, "edit", **SLOWER))
    assert "FIRST_RATE = 0.02" not in player.get("/files/line_rate.py")
    other.execute("ROLLBACK")
    other.close()
    assert player.call("edit", **SLOWER)["ok"]
    assert [event.tool for event in journal(player)] == ["edit"]


# ── both ──────────────────────────────────────────────────────────────────────────────────────


def test_no_free_connection_is_the_database_being_away(
    start_server: Callable[..., TestClient], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.2)
    player = new_player(start_server(database_url=database_url))
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(database.PoolTimeout):
            while True:
                stack.enter_context(store_of(player.client).engine.connect())
        assert_away(post(player, "edit", **SLOWER))
    assert player.call("edit", **SLOWER)["ok"]


def test_a_fault_of_ours_is_not_called_the_database_being_away(
    start_server: Callable[..., TestClient], database_url: str
) -> None:
    player = new_player(start_server(database_url=database_url))
    with store_of(player.client).engine.begin() as connection:
        connection.execute(sql("ALTER TABLE events RENAME TO elsewhere"))
    with pytest.raises(DBAPIError) as raised:
        post(player, "edit", **SLOWER)
    assert not database.unavailable(raised.value)
    with store_of(player.client).engine.begin() as connection:
        connection.execute(sql("ALTER TABLE elsewhere RENAME TO events"))
    assert player.call("edit", **SLOWER)["ok"]


def test_an_event_of_a_session_that_is_not_there_is_our_fault(database_url: str) -> None:
    store = Store(database_url)
    with pytest.raises(DBAPIError) as raised:
        store.append("nobody", [(call(1), None)], closes=False)
    assert not database.unavailable(raised.value)
    store.close()


def test_an_id_that_no_database_could_hold_is_unknown(
    start_server: Callable[..., TestClient], database_url: str
) -> None:
    client = start_server(database_url=database_url)
    for name in ("%00", "x" * 5000, "%ed%a0%80", "é"):
        assert client.get(f"/v1/sessions/{name}").status_code == 404
