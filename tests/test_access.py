"""Who may do what: every route against every credential, through the whole server in process."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY, Player, finished_test, new_player
from fastapi.testclient import TestClient

from harness.access import KEY_SHAPE, BadKeys, cookie_of, parse_keys
from harness.hosts import Hosts
from harness.limits import BURST_SECONDS, REMEMBERED, Buckets

OPEN = {("GET", "/healthz"), ("GET", "/readyz")}
READ_BY_ANY_TOKEN = {
    (method, path)
    for method in ("GET", "HEAD")
    for path in (
        "/v1/tasks",
        "/v1/tasks/{name}",
        "/v1/tools",
        "/openapi.json",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
    )
}


def calls_of(client: TestClient) -> Iterator[tuple[str, str]]:
    """Every method and path that the application has; a mounted one is asked for a page of it."""
    waiting = list(client.app.routes)  # type: ignore[attr-defined]
    while waiting:
        route = waiting.pop(0)
        if (included := getattr(route, "original_router", None)) is not None:
            waiting += included.routes
            continue
        methods = getattr(route, "methods", None)
        for method in sorted(methods or {"GET", "POST"}):
            yield method, route.path if methods else f"{route.path}/x"


def filled(path: str, session_id: str) -> str:
    """The path with a value for each of its parts."""
    values = {"session_id": session_id, "tool": "view", "number": "1"}
    files = "line_rate.py" if "/files/" in path else "two-files"
    return re.sub(r"{(\w+)(:\w+)?}", lambda part: values.get(part[1], files), path)


CREDENTIALS: dict[str, Callable[[Player], dict[str, str]]] = {
    "nothing": lambda other: {},
    "a wrong key": lambda other: {"Authorization": f"Bearer {KEY}x"},
    "another scheme": lambda other: {"Authorization": f"Basic {KEY}"},
    "an empty key": lambda other: {"Authorization": "Bearer "},
    "a forged token": lambda other: {"Authorization": f"Bearer {other.id}.hs_{'x' * 43}"},
    "a session's id": lambda other: {"Authorization": f"Bearer {other.id}"},
    "a cookie": lambda other: {"Cookie": f"harness_80={KEY}"},
    "another session's token": lambda other: other.headers,
}


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_nothing_is_open_that_need_not_be(client: TestClient, credential: str) -> None:
    mine, other = new_player(client), new_player(client)
    del client.headers["Authorization"]
    calls = list(calls_of(client))
    assert len(calls) > 15
    for method, path in calls:
        if (method, path) in OPEN:
            continue
        response = client.request(
            method,
            filled(path, mine.id),
            headers=CREDENTIALS[credential](other),
            json={} if method == "POST" else None,
            follow_redirects=False,
        )
        if credential == "another session's token" and (method, path) in READ_BY_ANY_TOKEN:
            assert response.status_code == 200, path
        else:
            assert response.status_code in (401, 403), (method, path)
            if method == "HEAD":
                continue
            assert response.json()["error"]["code"] in ("bad_key", "bad_token", "key_needed")
            assert response.json()["error"]["message"]


def test_a_path_that_leads_nowhere_needs_a_key_too(client: TestClient) -> None:
    wrong = {"Authorization": "Bearer x"}
    for path in ("/v1", "/v1/", "/v1/sessions/", "//v1/tasks", "/v1/sessions/a%00b", "/x"):
        assert client.get(f"http://testserver{path}", headers=wrong).status_code == 401, path
        assert client.get(f"http://testserver{path}").status_code in (404, 405), path


def test_hidden_values_are_in_no_answer_to_a_sessions_token(player: Player, tmp_path: Path) -> None:
    player.call("test", wait_s=50)
    answers = [player.text("status"), player.text("check", wait_s=50), player.text("submit", n=1)]
    finished = finished_test(tmp_path, player.id)
    assert finished.private is not None
    hidden = finished.private["values"]["fit"]
    unseen = {
        "worst",
        finished.private["salt"],
        str(hidden["metrics"]["worst"]),
        str(hidden["final"]["error"]),
    }
    answered = set()
    for method, path in calls_of(player.client):
        if method in ("HEAD", "OPTIONS"):
            continue
        response = player.client.request(
            method,
            filled(path, player.id),
            headers=player.headers,
            json={"role": "user", "text": "x"} if path.endswith("/messages") else {},
        )
        if response.status_code < 400:
            answered.add((method, path))
        answers.append(response.text)
    assert ("GET", "/v1/sessions/{session_id}/transcript") in answered
    assert answered >= {call for call in READ_BY_ANY_TOKEN | OPEN if call[0] == "GET"}
    assert not [word for word in unseen for text in answers if word in text]


def test_a_key_opens_every_session(player: Player) -> None:
    owner = {"Authorization": f"Bearer {KEY}"}
    path = f"/v1/sessions/{player.id}"
    assert player.client.get(path, headers=owner).json()["id"] == player.id
    answer = player.client.post(f"{path}/tools/status", json={}, headers=owner)
    assert answer.json()["ok"]
    assert player.client.get("/v1/sessions/none", headers=owner).status_code == 404


def test_several_keys_have_names(start_server: Callable[..., TestClient]) -> None:
    client = start_server(api_key="alpha:first-of-the-keys, second-of-the-keys")
    for key in ("first-of-the-keys", "second-of-the-keys"):
        assert client.get("/metrics", headers={"Authorization": f"Bearer {key}"}).is_success
    assert client.get("/metrics", headers={"Authorization": "Bearer alpha"}).status_code == 401


@pytest.mark.parametrize(
    "text", ["", "short", "sixteen-letters-x,", "a:b:sixteen-letters-x", "ä" * 20]
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(BadKeys, match=re.escape(KEY_SHAPE[:30])) as raised:
        parse_keys(text)
    assert "letters-x" not in str(raised.value)


def test_keys_are_kept_as_hashes() -> None:
    [key] = parse_keys("name:sixteen-letters-x")
    assert key.name == "name"
    assert "sixteen" not in repr(key)
    with pytest.raises(BadKeys, match="names differ"):
        parse_keys("a:sixteen-letters-x,a:sixteen-letters-y")


# ── a browser ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def browser(client: TestClient) -> TestClient:
    """One that has opened the link that the server printed."""
    del client.headers["Authorization"]
    response = client.get(f"/v1/tasks?a=1&key={KEY}&b=%26", follow_redirects=False)
    assert response.status_code == 303
    assert response.headers["location"] == "/v1/tasks?a=1&b=%26"
    assert KEY not in str(response.headers)
    assert "HttpOnly; SameSite=Strict" in response.headers["set-cookie"]
    return client


def test_the_printed_link_opens_the_pages(browser: TestClient) -> None:
    assert browser.get("/v1/tasks").status_code == 200
    assert browser.get("/docs", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    # What the browser keeps is no key for programs.
    headers = {"Authorization": f"Bearer {cookie_of(KEY)}"}
    assert browser.get("/v1/tasks", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {"Origin": "http://testserver"}, 201),
        ("POST", {}, 401),
        ("POST", {"Origin": "http://localhost:9999"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 401),
        (
            "GET",
            {
                "Sec-Fetch-Site": "same-site",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "document",
            },
            405,
        ),
        (
            "GET",
            {
                "Sec-Fetch-Site": "same-site",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "iframe",
            },
            401,
        ),
    ],
)
def test_a_cookie_counts_only_on_our_own_pages(
    browser: TestClient, method: str, headers: dict[str, str], status: int
) -> None:
    """Another port of this host is the same site, whose cookies it shares."""
    response = browser.request(
        method,
        "/v1/sessions",
        json={"task": "two-files"} if method == "POST" else None,
        headers=headers,
    )
    assert response.status_code == status


def test_a_link_leads_to_this_server_only(client: TestClient) -> None:
    response = client.get(f"http://testserver//evil.example/x?key={KEY}", follow_redirects=False)
    assert response.headers["location"] == "/evil.example/x"
    response = client.get("/?key=wrong", follow_redirects=False)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "bad_key")


def test_a_person_without_a_key_is_told_where_it_is(client: TestClient) -> None:
    page = client.get("/", headers={"Authorization": "", "Accept": "text/html"})
    assert page.status_code == 401
    assert "<code>harness serve</code>" in page.text


# ── host and origin ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "bad_host"),
        ({"Host": "localhost.evil.example:8000"}, "bad_host"),
        ({"Host": "127.0.0.1.evil.example"}, "bad_host"),
        ({"Host": ""}, "bad_host"),
        ({"Origin": "https://evil.example"}, "bad_origin"),
        ({"Origin": "http://localhost:1"}, "bad_origin"),
        ({"Origin": "http://127.0.0.1:1"}, "bad_origin"),
        ({"Host": "localhost:8000"}, None),
        ({"Host": "[::1]:8000"}, None),
        ({"Host": "LAB.example:80"}, None),
        ({"Origin": "http://testserver"}, None),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, None),
        ({"Host": "localhost:8000", "Origin": "https://lab.example"}, None),
    ],
)
def test_host_and_origin(
    start_server: Callable[..., TestClient], headers: dict[str, str], code: str | None
) -> None:
    client = start_server(allowed_hosts="lab.example, other.example")
    response = client.get("/v1/tasks", headers=headers)
    assert response.status_code == (200 if code is None else 403)
    if code is not None:
        assert response.json()["error"]["code"] == code
    assert client.get("/healthz", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "reached_at", "answers"),
    [
        ("10.0.0.7:8000", "10.0.0.7", True),
        ("10.0.0.8:8000", "10.0.0.7", False),
        ("[fd00::7]", "fd00:0::7", True),
        ("box", "10.0.0.7", False),
        ("box", "/run/harness.sock", False),
        (None, "10.0.0.7", False),
    ],
)
def test_a_server_answers_to_its_own_address(
    host: str | None, reached_at: str, answers: bool
) -> None:
    assert Hosts().answers_to(host, reached_at) == answers
    assert Hosts(["*"]).answers_to(host, reached_at)


# ── limits ────────────────────────────────────────────────────────────────────────────────────────


def refusal(response: Any) -> tuple[int, str]:
    """The status and code of a 429, which says when to come again."""
    assert int(response.headers["retry-after"]) >= 1
    assert set(response.json()["error"]) == {"code", "message", "hint"}
    return response.status_code, response.json()["error"]["code"]


def test_requests_of_a_session_and_of_a_key_are_limited(
    start_server: Callable[..., TestClient],
) -> None:
    client = start_server(limit_session_requests=1, limit_key_requests=1)
    one, other = new_player(client), new_player(client)
    for _ in range(BURST_SECONDS):
        assert one.text("status").startswith("[Status]")
    path = f"/v1/sessions/{one.id}"
    assert refusal(client.get(path, headers=one.headers)) == (429, "too_many_requests")
    assert other.text("status").startswith("[Status]")
    answers = [client.get("/v1/tools") for _ in range(BURST_SECONDS)]
    assert refusal(answers[-1]) == (429, "too_many_requests")
    assert client.get("/healthz").status_code == 200


def test_guessing_is_limited(client: TestClient) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    statuses = [client.get("/v1/tasks", headers=wrong).status_code for _ in range(60)]
    assert statuses[:50] == [401] * 50
    assert statuses[-1] == 429
    assert client.get("/v1/tasks").status_code == 200


def test_calls_of_a_session_at_the_same_time_are_limited(
    start_server: Callable[..., TestClient],
) -> None:
    client = start_server(limit_session_calls=1)
    player = new_player(client)
    player.call(
        "edit",
        op="replace",
        filename="line_model.py",
        start_line=7,
        end_line=8,
        content="def predict(s, x):\n    while True: pass",
    )
    player.call("test", wait_s=0)
    path = f"/v1/sessions/{player.id}"

    def wait(_number: int) -> Any:
        return client.post(f"{path}/tools/status", json={"wait_s": 2}, headers=player.headers)

    with ThreadPoolExecutor(3) as pool:
        waiting = pool.map(wait, range(3))
        assert client.get(path).status_code == 200  # a person looks on
        answers = sorted(waiting, key=lambda response: response.status_code)
    assert answers[0].json()["ok"]
    assert [refusal(answer) for answer in answers[1:]] == [(429, "too_many_calls")] * 2
    assert client.get(path, headers=player.headers).status_code == 200


def test_open_sessions_of_a_key_are_limited(start_server: Callable[..., TestClient]) -> None:
    client = start_server(limit_open_sessions=2, api_key=f"{KEY},another-key-for-tests")
    first = new_player(client)
    new_player(client)
    body = {"task": "two-files"}
    assert refusal(client.post("/v1/sessions", json=body)) == (429, "too_many_sessions")
    other = {"Authorization": "Bearer another-key-for-tests"}
    assert client.post("/v1/sessions", json=body, headers=other).status_code == 201
    first.call("test", wait_s=50)
    first.call("submit", n=1)
    assert client.post("/v1/sessions", json=body).status_code == 201


def test_a_journal_has_a_greatest_size_and_a_reserve_for_the_end(
    start_server: Callable[..., TestClient],
) -> None:
    first = start_server(limit_journal_bytes=40_000)
    player = new_player(first)
    locked = {"op": "insert", "filename": "line_model.py", "after_line": 1, "content": "x" * 9000}
    assert [player.call("edit", **locked)["error"] for _ in range(4)] == ["outside_regions"] * 4
    journal = player.get("/transcript")
    calls = {"tools/edit": locked, "messages": {"role": "assistant", "text": "y" * 9000}}

    def refused(client: TestClient) -> None:
        for path, body in calls.items():
            answer = client.post(
                f"/v1/sessions/{player.id}/{path}", json=body, headers=player.headers
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "journal_full")

    refused(first)
    assert player.get("/transcript") == journal
    first.__exit__(None, None, None)
    again = start_server(limit_journal_bytes=40_000)
    refused(again)
    player = Player(again, player.id, player.token, player.created)
    assert player.call("test", wait_s=50)["data"]["state"] == "finished"
    # What can be repeated for ever comes to an end too, and the session still to its own.
    body = {"wait_s": 0, "why": "z" * 5000}
    path = f"/v1/sessions/{player.id}/tools/status"
    assert again.post(path, json=body, headers=player.headers).status_code == 413
    assert player.call("submit", n=1)["ok"]


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/sessions/{id}/tools/edit"])
@pytest.mark.parametrize("told", [True, False])
def test_a_large_body_is_not_read_to_its_end(
    start_server: Callable[..., TestClient], path: str, told: bool
) -> None:
    client = start_server(limit_body_bytes=10_000)
    player = new_player(client)
    read = 0

    def parts() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1000
            yield b" " * 1000

    response = client.post(path.format(id=player.id), content=b" " * 10_001 if told else parts())
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")


def test_a_region_has_a_greatest_length(player: Player) -> None:
    line = "# " + "x" * 97
    edit = {"op": "insert", "filename": "line_model.py", "after_line": 8}
    for _ in range(3):
        assert player.call("edit", **edit, content="\n".join([line] * 320))["ok"]
    refused = player.call("edit", **edit, content="\n".join([line] * 320))
    assert refused["error"] == "edit_refused"
    assert re.match(
        r"ERROR: Region \w+ would have 128\d\d\d characters; at most 100000 are accepted\. "
        r"Write less into it\.\n",
        refused["text"],
    )
    assert json.dumps(player.get("/files/line_model.py")).count(line) == 960


def test_a_bucket_fills_again() -> None:
    now = 0.0
    buckets = Buckets(2, clock=lambda: now)
    assert [buckets.take("a") for _ in range(20)] == [0] * 20
    assert buckets.take("a") == pytest.approx(0.5)
    assert buckets.take("b") == 0
    now = 0.5
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0
    for number in range(REMEMBERED + 5):
        buckets.take(str(number))
    assert len(buckets._left) == REMEMBERED
    assert Buckets(0).take("a") == 0
