"""Conversations and ATIF trajectories read as recordings.

conversation   a JSON object with `messages`; a message with `tool_name` is a call, with
               `tool_input` and `result`. `file_snapshots` may hold files: an object of name
               to text, or a list of {filename, content}.
ATIF           a JSON object with `schema_version: ATIF-v1.x` and `steps`. What our own export
               adds under `extra` (files with their regions) is read; without it the files are
               worked back from the first answer about each, as for a saved page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from harness.recorded import (
    RESTORED,
    VIEW_HEADER,
    Recording,
    RecordingError,
    Said,
    Step,
    as_list,
    as_object,
    cut_file,
    kind,
)
from harness.regions import EditableFile, RegionError
from harness.saved_page import (
    OUTLINE_NOTES,
    AnsweredCall,
    cut_short,
    ranges_in,
    start_from_answers,
)

ATIF = "ATIF-v1."
_SUBMITTED = re.compile(r"\[submit\] Submitting result from test #(\d+) as final\.")
TOOLS = ("view", "edit", "undo", "check", "test", "status", "submit")

NameAndText = tuple[str, str]


@dataclass(frozen=True)
class _Call:
    tool: str
    args: Mapping[str, Any] | None
    text: str | None
    said: tuple[Said, ...] = ()
    at: datetime | None = None
    seconds: float | None = None
    error: str | None = None
    sha256: Mapping[str, str] | None = None


def read_conversation(
    value: Mapping[str, Any], where: str, candidates: Sequence[EditableFile]
) -> Recording:
    """Raises RecordingError."""
    calls: list[_Call] = []
    said: list[Said] = []
    for number, message in enumerate(as_list(value.get("messages"), f"{where}: 'messages'"), 1):
        place = f"{where}, message {number}"
        message = as_object(message, place)
        role = str(message.get("role") or "assistant")
        text = _content(message.get("content", message.get("text")))
        at = _time(message.get("timestamp"))
        if text:
            said.append(Said(role, text, at))
        if message.get("tool_name") is None:
            continue
        tool = _tool(message["tool_name"], f"{place}: 'tool_name'")
        args = _arguments(message.get("tool_input"), f"{place}: 'tool_input'")
        calls.append(_Call(tool, args, _content(message.get("result")), tuple(said), at))
        said = []
    prompt = "\n".join(s.text for call in calls[:1] for s in call.said if s.role != "assistant")
    shots = list(_snapshots(value.get("file_snapshots"), f"{where}: 'file_snapshots'"))
    files, start = _start(calls, prompt, shots, candidates)
    agent = value.get("model") or value.get("agent")
    return Recording(
        task=str(value.get("task") or value.get("task_name") or "unknown"),
        agent=agent if isinstance(agent, str) else None,
        files=files,
        start=start,
        steps=tuple(_step(call) for call in calls),
        format="conversation",
        said=tuple(said),
        notes=(OUTLINE_NOTES[start],) if start in OUTLINE_NOTES else (),
    )


def read_atif(
    value: Mapping[str, Any], where: str, candidates: Sequence[EditableFile]
) -> Recording:
    """Raises RecordingError."""
    calls: list[_Call] = []
    said: list[Said] = []
    for number, step in enumerate(as_list(value.get("steps"), f"{where}: 'steps'"), start=1):
        place = f"{where}, step {number}"
        step = as_object(step, place)
        source = step.get("source")
        if source not in ("system", "user", "agent"):
            raise RecordingError(f"{place}: 'source' must be system, user or agent")
        role = "assistant" if source == "agent" else str(source)
        at = _time(step.get("timestamp"))
        for key in ("reasoning_content", "message"):
            if text := _content(step.get(key)):
                said.append(Said(role if key == "message" else "thought", text, at))
        asked = as_list(step.get("tool_calls") or [], f"{place}: 'tool_calls'")
        answers, loose = _answers(step.get("observation"), place)
        for index, call in enumerate(asked):
            call = as_object(call, f"{place}: a tool call")
            text = answers.get(str(call.get("tool_call_id")))
            if text is None and loose:
                # As many as there are calls: in their order. Else nobody can say whose each is.
                text = loose[index] if len(loose) == len(asked) else "\n".join(loose)
            extra = step.get("extra")
            kept = extra.get("harness") if isinstance(extra, dict) else None
            calls.append(
                _Call(
                    _tool(call.get("function_name"), f"{place}: 'function_name'"),
                    _arguments(call.get("arguments"), f"{place}: 'arguments'"),
                    text,
                    tuple(said),
                    at,
                    **_kept(kept),
                )
            )
            said = []
    own: tuple[EditableFile, ...] = ()
    extra = value.get("extra")
    if isinstance(extra, dict) and isinstance(extra.get("harness"), dict):
        own = tuple(_own_files(extra["harness"], where))
    prompt = "\n".join(s.text for call in calls[:1] for s in call.said if s.role != "assistant")
    files, start = (own, "the recording") if own else _start(calls, prompt, [], candidates)
    agent = value.get("agent")
    agent = agent if isinstance(agent, dict) else {}
    name = agent.get("model_name") or agent.get("name")
    steps: Iterable[Step] = map(_step, calls)
    task = "unknown"
    notes = [OUTLINE_NOTES[start]] if start in OUTLINE_NOTES else []
    if isinstance(extra, dict) and isinstance(extra.get("harness"), dict):
        task = str(extra["harness"].get("task") or task)
        notes.append("ATIF keeps no hash chain: nothing here proves that the record is whole.")
        notes += [str(note) for note in extra["harness"].get("notes") or []]
        steps = _closed_after_submit(steps)
    return Recording(
        task=task,
        agent=name if isinstance(name, str) else None,
        files=files,
        start=start,
        steps=tuple(steps),
        format="ATIF",
        said=tuple(said),
        notes=tuple(notes),
    )


def _closed_after_submit(steps: Iterable[Step]) -> Iterator[Step]:
    """In a session of ours nothing can be called behind the submit."""
    closed = None
    for step in steps:
        yield replace(step, closed=closed)
        if step.tool == "submit" and (found := _SUBMITTED.match(step.first_line or "")):
            closed = f"ERROR: This session is closed: test #{found[1]} was submitted."


def _kept(value: object) -> dict[str, Any]:
    """What our own export says of a step beyond ATIF."""
    if not isinstance(value, dict):
        return {}
    seconds, error, sha256 = value.get("seconds"), value.get("error"), value.get("sha256")
    hashes = isinstance(sha256, dict) and all(isinstance(v, str) for v in sha256.values())
    return {
        "seconds": float(seconds) if isinstance(seconds, int | float) else None,
        "error": error if isinstance(error, str) else None,
        "sha256": sha256 if hashes else None,
    }


def _own_files(value: Mapping[str, Any], where: str) -> Iterator[EditableFile]:
    for record in as_list(value.get("files", []), f"{where}: files"):
        record = as_object(record, f"{where}: a file")
        try:
            regions = [(str(r["name"]), int(r["first"]), int(r["last"])) for r in record["regions"]]
            yield EditableFile.from_text(str(record["name"]), str(record["text"]), regions)
        except (KeyError, TypeError, ValueError, RegionError) as error:
            raise RecordingError(f"{where}: a file of it is not whole: {error}") from None


def _answers(value: object, place: str) -> tuple[dict[str, str], list[str]]:
    """The results of a step by call, and those that name no call."""
    if value is None:
        return {}, []
    found: dict[str, str] = {}
    loose: list[str] = []
    results = as_object(value, f"{place}: 'observation'").get("results")
    for result in as_list(results or [], f"{place}: 'results'"):
        result = as_object(result, f"{place}: a result")
        text = _content(result.get("content")) or ""
        if isinstance(result.get("source_call_id"), str):
            found[result["source_call_id"]] = text
        else:
            loose.append(text)
    return found, loose


def _step(call: _Call) -> Step:
    text = call.text
    header = VIEW_HEADER.search(text) if text and call.tool == "edit" else None
    first_line = text.split("\n", 1)[0] if text else None
    refused = (first_line or "").startswith("ERROR")
    restored = None
    if call.tool == "undo" and text and not refused:
        restored = tuple(RESTORED.findall(text))
    return Step(
        tool=call.tool,
        args=call.args,
        first_line=first_line,
        refused=refused,
        total_lines=int(header[3]) if header else None,
        restored=restored,
        sha256=call.sha256,
        text=text,
        error=call.error,
        seconds=call.seconds,
        at=call.at,
        said=call.said,
        cut="The recording keeps no answer to this call." if text is None else None,
    )


def _start(
    calls: Sequence[_Call],
    prompt: str,
    snapshots: Sequence[NameAndText],
    candidates: Sequence[EditableFile],
) -> tuple[tuple[EditableFile, ...], str]:
    """The files before the first call: from a snapshot where one fits what the answers tell."""
    answered = []
    for call in calls:
        step = _step(call)
        header = VIEW_HEADER.search(call.text or "") if call.tool == "edit" else None
        ranges = ranges_in(header[2]) if header else ()
        step = replace(step, cut=cut_short(call.text or "", ranges))
        answered.append(AnsweredCall(step, header[1] if header else None, ranges))
    files, start = start_from_answers(prompt, answered, candidates)
    found = []
    for file in files:
        ranges = tuple((region.first, region.last) for region in file.regions)
        for name, text in snapshots:
            lines = text.removesuffix("\n").split("\n")
            if (name == file.name or name.endswith("/" + file.name)) and len(lines) == len(
                file.lines
            ):
                found.append(cut_file(file.name, lines, ranges, "file_snapshots"))
                break
    if len(found) == len(files):
        return tuple(found), "the recording"
    return files, start


def _snapshots(value: object, where: str) -> Iterator[NameAndText]:
    """Snapshots in the order in which they stand, whichever way they are laid out."""
    if isinstance(value, dict):
        for name, content in value.items():
            if isinstance(content, str):
                yield str(name), content
            elif isinstance(content, dict) and isinstance(content.get("content"), str):
                yield str(name), content["content"]
            elif isinstance(content, dict | list):
                yield from _snapshots(content, where)
    elif isinstance(value, list):
        for item in value:
            if not isinstance(item, dict):
                raise RecordingError(f"{where}: a snapshot must be an object, not {kind(item)}")
            names = (item.get(key) for key in ("filename", "file", "path", "name"))
            name = next((n for n in names if isinstance(n, str)), None)
            content = item.get("content", item.get("text"))
            if name is not None and isinstance(content, str):
                yield name, content
            elif isinstance(item.get("files"), dict | list):
                yield from _snapshots(item["files"], where)
    elif value is not None:
        raise RecordingError(f"{where} must be an object or a list, not {kind(value)}")


def _tool(value: object, what: str) -> str:
    """A tool's name without what a client puts before it, as in `mcp__server__edit`."""
    if not isinstance(value, str):
        raise RecordingError(f"{what} must be a string, not {kind(value)}")
    last = value.replace(".", "__").rsplit("__", 1)[-1]
    return last if last in TOOLS else value


def _arguments(value: object, what: str) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except (ValueError, RecursionError):
            return None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RecordingError(f"{what} must be an object, not {kind(value)}")
    return None if set(value) == {"error"} else value


def _content(value: object) -> str | None:
    """Text, or the texts of a list of parts; anything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = [p.get("text") if isinstance(p, dict) else p for p in value]
        return "\n".join(part for part in parts if isinstance(part, str))
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return str(value["text"])
    return json.dumps(value, ensure_ascii=False)


def _time(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
