"""The HTTP door, through the whole server in process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TOY_TASKS, Player, finished_test, new_player
from fastapi.testclient import TestClient
from runs import wait_for

from harness.events import Header, chain_break, digest_of, parse_event
from harness.jobs.processes import is_held, lock_run
from harness.workspace import RunPaths

FIRST_RESULT = """\
[Test #1] (2 tests remaining; call submit(n=N) to choose which test result to submit as final)

### fit-toy (scripts/fit.sh)
Training metrics (last steps):
FIT: step=2, loss=3.0963
FIT: step=4, loss=0.9178
FIT: step=6, loss=0.2770
FIT: step=8, loss=0.0885
FIT: step=10, loss=0.0331
TEST_METRICS: error=0.267

### near-toy (scripts/near.sh)
TEST_METRICS: near=100.00"""

SLOWER = {
    "op": "replace",
    "filename": "line_rate.py",
    "start_line": 3,
    "end_line": 3,
    "content": "FIRST_RATE = 0.02",
}
SLEEPS = SLOWER | {"content": "import time\n\ntime.sleep(3)\nFIRST_RATE = 0.05"}
BROKEN = SLOWER | {"content": "FIRST_RATE = ("}
RAISES = {
    "op": "replace",
    "filename": "line_model.py",
    "start_line": 7,
    "end_line": 8,
    "content": "def predict(slope, x):\n    return slope * unheard_of",
}


def test_creating_a_session_gives_all_that_an_agent_needs(player: Player) -> None:
    created = player.created
    assert created["task"] == "two-files"
    assert created["profile"] == "toy"
    assert created["budget"] == {"tests": 3, "used": 0, "remaining": 3, "running": None}
    assert [tool["name"] for tool in created["tools"]] == [
        "view", "edit", "undo", "check", "test", "status", "submit",
    ]  # fmt: skip
    prompt = created["prompt"]
    assert "## line_rate.py  [EDITABLE — lines 3–3, lines 6–5, lines 9–10 only]" in prompt
    assert "     3  FIRST_RATE = 0.05" in prompt
    assert "     2| " in prompt
    assert "worst" not in prompt


@pytest.mark.parametrize(
    ("prepare", "remedy"),
    [
        (", prepare: [make_data.py]", "runs: harness data prepare two-files --profile toy"),
        ("", "has to put it there."),
    ],
)
def test_a_test_without_its_data_says_who_can_bring_it(
    start_server: Callable[..., TestClient], tmp_path: Path, prepare: str, remedy: str
) -> None:
    tasks = Path(shutil.copytree(TOY_TASKS, tmp_path / "tasks"))
    yaml = tasks / "two_files/task.yaml"
    yaml.write_text(yaml.read_text().replace(", prepare: [make_data.py]", prepare))
    player = new_player(start_server(tasks_dir=tasks, data_dir=tmp_path / "empty"))
    assert player.text("test") == (
        "ERROR: Test not started, and not counted: the data set points is not prepared on this "
        f"server. Its operator {remedy}"
    )
    assert player.text("check").splitlines()[-1] == (
        "No test can be started as yet: the data set points is not prepared on this server. Its "
        f"operator {remedy}"
    )


def test_a_whole_session(player: Player) -> None:
    assert player.call("edit", **SLOWER)["ok"]
    assert player.text("undo") == "Undo complete:\nRestored: line_rate.py"
    assert player.text("test", wait_s=50) == FIRST_RESULT
    assert player.text("submit", n=1) == (
        f"[submit] Submitting result from test #1 as final.\n\n{FIRST_RESULT}"
    )
    closed = player.call("edit", **SLOWER)
    assert closed["text"] == "ERROR: This session is closed: test #1 was submitted."
    assert closed["error"] == "session_closed"
    view = player.get()
    assert (view["state"], view["submitted"]) == ("submitted", 1)
    assert view["results"][0]["metrics"] == {
        "error": pytest.approx(0.267, abs=1e-3),
        "near": 100.0,
    }


def test_identical_files_give_the_result_again_and_count_nothing(player: Player) -> None:
    first = player.call("test", wait_s=50)
    again = player.call("test", wait_s=50)
    assert again["text"] == first["text"]
    assert again["budget"]["used"] == 1


def test_three_tests_and_no_more(player: Player) -> None:
    for rate in (0.01, 0.02, 0.03):
        player.call("edit", **(SLOWER | {"content": f"FIRST_RATE = {rate}"}))
        assert player.call("test", wait_s=50)["ok"]
    player.call("edit", **(SLOWER | {"content": "FIRST_RATE = 0.04"}))
    refused = player.call("test")
    assert refused["text"] == (
        "ERROR: No tests remaining (3 of 3 used). Call submit(n=N) with N in 1, 2, 3."
    )
    assert refused["error"] == "no_tests_remaining"
    assert "(0 tests remaining; " in player.text("status")
    assert player.call("submit", n=2)["ok"]


def test_files_that_do_not_parse_cost_nothing(player: Player) -> None:
    edited = player.call("edit", **BROKEN)
    assert edited["ok"]
    lines = edited["text"].splitlines()
    assert lines[1] == (
        "WARNING: line_rate.py line 3: '(' was never closed. "
        "test() is refused until this is mended."
    )
    refused = player.call("test")
    assert refused["text"] == (
        "ERROR: Test not started, and not counted: line_rate.py line 3: '(' was never closed"
    )
    assert refused["budget"]["used"] == 0


def test_a_failed_stage_says_why_and_the_next_is_skipped(player: Player) -> None:
    player.call("edit", **RAISES)
    answer = player.call("test", wait_s=50)
    assert answer["ok"]
    text = answer["text"]
    assert "[COMMAND FAILED exit=1]\nNameError: name 'unheard_of' is not defined" in text
    assert 'line_model.py", line 8, in predict' in text
    assert text.endswith("### near-toy (scripts/near.sh)\n[SKIPPED: fit-toy failed]")
    assert answer["budget"] == {"tests": 3, "used": 1, "remaining": 2, "running": None}
    refused = player.call("submit", n=1)
    assert refused["text"] == (
        "ERROR: Test #1 has no score, since a stage failed. "
        "No test has a score yet. Call test() first."
    )


@pytest.mark.parametrize(
    ("tool", "args", "text"),
    [
        ("undo", {}, "ERROR: Nothing to undo."),
        ("undo", {"n": 0}, "ERROR: 'n' must be at least 1, not 0"),
        ("undo", {"n": "many"}, "ERROR: 'n' must be a whole number, not 'many'"),
        ("test", {"wait_s": -1}, "ERROR: 'wait_s' must be 0 to 50 seconds, not -1"),
        (
            "submit",
            {},
            "ERROR: 'n' is required: the number of the test to submit. "
            "No test has a score yet. Call test() first.",
        ),
        (
            "submit",
            {"n": 1},
            "ERROR: There is no test #1. No test has a score yet. Call test() first.",
        ),
        (
            "view",
            {"filename": "scoring.py"},
            "ERROR: No such file: scoring.py. Files that can be viewed: "
            "line_model.py, line_rate.py, loop.py.",
        ),
        (
            "view",
            {"filename": "loop.py", "start_line": 99},
            "ERROR: 'start_line' is 99, but loop.py has lines 1..39",
        ),
        ("status", {}, "[Status] 3 tests remaining; no test is running. "
         "Call test() to run one on the files as they are."),
    ],
)  # fmt: skip
def test_answers_to_single_calls(
    player: Player, tool: str, args: dict[str, Any], text: str
) -> None:
    answer = player.call(tool, **args)
    assert answer["text"] == text
    assert answer["ok"] == (not text.startswith("ERROR"))


def test_a_running_test_is_joined_not_started_again(player: Player) -> None:
    player.call("edit", **(RAISES | {"content": "def predict(s, x):\n    while True: pass"}))
    running = _training(player)
    assert running["data"]["state"] == "running"
    assert running["text"].endswith(
        "Nothing to do until then: call status(wait_s=50), or wait without calling."
    )
    player.call("undo")
    joined = player.call("test", wait_s=0)
    assert joined["data"]["test"] == 1
    assert joined["budget"] == {"tests": 3, "used": 1, "remaining": 2, "running": 1}
    refused = player.call("submit", n=1)
    assert refused["text"].startswith("ERROR: Test #1 is not finished")


def test_waiting_holds_nobody_else_up(client: TestClient) -> None:
    waiting, other = new_player(client), new_player(client)
    waiting.call("edit", **(RAISES | {"content": "def predict(s, x):\n    while True: pass"}))
    assert waiting.call("test", wait_s=0)["ok"]
    queued = other.call("test", wait_s=0)
    assert queued["text"].startswith("[Test #1] queued: place 1")
    assert queued["budget"]["used"] == 0
    began = time.monotonic()
    assert other.call("view", filename="line_model.py")["ok"]
    assert time.monotonic() - began < 2


def test_hidden_values_are_nowhere_in_what_a_token_can_fetch(
    player: Player, tmp_path: Path
) -> None:
    player.call("test", wait_s=50)
    player.call("submit", n=1)
    finished = finished_test(tmp_path, player.id)
    assert finished.private is not None
    hidden = finished.private["values"]["fit"]
    assert set(hidden) == {"metrics", "final", "audit", "final_windows", "conduct"}
    assert hidden["metrics"]["worst"] > 0
    # The chain commits to the hidden values without showing them.
    assert finished.private_digest == digest_of(finished.private)
    everything = json.dumps(
        [player.get(), player.get("/tests/1"), player.get("/transcript"), player.created]
    )
    for value in (hidden["metrics"]["worst"], hidden["final"]["error"]):
        assert str(value) not in everything
    assert "worst" not in everything
    assert finished.private["salt"] not in everything


def test_the_transcript_is_a_whole_chain(either_player: Player) -> None:
    player = either_player
    player.call("edit", **SLOWER)
    player.call("test", wait_s=50)
    lines = [json.loads(line) for line in player.get("/transcript").splitlines()]
    header, events = Header.model_validate(lines[0]), [parse_event(line) for line in lines[1:]]
    assert [event.type for event in events] == [
        "tool_called", "test_queued", "test_counted", "test_finished", "tool_called",
    ]  # fmt: skip
    assert chain_break(header, events) is None
    forged = events[0].model_copy(update={"text": "OK"})
    assert chain_break(header, [forged, *events[1:]]) == (
        "event 2 does not follow from what stands before it"
    )


def test_a_restart_changes_nothing(
    start_server: Callable[..., TestClient], database_url: str
) -> None:
    first = start_server(database_url=database_url)
    before = new_player(first)
    before.call("edit", **SLOWER)
    running = before.call("test", wait_s=0)
    assert running["data"]["test"] == 1
    first.__exit__(None, None, None)
    after = Player(start_server(database_url=database_url), before.id, before.token, before.created)
    finished = after.call("status", wait_s=50)
    assert finished["data"]["metrics"]["error"] > 0
    assert finished["budget"]["used"] == 1
    assert "FIRST_RATE = 0.02" in after.get("/files/line_rate.py")
    assert after.text("undo") == "Undo complete:\nRestored: line_rate.py"


def test_a_run_that_cannot_be_read_keeps_no_server_down(
    start_server: Callable[..., TestClient], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = start_server()
    player = new_player(first)
    player.call("test", wait_s=50)
    first.__exit__(None, None, None)
    paths = RunPaths(tmp_path / "state/sessions" / player.id / "runs/test-1.1")
    paths.plan.write_text("{}")
    wait_for(lambda: not is_held(paths), 10)  # its runner lives a little longer than its result
    lock = lock_run(paths)  # as a runner holds it that is at work
    assert lock is not None
    try:
        second = start_server()
        assert second.get("/readyz").status_code == 200
        assert "test-1.1 is not taken up" in caplog.text
    finally:
        os.close(lock)


def test_a_dead_runner_is_resumed_under_its_number(player: Player, tmp_path: Path) -> None:
    player.call("edit", **SLEEPS)
    _training(player)
    run = tmp_path / "state" / "sessions" / player.id / "runs" / "test-1.1"
    _kill_runner(run)
    finished = player.call("status", wait_s=50)
    assert finished["data"]["metrics"]["error"] == pytest.approx(0.267, abs=1e-3)
    assert finished["budget"]["used"] == 1
    types = [json.loads(line).get("type") for line in player.get("/transcript").splitlines()]
    assert types.count("test_resumed") == 1


def test_a_result_names_the_data_that_it_was_queued_with(
    start_server: Callable[..., TestClient], toy_data: Path, tmp_path: Path
) -> None:
    """And is taken in although the data set was made anew, or went away, meanwhile."""
    data = Path(shutil.copytree(toy_data, tmp_path / "data"))
    player = new_player(start_server(data_dir=data))
    name = "points"
    manifest = data / name / "manifest.json"
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    player.call("edit", **SLEEPS)
    _training(player)
    manifest.unlink()
    assert "metrics" in player.call("status", wait_s=50)["data"]
    events = [json.loads(line) for line in player.get("/transcript").splitlines()]
    [result] = [event for event in events if event.get("type") == "test_finished"]
    assert result["provenance"]["data"] == {"name": name, "manifest_sha256": digest}


def _training(player: Player) -> dict[str, Any]:
    """Start a test, and the answer once its first stage trains and it is counted, however busy the
    machine is."""
    answer = player.call("test", wait_s=0)
    deadline = time.monotonic() + 60
    trains = "[Test #1] running: fit-toy"
    while not (answer["text"].startswith(trains) and answer["budget"]["used"] == 1):
        assert time.monotonic() < deadline, answer["text"]
        assert answer["data"].get("state") != "finished", "it was over before it was looked at"
        answer = player.call("status", wait_s=1)
    return answer


def _kill_runner(run: Path) -> None:
    import os
    import signal

    pid = json.loads((run / "runner.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)


def test_an_idempotency_key_names_one_operation(either_player: Player) -> None:
    player = either_player
    first = player.call("edit", key="a", **SLOWER)
    again = player.call("edit", key="a", **SLOWER)
    assert again == {**first, "data": {"sha256": first["data"]["sha256"]}}
    response = player.client.post(
        f"/v1/sessions/{player.id}/tools/undo",
        json={},
        headers=player.headers | {"Idempotency-Key": "a"},
    )
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "key_conflict"
    assert player.text("undo") == "Undo complete:\nRestored: line_rate.py"
    assert player.text("undo") == "ERROR: Nothing to undo."
    started = player.call("test", key="b", wait_s=0)
    assert started["data"]["state"] in ("queued", "running")
    player.call("status", wait_s=50)
    assert player.call("test", key="b", wait_s=0)["text"] == FIRST_RESULT


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/sessions", '{"task": "unheard-of"}', 404, "unknown_task"),
        ("POST", "/v1/sessions", '{"task": "two-files", "profile": "x"}', 404, "unknown_profile"),
        ("POST", "/v1/sessions", "{}", 422, "bad_request"),
        ("POST", "/v1/sessions", "not json", 422, "bad_json"),
        ("POST", "/v1/sessions/{id}/tools/fly", "{}", 404, "unknown_tool"),
        ("POST", "/v1/sessions/{id}/tools/edit", "[1]", 422, "bad_json"),
        ("POST", "/v1/sessions/{id}/tools/edit", "{", 422, "bad_json"),
        ("POST", "/v1/sessions/{id}/tools/edit", "[" * 100_000, 422, "bad_json"),
        ("POST", "/v1/sessions/{id}/tools/edit", '"' + "x" * 3_000_000 + '"', 413, "too_large"),
        ("GET", "/v1/sessions/{id}/tests/1", "", 404, "unknown_test"),
        ("GET", "/v1/sessions/{id}/files/loop.py", "", 404, "unknown_file"),
        ("GET", "/v1/sessions/none", "", 404, "unknown_session"),
        ("GET", "/v1/tasks/none", "", 404, "unknown_task"),
        ("GET", "/v1/nothing", "", 404, "not_found"),
        ("PUT", "/v1/sessions", "", 405, "method_not_allowed"),
    ],
)  # fmt: skip
def test_client_mistakes_are_statuses(
    player: Player, method: str, path: str, body: str, status: int, code: str
) -> None:
    headers = player.headers if "{id}" in path else {}
    response = player.client.request(
        method,
        path.format(id=player.id),
        content=body,
        headers=headers | {"Content-Type": "application/json"},
    )
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_a_session_needs_its_token(player: Player, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    del player.client.headers["Authorization"]
    for path in ("", "/transcript", "/files/line_rate.py"):
        response = player.client.get(f"/v1/sessions/{player.id}{path}", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "bad_token")


def test_another_sessions_token_does_not_fit(client: TestClient) -> None:
    mine, other = new_player(client), new_player(client)
    response = client.get(f"/v1/sessions/{other.id}", headers=mine.headers)
    assert response.status_code == 401


def test_arguments_that_no_database_could_keep_are_answered(either_player: Player) -> None:
    player = either_player
    answer = player.client.post(
        f"/v1/sessions/{player.id}/tools/edit",
        content='{"op": "insert", "filename": "line_rate.py", "after_line": NaN, '
        '"content": "\\ud800", "extra": "\\udfff\\u0000"}',
        headers=player.headers,
    ).json()
    assert answer["ok"] is False
    assert answer["text"].startswith("ERROR: 'after_line' must be a whole number, not 'nan'")
    assert len(player.get("/transcript").splitlines()) == 2


def test_deeply_nested_arguments_are_cut_off(player: Player) -> None:
    answer = player.client.post(
        f"/v1/sessions/{player.id}/tools/view",
        content='{"filename": "loop.py", "extra": ' + "[" * 400 + "]" * 400 + "}",
        headers=player.headers,
    )
    assert answer.status_code == 200
    assert "(nested too deeply to keep)" in player.get("/transcript")


def test_messages_are_kept(player: Player) -> None:
    body = {"role": "assistant", "text": "I try a slower rate.", "usage": {"tokens": 12}}
    response = player.client.post(
        f"/v1/sessions/{player.id}/messages", json=body, headers=player.headers
    )
    assert response.status_code == 201
    event = json.loads(player.get("/transcript").splitlines()[-1])
    assert {key: event[key] for key in body} == body


def test_public_pages(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    assert [task["name"] for task in client.get("/v1/tasks").json()] == [
        "two-files",
        "vetted-line",
    ]
    task = client.get("/v1/tasks/two-files").json()
    assert task["files"][0]["regions"] == [
        {"name": "predict", "title": "the prediction", "lines": [7, 8]}
    ]
    assert len(client.get("/v1/tools").json()) == 7
    described = client.get("/openapi.json").json()
    assert "/v1/sessions/{session_id}/tools/{tool}" in described["paths"]
    assert client.get("/docs").status_code == 200
