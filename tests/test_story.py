"""Stories: what people are told happened, from every kind of record."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import stories
from stories import NAME, edit, header, play, transcript

from harness.events import (
    MessageKept,
    StageResult,
    Submitted,
    TestCounted,
    TestFinished,
    TestQueued,
    TestReleased,
    ToolCalled,
    seal,
)
from harness.recorded import RecordingError, Said
from harness.recordings import parse_recordings, read_recordings
from harness.replay_view import task_files
from harness.story import Happening, Story, story_of
from harness.told_tests import told_test

ROOT = Path(__file__).parents[1]


def told(text: str) -> Story:
    [recording] = parse_recordings(text)
    return story_of(recording)


def transcripts(pattern: str) -> list[Path]:
    folder = os.environ.get("HARNESS_TRANSCRIPTS")
    if not folder:
        pytest.skip("HARNESS_TRANSCRIPTS is not set: it names a folder of real recordings")
    found = sorted(Path(folder).glob(pattern))
    assert found
    return found


def one_session() -> str:
    head = header()
    accepted, refused = play(head, [edit(5, 5, "    return 2 * x"), edit(8, 9, "pass")])
    undo = ToolCalled(
        tool="undo",
        args={},
        ok=True,
        text=f"Undo complete:\nRestored: {NAME}",
        seconds=0.01,
        sha256={NAME: stories.EditableFile.from_text(NAME, stories.TEXT, stories.REGIONS).sha256},
    )
    private, digest = seal({"fit": {"metrics": {"worst": 3.0}, "final": {"error": 0.2}}})
    stage = StageResult(
        name="fit",
        label="fit-toy",
        script="fit.sh",
        state="done",
        seconds=2.5,
        metrics={"error": 0.1},
    )
    return transcript(
        head,
        [
            MessageKept(role="assistant", text="I double it."),
            accepted,
            TestReleased(number=1, attempt=1, kind="refused", reason="never queued"),
            TestQueued(number=1, attempt=2, files_digest="f", seed=1),
            TestCounted(number=1, attempt=2),
            ToolCalled(tool="test", args={}, ok=True, text="[Test #1] …", seconds=1.0, test=1),
            refused,
            TestFinished(
                number=1,
                attempt=2,
                scored=True,
                stages=(stage,),
                private=private,
                private_digest=digest,
            ),
            undo,
            MessageKept(role="assistant", text="Done."),
            Submitted(number=1, by="agent"),
        ],
    )


def test_a_journal_is_told_in_order() -> None:
    story = told(one_session())
    assert [(s.index, s.tool, s.ok, s.error) for s in story.steps] == [
        (1, "edit", True, None),
        (2, "test", True, None),
        (3, "edit", False, "outside_regions"),
        (4, "undo", True, None),
    ]
    [said] = story.steps[0].before
    assert isinstance(said, Said)
    assert (said.role, said.text) == ("assistant", "I double it.")
    assert [b.text for b in story.steps[1].before] == [
        "Test #1 was given back, not counted (refused)",
        "Test #1 (attempt 2) was queued",
        "Test #1 (attempt 2) started, and is counted",
    ]
    assert [b.text for b in story.after] == ["Done.", "Test #1 was submitted"]
    assert isinstance(story.after[1], Happening)
    assert (story.state, story.submitted) == ("submitted", 1)


def test_files_are_those_of_each_step() -> None:
    story = told(one_session())
    lines = [story.files_at(n)[NAME].lines[4] for n in range(5)]
    assert lines == ["    return x", *["    return 2 * x"] * 3, "    return x"]
    test = story.test(1)
    assert test is not None
    assert test.files[NAME].lines[4] == "    return 2 * x"
    assert (test.step, test.attempt, test.counted, test.metrics) == (2, 2, True, {"error": 0.1})
    # A transcript holds no hidden values.
    assert test.hidden_metrics == {}


SHORT = "\n".join(
    [
        "[Test #1] (2 tests remaining; call submit(n=N) to choose which test result to submit) "
        "### big (scripts/big.sh) Training metrics (last steps): FIT: step=0, loss=11.03 "
        "### small (scripts/small.sh) [COMMAND FAILED exit=1] ERROR: Checkpoint not found: x.pt"
    ]
)


def test_a_failed_test_is_told_from_lines_that_were_run_together() -> None:
    told = told_test(SHORT)
    assert told is not None
    big, small = told.stages
    assert (big.state, big.feedback) == ("no score", ["FIT: step=0, loss=11.03"])
    assert (small.state, small.exit) == ("failed", 1)
    assert small.reason == ["ERROR: Checkpoint not found: x.pt"]


@pytest.mark.parametrize("pattern", ["*.txt", "*.json"])
def test_the_recorded_session_is_told_truthfully(pattern: str) -> None:
    for path in transcripts(pattern):
        [recording] = read_recordings(path, task_files(ROOT / "tasks"))
        story = story_of(recording)
        assert [(s.tool, s.ok) for s in story.steps] == [
            *[("edit", True)] * 3, ("test", True), ("edit", True), ("edit", False),
            *[("edit", True)] * 2,
        ]  # fmt: skip
        [test] = story.tests
        assert (test.number, test.step, test.scored) == (1, 4, False)
        first, second = test.stages
        assert (first.state, second.state, second.exit) == ("no score", "failed", 1)
        assert "Checkpoint not found" in second.reason[0]
        [file] = story.files_at(8).values()
        assert len(file.lines) == 488
        assert any("outline" in note for note in story.notes)


def calls() -> list[tuple[dict[str, Any], str]]:
    head = header()
    events = play(head, [edit(5, 5, "    return 3 * x"), edit(9, 9, "pass")])
    return [(dict(e.args), e.text) for e in events if isinstance(e, ToolCalled)]


@pytest.mark.parametrize("snapshots", [True, False])
def test_a_conversation_is_told(snapshots: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "Improve it."}]
    for args, text in calls():
        messages.append(
            {
                "role": "assistant",
                "content": "So.",
                "tool_name": "edit",
                "tool_input": args,
                "result": text,
            }
        )
    value: dict[str, Any] = {"task": "t", "model": "m", "messages": messages}
    if snapshots:
        value["file_snapshots"] = {NAME: stories.TEXT}
    story = told(json.dumps(value))
    assert [(s.ok, s.verdict) for s in story.steps] == [(True, "matched"), (False, "matched")]
    assert [b.text for b in story.steps[0].before] == ["Improve it.", "So."]
    file = story.files_at(2)[NAME]
    assert file.lines[4] == "    return 3 * x"
    assert file.lines[0] == ("import math" if snapshots else "# line 1 of the start")
    assert bool(story.notes) is not snapshots


def test_an_atif_trajectory_of_others_is_told() -> None:
    steps: list[Any] = [{"step_id": 1, "source": "user", "message": "Improve it."}]
    for number, (args, text) in enumerate(calls(), start=2):
        steps.append(
            {
                "step_id": number,
                "source": "agent",
                "timestamp": "2026-01-02T03:04:05Z",
                "message": "Now.",
                "reasoning_content": "Hm.",
                "tool_calls": [
                    {
                        "tool_call_id": f"c{number}",
                        "function_name": "mcp__lab__edit",
                        "arguments": args,
                    }
                ],
                "observation": {"results": [{"source_call_id": f"c{number}", "content": text}]},
            }
        )
    value = {
        "schema_version": "ATIF-v1.4",
        "session_id": "s",
        "agent": {"name": "a", "version": "1", "model_name": "m"},
        "steps": steps,
    }
    story = told(json.dumps(value))
    assert story.agent == "m"
    assert [(s.tool, s.ok, s.verdict) for s in story.steps] == [
        ("edit", True, "matched"),
        ("edit", False, "matched"),
    ]
    assert [(b.role, b.text) for b in story.steps[1].before if isinstance(b, Said)] == [
        ("thought", "Hm."),
        ("assistant", "Now."),
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"messages": 1}, "the file: 'messages' must be a list, not a number"),
        ({"messages": [1]}, "the file, message 1 must be an object, not a number"),
        (
            {"messages": []},
            "no answer in it shows the editable ranges, so no file can be shown",
        ),
        (
            {"schema_version": "ATIF-v1.4", "steps": [{"source": "x"}]},
            "the file, step 1: 'source' must be system, user or agent",
        ),
    ],
)
def test_what_cannot_be_read_says_where(value: Any, said: str) -> None:
    with pytest.raises(RecordingError) as error:
        parse_recordings(json.dumps(value))
    assert str(error.value) == said


def test_two_thousand_steps_are_told_in_two_seconds(long_session: Path) -> None:
    start = time.process_time()
    [recording] = read_recordings(long_session)
    story = story_of(recording)
    assert time.process_time() - start < 2
    assert len(story.steps) == 2000
    # Locked text is kept once, not once a step.
    tails = {id(story.files_at(n)[NAME].segments[-1]) for n in range(2001)}
    assert len(tails) == 1
