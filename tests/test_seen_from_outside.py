"""What is seen of a server from outside: metrics, readiness, logs; what other users can reach."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import KEY, TOY_TASKS, Player, new_player
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from harness import logs
from harness.state_folder import close_to_others, unwritable

ROOT = Path(__file__).parents[1]


# ── metrics and readiness ─────────────────────────────────────────────────────────────────────────


def metrics_of(client: TestClient) -> dict[tuple[str, str], float]:
    """Value by name and labels, these as `a=1,b=2`."""
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_metrics_tell_what_was_called_and_what_runs(client: TestClient) -> None:
    player, waiting = new_player(client), new_player(client)
    before = metrics_of(client)
    assert before["harness_sessions", "state=open"] == 2
    assert before["harness_executor_capacity", "kind=slot"] == 1
    player.text("undo")
    unknown = client.post(f"/v1/sessions/{player.id}/tools/fly", json={}, headers=player.headers)
    assert unknown.status_code == 404
    client.get("/v1/nowhere/at/all")
    endless = {"start_line": 7, "end_line": 8, "content": "def predict(s, x):\n    while 1: pass"}
    player.call("edit", op="replace", filename="line_model.py", **endless)
    player.call("test", wait_s=0)
    waiting.call("test", wait_s=0)
    during = metrics_of(client)
    assert during["harness_tool_calls_total", "outcome=nothing_to_undo,tool=undo"] == 1
    assert during["harness_tool_calls_total", "outcome=ok,tool=test"] == 2
    assert during["harness_tool_calls_total", "outcome=unknown_tool,tool=unknown"] == 1
    assert during["harness_tool_seconds_count", "tool=undo"] == 1
    route = "/v1/sessions/{session_id}/tools/{tool}"
    assert during["harness_http_requests_total", f"method=POST,route={route},status=200"] == 4
    assert during["harness_http_requests_total", "method=GET,route=none,status=404"] == 1
    assert during["harness_http_request_seconds_count", f"route={route}"] == 5
    assert during["harness_tests", "state=running"] == 1
    assert during["harness_tests", "state=queued"] == 1
    assert during["harness_executor_in_use", "kind=slot"] == 1
    assert during["harness_database_errors_total", ""] == 0
    assert not [key for key in during if player.id in str(key)]


def test_a_finished_test_is_counted(player: Player) -> None:
    player.call("test", wait_s=50)
    player.call("submit", n=1)
    seen = metrics_of(player.client)
    assert seen["harness_tests_ended_total", "outcome=scored"] == 1
    assert seen["harness_sessions", "state=submitted"] == 1
    assert seen["harness_sessions", "state=open"] == 0


def test_each_server_counts_for_itself(start_server: Callable[..., TestClient]) -> None:
    one = start_server()
    new_player(one)
    other = start_server(state_dir=Path(tempfile.mkdtemp()))
    assert metrics_of(one)["harness_sessions", "state=open"] == 1
    assert metrics_of(other)["harness_sessions", "state=open"] == 0


def test_readiness_says_what_is_wrong(client: TestClient, tmp_path: Path) -> None:
    assert client.get("/readyz").json() == {"status": "ok"}
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    # A connection that is open already goes on working; this one would need a new one.
    client.app.state.service.store.engine.dispose()  # type: ignore[attr-defined]
    response = client.get("/readyz")
    (tmp_path / "elsewhere").rename(tmp_path / "state")
    assert response.status_code == 503
    error = response.json()["error"]
    assert error["code"] == "not_ready"
    assert error["message"] == (
        "The database does not answer. "
        "The state folder cannot be written: No such file or directory."
    )
    assert response.headers["retry-after"] == "5"
    assert str(tmp_path) not in response.text
    assert client.get("/readyz").status_code == 200
    assert metrics_of(client)["harness_database_errors_total", ""] >= 1


# ── request ids and records ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1.2:3_X", True), ("", False), ("a b", False), ("x" * 101, False), ("é", False)],
)
def test_a_request_has_an_id(client: TestClient, sent: str, kept: bool) -> None:
    for path, status in (("/v1/tasks", 200), ("/healthz", 200), ("/v1/none", 404)):
        response = client.get(path, headers={"X-Request-Id": sent.encode("latin-1")})
        assert response.status_code == status
        assert (response.headers["x-request-id"] == sent) == kept
        assert response.headers["x-content-type-options"] == "nosniff"
    assert client.get("/v1/tasks", headers={"Host": "evil.example"}).headers["x-request-id"]


def test_our_own_mistakes_have_an_id_too(start_server: Callable[..., TestClient]) -> None:
    client = start_server()

    async def wrong() -> None:
        raise RuntimeError("a secret of ours")

    client.app.get("/wrong")(wrong)  # type: ignore[attr-defined]
    quiet = TestClient(client.app, raise_server_exceptions=False, headers=client.headers)
    response = quiet.get("/wrong", headers={"X-Request-Id": "abc"})
    assert response.status_code == 500
    assert response.json()["error"] == {
        "code": "internal_error",
        "message": "The server has made a mistake.",
        "hint": "Tell its operator the request's id, abc.",
    }


HOSTILE = "a\nINFO forged: x\x1b[31m\u202e\u2028\x9b" + "\x00"


@pytest.fixture(params=["json", "text"])
def record(request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """What a record is written as."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = StringIO()
    logs.configure(request.param, stream)

    def write(*args: Any, **kwargs: Any) -> str:
        stream.truncate(stream.seek(0))
        logging.getLogger("harness.test").error(*args, **kwargs)
        return stream.getvalue()

    yield write
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_record_is_one_line_whatever_is_in_it(record: Callable[..., str]) -> None:
    line = record("said %s", HOSTILE, extra={"path": HOSTILE, "status": 200})
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    if line.startswith("{"):
        told = json.loads(line)
        assert (told["event"], told["path"], told["status"]) == (f"said {HOSTILE}", HOSTILE, 200)
        assert (told["level"], told["logger"]) == ("error", "harness.test")
    else:
        assert "said a\\nINFO forged: x\\x1b[31m\\u202e\\u2028" in line


def test_a_traceback_forges_no_record(record: Callable[..., str]) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        lines = record("failed", exc_info=True).split("\n")
    assert lines.pop() == ""
    assert all(line.isprintable() for line in lines)
    assert all(line.startswith("    ") for line in lines[1:])
    assert "Traceback" in lines[0] + lines[-1] + "".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "0123456789abcdef.hs_SECRET-SECRET-SECRET-SECRET",
        "hk_SECRET-SECRET-SECRET-SECRET",
        "Authorization: Bearer SECRET",
        "{'authorization': 'bearer SECRET'}",
        "GET /?a=b&key=SECRET&c=d",
    ],
)
def test_what_looks_like_a_secret_is_not_written(record: Callable[..., str], text: str) -> None:
    line = record("saw %s", text, extra={"path": text})
    assert "SECRET" not in line
    assert line.count("[hidden]") == 2


# ── a server as a process of its own ──────────────────────────────────────────────────────────────


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    http: httpx.Client
    state: Path
    log: Path


@pytest.fixture
def running(toy_data: Path) -> Iterator[Running]:
    """`python -m server` on a state folder that anybody may reach up to."""
    outer = Path(tempfile.mkdtemp(dir="/tmp"))
    outer.chmod(0o755)
    state, log = outer / "state", outer / "log"
    state.mkdir(mode=0o755)
    (state / "harness.sqlite3").touch(0o644)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "HARNESS_STATE_DIR": str(state),
        "HARNESS_TASKS_DIR": str(TOY_TASKS),
        "HARNESS_DATA_DIR": str(toy_data),
        "HARNESS_PORT": str(port),
        "HARNESS_API_KEY": KEY,
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "server"], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    http.headers["Authorization"] = f"Bearer {KEY}"
    try:
        for _ in range(300):
            try:
                if http.get("/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        yield Running(process, http, state, log)
    finally:
        http.close()
        process.terminate()
        process.wait(20)
        shutil.rmtree(outer)


def test_the_logs_of_a_run_tell_all_but_secrets(running: Running) -> None:
    created = running.http.post("/v1/sessions", json={"task": "two-files"}).json()
    token, path = created["token"], f"/v1/sessions/{created['id']}"
    mine = {"Authorization": f"Bearer {token}", "X-Request-Id": "the-one"}
    answer = running.http.post(f"{path}/tools/test", json={"wait_s": 50}, headers=mine)
    assert answer.json()["data"]["state"] == "finished"
    cookie = running.http.get(f"/v1/tasks?key={KEY}").headers["set-cookie"]
    running.http.get(f"{path}/files/a%0aINFO%20forged%1b%5b31m", headers=mine)
    running.http.get(f"/v1/none/{token}", params={"key": KEY, "token": token})
    running.http.post(f"{path}/tools/fly%0a", json={"x": HOSTILE}, headers=mine)
    running.http.get("/healthz")
    running.process.terminate()
    running.process.wait(20)
    text = running.log.read_text()
    for secret in (KEY, token, token.partition(".")[2], cookie.partition(";")[0], "worst"):
        assert secret not in text
    assert text.isascii()
    records = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    others = [line for line in text.splitlines() if not line.startswith("{")]
    assert others == [f"Pages: {running.http.base_url}/"]
    [of_test] = [r for r in records if r.get("request") == "the-one" and r.get("tool") == "test"
                 and "status" in r]  # fmt: skip
    assert of_test["session"] == created["id"]
    assert of_test["caller"] == f"agent {created['id']}"
    assert of_test["route"] == "/v1/sessions/{session_id}/tools/{tool}"
    assert (of_test["status"], of_test["method"]) == (200, "POST")
    assert of_test["ms"] > 0
    # What the service says of the same call carries the same ids.
    [queued] = [r for r in records if r["event"].endswith("test #1 queued")]
    assert (queued["request"], queued["session"]) == ("the-one", created["id"])
    assert not [r for r in records if r.get("path") in ("/healthz", "/readyz")]
    narrowed = [r["event"] for r in records if "could be read by other users" in r["event"]]
    assert len(narrowed) == 2


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv"
)
def test_another_user_reaches_neither_state_nor_key(running: Running) -> None:
    """As docs/operations.md has it, with setpriv for sudo."""
    created = running.http.post("/v1/sessions", json={"task": "two-files"}).json()
    pid, url = running.process.pid, str(running.http.base_url)

    def as_agent(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c",
             command],
            cwd="/", capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    assert as_agent(f"cat {running.log}").returncode == 0  # beside the state folder it may read
    for path in (
        running.state,
        running.state / "harness.sqlite3",
        running.state / "sessions" / created["id"],
        Path(f"/proc/{pid}/environ"),
        Path(f"/proc/{pid}/mem"),
    ):
        done = as_agent(f"ls {path}/ && cat {path}" if path.is_dir() else f"cat {path}")
        assert done.returncode != 0, path
        assert "Permission denied" in done.stderr, done.stderr
    assert KEY not in as_agent(f"cat /proc/{pid}/cmdline").stdout
    code = f"import urllib.request as r; r.urlopen({url!r} + '/v1/sessions/{created['id']}')"
    done = as_agent(f'{sys.executable} -c "{code}" || python3 -c "{code}"')
    if "urllib" in done.stderr:  # an interpreter that the other user may run
        assert "HTTP Error 401" in done.stderr


# ── the state folder ──────────────────────────────────────────────────────────────────────────────


def test_the_state_folder_is_closed_and_says_so_once(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "db").touch()
    (folder / "db").chmod(0o644)
    (folder / "link").symlink_to(tmp_path)
    assert sorted(close_to_others(folder)) == [
        f"{folder} could be read by other users (mode 0755); now by its owner only",
        f"{folder / 'db'} could be read by other users (mode 0644); now by its owner only",
    ]
    assert close_to_others(folder) == []
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "db").stat().st_mode) == 0o600
    new = tmp_path / "new" / "state"
    assert close_to_others(new) == []
    assert stat.S_IMODE(new.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    assert unwritable(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert unwritable(tmp_path / "none") == "No such file or directory"
