from __future__ import annotations

import hashlib
import io
import json
import os
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from harness import render, replay_view
from harness.edits import apply_edit
from harness.errors import AgentError
from harness.events import (
    Event,
    FileRecord,
    Header,
    MessageKept,
    RegionRecord,
    Submitted,
    ToolCalled,
)
from harness.recorded import RecordingError
from harness.recordings import parse_recordings, read_recordings
from harness.regions import EditableFile
from harness.replay import replay

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names a folder of real recordings")
    return Path(value)


def sessions(text: str, candidates: tuple[EditableFile, ...] = ()) -> list[dict[str, Any]]:
    return [replay(recording).summary() for recording in parse_recordings(text, candidates)]


def summary(value: object, candidates: tuple[EditableFile, ...] = ()) -> dict[str, Any]:
    [only] = sessions(json.dumps(value), candidates)
    return only


def diverged(step: int, recorded: str, got: str) -> list[dict[str, Any]]:
    return [{"step": step, "recorded": recorded, "got": got}]


# ── real recordings ───────────────────────────────────────────────────────────────────────────


def test_all_traces_come_out_again() -> None:
    recordings = read_recordings(folder("HARNESS_TRACES") / "edits.jsonl")
    played = [replay(recording) for recording in recordings]
    assert [outcome for one in played for outcome in one.diverged] == []
    totals = [one.summary() for one in played]
    counts = {
        key: sum(total[key] for total in totals)
        for key in ("steps", "edits", "matched", "known_faults")
    }
    # 139 edits and range refusals and 4 undos; 11 paths and one call that was not JSON.
    assert counts == {"steps": 268, "edits": 151, "matched": 143, "known_faults": 12}
    assert len(recordings) == 60


@pytest.mark.parametrize(("pattern", "steps"), [("*.json", 8), ("*.txt", 7)])
def test_all_transcripts_come_out_again(pattern: str, steps: int) -> None:
    paths = sorted(folder("HARNESS_TRANSCRIPTS").glob(pattern))
    assert paths
    for path in paths:
        [recording] = read_recordings(path)
        assert replay(recording).summary() == {
            "steps": steps,
            "edits": 7,
            "matched": 7,
            "known_faults": 0,
            "diverged": [],
        }
        [file] = recording.files
        assert len(file.lines) == 441
        assert [(r.first, r.last) for r in file.regions] == [
            (88, 99),
            (128, 130),
            (162, 164),
            (175, 192),
            (251, 251),
        ]


def test_any_change_of_a_real_record_is_noticed() -> None:
    line = (folder("HARNESS_TRANSCRIPTS") / "seed_tdar.json").read_text("utf-8")
    value = json.loads(line)
    for index, step in enumerate(value["steps"]):
        if step["tool"] != "edit":
            continue
        for key, wrong in [("first_line", step["first_line"] + " "), ("total_lines", 440)]:
            changed = json.loads(line)
            changed["steps"][index][key] = wrong
            assert [d["step"] for d in summary(changed)["diverged"]] == [index + 1]


# ── traces ────────────────────────────────────────────────────────────────────────────────────


def edit_step(first_line: str | None = None, total: int | None = None, **args: Any) -> Any:
    call = {"op": "replace", "filename": "src/f.py", "content": "x", **args}
    step: dict[str, Any] = {"tool": "edit", "args": call}
    if first_line is not None:
        step["first_line"] = first_line
    if total is not None:
        step["total_lines"] = total
    return step


def trace(*steps: Any, **keys: Any) -> dict[str, Any]:
    files = [
        {"name": "src/f.py", "lines": ["a", "b", "c", "d"], "editable": [[2, 3]]},
        {"name": "src/g.py", "lines": ["a", "b"], "editable": [[2, 2]]},
    ]
    return {"id": "1", "task": "t", "files": files, "steps": list(steps), **keys}


def replaced(first: int, last: int, count: int, end: int, name: str = "src/f.py") -> str:
    return (
        f"OK: Replaced lines {first}..{last} with {count} line(s) in {name}. "
        f"Editable range: 2–{end}."
    )


FIRST = edit_step(replaced(2, 3, 1, 2), 3, start_line="2", end_line="3", after_line=9)
GONE = edit_step(replaced(2, 2, 0, 1), 2, start_line=2, end_line=2, content="")
OTHER = edit_step(
    replaced(2, 2, 1, 2, "src/g.py"), 2, filename="src/g.py", start_line=2, end_line=2
)
REFUSED = edit_step(
    "ERROR: Lines 2..4 exceed the editable range. You may only edit lines 2–3.",
    4,
    start_line=2,
    end_line=4,
)
FAULT = edit_step(
    "ERROR: Package 'f.py' is not in allowed packages", filename="f.py", start_line=2, end_line=3
)
NOT_JSON = {
    "tool": "edit",
    "args": {"error": "Failed to parse tool arguments"},
    "first_line": "ERROR: Failed to parse tool arguments",
}
TEST = {"tool": "test", "args": {}, "first_line": "[Test #1] (2 tests remaining)"}


def undo(*restored: str, **args: Any) -> dict[str, Any]:
    return {"tool": "undo", "args": args, "restored": list(restored)}


@pytest.mark.parametrize(
    ("steps", "edits", "matched", "known_faults", "different"),
    [
        ([], 0, 0, 0, []),
        ([FIRST], 1, 1, 0, []),
        ([FIRST, GONE, TEST], 2, 2, 0, []),
        ([REFUSED, FIRST], 2, 2, 0, []),
        # An edit recorded as refused is not applied: the next ones find the file as it was.
        ([FAULT, NOT_JSON, FIRST], 3, 1, 2, []),
        ([{**NOT_JSON, "args": "{broken"}, FIRST], 2, 1, 1, []),
        ([{**NOT_JSON, "args": None}, FIRST], 2, 1, 1, []),
        # A region that was emptied stays a place to insert.
        (
            [
                FIRST,
                GONE,
                edit_step(
                    "OK: Inserted 1 line(s) after line 1 in src/f.py. Editable range: 2–2.",
                    3,
                    start_line=2,
                    end_line=1,
                ),
            ],
            3,
            3,
            0,
            [],
        ),
        ([FIRST, undo("src/f.py"), FIRST], 2, 3, 0, []),
        ([FIRST, OTHER, undo("src/g.py"), undo("src/f.py", n=None), FIRST], 3, 5, 0, []),
        ([FIRST, GONE, OTHER, undo("src/g.py", "src/f.py", "src/f.py", n="3")], 3, 4, 0, []),
        ([FIRST, GONE, undo("src/f.py", "src/f.py", n=5), FIRST], 3, 4, 0, []),
        ([undo()], 0, 1, 0, []),
        # Nothing recorded, nothing compared; applied all the same.
        ([edit_step(start_line=2, end_line=3), GONE], 2, 1, 0, []),
        ([edit_step(start_line=1, end_line=3), FIRST], 2, 1, 0, []),
        ([FIRST, {"tool": "undo", "first_line": "Undo complete:"}, FIRST], 2, 2, 0, []),
        ([{"tool": "look around"}], 0, 0, 0, []),
        # What diverges.
        (
            [{**FIRST, "total_lines": 4}],
            1,
            0,
            0,
            diverged(1, "4 lines", "3 lines"),
        ),
        (
            [{**FIRST, "first_line": "OK", "total_lines": 4}],
            1,
            0,
            0,
            diverged(1, "OK; 4 lines", replaced(2, 3, 1, 2) + "; 3 lines"),
        ),
        (
            [{**REFUSED, "first_line": replaced(2, 4, 1, 2)}],
            1,
            0,
            0,
            diverged(1, replaced(2, 4, 1, 2), REFUSED["first_line"]),
        ),
        (
            [{**FIRST, "first_line": "ERROR: No.", "total_lines": 4}],
            1,
            0,
            0,
            diverged(1, "ERROR: No.", replaced(2, 3, 1, 2)),
        ),
        # A short path does not excuse a refusal for another reason.
        (
            [{**FAULT, "first_line": REFUSED["first_line"]}],
            1,
            0,
            0,
            diverged(1, REFUSED["first_line"], replaced(2, 3, 1, 2)),
        ),
        (
            [{**NOT_JSON, "first_line": "OK: Fine."}],
            1,
            0,
            0,
            diverged(1, "OK: Fine.", "ERROR: the arguments are not JSON"),
        ),
        (
            [FIRST, undo("src/g.py")],
            1,
            1,
            0,
            diverged(2, "restored src/g.py", "restored src/f.py"),
        ),
        (
            [FIRST, OTHER, undo("src/f.py", "src/g.py", n=2)],
            2,
            2,
            0,
            diverged(3, "restored src/f.py, src/g.py", "restored src/g.py, src/f.py"),
        ),
        ([FIRST, undo()], 1, 1, 0, diverged(2, "restored nothing", "restored src/f.py")),
        (
            [undo("src/f.py")],
            0,
            0,
            0,
            diverged(1, "restored src/f.py", "ERROR: Nothing to undo."),
        ),
        (
            [FIRST, undo("src/f.py", n=0)],
            1,
            1,
            0,
            diverged(2, "restored src/f.py", "ERROR: 'n' must be at least 1"),
        ),
    ],
)
def test_a_trace(
    steps: list[Any],
    edits: int,
    matched: int,
    known_faults: int,
    different: list[dict[str, Any]],
) -> None:
    assert summary(trace(*steps)) == {
        "steps": len(steps),
        "edits": edits,
        "matched": matched,
        "known_faults": known_faults,
        "diverged": different,
    }


def test_a_file_with_several_sessions() -> None:
    text = "\n".join(json.dumps(trace(*steps)) for steps in [[FIRST], [], [GONE]]) + "\n\n"
    assert [(s["steps"], s["matched"]) for s in sessions(text)] == [(1, 1), (0, 0), (1, 0)]
    as_list = json.dumps([trace(FIRST), trace()], indent=1)
    assert [s["steps"] for s in sessions(as_list)] == [1, 0]


def test_a_refused_edit_leaves_the_files_as_they_were() -> None:
    [recording] = parse_recordings(json.dumps(trace(FAULT, REFUSED, NOT_JSON)))
    assert tuple(replay(recording).files.values()) == recording.files


# ── outlines ──────────────────────────────────────────────────────────────────────────────────

SHIPPED = EditableFile.from_text("src/f.py", "a\nb\nc\nd\n", [("body", 2, 3)])


def outline(*steps: Any, total: int = 4, **keys: Any) -> dict[str, Any]:
    start = {"total_lines": total, "editable": [[2, 3]]}
    return {"task": "t", "agent": "m", "file": "src/f.py", "start": start, "steps": steps, **keys}


@pytest.mark.parametrize(
    ("candidate", "total", "start", "third"),
    [
        (None, 4, "neutral lines", "# line 3 of the start"),
        (SHIPPED, 4, "the task's own file", "c"),
        (SHIPPED, 5, "neutral lines", "# line 3 of the start"),
        (
            EditableFile.from_text("src/g.py", SHIPPED.text, [("body", 2, 3)]),
            4,
            "neutral lines",
            "# line 3 of the start",
        ),
        (
            EditableFile.from_text("src/f.py", SHIPPED.text, [("body", 2, 2)]),
            4,
            "neutral lines",
            "# line 3 of the start",
        ),
    ],
)
def test_where_the_start_of_an_outline_comes_from(
    candidate: EditableFile | None, total: int, start: str, third: str
) -> None:
    candidates = () if candidate is None else (candidate,)
    [recording] = parse_recordings(json.dumps(outline(total=total)), candidates)
    assert (recording.start, recording.agent) == (start, "m")
    assert recording.files[0].lines[2] == third
    assert len(recording.files[0].lines) == total


def test_an_outline_is_replayed() -> None:
    assert summary(outline(FIRST, GONE, TEST)) == {
        "steps": 3,
        "edits": 2,
        "matched": 2,
        "known_faults": 0,
        "diverged": [],
    }


def test_an_outline_on_the_tasks_own_file_knows_its_text() -> None:
    step = edit_step(
        "OK: Replaced 1 occurrence (lines 3..3) with 1 line(s) in src/f.py. Editable range: 2–3.",
        4,
        op="str_replace",
        old_str="c",
        new_str="C",
    )
    assert summary(outline(step), (SHIPPED,))["matched"] == 1


def test_no_start_at_all_takes_the_tasks_own_file() -> None:
    value = outline(FIRST)
    del value["start"]
    assert summary(value, (SHIPPED,))["matched"] == 1
    with pytest.raises(RecordingError, match=r"says nothing of what 'src/f\.py' was"):
        parse_recordings(json.dumps(value))


# ── our own transcripts ───────────────────────────────────────────────────────────────────────


class Writer:
    """Writes a transcript as a session does: files that change, events in a chain."""

    def __init__(self, *files: EditableFile) -> None:
        self.files = {file.name: file for file in files}
        records = tuple(
            FileRecord(
                name=file.name,
                text=file.text,
                regions=tuple(
                    RegionRecord(name=r.name, first=r.first, last=r.last) for r in file.regions
                ),
            )
            for file in files
        )
        self.header = Header(
            session="s1",
            created_at=NOW,
            task="t",
            task_version=1,
            profile="smoke",
            agent={"model": "m"},
            tests=3,
            files=records,
            locked_digest="0" * 64,
        )
        self.objects: list[dict[str, Any]] = [self.header.model_dump(mode="json")]
        self.previous = self.header.hash
        self.stack: list[EditableFile] = []

    def add(self, event: Event) -> None:
        event = event.model_copy(
            update={"seq": len(self.objects), "at": NOW, "previous": self.previous}
        )
        self.objects.append(event.redacted())
        self.previous = event.hash

    def call(self, tool: str, args: Mapping[str, Any], text: str, **keys: Any) -> None:
        self.add(
            ToolCalled(
                tool=tool,
                args=dict(args),
                text=text,
                seconds=0.01,
                **{"ok": not text.startswith("ERROR"), **keys},
            )
        )

    def edit(self, **args: Any) -> None:
        call = {"op": "replace", "filename": "src/f.py", "content": "x", **args}
        try:
            result = apply_edit(self.files, call)
        except AgentError as error:
            view = render.current_file_view(next(iter(self.files.values())))
            self.call("edit", call, f"{error.text}\n\n{view}", error=error.code)
            return
        self.stack.append(result.before)
        self.files[result.after.name] = result.after
        view = render.current_file_view(result.after, result.region)
        digest = {result.after.name: result.after.sha256}
        self.call("edit", call, f"{result.summary}\n\n{view}", sha256=digest)

    def undo(self, count: int) -> None:
        names = []
        for _ in range(count):
            file = self.stack.pop()
            self.files[file.name] = file
            names.append(file.name)
        text = "\n".join(["Undo complete:", *(f"Restored: {name}" for name in names)])
        digests = {name: self.files[name].sha256 for name in names}
        self.call("undo", {"n": count}, text, sha256=digests)

    @property
    def text(self) -> str:
        return "".join(json.dumps(value) + "\n" for value in self.objects)


def written() -> Writer:
    writer = Writer(SHIPPED, EditableFile.from_text("src/g.py", "a\nb\n", [("r", 2, 2)]))
    writer.call("view", {"filename": "src/f.py"}, "[Current file: src/f.py]")
    writer.add(MessageKept(role="assistant", text="Let me see."))
    writer.edit(start_line=1, end_line=3)
    writer.edit(start_line=2, end_line=3, filename="f.py", content="one\ntwo\nthree")
    writer.edit(start_line=2, end_line=2, filename="src/g.py", end=None)
    writer.edit(op="str_replace", old_str="one", new_str="1")
    writer.undo(2)
    writer.edit(op="insert", after_line=4, content="ä\n")
    writer.call("submit", {"n": 1}, "[submit] Submitting result from test #1 as final.")
    writer.add(Submitted(number=1, by="agent"))
    closed = "ERROR: This session is closed: test #1 was submitted."
    writer.call("edit", {"op": "replace"}, closed, error="session_closed")
    writer.call("undo", {}, closed, error="session_closed")
    return writer


def test_our_own_transcript() -> None:
    [recording] = parse_recordings(written().text)
    played = replay(recording)
    assert played.summary() == {
        "steps": 10,
        "edits": 6,
        "matched": 8,
        "known_faults": 0,
        "diverged": [],
    }
    assert (recording.task, recording.agent) == ("t", "m")
    assert played.files["src/f.py"].text == "a\none\ntwo\nthree\nä\nd\n"
    assert played.files["src/g.py"].text == "a\nb\n"


def test_transcripts_one_after_the_other() -> None:
    text = written().text + Writer(SHIPPED).text + written().text
    assert [s["matched"] for s in sessions(text)] == [8, 0, 8]


def change_hash(objects: list[dict[str, Any]]) -> None:
    objects[4]["sha256"]["src/f.py"] = "0" * 64


def change_text(objects: list[dict[str, Any]]) -> None:
    objects[4]["text"] = "OK: Done.\n"


def change_answer_below(objects: list[dict[str, Any]]) -> None:
    objects[4]["text"] += "\nmore"


def change_message(objects: list[dict[str, Any]]) -> None:
    objects[2]["text"] = "Let me not see."


def change_start(objects: list[dict[str, Any]]) -> None:
    objects[0]["files"][1]["text"] = "A\nb\n"


def drop_event(objects: list[dict[str, Any]]) -> None:
    del objects[2]


def swap_events(objects: list[dict[str, Any]]) -> None:
    objects[5], objects[4] = objects[4], objects[5]


@pytest.mark.parametrize(
    ("tamper", "steps"),
    [
        (change_hash, [0, 3]),
        (change_text, [0, 3]),
        (change_answer_below, [0]),
        (change_message, [0]),
        (change_start, [0, 4, 6]),
        (drop_event, [0]),
        (swap_events, [0, 6, 7]),
    ],
)
def test_a_changed_transcript(
    tamper: Callable[[list[dict[str, Any]]], None], steps: list[int]
) -> None:
    writer = written()
    tamper(writer.objects)
    [only] = sessions(writer.text)
    assert [d["step"] for d in only["diverged"]] == steps
    assert only["diverged"][0]["recorded"] == "a whole hash chain"
    assert only["diverged"][0]["got"].startswith("event ")


def test_a_forged_refusal_in_a_whole_chain_diverges() -> None:
    writer = Writer(SHIPPED)
    closed = "ERROR: This session is closed: test #1 was submitted."
    writer.call("undo", {}, "ERROR: Nothing to undo.", error="nothing_to_undo")
    writer.edit(start_line=2, end_line=3)
    writer.call(
        "edit",
        {"op": "replace", "filename": "src/f.py", "start_line": 2, "end_line": 2, "content": "y"},
        closed,
        error="session_closed",
    )
    writer.call("undo", {}, "ERROR: Nothing to undo.", error="nothing_to_undo")
    [only] = sessions(writer.text)
    assert only["matched"] == 2
    assert only["diverged"] == [
        {"step": 3, "recorded": closed, "got": replaced(2, 2, 1, 2)},
        {"step": 4, "recorded": "ERROR: Nothing to undo.", "got": "restored src/f.py"},
    ]


# ── the saved page ────────────────────────────────────────────────────────────────────────────

PAGE = """\
Agent Conversation: some-model
Task: some-task
What You Can Modify
Body (lines 2-3)
One more (line 5)
Tool Input
1{
2 "op": "replace",
3 "after_line": 2,
4 "end_line": 3,
5 "filename": "src/f.py",
6 "content": " if x:\\n y = \\"{}\\"\\n z = 1\\n",
7 "start_line": 2
8}OK: Replaced lines 2..3 with 3 line(s) in src/f.py. Editable range: 2–4, 6–6.
[Current file: src/f.py | editable: 2–4, 6–6 | total: 8 lines]
2 if x:
...
1
[Test #1] (2 tests remaining)
Tool Input
1{
2 "op": "replace", "start_line": 4, "end_line": 5, "filename": "src/f.py", "content": ""
3}ERROR: Lines 4..5 exceed the editable range. You may only edit lines 2–4, 6–6.
[Current file: src/f.py | editable: 2–4, 6–6 | total: 8 lines]
Tool Input
1{
2 "op": "replace", oops
3}ERROR: Failed to parse tool arguments
Tool Input
1{
2 "n": 1
3}Undo complete:
Restored: src/f.py
Tool Input
1{
2 "n": 1
3}[submit] Submitting result from test #1 as final.
"""


def test_a_saved_page() -> None:
    [recording] = parse_recordings(PAGE)
    assert (recording.task, recording.agent) == ("some-task", "some-model")
    assert [step.tool for step in recording.steps] == ["edit", "edit", "edit", "undo", "submit"]
    assert recording.steps[0].aside == "[Test #1] (2 tests remaining)"
    [file] = recording.files
    assert len(file.lines) == 7
    assert [(r.first, r.last) for r in file.regions] == [(2, 3), (5, 5)]
    assert replay(recording).summary() == {
        "steps": 5,
        "edits": 3,
        "matched": 3,
        "known_faults": 1,
        "diverged": [],
    }


def test_a_page_without_ranges_in_its_prompt_is_worked_back() -> None:
    text = PAGE.replace("(lines 2-3)", "").replace("(line 5)", "(lines 1-1)")
    [recording] = parse_recordings(text)
    assert [(r.first, r.last) for r in recording.files[0].regions] == [(2, 3), (5, 5)]


def test_a_page_whose_prompt_promises_other_ranges_diverges() -> None:
    [only] = sessions(PAGE.replace("(lines 2-3)", "(lines 1-3)"))
    assert [d["step"] for d in only["diverged"]] == [1, 2]


def test_a_page_takes_the_tasks_own_file_if_it_fits() -> None:
    own = EditableFile.from_text("src/f.py", "a\nb\nc\nd\ne\nf\ng\n", [("x", 2, 3), ("y", 5, 5)])
    [recording] = parse_recordings(PAGE, (own,))
    assert recording.files == (own,)


def test_a_page_that_begins_with_an_insert_or_a_refusal() -> None:
    head = "Tool Input\n1{\n2 "
    view = "[Current file: f.py | editable: {} | total: {} lines]\n"
    insert = (
        head + '"op": "insert", "after_line": 3, "content": "x", "filename": "f.py"\n3}'
        "OK: Inserted 1 line(s) after line 3 in f.py. Editable range: 2–4, 7–7.\n"
        + view.format("2–4, 7–7", 9)
    )
    refusal = (
        head + '"op": "insert", "content": "x", "filename": "f.py"\n3}'
        "ERROR: 'after_line' is required for op='insert'\n" + view.format("2–3, 6–6", 8)
    )
    for text in (insert, refusal, refusal + insert):
        [recording] = parse_recordings(text)
        assert len(recording.files[0].lines) == 8
        assert [(r.first, r.last) for r in recording.files[0].regions] == [(2, 3), (6, 6)]
        assert replay(recording).diverged == ()


# ── broken files ──────────────────────────────────────────────────────────────────────────────


def own_with(**keys: Any) -> str:
    writer = written()
    writer.objects[0].update(keys)
    return writer.text


BROKEN = {
    "empty": ("", "is empty"),
    "blank": (" \n\n", "is empty"),
    "prose": ("hello\n", "is no recording"),
    "a number": ("5", "is no recording"),
    "half an object": ('{"steps": [', "is not JSON"),
    "half a pretty object": ('{\n "task": "t",\n "steps": [\n', "is not JSON: .* \\(line 4\\)"),
    "an empty list": ("[]", "holds no session"),
    "a list of numbers": ("[1, 2]", "session 1 must be an object, not a number"),
    "another object": ('{"a": 1}', "neither 'format' nor 'steps'"),
    "steps that are no list": (json.dumps(trace(steps={})), "'steps' must be a list, not an obj"),
    "a step that is no object": (json.dumps(trace(3)), "step 1 must be an object, not a number"),
    "a step without a tool": (json.dumps(trace({"args": {}})), "step 1: 'tool' must be a string"),
    "arguments in a list": (
        json.dumps(trace({"tool": "edit", "args": []})),
        "'args' must be an object, not a list",
    ),
    "an answer that is a number": (json.dumps(trace({**FIRST, "first_line": 1})), "'first_line'"),
    "a length that is a text": (json.dumps(trace({**FIRST, "total_lines": "3"})), "'total_lines'"),
    "a length that is true": (json.dumps(trace({**FIRST, "total_lines": True})), "a truth value"),
    "restored numbers": (json.dumps(trace({**undo(), "restored": [1]})), "'restored' must be"),
    "no files": (json.dumps(trace(files=[])), "'files' is empty"),
    "files of no kind": (json.dumps(trace(files=["a"])), "file 1 must be an object"),
    "neither files nor file": (json.dumps({"steps": []}), "'file' must be a string, not null"),
    "a name twice": (json.dumps(trace(files=trace()["files"][:1] * 2)), "have the same name"),
    "a line of two": (
        json.dumps(trace(files=[{"name": "f", "lines": ["a\nb"], "editable": []}])),
        "line 1: holds a line feed",
    ),
    "a region outside": (
        json.dumps(trace(files=[{"name": "f", "lines": ["a"], "editable": [[1, 2]]}])),
        "does not fit a file of 1 lines",
    ),
    "a range of three": (
        json.dumps(trace(files=[{"name": "f", "lines": ["a"], "editable": [[1, 2, 3]]}])),
        "a range must be",
    ),
    "a huge outline": (json.dumps(outline(total=10**9)), "a file of 1000000000 lines is too long"),
    "an impossible outline": (json.dumps(outline(total=10**12)), "out of range"),
    "half a surrogate pair": (json.dumps(trace({"tool": "\ud800"})), "half a surrogate pair"),
    "deep nesting": ("[" * 100_000, "nested too deeply"),
    "a long number": ('{"steps": ' + "9" * 5000 + "}", "too many digits"),
    "a broken second line": (json.dumps(trace()) + "\n{", "line 2: is not JSON"),
    "another format": ('{"format": "x"}', "unknown format 'x'"),
    "a format that is a list": ('{"format": []}', r"unknown format \[\]"),
    "another version": (own_with(version=2), "version 2 of harness-transcript is not known"),
    "a header of another type": (own_with(files=3), "line 1: files: "),
    "a header with more": (own_with(extra=3), "line 1: extra: "),
    "an event of no type": (Writer(SHIPPED).text + "{}\n", "line 2: "),
    "an event of another type": (Writer(SHIPPED).text + '{"type": "x"}\n', "line 2: "),
    "an event that is a list": (Writer(SHIPPED).text + "[]\n", "line 2 must be an object"),
    "events first": ('{"type": "submitted"}', "an event stands before the header"),
    "deep arguments": (
        Writer(SHIPPED).text
        + '{"type": "tool_called", "tool": "edit", "ok": true, "text": "", "seconds": 0, '
        + '"args": {"a": '
        + "[" * 500
        + "]" * 500
        + "}}\n",
        "nested too deeply",
    ),
    "a page without answers": ('Tool Input\n1{\n2 "op": "replace"\n3}\n', "no answer in it"),
    "a page cut off": ('Tool Input\n1{\n2 "op": "repl', "block 1: its arguments have no end"),
    "a page of nothing": ("Tool Input\n", "block 1: its arguments have no end"),
    "a page of a list": ("Tool Input\n1[]\n", "block 1: the arguments must be an object"),
    "a page with a surrogate": ('Tool Input\n1{"a": "\\ud800"}\n', "half a surrogate pair"),
    "a page with a huge file": (
        "Tool Input\n1{}OK: x\n[Current file: f | editable: 1–1 | total: 999999999 lines]\n",
        "too long",
    ),
    "a page with bad ranges": (
        "Tool Input\n1{}OK: x\n[Current file: f | editable: 5–9, 1–2 | total: 9 lines]\n",
        "overlaps or touches",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = BROKEN[name]
    with pytest.raises(RecordingError, match=message) as raised:
        parse_recordings(text)
    assert "\n" not in str(raised.value)
    path = tmp_path / "recording"
    path.write_text(text, "utf-8", newline="")
    assert shown(path) == (2, "")
    error = capsys.readouterr().err
    assert error.startswith(f"ERROR: {path}: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("data", [b"\xff\xfe{\0", b'{"steps": "\x80"}', os.urandom(500) + b"\xff"])
def test_a_file_that_is_no_text(
    data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recording"
    path.write_bytes(data)
    assert shown(path) == (2, "")
    assert "is not UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing", ".", "a\0b", "evil\x1b[2J\nname"])
def test_a_file_that_cannot_be_read(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(tmp_path / name) == (2, "")
    error = capsys.readouterr().err
    assert "cannot be read" in error
    assert error.count("\n") == 1
    assert "\x1b" not in error


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def parts(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside `value`."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += parts(value[key], (*path, key))
    return found


RECORDED = [
    [trace(FIRST, FAULT, undo("src/f.py"), TEST)],
    [outline(FIRST, REFUSED, undo("src/f.py"))],
    written().objects,
]


@settings(max_examples=300)
@given(st.sampled_from(RECORDED), st.randoms(use_true_random=False), JSON)
def test_any_value_anywhere_is_replayed_or_refused(
    recorded: list[dict[str, Any]], chance: random.Random, value: Any
) -> None:
    changed = json.loads(json.dumps(recorded))
    *path, last = chance.choice(parts(changed))
    inner = changed
    for key in path:
        inner = inner[key]
    inner[last] = value
    text = "\n".join(json.dumps(part) for part in changed)
    replayed_or_refused(text)


@settings(max_examples=200)
@given(st.integers(0, len(PAGE)), st.integers(0, 40), st.text(max_size=5))
def test_any_page_is_replayed_or_refused(start: int, length: int, text: str) -> None:
    replayed_or_refused(PAGE[:start] + text + PAGE[start + length :])


def replayed_or_refused(text: str) -> None:
    try:
        recordings = parse_recordings(text)
    except RecordingError as error:
        message = str(error)
        assert message
        return
    for recording in recordings:
        played = replay(recording).summary()
        compared = played["matched"] + played["known_faults"] + len(played["diverged"])
        assert compared <= played["steps"] + 1
        json.dumps(played).encode()


# ── the terminal ──────────────────────────────────────────────────────────────────────────────


def shown(path: Path, as_json: bool = False, tasks: Path = Path("no-tasks")) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    code = replay_view.run(path, as_json, console, tasks)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def saved(tmp_path: Path, *values: Any) -> Path:
    path = tmp_path / "recording.txt"  # the name says nothing
    path.write_text("".join(json.dumps(value) + "\n" for value in values), "utf-8")
    return path


def test_steps_with_their_diffs(tmp_path: Path) -> None:
    wrong = {**GONE, "total_lines": 7}
    code, text = shown(saved(tmp_path, trace(FAULT, FIRST, TEST, wrong)))
    assert code == 1
    assert text == (
        """\
t
start: src/f.py, 4 lines, editable 2–3 (the recording)
start: src/g.py, 2 lines, editable 2–2 (the recording)

step 1 of 4: edit  known fault of the recorded tool
  ERROR: Package 'f.py' is not in allowed packages

step 2 of 4: edit  as recorded
  OK: Replaced lines 2..3 with 1 line(s) in src/f.py. Editable range: 2–2.
       1   a
       2 - b
       3 - c
       2 + x
       3   d

step 3 of 4: test  nothing to compare
  [Test #1] (2 tests remaining)

step 4 of 4: edit  DIVERGED
  OK: Replaced lines 2..2 with 0 line(s) in src/f.py. Editable range: 2–1.
  recorded: 7 lines
  got:      2 lines
       1   a
       2 - x
       2   d

4 steps, 3 edits; 1 compared and equal, 1 known fault, 1 diverged
"""
    )


def test_diffs_are_coloured(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard")
    replay_view.run(saved(tmp_path, trace(FIRST)), False, console, Path("no-tasks"))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b[31m       2 - b\x1b[0m" in text
    assert "\x1b[32m       2 + x\x1b[0m" in text


def test_as_json(tmp_path: Path) -> None:
    one = {"steps": 1, "edits": 1, "matched": 1, "known_faults": 0, "diverged": []}
    code, text = shown(saved(tmp_path, trace(FIRST)), as_json=True)
    assert (code, json.loads(text)) == (0, one)
    code, text = shown(saved(tmp_path, trace(FIRST), trace(GONE)), as_json=True)
    assert code == 1
    assert json.loads(text)[0] == one
    assert [list(d) for d in json.loads(text)[1]["diverged"]] == [["step", "recorded", "got"]]


def test_several_sessions_are_numbered(tmp_path: Path) -> None:
    code, text = shown(saved(tmp_path, trace(FIRST), trace(FIRST)))
    assert code == 0
    assert "Session 1 of 2: t\n" in text
    assert "Session 2 of 2: t\n" in text


def test_a_broken_chain_is_shown(tmp_path: Path) -> None:
    writer = written()
    change_message(writer.objects)
    code, text = shown(saved(tmp_path, *writer.objects))
    assert code == 1
    assert "the whole record:   DIVERGED\n  recorded: a whole hash chain\n" in text


EVIL = "\x1b[2J\x1b]0;title\x07\r\x9b31m\u202e\u2028[bold]"


@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_recorded_reaches_the_terminal_as_it_is(tmp_path: Path, as_json: bool) -> None:
    value = trace(
        edit_step("OK" + EVIL, 4, start_line=2, end_line=2, content=EVIL),
        edit_step("ERROR" + EVIL, 4, start_line=2, end_line=2, filename=EVIL),
        undo(EVIL),
        {"tool": EVIL},
        files=[{"name": EVIL, "lines": [EVIL, "a", "b"], "editable": [[2, 2]]}],
        task=EVIL,
        agent=EVIL,
    )
    value["steps"].insert(0, edit_step("OK: " + EVIL, 4, filename=EVIL, start_line=2, end_line=2))
    code, text = shown(saved(tmp_path, value), as_json)
    assert code == 1
    for character in "\x1b\x07\r\x9b\u202e\u2028":
        assert character not in text
    assert "[bold]" in text


@pytest.mark.slow
def test_a_large_recording_is_read_in_time(tmp_path: Path) -> None:
    lines = [f"line {n} " + "x" * 60 for n in range(20_000)]
    content = "\n".join(lines[:4_000]) + "\n"
    start = {"name": "src/f.py", "lines": lines, "editable": [[2, 3]]}
    steps = [edit_step(start_line=2, end_line=1, content=content) for _ in range(30)]
    path = saved(tmp_path, trace(*steps, files=[start]))
    assert path.stat().st_size > 5_000_000
    code, text = shown(path)
    assert code == 0
    assert "… 3804 more lines of this change" in text


def test_a_task_folder_supplies_the_start(tmp_path: Path) -> None:
    tasks = Path(__file__).parent.parent / "tasks"
    found = replay_view.task_files(tasks)
    if not found:
        pytest.skip("no task can be loaded here")
    for file in found:
        ranges = [[region.first, region.last] for region in file.regions]
        value = {
            "task": "t",
            "file": file.name,
            "start": {"total_lines": len(file.lines), "editable": ranges},
            "steps": [],
        }
        code, text = shown(saved(tmp_path, value), tasks=tasks)
        assert code == 0
        assert "(the task's own file)" in text


def test_a_broken_task_does_not_stop_a_replay(tmp_path: Path) -> None:
    (tmp_path / "tasks" / "broken").mkdir(parents=True)
    (tmp_path / "tasks" / "broken" / "task.yaml").write_text("name: [")
    code, text = shown(saved(tmp_path, outline(FIRST)), tasks=tmp_path / "tasks")
    assert code == 0
    assert "(neutral lines)" in text


def test_hashes_are_those_of_the_whole_text() -> None:
    writer = written()
    digest = hashlib.sha256(b"a\none\ntwo\nthree\nd\n").hexdigest()
    assert writer.objects[4]["sha256"] == {"src/f.py": digest}
