"""ATIF by Harbor's own package: its validator takes our exports; what its models write, we read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stories
from conftest import new_player
from fastapi.testclient import TestClient
from readers import ask, readers_python
from stories import NAME, TEXT, edit, header, play, transcript
from test_exports import exported, story
from test_pages import hostile_session, written
from test_story import one_session, transcripts

from harness.events import MessageKept, ToolCalled


def talkative_session() -> str:
    """Words and thoughts before, between and after calls; arguments that were no JSON."""
    head = header(scaffold="loop", version="2", model="m")
    [accepted] = play(head, [edit(5, 5, "    return 2 * x")])
    return transcript(
        head,
        [
            MessageKept(role="system", text="Be fair."),
            MessageKept(role="user", text="Begin."),
            MessageKept(role="thought", text="Hm."),
            MessageKept(role="assistant", text="First."),
            MessageKept(role="assistant", text="Second."),
            accepted,
            ToolCalled(tool="status", args={}, ok=True, text="", seconds=0.0),
            MessageKept(role="thought", text="Was that all?"),
        ],
    )


MADE: dict[str, Callable[[], str]] = {
    "one": one_session,
    "hostile": hostile_session,
    "talkative": talkative_session,
    "empty": lambda: transcript(header(), []),
    "long": lambda: stories.long_transcript(200, 400_000),
}


@pytest.fixture
def texts(tmp_path: Path, start_server: Callable[..., TestClient]) -> dict[str, str]:
    """Our exports by what they are of: made sessions, one of a server, real recordings."""
    readers_python()
    found = {name: exported(written(tmp_path, make()), "atif") for name, make in MADE.items()}
    player = new_player(start_server())
    player.call("edit", op="replace", filename="line_rate.py", start_line=5, end_line=5, content="")
    player.call("undo")
    played = written(tmp_path, player.get("/transcript"))
    found["of a server"] = exported(played, "atif")
    if os.environ.get("HARNESS_TRANSCRIPTS"):
        found |= {path.name: exported(path, "atif") for path in transcripts("*")}
    return found


def test_harbors_validator_takes_our_exports(texts: dict[str, str]) -> None:
    wrong = json.loads(texts["one"])
    spoiled = [
        wrong | {"colour": "red"},
        wrong | {"steps": []},
        wrong | {"steps": [*wrong["steps"], wrong["steps"][0]]},
        wrong | {"schema_version": "ATIF-v0.9"},
    ]
    asked = [*texts.values(), *map(json.dumps, spoiled)]
    said = ask("atif", {"check": asked})
    ours, theirs = said[: len(texts)], said[len(texts) :]
    assert dict(zip(texts, ours, strict=True)) == {name: [] for name in texts}
    assert all(theirs), theirs


def test_an_empty_session_comes_back_as_one(tmp_path: Path) -> None:
    back = story(exported(written(tmp_path, MADE["empty"]()), "atif"))
    assert back.steps == ()
    assert [file.text for file in back.start.values()] == [TEXT]


@pytest.mark.parametrize("named", [True, False])
def test_what_harbors_models_write_is_read(named: bool) -> None:
    """The newest version, with parts, pictures, several calls a step and a subagent."""
    readers_python()
    first, second = edit(5, 5, "    return 2 * x"), edit(8, 9, "pass")
    played = play(header(), [first, second])
    answers = [event.text for event in played if isinstance(event, ToolCalled)]
    calls: list[dict[str, Any]] = [
        {"calls": [["edit", first], ["edit", second]], "answers": answers, "named": named},
        {"calls": [["undo", {}]], "answers": [f"Undo complete:\nRestored: {NAME}"], "named": named},
        {"calls": [["bash", {"command": "ls"}]], "answers": ["a\n", "b\n"], "named": False},
    ]
    text = json.dumps(ask("atif", {"write": calls}))
    assert '"ATIF-v1.8"' in text
    back = story(text)
    assert [step.tool for step in back.steps] == ["edit", "edit", "undo", "mcp__harness__bash"]
    assert [step.text for step in back.steps[:3]] == [*answers, f"Undo complete:\nRestored: {NAME}"]
    assert [step.ok for step in back.steps[:3]] == [True, False, True]
    assert back.steps[3].text == "a\n\nb\n"
    assert [said.text for said in back.steps[0].before] == [
        "Be fair.", "Look at this.", "I think.", "I act.",
    ]  # fmt: skip
    assert [getattr(said, "text", "") for said in back.after] == ["A subagent ran."]
    assert back.agent == "m"
    [file] = back.files_at(1).values()
    assert file.lines[4] == "    return 2 * x"
