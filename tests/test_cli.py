"""The terminal, through typer's runner and as processes."""

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
from typer.testing import CliRunner

from harness.cli import app


@pytest.fixture
def harness(
    tmp_path: Path, toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Run a command on this test's state folder; its exit code and output."""
    monkeypatch.setenv("HARNESS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(TOY_TASKS))
    monkeypatch.setenv("HARNESS_DATA_DIR", str(toy_data))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, args)
        return result.exit_code, result.output

    return run


def test_doctor_names_what_is_here(harness: Callable[..., tuple[int, str]]) -> None:
    code, output = harness("doctor")
    assert code == 0
    for what in ("Python", "torch", "GPU", "tokenizer", "data: points", "sandbox", "database"):
        assert what in output


def test_doctor_names_the_command_that_brings_what_is_missing(
    harness: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "empty"))
    _, output = harness("doctor")
    assert "harness data prepare two-files --profile toy" in output
    _, output = harness("data", "status")
    assert "missing: harness data prepare two-files --profile toy" in output
    code, output = harness("data", "prepare", "two-files", "--profile", "toy")
    assert (code, "points: ready at" in output) == (0, True)
    _, output = harness("data", "status")
    assert "missing" not in output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("data", "prepare", "nothing"), "no task 'nothing'; tasks: two-files, vetted-line"),
        (("data", "prepare", "two-files", "--profile", "x"), "no profile 'x'; profiles: toy"),
        (("demo", "--baseline", "x"), "no baseline 'x'; baselines: falling_rate"),
        (("replay", "nowhere.json"), "nowhere.json"),
    ],
)
def test_mistakes_are_one_clear_line(
    harness: Callable[..., tuple[int, str]], args: tuple[str, ...], said: str
) -> None:
    code, output = harness(*args)
    assert code == 2
    assert said in output
    assert len(output.strip().splitlines()) == 1


def test_gc_frees_checkpoints_and_keeps_results(
    harness: Callable[..., tuple[int, str]], client: TestClient, tmp_path: Path
) -> None:
    player = new_player(client)
    player.call("test", wait_s=50)
    run = tmp_path / "state/sessions" / player.id / "runs/test-1.1"
    kept = ["plan.json", "status.json", "files/line_rate.py"]
    kept += [f"steps/{step}" for step in ("fit-toy.score/metrics.json", "fit-toy.run/log.txt")]
    code, output = harness("gc")
    assert (code, "can be freed" in output) == (0, True)
    assert (run / "out/fit.json").exists()
    harness("gc", "--delete")
    assert (run / "out/fit.json").exists(), "it finished less than a week ago"
    code, output = harness("gc", "--delete", "--older-than", "0")
    assert (code, "Freed" in output) == (0, True)
    assert not (run / "out").exists()
    assert all((run / name).exists() for name in kept)
    assert "TEST_METRICS: error=0.267" in player.text("status")


def test_gc_does_not_touch_a_test_that_runs(
    harness: Callable[..., tuple[int, str]], client: TestClient, tmp_path: Path
) -> None:
    player = new_player(client)
    endless = "def predict(slope, x):\n    while True: pass"
    args = {"op": "replace", "filename": "line_model.py", "start_line": 7, "end_line": 8}
    player.call("edit", **args, content=endless)
    player.call("test", wait_s=1)
    _, output = harness("gc", "--delete", "--older-than", "0")
    assert "not finished" in output
    assert (tmp_path / "state/sessions" / player.id / "runs/test-1.1/out").exists()


def test_a_transcript_of_ours_replays(
    harness: Callable[..., tuple[int, str]], client: TestClient, tmp_path: Path
) -> None:
    player = new_player(client)
    player.call("edit", op="insert", filename="line_rate.py", after_line=5, content="X = 1")
    player.call("edit", op="replace", filename="line_rate.py", start_line=1, end_line=1, content="")
    player.call("undo")
    player.call("test", wait_s=50)
    file = tmp_path / "transcript.jsonl"
    file.write_text(player.get("/transcript"))
    code, output = harness("replay", str(file), "--json")
    assert code == 0
    assert json.loads(output) == {
        "steps": 4, "edits": 2, "matched": 3, "known_faults": 0, "diverged": [],
    }  # fmt: skip
    code, output = harness("replay", str(file))
    assert code == 0
    assert "+X = 1" in output.replace(" ", "").replace("X=1", "X = 1")
    file.write_text(player.get("/transcript").replace("X = 1", "X = 2", 1))
    code, output = harness("replay", str(file), "--json")
    assert code == 1
    assert json.loads(output)["diverged"]


def test_serve_listens_where_its_flags_say(tmp_path: Path, toy_data: Path) -> None:
    environment = os.environ | {
        "HARNESS_STATE_DIR": str(tmp_path / "state"),
        "HARNESS_TASKS_DIR": str(TOY_TASKS),
        "HARNESS_DATA_DIR": str(toy_data),
        "HARNESS_PORT": "1",
    }
    server = subprocess.Popen(
        [sys.executable, "-c", "from harness.cli import app; app()", "serve", "--port", "0"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    with server.stderr as lines:
        said = next(line for line in lines if "running on http://" in line)
        server.terminate()
        lines.read()
    assert server.wait(20) in (0, -15)
    assert "http://127.0.0.1:" in said
    assert "127.0.0.1:1 " not in said


def test_a_small_demo_plays_a_whole_session(tmp_path: Path, toy_data: Path) -> None:
    environment = os.environ | {
        "HARNESS_STATE_DIR": str(tmp_path / "state"),
        "HARNESS_TASKS_DIR": str(TOY_TASKS),
        "HARNESS_DATA_DIR": str(toy_data),
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from harness.cli import app; app()", "demo"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for said in (
        "ERROR: Lines 6..6 exceed the editable range. You may only edit lines 7–8.",
        "OK: Inserted 2 line(s) after line 5 in line_rate.py.",
        "[submit] Submitting result from test #1 as final.",
        "error (metres)",
    ):
        assert said in done.stdout


SQUARE = {
    "op": "replace",
    "filename": "line_model.py",
    "start_line": 8,
    "end_line": 8,
    "content": "    return slope * slope * x",
}
HONEST = SQUARE | {"content": "    return x * slope"}
OUTSIDE = SQUARE | {"start_line": 9, "end_line": 9}
FAST = {"op": "str_replace", "filename": "line_rate.py", "old_str": "0.05", "new_str": "5.0"}


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_check_gives_a_verdict_for_each_case(
    harness: Callable[..., tuple[int, str]], tmp_path: Path, suffix: str
) -> None:
    cases = [
        {"name": "honest", "edits": [HONEST]},
        {"name": "square", "edits": [SQUARE]},
        {"name": "outside", "edits": [HONEST, OUTSIDE]},
        {"name": "nothing", "edits": []},
        {"name": "fast", "edits": [FAST]},
    ]
    file = tmp_path / f"cases.{suffix}"
    file.write_text(json.dumps(cases))  # JSON is YAML too
    code, output = harness("check", "vetted-line", "--edits", str(file), "--json")
    verdicts = {verdict["name"]: verdict for verdict in json.loads(output)}
    assert code == 1
    assert list(verdicts) == [case["name"] for case in cases]
    assert [name for name, verdict in verdicts.items() if verdict["ok"]] == [
        "honest",
        "nothing",
        "fast",
    ]
    assert verdicts["square"]["violations"] == [
        {
            "rule": "linear",
            "line": 8,
            "region": "predict",
            "message": "predict(2, 3) is 12.0, not twice predict(1, 3) = 3.0",
        }
    ]
    [outside] = verdicts["outside"]["violations"]
    assert (outside["rule"], outside["line"]) == ("outside_regions", None)
    assert outside["message"].startswith("edit 2 is refused: Lines 9..9 exceed the editable range")
    code, output = harness(
        "check", "vetted-line", "--edits", str(file), "--json", "--profile", "toy"
    )
    assert [v["rule"] for v in json.loads(output)[4]["violations"]] == ["too-fast"]


def test_check_of_a_plain_list_of_edits_is_one_case(
    harness: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps([HONEST, FAST]))
    assert harness("check", "vetted-line", "--edits", str(file)) == (0, "ok      mine\n")
    file.write_text(json.dumps([SQUARE]))
    code, output = harness("check", "vetted-line", "--edits", str(file))
    assert code == 1
    assert "refused mine\n        line_model.py line 8 [linear]: " in output


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        ("{", "while parsing"),
        ("[1, 2]", "give a list of edits, or of objects with 'name' and 'edits'"),
        ('{"op": "replace"}', "give a list of edits"),
        ('[{"name": "x", "edits": 3}]', "case 1: 'edits' must be a list of edits"),
    ],
)
def test_a_bad_file_of_edits_is_one_clear_line(
    harness: Callable[..., tuple[int, str]], tmp_path: Path, content: str | None, said: str
) -> None:
    file = tmp_path / "cases.yaml"
    if content is not None:
        file.write_text(content)
    code, output = harness("check", "vetted-line", "--edits", str(file))
    assert code == 2
    assert said in output
    assert len(output.strip().splitlines()) == 1
