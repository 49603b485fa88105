"""`llm-pretrain-residual` at its smoke profile: real training and scoring, over a real socket."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import KEY
from prepared import shakespeare_dir

from harness.jobs.processes import run_mark
from harness.task import find_tasks
from harness.workspace import RunPaths

ROOT = Path(__file__).parents[1]
TASK = "llm-pretrain-residual"
FILE = "nanoGPT/custom_pretrain.py"


class Server:
    """`python -m server` on a free port, with a state folder of its own."""

    def __init__(self, state: Path, port: int) -> None:
        self.url, self.state, self.port = f"http://127.0.0.1:{port}", state, port
        headers = {"Authorization": f"Bearer {KEY}"}
        self.http = httpx.Client(base_url=self.url, timeout=90, headers=headers)

    def session(self, profile: str = "smoke") -> Session:
        response = self.http.post("/v1/sessions", json={"task": TASK, "profile": profile})
        assert response.status_code == 201, response.text
        return Session(self, response.json())


class Session:
    def __init__(self, server: Server, created: dict[str, Any]) -> None:
        self.server, self.created, self.id = server, created, created["id"]
        self.headers = {"Authorization": f"Bearer {created['token']}"}

    def call(self, tool: str, **args: Any) -> dict[str, Any]:
        path = f"/v1/sessions/{self.id}/tools/{tool}"
        response = self.server.http.post(path, json=args, headers=self.headers)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def finished(self) -> dict[str, Any]:
        """The running test's answer, however long it takes."""
        for _ in range(5):
            answer = self.call("status", wait_s=50)
            if answer["data"]["state"] == "finished":
                return answer
        raise AssertionError(answer["text"])

    def result(self) -> dict[str, Any]:
        """Of the one finished test, as programs see it."""
        path = f"/v1/sessions/{self.id}/tests/1"
        found: dict[str, Any] = self.server.http.get(path, headers=self.headers).json()
        return found

    def provenance(self) -> dict[str, Any]:
        """Of the one finished test, as the transcript tells it."""
        path = f"/v1/sessions/{self.id}/transcript"
        lines = self.server.http.get(path, headers=self.headers).text.splitlines()
        [found] = [
            e["provenance"] for e in map(json.loads, lines) if e.get("type") == "test_finished"
        ]
        assert isinstance(found, dict)
        return found

    @property
    def run_dir(self) -> Path:
        return self.server.state / "sessions" / self.id / "runs" / "test-1.1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    state = tmp_path_factory.mktemp("state")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "HARNESS_STATE_DIR": str(state),
        "HARNESS_TASKS_DIR": str(ROOT / "tasks"),
        "HARNESS_DATA_DIR": str(shakespeare_dir().parent),
        "HARNESS_PORT": str(port),
        "HARNESS_API_KEY": KEY,
    }
    with (state / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "server"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        started = Server(state, port)
        try:
            for _ in range(300):
                try:
                    if started.http.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    assert process.poll() is None, (state / "log").read_text()
                    time.sleep(0.1)
            yield started
        finally:
            started.http.close()
            process.terminate()
            process.wait(20)


BASELINES = {b.name: b.edits for b in find_tasks(ROOT / "tasks")[TASK].all_baselines()}
LINE = {"filename": FILE, "start_line": 164, "end_line": 164}
EDITS: dict[str, dict[str, Sequence[dict[str, Any]]]] = {
    "test_every_baseline_trains": BASELINES,
    "test_a_stage_killed_in_the_middle_of_training": {
        "": [
            {
                "op": "insert",
                "filename": FILE,
                "after_line": 161,
                "content": "        while self.training and int(self.step) == 5: pass",
            }
        ]
    },
    "test_an_exception_of_the_edit_is_shown_with_its_line": {
        "": [
            {
                "op": "replace",
                **LINE,
                "content": "            x = block(x) if self.step != 7 else self.missing",
            }
        ]
    },
    "test_what_the_contract_finds_costs_nothing": {
        "": [
            {
                "op": "insert",
                "filename": FILE,
                "after_line": 164,
                "content": "        x = x + 0.01 * x.mean(1, keepdim=True)",
            }
        ]
    },
}
"""What the tests' sessions edit before they call `test`, by test and by name."""


@pytest.fixture(scope="module")
def begun(server: Server, request: pytest.FixtureRequest) -> dict[str, dict[str, Session]]:
    """The sessions of the tests that are to be run, each with its test called.

    They wait for one another in the server's queues, so that the checks of one go on beside the
    training of another: half the time of one after the other.
    """
    chosen = {item.name for item in request.session.items}
    sessions: dict[str, dict[str, Session]] = {}
    for test, edits in EDITS.items():
        for name, steps in edits.items() if test in chosen else ():
            session = server.session()
            for edit in steps:
                answer = session.call("edit", **edit)
                assert answer["ok"], answer["text"]
                assert "WARNING" not in answer["text"]
            session.call("test", wait_s=0)
            sessions.setdefault(test, {})[name] = session
    return sessions


@pytest.fixture
def session(begun: dict[str, dict[str, Session]], request: pytest.FixtureRequest) -> Session:
    """The test's own one."""
    return begun[request.node.name][""]


@pytest.fixture(scope="module")
def pasted(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, str]:
    """The README's session, pasted into a shell: a whole test; and what was printed."""
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    [script] = [block for block in blocks if "curl" in block]
    folder = tmp_path_factory.mktemp("pasted")
    done = subprocess.run(
        [
            "bash",
            "-eu",
            "-o",
            "pipefail",
            "-c",
            script.replace("http://127.0.0.1:8000", server.url),
        ],
        cwd=folder,
        env=os.environ | {"HARNESS_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Session(server, json.loads((folder / "session.json").read_text())), done.stdout


def test_a_whole_test_trains_and_scores(pasted: tuple[Session, str]) -> None:
    session, _ = pasted
    answer = session.result()
    metrics = answer["metrics"]
    assert list(metrics) == ["val_loss", "verse_ppl", "lastword_ppl", "agreement", "word_order"]
    untrained = math.log(4096)
    first = next(line for line in answer["curve"] if line["step"] == 0)
    assert first["val_loss"] == pytest.approx(untrained, abs=0.3)
    assert metrics["val_loss"] < untrained - 0.5  # at the rate that the README sets, a low one
    assert 0 <= metrics["agreement"] <= 100
    lines = answer["text"].splitlines()
    assert lines[0].startswith("[Test #1] (2 tests remaining; ")
    assert lines[2:4] == [
        "### gpt-smoke (scripts/gpt_smoke.sh)",
        "Training metrics (last steps):",
    ]
    assert re.fullmatch(
        r"TRAIN_METRICS: step=\d+, train_loss=\d\.\d{4}, val_loss=\d\.\d{4}", lines[4]
    )
    assert lines[-2] == "### lm-eval-smoke (scripts/lm_eval_smoke.sh)"
    assert re.fullmatch(r"TEST_METRICS: agreement=\d+\.\d\d, word_order=\d+\.\d\d", lines[-1])
    # What is hidden is scored, kept apart, and not said.
    scored = json.loads((session.run_dir / "steps/lm-eval-smoke.score/metrics.json").read_text())
    assert "fitting_word" in scored["hidden"]["metrics"]
    assert "fitting_word" not in json.dumps(answer) + session.created["prompt"]
    gpt = json.loads((session.run_dir / "steps/gpt-smoke.score/metrics.json").read_text())
    assert gpt["hidden"]["final"]["val_loss"] != gpt["metrics"]["val_loss"]
    provenance = session.provenance()
    assert provenance["data"]["name"] == "shakespeare"
    manifest = (shakespeare_dir() / "manifest.json").read_bytes()
    assert provenance["data"]["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert provenance["runs"]["gpt-smoke"]["tokens_per_s"] > 0
    [weights, _] = provenance["checkpoints"]
    kept = (session.run_dir / "kept" / weights["file"]).read_bytes()
    assert weights["sha256"] == hashlib.sha256(kept).hexdigest()
    for known in ("torch", "lm_eval", "seed", "sandbox", "cores", "files_digest", "locked_digest"):
        assert provenance[known], known
    windows = gpt["per_window"]["val_loss"]
    assert sum(windows) / len(windows) == pytest.approx(metrics["val_loss"], abs=1e-3)


@pytest.mark.slow
def test_a_whole_tiny_test_learns_within_its_time(server: Server) -> None:
    """From the call of `test` to its result, checks included, as the task promises people."""
    session = server.session("tiny")
    began = time.monotonic()
    session.call("test", wait_s=0)
    answer = session.finished()
    seconds = time.monotonic() - began
    untrained = next(line for line in answer["data"]["curve"] if line["step"] == 0)["val_loss"]
    assert untrained == pytest.approx(math.log(4096), abs=0.3)
    assert answer["data"]["metrics"]["val_loss"] < untrained - 2
    stages = [(stage["label"], stage["seconds"]) for stage in answer["data"]["stages"]]
    assert seconds <= 90, f"load average {os.getloadavg()}, stages {stages}"


@pytest.mark.slow
def test_every_baseline_trains(begun: dict[str, dict[str, Session]]) -> None:
    for name, session in begun["test_every_baseline_trains"].items():
        assert session.finished()["data"]["scored"], name


@pytest.mark.slow
def test_a_stage_killed_in_the_middle_of_training(session: Session) -> None:
    os.killpg(os.getpgid(_training_process(session.run_dir).pid), signal.SIGKILL)
    answer = session.call("test", wait_s=50)
    assert answer["ok"]
    assert "Training metrics (last steps):\nTRAIN_METRICS: step=0, train_loss=8." in answer["text"]
    assert "\n[COMMAND FAILED exit=137]\n" in answer["text"]
    assert "killed by SIGKILL" in answer["text"]
    assert answer["text"].endswith(
        "### lm-eval-smoke (scripts/lm_eval_smoke.sh)\n[SKIPPED: gpt-smoke failed]"
    )
    assert answer["budget"] == {"tests": 3, "used": 1, "remaining": 2, "running": None}


def _training_process(run_dir: Path) -> psutil.Process:
    """The process that trains in this run directory, once it has printed its first metrics."""
    log = run_dir / "steps/gpt-smoke.run/log.txt"
    for _ in range(1800):
        if log.exists() and "TRAIN_METRICS" in log.read_text():
            for process in psutil.process_iter(["cmdline"]):
                trains = "nanoGPT/custom_pretrain.py" in (process.info["cmdline"] or ())
                if trains and process.environ().get("HARNESS_RUN") == run_mark(RunPaths(run_dir)):
                    return process
        time.sleep(0.1)
    raise AssertionError("no training process appeared")


@pytest.mark.slow
def test_an_exception_of_the_edit_is_shown_with_its_line(session: Session) -> None:
    text = session.finished()["text"]
    assert "[COMMAND FAILED exit=1]" in text
    assert "AttributeError: 'GPT' object has no attribute 'missing'" in text
    assert f'"{FILE}", line 164, in forward' in text
    assert str(session.server.state) not in text


@pytest.mark.slow
def test_what_the_contract_finds_costs_nothing(session: Session) -> None:
    answer = session.call("test", wait_s=50)
    while answer["ok"]:
        answer = session.call("test", wait_s=50)
    assert answer["text"].startswith("ERROR: Test not started, and not counted: ")
    assert "[causality]: Changing " in answer["text"]
    assert answer["budget"]["used"] == 0


def test_the_readme_session_works_when_pasted(pasted: tuple[Session, str]) -> None:
    _, output = pasted
    assert "   164              x = block(x)" in output
    assert "ERROR: Lines 165..165 exceed the editable range." in output
    assert "OK: Replaced 1 occurrence (lines 164..164) with 1 line(s)" in output
    assert f"Undo complete:\nRestored: {FILE}" in output
    assert output.count("TEST_METRICS: val_loss=") >= 2
    assert "[submit] Submitting result from test #1 as final." in output


def test_the_page_of_all_calls_is_there(server: Server) -> None:
    assert server.http.get("/docs").status_code == 200
    assert server.http.get("/openapi.json").json()["info"]["title"] == "Research harness"
