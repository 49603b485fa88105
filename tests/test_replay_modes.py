"""`harness replay --step|--into|--certify|--run`, as a person calls them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import TOY_TASKS, new_player
from fastapi.testclient import TestClient
from stories import NAME, TEXT, edit, header, lines_of, play, transcript
from test_pages import HOSTILE, hostile_session, written
from test_story import one_session, transcripts
from typer.testing import CliRunner

from harness.certify import NOT_PROVED
from harness.cli import app
from harness.events import canonical, digest_of

NOT_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def call(*args: object, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["replay", *map(str, args)], input=stdin)


# ── --step ────────────────────────────────────────────────────────────────────────────────────


def test_steps_go_forward_back_and_to_a_number(tmp_path: Path) -> None:
    result = call(written(tmp_path, one_session()), "--step", stdin="\n\nb\n3\nx\n9\nf\nq\n")
    assert result.exit_code == 0
    titles = re.findall(r"step (\d) of 4: (\w+)", result.stdout)
    assert titles == [("1", "edit"), ("2", "test"), ("1", "edit"), ("3", "edit")]
    assert "assistant:\n  I double it." in result.stdout
    assert "5 +     return 2 * x" in result.stdout
    assert "ERROR: Lines 8..9 exceed the editable range." in result.stdout
    assert "  + pass" in result.stdout
    assert "Not known: x." in result.stdout
    assert "There are steps 0 to 4." in result.stdout
    assert "def loss(x):" in result.stdout


def test_steps_end_with_the_input(tmp_path: Path) -> None:
    result = call(written(tmp_path, one_session()), "--step", stdin="\n" * 20)
    assert result.exit_code == 0
    assert "step 4 of 4: undo" in result.stdout
    assert call(written(tmp_path, one_session()), "--step").exit_code == 0


def test_hostile_text_is_harmless_in_the_terminal(tmp_path: Path) -> None:
    result = call(written(tmp_path, hostile_session()), "--step", stdin="\n\n\nf\n")
    assert result.exit_code == 0
    assert not NOT_SHOWN.search(result.stdout)
    assert "\\x1b[31m\\u202eevil" in result.stdout


def test_the_recorded_page_is_stepped_through() -> None:
    for path in transcripts("*.txt"):
        result = call(path, "--step", stdin="4\n")
        assert "Checkpoint not found" in result.stdout
        assert "note: The saved page has lost indentation" in result.stdout


# ── --into ────────────────────────────────────────────────────────────────────────────────────


def test_files_are_written_at_each_step_that_changed_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    result = call(written(tmp_path, one_session()), "--into", target)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in target.iterdir()) == [
        "final", "start", "step-1", "step-4",
    ]  # fmt: skip
    assert (target / "start" / NAME).read_text() == TEXT
    assert (target / "final" / NAME).read_text() == TEXT
    assert "return 2 * x" in (target / "step-1" / NAME).read_text()
    again = call(written(tmp_path, one_session()), "--into", target)
    assert again.exit_code == 2
    assert "is not empty" in again.stderr


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "a/../../evil.py"])
def test_no_recording_writes_outside_its_folder(tmp_path: Path, name: str) -> None:
    head = header()
    head = head.model_copy(update={"files": (head.files[0].model_copy(update={"name": name}),)})
    target = tmp_path / "a" / "out"
    result = call(written(tmp_path, transcript(head, [])), "--into", target)
    assert result.exit_code == 2
    assert "would lie outside the folder" in result.stderr
    assert not target.exists()
    assert not (tmp_path / "a" / "evil.py").exists()


# ── --certify ─────────────────────────────────────────────────────────────────────────────────


def honest() -> str:
    head = header()
    return transcript(head, play(head, [edit(5, 5, "    return 2 * x"), edit(9, 9, "no")]))


def test_an_honest_record_is_certified_and_says_what_is_not_proved(tmp_path: Path) -> None:
    result = call(written(tmp_path, honest()), "--certify")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("CERTIFIED  session 0123456789abcdef\n")
    assert "proved   the chain of 2 events is whole, from the header on" in result.stdout
    assert "follows from the recorded edits (1 versions, by SHA-256)" in result.stdout
    assert "proved   no locked byte changed (8 locked lines in 1 versions)" in result.stdout
    for text in NOT_PROVED:
        assert text in result.stdout
    [certificate] = json.loads(call(written(tmp_path, honest()), "--certify", "--json").stdout)
    assert certificate["last_hash"] == digest_of(lines_of(honest())[-1])


def chained(values: list[dict[str, Any]]) -> str:
    """The chain made whole again, as a forger would."""
    previous = digest_of(values[0])
    for value in values[1:]:
        value["previous"] = previous
        previous = digest_of(value)
    return "".join(canonical(value) + "\n" for value in values)


def _other_edit(values: list[dict[str, Any]]) -> None:
    values[1]["args"]["content"] = "    return 3 * x"


def _no_hash(values: list[dict[str, Any]]) -> None:
    del values[1]["sha256"]


def _locked_edit(values: list[dict[str, Any]]) -> None:
    values[2] |= {"ok": True, "text": "OK: Replaced lines 9..9 with 1 line(s)", "sha256": {}}
    del values[2]["error"]


def _other_tests(values: list[dict[str, Any]]) -> None:
    values.append({"type": "test_queued", "seq": 3, "at": values[2]["at"], "number": 1,
                   "attempt": 1, "files_digest": "0" * 64, "seed": 1})  # fmt: skip


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (_other_edit, "NOT SO   each recorded version follows from the recorded edits: step 1"),
        (_no_hash, "NOT SO   each recorded version follows from the recorded edits: step 1"),
        (_locked_edit, "NOT SO   each recorded version follows from the recorded edits: step 2"),
        (_other_tests, "NOT SO   each test was queued with the files as they stood (1 tests)"),
    ],
)
def test_a_forged_record_is_not_certified(
    tmp_path: Path, forge: Callable[[list[dict[str, Any]]], None], said: str
) -> None:
    values = lines_of(honest())
    forge(values)
    result = call(written(tmp_path, chained(values)), "--certify")
    assert result.exit_code == 1
    assert result.stdout.startswith("NOT CERTIFIED")
    assert said in result.stdout


def test_any_changed_byte_breaks_the_chain(tmp_path: Path) -> None:
    values = lines_of(honest())
    for index in range(len(values) - 1):
        changed = lines_of(honest())
        changed[index]["at" if index else "profile"] = "2026-01-02T03:04:09Z"
        text = "".join(canonical(value) + "\n" for value in changed)
        result = call(written(tmp_path, text), "--certify")
        assert result.exit_code == 1
        assert "NOT SO   the chain of 2 events is whole" in result.stdout


def test_formats_without_a_chain_are_not_certified() -> None:
    for path in transcripts("*"):
        result = call(path, "--certify")
        assert result.exit_code == 1
        assert "has no hash chain, so nothing can be proved of it" in result.stdout


# ── --run ─────────────────────────────────────────────────────────────────────────────────────


def test_recorded_tests_are_run_again_beside_the_record(
    start_server: Callable[..., TestClient],
    tmp_path: Path,
    toy_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    player = new_player(start_server())
    player.call("edit", op="replace", filename="line_rate.py", start_line=3, end_line=3,
                content="FIRST_RATE = 0.06")  # fmt: skip
    recorded = player.call("test", wait_s=50)["data"]["metrics"]
    path = written(tmp_path, player.get("/transcript"))
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(TOY_TASKS))
    monkeypatch.setenv("HARNESS_STATE_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "none"))
    missing = call(path, "--run")
    assert missing.exit_code == 2
    assert "the data set points is not prepared: harness data prepare" in missing.stderr
    monkeypatch.setenv("HARNESS_DATA_DIR", str(toy_data))
    result = call(path, "--run")
    assert result.exit_code == 0, result.output
    shown = f"{recorded['error']:.6g}"
    assert re.search(rf"error +│ +{shown} +│ +{shown} +│ \+0 ", result.stdout)
    unknown = call(path, "--run", "--profile", "huge")
    assert unknown.exit_code == 2
    assert "no profile 'huge'; name one with --profile: toy" in unknown.stderr
    renamed = Path(shutil.copytree(TOY_TASKS, tmp_path / "renamed"))
    task = renamed / "two_files" / "task.yaml"
    task.write_text(re.sub(r"name: first-rate\b", "name: rate-one", task.read_text()))
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(renamed))
    result = call(path, "--run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "the regions of line_rate.py have other names in the task as it is here" in result.stderr


def test_a_contract_stands_before_a_test_that_is_run_again(
    start_server: Callable[..., TestClient],
    tmp_path: Path,
    toy_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    player = new_player(start_server(), task="vetted-line")
    assert "TEST_METRICS" in player.text("test", wait_s=50)
    path = written(tmp_path, player.get("/transcript"))
    stricter = tmp_path / "tasks"
    shutil.copytree(TOY_TASKS, stricter)
    contract = stricter / "vetted_line/scripts/contract.py"
    contract.write_text(
        contract.read_text().replace("def findings():", 'def findings():\n    yield "new", "no"')
    )
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(stricter))
    monkeypatch.setenv("HARNESS_STATE_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("HARNESS_DATA_DIR", str(toy_data))
    result = call(path, "--run")
    assert result.exit_code == 1
    said = " ".join(result.stdout.split())
    assert "test #1: contract" in said
    assert "refused by a check as it is here: line_model.py line 8 [new]: no" in said
    assert "test #1: fit-toy" not in said


def test_code_of_another_version_of_the_task_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(TOY_TASKS))
    head = header().model_copy(update={"task": "two-files"})
    result = call(written(tmp_path, transcript(head, [])), "--run")
    assert result.exit_code == 2
    assert f"the task here has no editable file {NAME}" in result.stderr
    other = call(written(tmp_path, one_session()), "--run")
    assert "there is no task 'made-up' here" in other.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--step", "--certify"), "are used one at a time"),
        (("--profile", "toy"), "--profile is for --run"),
    ],
)
def test_modes_are_used_one_at_a_time(tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    result = call(written(tmp_path, one_session()), *args)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_name_that_is_hostile_is_harmless_in_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(json.dumps({"format": HOSTILE}))
    for mode in ("--step", "--certify"):
        result = call(path, mode)
        assert result.exit_code == 2
        assert not NOT_SHOWN.search(result.stderr)
