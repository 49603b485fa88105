"""`harness export`: every form, read again by a reader of that form."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import stories
from click.testing import Result
from conftest import TOY_TASKS, Player, new_player
from fastapi.testclient import TestClient
from markdown_it import MarkdownIt
from pydantic import BaseModel, ConfigDict, Field, model_validator
from test_pages import RATE, hostile_session, words, written
from test_replay_modes import NOT_SHOWN
from test_story import one_session, transcripts
from typer.testing import CliRunner

from harness.cli import app
from harness.exports import EXPORTS
from harness.recordings import parse_recordings
from harness.replay import replay
from harness.story import Story, story_of


def export(path: Path, format: str, *more: str) -> Result:
    return CliRunner().invoke(app, ["export", str(path), "--format", format, "--out", "-", *more])


def exported(path: Path, format: str) -> str:
    result = export(path, format)
    assert result.exit_code == 0, result.output
    return result.stdout


def story(text: str) -> Story:
    [recording] = parse_recordings(text)
    return story_of(recording)


# ── jsonl ─────────────────────────────────────────────────────────────────────────────────────


def test_a_journal_comes_out_byte_for_byte(tmp_path: Path) -> None:
    text = one_session()
    assert exported(written(tmp_path, text), "jsonl") == text


def test_a_session_of_a_server_is_exported_without_hidden_values(
    start_server: Callable[..., TestClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = new_player(start_server())
    player.call("test", wait_s=50)
    monkeypatch.setenv("HARNESS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(TOY_TASKS))
    assert exported(Path(player.id), "jsonl") == player.get("/transcript")
    for format in EXPORTS:
        assert "worst" not in exported(Path(player.id), format)
    missing = export(Path("0000"), "jsonl")
    assert missing.exit_code == 2
    assert "there is no file and no session 0000" in missing.stderr


def test_what_has_no_journal_says_what_to_use(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(exported(written(tmp_path, one_session()), "atif"))
    result = export(path, "jsonl")
    assert result.exit_code == 2
    assert "has no journal to export; use --format atif" in result.stderr


# ── ATIF ──────────────────────────────────────────────────────────────────────────────────────
# Models after version 1.4 of its specification: what is required, and nothing that it lacks.


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AtifAgent(_Model):
    name: str
    version: str
    model_name: str | None = None
    extra: dict[str, Any] | None = None


class AtifCall(_Model):
    tool_call_id: str
    function_name: str
    arguments: dict[str, Any]


class AtifResult(_Model):
    source_call_id: str | None = None
    content: str | None = None


class AtifObservation(_Model):
    results: list[AtifResult]


class AtifStep(_Model):
    step_id: int = Field(ge=1)
    timestamp: str | None = None
    source: Literal["system", "user", "agent"]
    message: str
    reasoning_content: str | None = None
    tool_calls: list[AtifCall] | None = None
    observation: AtifObservation | None = None
    extra: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _only_agents_call(self) -> AtifStep:
        if self.source != "agent":
            assert self.tool_calls is None
            assert self.reasoning_content is None
        calls = {call.tool_call_id for call in self.tool_calls or []}
        results = self.observation.results if self.observation else []
        assert all(result.source_call_id in calls for result in results)
        return self


class AtifMetrics(_Model):
    total_steps: int
    extra: dict[str, Any]


class AtifTrajectory(_Model):
    schema_version: Literal["ATIF-v1.4"]
    session_id: str
    agent: AtifAgent
    steps: list[AtifStep]
    notes: str
    final_metrics: AtifMetrics
    extra: dict[str, Any]

    @model_validator(mode="after")
    def _counts_from_one(self) -> AtifTrajectory:
        assert [step.step_id for step in self.steps] == list(range(1, len(self.steps) + 1))
        return self


def same_steps(first: Story, second: Story) -> bool:
    """Whether two stories tell of the same calls, answers, files and words."""

    def told(one: Story) -> list[Any]:
        return [
            (s.tool, s.args, s.ok, s.error, s.text, s.seconds, s.at,
             {name: file.text for name, file in s.files.items()})
            for s in one.steps
        ]  # fmt: skip

    return told(first) == told(second)


@pytest.mark.parametrize("make", [one_session, hostile_session])
def test_atif_is_what_its_specification_says_and_is_read_again(
    tmp_path: Path, make: Callable[[], str]
) -> None:
    text = exported(written(tmp_path, make()), "atif")
    AtifTrajectory.model_validate_json(text)
    back = story(text)
    first = story(make())
    assert same_steps(first, back)
    assert [s.verdict for s in first.steps] == [s.verdict for s in back.steps]
    assert any("ATIF keeps no hash chain" in note for note in back.notes)
    assert back.recording.task == "made-up"


def test_a_closed_session_is_closed_in_atif_too(player: Player, tmp_path: Path) -> None:
    player.call("test", wait_s=50)
    player.call("submit", n=1)
    assert not player.call("edit", **RATE, content="FIRST_RATE = 0.1")["ok"]
    text = exported(written(tmp_path, player.get("/transcript")), "atif")
    [recording] = parse_recordings(text)
    played = replay(recording)
    assert (played.diverged, len(recording.steps)) == ((), 3)
    assert recording.steps[-1].closed == "ERROR: This session is closed: test #1 was submitted."


def test_recordings_of_other_formats_become_atif(tmp_path: Path) -> None:
    for path in transcripts("*"):
        text = exported(path, "atif")
        AtifTrajectory.model_validate_json(text)
        back = story(text)
        [file] = back.files_at(8).values()
        assert len(file.lines) == 488
        assert [test.scored for test in back.tests] == [False]
        assert any("outline" in note for note in back.notes)


# ── inspect ───────────────────────────────────────────────────────────────────────────────────


def test_an_inspect_log_holds_every_call(tmp_path: Path) -> None:
    log = json.loads(exported(written(tmp_path, one_session()), "inspect"))
    [sample] = log["samples"]
    calls = [m["tool_calls"][0]["function"] for m in sample["messages"] if m.get("tool_calls")]
    assert calls == ["edit", "test", "edit", "undo"]
    assert sample["scores"]["error"]["value"] == 0.1
    assert log["results"]["scores"][0]["metrics"]["value"]["value"] == 0.1


# ── markdown and html ─────────────────────────────────────────────────────────────────────────


def test_markdown_tells_the_session(tmp_path: Path) -> None:
    text = exported(written(tmp_path, one_session()), "markdown")
    assert text.startswith("# scripted on made\\-up\n")
    assert "## Step 3: edit, refused" in text
    assert "```diff\n--- src/model.py\n+++ src/model.py\n" in text
    assert "-    return x\n+    return 2 * x\n" in text
    assert "| error | 0.1000 |" in text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    path = written(tmp_path, hostile_session())
    rendered = MarkdownIt("commonmark", {"html": True}).render(exported(path, "markdown"))
    html = exported(path, "html")
    for text in (rendered, html):
        assert "<script>alert" not in text
        assert "<img" not in text
        assert not NOT_SHOWN.search(text)
    assert "\\x1b[31m\\u202eevil" in html


def test_a_page_stands_alone(tmp_path: Path) -> None:
    html = exported(written(tmp_path, one_session()), "html")
    said = words(html)
    assert "Step 3: edit refused: outside_regions" in said
    assert "I double it." in said
    assert not re.search(r"""(src|href)=["']?[^"'#>]""", html)
    assert "script-src &#39;none&#39;" in html
    assert "<script" not in html


def test_a_page_with_curves_carries_its_scripts_by_hash(tmp_path: Path) -> None:
    values = stories.lines_of(one_session())
    [finished] = [value for value in values if value.get("type") == "test_finished"]
    finished["curve"] = [{"step": 0, "loss": 3.0}, {"step": 10, "loss": 1.0}]
    path = written(tmp_path, "".join(json.dumps(value) + "\n" for value in values))
    html = exported(path, "html")
    assert "sha256-" in html
    assert html.count("<script>") == 2
    assert len(html) < 8_000_000


@pytest.mark.parametrize("format", ["markdown", "html", "atif", "inspect"])
def test_the_recorded_page_is_exported_with_its_failed_test(format: str) -> None:
    for path in transcripts("*.txt"):
        text = exported(path, format)
        assert "Checkpoint not found" in text
        assert "lost indentation" in text


def test_a_long_session_is_exported_in_time(tmp_path: Path) -> None:
    path = written(tmp_path, stories.long_transcript(300, 1_000_000))
    for format in EXPORTS:
        assert exported(path, format)


@pytest.mark.parametrize(
    "command",
    [
        ("export", "--format", "jsonl", "--out", "-"),
        ("export", "--format", "markdown", "--out", "-"),
    ],
    ids=["a journal", "a page"],
)
def test_whoever_reads_may_have_seen_enough(tmp_path: Path, command: tuple[str, ...]) -> None:
    """As `| head` has: the program ends, without a word."""
    path = written(tmp_path, stories.long_transcript(300, 1_000_000))
    name, *options = command
    # Without a buffer, Python takes a write that was cut short for a whole one.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-c", "from harness.cli import app; app()", name, str(path), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)  # more is to come than a pipe holds
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


def test_a_file_is_named_by_itself_and_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, one_session())
    monkeypatch.chdir(tmp_path)
    call = ["export", "session.jsonl", "--format", "markdown"]
    first = CliRunner().invoke(app, call)
    assert (first.exit_code, first.stdout) == (0, "session.md\n")
    again = CliRunner().invoke(app, call)
    assert again.exit_code == 2
    assert "session.md exists already; name another with --out" in again.stderr
    bad = CliRunner().invoke(app, ["export", "session.jsonl", "--format", "pdf"])
    assert bad.exit_code == 2
    assert "it may be one of: jsonl, atif, inspect, markdown, html" in bad.stderr
