"""Server-sent events of a session, over a real socket."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Player, finished_test, stored
from fastapi.testclient import TestClient
from test_client import slow_down

from harness import stream
from harness.client import Client, Session
from harness.events import chain_break, parse_event


@pytest.fixture
def session(live_url: str) -> Iterator[Session]:
    with Client(live_url) as client:
        yield client.create_session("two-files")


def raw(session: Session, url: str, after: int | None = None) -> httpx.Response:
    """What comes until the stream ends."""
    headers = {"Authorization": f"Bearer {session.token}"}
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    return httpx.get(f"{url}/v1/sessions/{session.id}/events", headers=headers, timeout=30)


def test_events_come_as_they_happen_with_progress_between(session: Session) -> None:
    slow_down(session)
    assert session.test(wait_s=0).ok
    told = []
    for event in session.events():
        told.append(event)
        if event.type == "test_finished":
            assert session.submit(1).ok
    journal = [e.data for e in told if e.seq is not None]
    assert [event["seq"] for event in journal] == list(range(1, len(journal) + 1))
    lines = session.transcript().splitlines()
    assert journal == [json.loads(line) for line in lines[1:]]
    progress = [event for event in told if event.type == "progress"]
    assert progress
    running = [p.data for p in progress if p.data["state"] == "running"]
    assert {p["test"] for p in running} == {1}
    assert running[-1]["text"].startswith("[Test #1] running: ")
    # It is told when it has changed only.
    assert all(a.data != b.data for a, b in itertools.pairwise(progress))


def test_a_follower_goes_on_where_it_was(session: Session, live_url: str) -> None:
    slow_down(session)
    session.undo()
    assert session.finish(session.test()).ok
    session.submit(1)
    everything = [event.seq for event in session.events()]
    for after in (0, 1, 3, everything[-2]):
        assert [event.seq for event in session.events(after)] == everything[after:]
    body = raw(session, live_url).text
    assert body.rstrip().endswith('event: end\ndata: {"state": "submitted"}')
    assert "retry: 1000" in body
    # All was told: a browser's EventSource stops coming back at this status.
    assert raw(session, live_url, everything[-1]).status_code == 204
    assert list(session.events(everything[-1])) == []


@pytest.mark.parametrize("after", ["99", "-1", "last", "1.5"])
def test_an_id_that_cannot_be_is_refused(player: Player, after: str) -> None:
    response = player.client.get(
        f"/v1/sessions/{player.id}/events", headers=player.headers | {"Last-Event-ID": after}
    )
    assert response.status_code == 422
    assert response.json()["error"]["message"]


def test_events_need_the_token(client: TestClient, player: Player) -> None:
    del client.headers["Authorization"]  # the owner's key, which opens every session
    response = client.get(f"/v1/sessions/{player.id}/events")
    assert (response.status_code, response.json()["error"]["code"]) == (401, "bad_token")


def test_a_quiet_stream_has_a_heartbeat(
    session: Session, live_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.2)
    headers = {"Authorization": f"Bearer {session.token}"}
    path = f"{live_url}/v1/sessions/{session.id}/events"
    began = time.monotonic()
    with httpx.stream("GET", path, headers=headers, timeout=10) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        for chunk in response.iter_text():
            if ": waiting\n\n" in chunk:
                break
    assert time.monotonic() - began < 5


def test_text_of_any_kind_is_one_line_of_ascii(session: Session) -> None:
    said = "one\r\ntwo\n\nthree\u2028four\x85five\x0b\x1csix «seven» \ud83d\ude00".encode(
        "utf-16", "surrogatepass"
    ).decode("utf-16")
    session.keep_message("assistant", said)
    event: dict[str, Any] = next(session.events()).data
    assert event["text"] == said


def test_hidden_values_do_not_appear(session: Session, live_url: str, tmp_path: Path) -> None:
    session.finish(session.test())
    session.submit(1)
    everything = raw(session, live_url).text
    finished = finished_test(tmp_path, session.id)
    assert finished.private is not None
    hidden = finished.private["values"]["fit"]
    for value in (hidden["metrics"]["worst"], hidden["final"]["error"], finished.private["salt"]):
        assert str(value) not in everything
    assert "worst" not in everything
    # What a follower reads is the same chain.
    events = [parse_event(event.data) for event in session.events() if event.seq is not None]
    assert chain_break(stored(tmp_path, session.id)[0], events) is None
