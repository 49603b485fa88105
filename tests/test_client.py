"""The client, over a real socket: whole sessions, cut connections, servers that come and go."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from conftest import TOY_TASKS
from live import CuttingProxy, served

import server
from harness.client import (
    Away,
    BadAnswer,
    BadToken,
    Busy,
    Client,
    NotFound,
    Patience,
    Refused,
    Session,
    Unreachable,
)
from harness.settings import Settings

SLOWER = {"start_line": 3, "end_line": 3, "content": "FIRST_RATE = 0.02"}
SLOW_MODEL = "def predict(slope, x):\n    return slope * x + 0 * sum(range(400_000))"
PATIENCE = Patience(total_s=40, first_s=0.05, longest_s=0.5)


def slow_down(session: Session) -> None:
    """Let each step of the session's tests take a moment, so that they are seen running."""
    answer = session.edit("replace", "line_model.py", start_line=7, end_line=8, content=SLOW_MODEL)
    assert answer.ok, answer.text


def types_of(session: Session) -> list[str]:
    return [json.loads(line)["type"] for line in session.transcript().splitlines()[1:]]


def test_a_whole_session(live_url: str) -> None:
    with Client(live_url) as client:
        assert "two-files" in [task.name for task in client.tasks()]
        assert client.leaderboard("two-files", profile="toy").published[0].name == "by hand"
        assert client.task("two-files").files[0].name == "line_model.py"
        session = client.create_session("two-files", agent={"model": "none"})
        assert session.prompt.count("line_rate.py") > 1
        assert [tool.name for tool in session.tools][:2] == ["view", "edit"]
        assert session.view("line_rate.py", 3, 3).ok
        refused = session.edit("insert", "line_rate.py", after_line=1, content="x = 1")
        assert (refused.ok, refused.error) == (False, "outside_regions")
        assert session.edit("replace", "line_rate.py", **SLOWER).ok
        assert session.undo().text == "Undo complete:\nRestored: line_rate.py"
        session.keep_message("assistant", "Good.", {"tokens": 2})
        slow_down(session)
        seen = []
        begun = session.test(wait_s=0)
        assert begun.waits_for == 1
        answer = session.finish(begun, on_progress=seen.append)
        assert answer.text.startswith("[Status] 2 tests remaining; no test is running.")
        assert answer.data["metrics"]["error"] > 0
        assert session.wait(1).scored
        assert session.submit(1).ok
        view = session.state()
        assert (view.state, view.submitted, view.budget.used) == ("submitted", 1, 1)
        assert "sum(range" in session.file("line_model.py")
        again = client.session(session.id, session.token)
        assert again.test_view(1).state == "finished"
        with pytest.raises(ValueError, match="only creating a session gives its prompt"):
            _ = again.prompt


def test_a_client_that_is_cut_off_every_moment_plays_a_whole_session(live_url: str) -> None:
    """Nothing is done twice and nothing is lost, although no connection lives for two seconds."""
    with CuttingProxy(live_url, 1.5) as proxy, Client(proxy.url, patience=PATIENCE) as client:
        session = client.create_session("two-files", agent="cut off")
        followed: list[int] = []
        follower = threading.Thread(
            target=lambda: followed.extend(e.seq for e in session.events() if e.seq is not None)
        )
        follower.start()
        slow_down(session)
        for rate in ("0.02", "0.03"):
            assert session.edit(
                "replace", "line_rate.py", **(SLOWER | {"content": f"FIRST_RATE = {rate}"})
            ).ok
        assert session.undo().ok
        answer = session.finish(session.test(wait_s=50))
        assert answer.data["metrics"]["error"] > 0
        time.sleep(1.6)  # every connection that was kept is cut
        assert session.submit(1).ok
        follower.join(20)
        assert proxy.cut >= 2
    with Client(live_url) as direct:
        kept = [json.loads(line) for line in direct.session(
            session.id, session.token).transcript().splitlines()[1:]]  # fmt: skip
    # The last edit was taken back, and each call stands in the journal once.
    calls = [e["tool"] for e in kept if e["type"] == "tool_called" and e["tool"] != "status"]
    assert calls == ["edit", "edit", "edit", "undo", "test", "submit"]
    types = [event["type"] for event in kept]
    assert [types.count(t) for t in ("test_queued", "test_counted", "test_finished")] == [1, 1, 1]
    assert followed == [event["seq"] for event in kept]


def test_a_wait_outlives_a_restart_of_the_server(
    tmp_path: Path, toy_data: Path, own_key: None
) -> None:
    settings = Settings(state_dir=tmp_path / "state", tasks_dir=TOY_TASKS, data_dir=toy_data)
    with served(server.build(settings)) as url, Client(url) as client:
        session = client.create_session("two-files")
        slow_down(session)
        assert session.test(wait_s=0).waits_for == 1
    port = int(url.rpartition(":")[2])
    with Client(url, patience=PATIENCE) as client:
        waited: list[str] = []
        session = client.session(session.id, session.token)
        waiter = threading.Thread(target=lambda: waited.append(session.wait(1).state))
        waiter.start()
        time.sleep(0.5)
        with served(server.build(settings), port):
            waiter.join(40)
        assert waited == ["finished"]


def test_errors_are_typed(live_url: str) -> None:
    with Client(live_url, patience=Patience(total_s=0)) as client:
        with pytest.raises(NotFound, match="There is no task x") as found:
            client.create_session("x")
        assert (found.value.status, found.value.code) == (404, "unknown_task")
        session = client.create_session("two-files")
        with pytest.raises(BadToken, match="Send 'Authorization: Bearer <token>'"):
            client.session(session.id, "wrong").status()
        with pytest.raises(BadToken):
            list(client.session(session.id, "wrong").events())
        with pytest.raises(NotFound, match="There is no tool 'fly'"):
            session.call("fly")
        with pytest.raises(NotFound, match="was never started"):
            session.wait(3)
        with pytest.raises(Refused) as refused:
            client.tools("cobol")
        assert refused.value.code == "bad_request"
    with Client("http://127.0.0.1:9", patience=Patience(total_s=0)) as nobody:
        with pytest.raises(Unreachable, match="no answer"):
            nobody.tasks()
        with pytest.raises(Unreachable):
            list(nobody.session("x", "y").events())


def answering(
    *answers: httpx.Response | Exception,
) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A network that gives these answers, the last one for ever, and what was sent into it."""
    left, sent = list(answers), []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return httpx.MockTransport(handle), sent


BUDGET = {"tests": 3, "used": 0, "remaining": 3, "running": None}
ANSWER = httpx.Response(200, json={"ok": True, "text": "OK", "data": {}, "budget": BUDGET})
CREATED = httpx.Response(
    201,
    json={
        "id": "a", "token": "t", "task": "x", "profile": "p", "prompt": "", "budget": BUDGET,
        "tools": [],
    },
)  # fmt: skip
LATER = httpx.Response(
    503,
    json={"error": {"code": "database_unavailable", "message": "Away.", "hint": ""}},
    headers={"Retry-After": "0.3"},
)
GATEWAY = httpx.Response(504, text="<html>Gateway Timeout</html>")
CUT = httpx.RemoteProtocolError("Server disconnected without sending a response.")
REFUSED = httpx.ConnectError("Connection refused")


def quick(transport: httpx.MockTransport, total_s: float = 5) -> Client:
    patience = Patience(total_s=total_s, first_s=0.01, longest_s=0.05)
    return Client("http://harness", transport=transport, patience=patience, api_key="key")


def test_a_call_is_sent_again_under_its_key_until_it_is_answered() -> None:
    transport, sent = answering(REFUSED, CUT, GATEWAY, LATER, ANSWER)
    began = time.monotonic()
    assert quick(transport).session("a", "t").undo().ok
    assert time.monotonic() - began >= 0.3  # what Retry-After asked for
    assert len(sent) == 5
    assert len({request.headers["Idempotency-Key"] for request in sent}) == 1
    assert {request.headers["Authorization"] for request in sent} == {"Bearer t"}
    quick(transport).session("a", "t").undo()
    assert sent[-1].headers["Idempotency-Key"] != sent[0].headers["Idempotency-Key"]


@pytest.mark.parametrize(
    "begin",
    [
        lambda client: client.create_session("x"),
        lambda client: client.session("a", "t").keep_message("user", "x"),
    ],
    ids=["create", "message"],
)
def test_what_has_no_key_is_sent_again_only_if_nothing_was_done(
    begin: Callable[[Client], object],
) -> None:
    transport, sent = answering(REFUSED, LATER, CREATED)
    begin(quick(transport))
    assert len(sent) == 3
    for answer, raised in ((CUT, Unreachable), (GATEWAY, Away)):
        transport, sent = answering(answer, CREATED)
        with pytest.raises(raised):
            begin(quick(transport))
        assert len(sent) == 1


def test_the_api_key_is_sent_beside_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    transport, sent = answering(CREATED)
    quick(transport).create_session("x")
    assert sent[-1].headers["Authorization"] == "Bearer key"
    monkeypatch.setenv("HARNESS_API_KEY", "from the environment")
    Client("http://harness", transport=transport).create_session("x")
    assert sent[-1].headers["Authorization"] == "Bearer from the environment"


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (LATER, Away),
        (GATEWAY, Away),
        (CUT, Unreachable),
        (httpx.Response(429, json=LATER.json(), headers={"Retry-After": "60"}), Busy),
        (httpx.Response(200, text="<html>Log in to the network</html>"), BadAnswer),
        (httpx.Response(403, text="<html>Forbidden</html>"), BadAnswer),
    ],
)
def test_patience_ends(answer: httpx.Response | Exception, raised: type[Exception]) -> None:
    began = time.monotonic()
    with pytest.raises(raised):
        quick(answering(answer)[0], total_s=0.4).session("a", "t").status()
    with pytest.raises(raised):
        quick(answering(answer)[0], total_s=0).session("a", "t").wait(1)
    assert time.monotonic() - began < 3


def test_a_wait_that_is_cut_is_made_shorter() -> None:
    finished = httpx.Response(200, json={"test": 1, "state": "finished", "scored": True})
    transport, sent = answering(CUT, CUT, finished)
    assert quick(transport).session("a", "t").wait(1, wait_s=20).scored
    assert [request.url.params["wait_s"] for request in sent] == ["20", "10", "5"]


def test_a_test_that_is_given_back_is_what_finish_tells() -> None:
    running = httpx.Response(200, json={**ANSWER.json(), "data": {"test": 1, "state": "checking"}})
    refused = httpx.Response(
        200, json={"test": 1, "state": "refused", "text": "ERROR: no", "findings": []}
    )
    view = httpx.Response(
        200,
        json={"id": "a", "task": "x", "profile": "p", "state": "open", "submitted": None,
              "budget": BUDGET, "results": []},
    )  # fmt: skip
    transport, _ = answering(running, refused, view)
    session = quick(transport).session("a", "t")
    answer = session.finish(session.test())
    assert (answer.ok, answer.text, answer.error) == (False, "ERROR: no", "test_refused")
    assert answer.data == {"test": 1, "state": "refused", "findings": []}
