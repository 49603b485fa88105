"""The terminal, through typer's runner and as processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TOY_TASKS, new_player
from fastapi.testclient import TestClient
from typer.testing import CliRunner

import server
from harness.cli import app
from harness.doctor import TOKENIZER_FILES
from harness.settings import Settings, SettingsError


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


@pytest.fixture
def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prepared folder of the toy task that lists its files, as those of real tasks do."""
    folder = tmp_path / "data" / "points"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "train.bin").write_bytes(b"1234")
    files = {"run/train.bin": {"bytes": 4, "sha256": hashlib.sha256(b"1234").hexdigest()}}
    source = {"name": "x", "repository": "a/b", "revision": "abc", "licence": "MIT"}
    manifest = {"splits": {"train": {"tokens": 2000}}, "sources": [source], "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    (folder / "run" / "meta.json").write_text(json.dumps({"manifest": digest}))
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "data"))
    return folder


def test_data_status_tells_what_the_manifest_says(
    harness: Callable[..., tuple[int, str]], points: Path
) -> None:
    code, output = harness("data", "status", "two-files")
    digest = hashlib.sha256((points / "manifest.json").read_bytes()).hexdigest()
    assert code == 0
    for line in (
        "  state     ready",
        f"  folder    {points}",
        "  tokens    train 2,000",
        "  source    a/b @ abc, MIT",
        "  files     1, 0.0 MiB; sizes match",
        f"  manifest  sha256 {digest}",
    ):
        assert line in output.splitlines()
    code, output = harness("data", "status", "two-files", "--verify")
    assert (code, "sizes and sha256 match" in output) == (0, True)


@pytest.mark.parametrize(
    ("spoil", "arguments", "fault"),
    [
        (lambda f: (f / "run/train.bin").unlink(), (), "run/train.bin is missing"),
        (
            lambda f: (f / "run/train.bin").write_bytes(b"12"),
            (),
            "run/train.bin has 2 bytes instead of 4",
        ),
        (
            lambda f: (f / "run/meta.json").write_text('{"manifest": "other"}'),
            (),
            "run/meta.json belongs to another manifest",
        ),
        (
            lambda f: (f / "run/train.bin").write_bytes(b"1235"),
            ("--verify",),
            "run/train.bin has another sha256 than the manifest says",
        ),
        (lambda f: (f / "manifest.json").write_text("{"), (), "manifest.json is damaged"),
    ],
)
def test_data_status_finds_what_is_not_whole(
    harness: Callable[..., tuple[int, str]],
    points: Path,
    spoil: Callable[[Path], object],
    arguments: tuple[str, ...],
    fault: str,
) -> None:
    spoil(points)
    code, output = harness("data", "status", "two-files", *arguments)
    assert code == 1
    assert fault in output
    assert "harness data prepare two-files --profile toy" in output


def test_prepare_hands_the_mirror_and_further_arguments_on(
    harness: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Path(shutil.copytree(TOY_TASKS, tmp_path / "tasks"))
    [script] = tasks.rglob("make_data.py")
    script.write_text(
        "import json, os, pathlib, sys\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "out.mkdir()\n"
        "said = {'arguments': sys.argv[3:], 'mirror': os.environ['HARNESS_MIRROR']}\n"
        "(out / 'manifest.json').write_text(json.dumps(said))\n"
    )
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(tasks))
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "data"))
    given = ("data", "prepare", "two-files", "--profile", "toy", "--mirror")
    code, output = harness(*given, str(tmp_path), "--", "--workers", "3")
    assert (code, "points: ready at" in output) == (0, True)
    said = json.loads((tmp_path / "data/points/manifest.json").read_text())
    assert said == {"arguments": ["--workers", "3"], "mirror": str(tmp_path)}
    code, output = harness(*given, str(tmp_path / "nowhere"))
    assert (code, output.count("\n")) == (2, 1)


def test_doctor_names_no_command_where_there_is_none(
    harness: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Path(shutil.copytree(TOY_TASKS, tmp_path / "tasks"))
    for yaml in tasks.glob("*/task.yaml"):
        yaml.write_text(yaml.read_text().replace(", prepare: [make_data.py]", ""))
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(tasks))
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "empty"))
    for command in (["doctor"], ["data", "status"]):
        _, output = harness(*command)
        assert "harness data prepare" not in output
        assert "no command makes it; put the prepared folder at" in output


def test_doctor_looks_for_the_tokenizers_files(
    harness: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "data"))
    _, output = harness("doctor")
    [line] = [line for line in output.splitlines() if "tokenizer" in line]
    assert "no data set here has GPT-2's files" in line
    assert "harness data prepare" not in line
    folder = tmp_path / "data/points/score/bpe"
    folder.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        (folder / name).touch()
    _, output = harness("doctor")
    [line] = [line for line in output.splitlines() if "tokenizer" in line]
    assert "ok" in line
    assert "GPT-2's files in" in line


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


@pytest.mark.parametrize(
    ("variables", "args", "said"),
    [
        (
            {"HARNESS_SLOTS": "abc"},
            ["doctor"],
            "HARNESS_SLOTS is 'abc'; it may be a whole number, 1 or more",
        ),
        (
            {},
            ["serve", "--port", "99999"],
            "HARNESS_PORT (or --port) is '99999'; it may be a whole number from 0 to 65535",
        ),
        (
            {"HARNESS_EXECUTOR": "nowhere"},
            ["serve"],
            "HARNESS_EXECUTOR is 'nowhere'; it may be one of: local",
        ),
        (
            {"HARNESS_SANDBOX": "x"},
            ["ps"],
            "HARNESS_SANDBOX is 'x'; it may be one of: bubblewrap, none",
        ),
        (
            {"HARNESS_LOG_FORMAT": "x"},
            ["ps"],
            "HARNESS_LOG_FORMAT is 'x'; it may be one of: text, json",
        ),
        (
            {"HARNESS_SLURM_EXTRA": "["},
            ["ps"],
            "HARNESS_SLURM_EXTRA is '['; it may be a JSON object",
        ),
        (
            {"HARNESS_SLURM_EXTRA": "[1]"},
            ["serve"],
            "HARNESS_SLURM_EXTRA is '[1]'; it may be a JSON object",
        ),
        (
            {"HARNESS_TASKS_DIR": "/nope"},
            ["serve", "--port", "0"],
            "no task in /nope; set HARNESS_TASKS_DIR",
        ),
        ({}, ["serve", "--host", "203.0.113.1"], "cannot listen on 203.0.113.1:0: "),
        ({}, ["serve", "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
    ],
    ids=[
        "slots",
        "port",
        "executor",
        "sandbox",
        "log format",
        "no JSON",
        "no JSON object",
        "no task",
        "another's address",
        "no host",
    ],
)
def test_settings_that_cannot_be_are_one_clear_line(
    tmp_path: Path, variables: dict[str, str], args: list[str], said: str
) -> None:
    environment = os.environ | {
        "HARNESS_STATE_DIR": str(tmp_path / "state"),
        "HARNESS_TASKS_DIR": str(TOY_TASKS),
        "HARNESS_PORT": "0",
        "COLUMNS": "40",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from harness.cli import app; app()", *args],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"ERROR: {said}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            {"profile": "huge"},
            "HARNESS_PROFILE (or --profile) is 'huge'; it may be one of: toy",
        ),
        ({"database_url": "nonsense"}, "HARNESS_DATABASE_URL leads to no database: "),
    ],
    ids=["profile", "database"],
)
def test_a_server_is_not_built_from_settings_that_cannot_be(
    tmp_path: Path, setting: dict[str, str], said: str
) -> None:
    settings = Settings(state_dir=tmp_path / "state", tasks_dir=TOY_TASKS)
    with pytest.raises(SettingsError, match=f"^{re.escape(said)}"):
        server.build(settings.model_copy(update=setting))


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
    assert (run / "kept/fit.json").exists()
    harness("gc", "--delete")
    assert (run / "kept/fit.json").exists(), "it finished less than a week ago"
    code, output = harness("gc", "--delete", "--older-than", "0")
    assert (code, "Freed" in output) == (0, True)
    assert not any((run / name).exists() for name in ("kept", "out"))
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
    assert "check contract" not in output
    assert (tmp_path / "state/sessions" / player.id / "runs/test-1.1/out").exists()


def test_gc_counts_and_removes_checks(
    harness: Callable[..., tuple[int, str]], client: TestClient, tmp_path: Path
) -> None:
    cache = tmp_path / "state/cache"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "kept").write_bytes(bytes(3 << 20))
    players = [new_player(client, task="vetted-line") for _ in range(2)]
    checks = [tmp_path / "state/sessions" / player.id / "checks" for player in players]
    for player in players:
        while player.call("test", wait_s=50)["data"].get("state") != "finished":
            pass
    players[0].call("submit", n=1)
    _, output = harness("gc")
    assert "check contract-" in output
    assert "3.0 MiB in " in output
    assert all(any(folder.iterdir()) for folder in checks)
    harness("gc", "--delete")
    assert not any(checks[0].iterdir()), "its session has ended"
    assert any(checks[1].iterdir()), "it finished less than a week ago, and its session is open"
    harness("gc", "--delete", "--older-than", "0")
    assert not any(checks[1].iterdir())
    assert (cache / "kept").exists()
    for player in players:
        run = tmp_path / "state/sessions" / player.id / "runs/test-1.1"
        assert (run / "steps/fit-toy.score/metrics.json").exists()
        assert (run / "files/line_rate.py").exists()
    assert players[1].call("test", wait_s=50)["data"]["state"] == "finished"
    check = players[1].call("check", wait_s=50)
    while check["data"].get("state") == "running":
        check = players[1].call("check", wait_s=50)
    assert check["text"].startswith("[Check] ok")


@pytest.mark.parametrize("age", ["-1", "nan"])
def test_gc_refuses_an_age_that_cannot_be(
    harness: Callable[..., tuple[int, str]], age: str
) -> None:
    code, output = harness("gc", "--delete", "--older-than", age)
    assert code == 2
    assert output == f"ERROR: --older-than is {age}; it may be 0 days or more\n"


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


def test_serve_on_a_port_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "server"],
            env=os.environ
            | {
                "HARNESS_STATE_DIR": str(tmp_path / "state"),
                "HARNESS_TASKS_DIR": str(TOY_TASKS),
                "HARNESS_PORT": str(port),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert not (tmp_path / "state").exists()
    said = f"cannot listen on 127.0.0.1:{port}: Address already in use; take another --port"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"ERROR: {said}\n")


def test_without_tasks_commands_say_so(
    harness: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(tmp_path))
    said = f"no task in {tmp_path}; set HARNESS_TASKS_DIR\n"
    assert harness("task", "list") == (0, said)
    assert harness("data", "status") == (0, said)
    assert harness("demo") == (2, f"ERROR: {said}")
    result = CliRunner().invoke(app, ["task", "list", "--json"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "[]\n", said)


def test_a_server_on_the_same_state_folder_is_named_with_what_helps(
    harness: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    hold = "import sys; from pathlib import Path; from harness.claim import Claim; "
    hold += "from harness.workspace import StatePaths; c = Claim(StatePaths(Path(sys.argv[1]))); "
    hold += "print(c.name, flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        there = f"ERROR: a server runs on {tmp_path}/state already"
        assert harness("baseline", "run", "two-files", "unedited") == (
            1,
            f"{there}: give --url http://HOST:PORT, where it listens, with its key in "
            "HARNESS_API_KEY\n",
        )
        code, said = harness("demo")
        assert code == 1
        assert said.endswith(f"{there}; give the demo a HARNESS_STATE_DIR of its own\n")
    finally:
        holder.communicate()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:1", "http://[", ""])
def test_a_url_where_nothing_listens_is_one_clear_line(
    harness: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("HARNESS_API_KEY", "0123456789abcdef")
    code, said = harness("baseline", "run", "two-files", "unedited", "--url", url)
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith(f"ERROR: no server answers at {url}: ")
    assert harness("confirm", "abc", "--url", url) == (code, said)


def test_the_demo_of_a_task_without_baselines_says_so(
    harness: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Path(shutil.copytree(TOY_TASKS, tmp_path / "tasks"))
    yaml = tasks / "vetted_line/task.yaml"
    yaml.write_text(re.sub(r"baselines:.*", "", yaml.read_text(), flags=re.DOTALL))
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(tasks))
    said = "vetted-line has no baseline to play; write one below baselines/, named in task.yaml"
    assert harness("demo", "--task", "vetted-line") == (2, f"ERROR: {said}\n")


def test_export_names_the_file_that_is_no_recording(
    harness: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.touch()
    assert harness("export", str(bad)) == (2, f"ERROR: {bad}: is empty\n")


def test_arguments_for_a_data_set_that_is_ready_are_not_passed_over_in_silence(
    harness: Callable[..., tuple[int, str]], points: Path
) -> None:
    code, output = harness("data", "prepare", "two-files", "--", "--nope")
    assert code == 0
    assert "--nope: not used, since it is ready already; " in output
    assert f"; to make it anew, remove {points}\n" in output
    assert "not used" not in harness("data", "prepare", "two-files")[1]


def test_the_version_names_the_revision(harness: Callable[..., tuple[int, str]]) -> None:
    code, output = harness("--version")
    assert code == 0
    assert re.fullmatch(r"harness [0-9.]+(, revision [0-9a-f]{40}(-dirty)?)?\n", output)


def play_demo(tasks: Path, state: Path, data: Path, *args: str) -> str:
    """What `harness demo` prints."""
    environment = os.environ | {
        "HARNESS_STATE_DIR": str(state),
        "HARNESS_TASKS_DIR": str(tasks),
        "HARNESS_DATA_DIR": str(data),
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from harness.cli import app; app()", "demo", *args],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_demo_waits_for_the_checks(tmp_path: Path, toy_data: Path) -> None:
    tasks = Path(shutil.copytree(TOY_TASKS, tmp_path / "tasks"))
    script = tasks / "vetted_line/scripts/contract.sh"
    script.write_text(script.read_text().replace("set -e", "sleep 3\nset -e", 1))
    assert "sleep 3" in script.read_text()
    said = play_demo(tasks, tmp_path / "state", toy_data, "--task", "vetted-line")
    assert "[submit] Submitting result from test #1 as final." in said


def test_a_small_demo_plays_a_whole_session(tmp_path: Path, toy_data: Path) -> None:
    said_all = play_demo(TOY_TASKS, tmp_path / "state", toy_data)
    for said in (
        "ERROR: Lines 6..6 exceed the editable range. You may only edit lines 7–8.",
        "OK: Inserted 2 line(s) after line 5 in line_rate.py.",
        "[submit] Submitting result from test #1 as final.",
        "error (metres)",
    ):
        assert said in said_all


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


def test_check_gives_a_verdict_for_each_case(
    harness: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    cases = [
        {"name": "honest", "edits": [HONEST]},
        {"name": "square", "edits": [SQUARE]},
        {"name": "outside", "edits": [HONEST, OUTSIDE]},
        {"name": "nothing", "edits": []},
        {"name": "fast", "edits": [FAST]},
    ]
    file = tmp_path / "cases.yaml"
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


def test_check_with_too_few_gpus_is_one_clear_line(
    harness: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Path(shutil.copytree(TOY_TASKS, tmp_path / "tasks"))
    yaml = tasks / "vetted_line/task.yaml"
    yaml.write_text(
        yaml.read_text().replace("label: fit-toy\n", "label: fit-toy\n        gpus: 99\n")
    )
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(tasks))
    file = tmp_path / "mine.json"
    file.write_text(json.dumps([HONEST]))
    code, output = harness("check", "vetted-line", "--edits", str(file), "--profile", "toy")
    assert code == 2
    assert output.startswith("ERROR: stage fit-toy needs 99 GPU(s), there are ")
    assert len(output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        ("- op: undo\n- {", "line 2, column 4: while parsing a flow "),
        ("- op: 3: 4", "line 1, column 8: mapping values are not allowed here"),
        ("[1, 2]", "give a list of edits, or of objects with 'name' and 'edits'"),
        ('{"op": "replace"}', "give a list of edits"),
        ('[{"name": "x", "edits": 3}]', "case 1: 'edits' must be a list of edits"),
        ('[{"name": "x"}]', "item 1 has neither 'op', as an edit, nor 'edits', as a case"),
        ('[{"name": "x", "edits": []}, {"op": "replace"}]', "item 2 has neither 'op'"),
    ],
)
def test_a_bad_file_of_edits_is_one_clear_line(
    harness: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    said: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    file = tmp_path / "cases.yaml"
    if content is not None:
        file.write_text(content)
    code, output = harness("check", "vetted-line", "--edits", str(file))
    assert code == 2
    assert said in output
    assert len(output.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["null_runs", "verdicts", "leaderboard"])
def test_a_benchmark_tells_what_it_takes(name: str) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, str(script), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name}.py [-h] ")
