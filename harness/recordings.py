"""Recorded sessions in their six formats, read into one neutral form.

    ours       JSON Lines: a header object, then one event a line (see events.py)
    trace      a JSON object with `files` (text and regions) and `steps`, one a line
    outline    a JSON object with `file`, `start: {total_lines, editable}` and `steps`
    page       the saved text of a web page, read by its `Tool Input` blocks: JSON with a line
               number before every line, the answer's first line right after the last brace.
               Indentation is lost there, so only first lines and lengths can be compared.
    conversation, ATIF   see trajectories.py

The format is told by content, never by the file's name. Nothing in a file is trusted: whatever
does not fit raises RecordingError with one sentence that says where.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.events import (
    VERSION,
    AnyEvent,
    Header,
    MessageKept,
    SessionEnded,
    Submitted,
    ToolCalled,
    chain_break,
    parse_event,
)
from harness.recorded import (
    RESTORED,
    VIEW_HEADER,
    Ranges,
    Recording,
    RecordingError,
    Said,
    Step,
    as_list,
    as_object,
    cut_file,
    fitting_file,
    kind,
)
from harness.regions import EditableFile, RegionError
from harness.saved_page import BLOCK, OUTLINE_NOTES, read_page
from harness.trajectories import ATIF, read_atif, read_conversation

# What the header of a transcript of ours says; Header accepts nothing else.
FORMAT = "harness-transcript"

# Far above any recording, far below what would exhaust a laptop.
MAX_BYTES = 256 * 2**20


def read_recordings(path: Path, candidates: Sequence[EditableFile] = ()) -> tuple[Recording, ...]:
    """Every session in the file at `path`.

    `candidates` are files as tasks have them, for recordings that keep only an outline of theirs.
    Raises RecordingError; at least one recording is returned.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecordingError(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the path
        raise RecordingError(f"cannot be read: {error}") from None
    if len(data) > MAX_BYTES:
        raise RecordingError(f"is larger than {MAX_BYTES // 2**20} MiB")
    content = data.removeprefix(BOM_UTF8)  # utf-8-sig would take six times as long
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        at = len(data) - len(content) + error.start
        raise RecordingError(f"is not UTF-8 text (byte {at})") from None
    return parse_recordings(text, candidates)


def parse_recordings(text: str, candidates: Sequence[EditableFile] = ()) -> tuple[Recording, ...]:
    """Every session in `text`, whichever of the formats it has. Raises RecordingError."""
    text = text.replace("\r\n", "\n")
    if not text or text.isspace():
        raise RecordingError("is empty")
    if text.lstrip()[0] in "{[":
        return tuple(_json_recordings(text, candidates))
    if BLOCK.search(text):
        return (read_page(text, candidates),)
    raise RecordingError("is no recording: neither JSON nor a saved page with 'Tool Input' blocks")


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────


def _json_recordings(text: str, candidates: Sequence[EditableFile]) -> Iterator[Recording]:
    objects = _json_objects(text)
    where, first = objects[0]
    if "format" in first or "type" in first:
        yield from _own_sessions(objects)
        return
    for where, value in objects:
        if str(value.get("schema_version", "")).startswith(ATIF):
            yield read_atif(value, where, candidates)
        elif "messages" in value:
            yield read_conversation(value, where, candidates)
        elif "steps" in value or value is not first:
            yield _session_object(value, where, candidates)
        else:
            raise RecordingError(f"{where}: is no recording: it has neither 'format' nor 'steps'")


def _json_objects(text: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The objects of a JSON document or of JSON Lines, each with the place where it stands."""
    lines = [
        (number, line)
        for number, line in enumerate(text.split("\n"), 1)
        if line and not line.isspace()
    ]
    if len(lines) > 1 and _is_json(lines[0][1]):
        found = [(f"line {number}", _loads(line, f"line {number}: ")) for number, line in lines]
    else:
        whole = _loads(text)
        values = whole if isinstance(whole, list) else [whole]
        single = len(values) == 1
        found = [
            ("the file" if single else f"session {number}", value)
            for number, value in enumerate(values, start=1)
        ]
    if not found:
        raise RecordingError("holds no session")
    return [(where, as_object(value, where)) for where, value in found]


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _loads(text: str, prefix: str = "") -> Any:
    try:
        value = json.loads(text)
        # JSON can spell half a surrogate pair, which no file could hold.
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise RecordingError(f"{prefix}holds half a surrogate pair") from None
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if prefix else f"line {error.lineno}"
        raise RecordingError(f"{prefix}is not JSON: {error.msg} ({where})") from None
    except RecursionError:
        raise RecordingError(f"{prefix}is nested too deeply") from None
    except ValueError:
        raise RecordingError(f"{prefix}holds a number with too many digits") from None


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise RecordingError(f"{what} must be a string, not {kind(value)}")
    return value


def _whole(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RecordingError(f"{what} must be a whole number, not {kind(value)}")
    if not 0 <= value <= 10**9:
        raise RecordingError(f"{what} is out of range")
    return value


# ── traces and outlines ───────────────────────────────────────────────────────────────────────


def _session_object(
    value: Mapping[str, Any], where: str, candidates: Sequence[EditableFile]
) -> Recording:
    steps = [
        _session_step(as_object(step, f"{where}, step {number}"), f"{where}, step {number}")
        for number, step in enumerate(as_list(value.get("steps"), f"{where}: 'steps'"), start=1)
    ]
    task = _text(value.get("task", "unknown"), f"{where}: 'task'")
    agent = value.get("agent")
    start, notes = "the recording", []
    if "files" in value:
        records = as_list(value["files"], f"{where}: 'files'")
        files = [
            _traced_file(as_object(record, f"{where}, file {number}"), f"{where}, file {number}")
            for number, record in enumerate(records, start=1)
        ]
    else:
        file, start = _outlined_file(value, where, candidates)
        files = [file]
        notes.append(OUTLINE_NOTES[start])
    _check_names(files, where)
    if isinstance(value.get("note"), str):
        notes.append(f"The recording says: {value['note']}")
    return Recording(
        task=task,
        agent=None if agent is None else _text(agent, f"{where}: 'agent'"),
        files=tuple(files),
        start=start,
        steps=tuple(steps),
        format="trace" if "files" in value else "outline",
        notes=tuple(notes),
    )


def _check_names(files: Sequence[EditableFile], where: str) -> None:
    if not files:
        raise RecordingError(f"{where}: 'files' is empty")
    if len({file.name for file in files}) < len(files):
        raise RecordingError(f"{where}: two files have the same name")


def _session_step(step: Mapping[str, Any], where: str) -> Step:
    args = step.get("args", {})
    if isinstance(args, dict):
        # What stands in for arguments that did not parse.
        unparsed = set(args) == {"error"}
    elif isinstance(args, str) or args is None:
        unparsed = True
    else:
        raise RecordingError(f"{where}: 'args' must be an object, not {kind(args)}")
    first_line, total = step.get("first_line"), step.get("total_lines")
    more = [
        _text(line, f"{where}: 'recorded'")
        for line in as_list(step.get("recorded", []), f"{where}: 'recorded'")
    ]
    restored = step.get("restored")
    if first_line is not None:
        first_line = _text(first_line, f"{where}: 'first_line'")
    if restored is not None:
        names = as_list(restored, f"{where}: 'restored'")
        restored = tuple(_text(name, f"{where}: 'restored'") for name in names)
    return Step(
        tool=_text(step.get("tool"), f"{where}: 'tool'"),
        args=None if unparsed else args,
        first_line=first_line,
        refused=(first_line or "").startswith("ERROR") or restored == (),
        total_lines=None if total is None else _whole(total, f"{where}: 'total_lines'"),
        restored=restored,
        text=None if first_line is None else "\n".join([first_line, *more]),
        cut=None if more or first_line is None else "Only the answer's first line was kept.",
    )


def _traced_file(record: Mapping[str, Any], where: str) -> EditableFile:
    name = _text(record.get("name"), f"{where}: 'name'")
    lines = [
        _text(line, f"{where}, line {number}")
        for number, line in enumerate(as_list(record.get("lines"), f"{where}: 'lines'"), start=1)
    ]
    for number, line in enumerate(lines, start=1):
        if "\n" in line:
            raise RecordingError(f"{where}, line {number}: holds a line feed")
    ranges = _recorded_ranges(record.get("editable"), f"{where}: 'editable'")
    return cut_file(name, lines, ranges, where)


def _outlined_file(
    value: Mapping[str, Any], where: str, candidates: Sequence[EditableFile]
) -> tuple[EditableFile, str]:
    name = _text(value.get("file"), f"{where}: 'file'")
    if "start" not in value:
        for candidate in candidates:
            if candidate.name == name:
                return candidate, "the task's own file"
        raise RecordingError(f"{where}: says nothing of what {name!r} was at the start")
    start = as_object(value["start"], f"{where}: 'start'")
    total = _whole(start.get("total_lines"), f"{where}: 'total_lines'")
    ranges = _recorded_ranges(start.get("editable"), f"{where}: 'editable'")
    return fitting_file(name, total, ranges, where, candidates)


def _recorded_ranges(value: object, what: str) -> Ranges:
    found = []
    for pair in as_list(value, what):
        if len(as_list(pair, f"{what}: a range")) != 2:
            raise RecordingError(f"{what}: a range must be [first, last]")
        found.append((_whole(pair[0], what), _whole(pair[1], what)))
    return tuple(sorted(found))


# ── our own transcripts ───────────────────────────────────────────────────────────────────────


def _own_sessions(objects: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Recording]:
    """Transcripts may stand one after the other: each header begins a session."""
    if "format" not in objects[0][1]:
        raise RecordingError(f"{objects[0][0]}: an event stands before the header")
    starts = [index for index, (_, value) in enumerate(objects) if "format" in value]
    for first, end in zip(starts, [*starts[1:], len(objects)], strict=True):
        yield _own_session(objects[first:end])


def _own_session(objects: Sequence[tuple[str, Mapping[str, Any]]]) -> Recording:
    where, value = objects[0]
    if value["format"] != FORMAT:
        raise RecordingError(f"{where}: unknown format {_short(value['format'])}, not {FORMAT!r}")
    if value.get("version") != VERSION:
        raise RecordingError(
            f"{where}: version {_short(value.get('version'))} of {FORMAT} is not known, "
            f"only {VERSION}"
        )
    try:
        header = Header.model_validate(value)
        files = [
            EditableFile.from_text(
                file.name, file.text, [(r.name, r.first, r.last) for r in file.regions]
            )
            for file in header.files
        ]
    except ValidationError as error:
        raise RecordingError(f"{where}: {_first_error(error)}") from None
    except RegionError as error:
        raise RecordingError(f"{where}: {error}") from None
    _check_names(files, where)
    events: list[AnyEvent] = []
    hashes: list[str] = []
    for where, value in objects[1:]:
        try:
            events.append(parse_event(value))
            hashes.append(events[-1].hash)  # what cannot be hashed cannot stand in a chain
        except ValidationError as error:
            raise RecordingError(f"{where}: {_first_error(error)}") from None
        except (ValueError, RecursionError):
            raise RecordingError(f"{where}: is nested too deeply") from None
    try:
        broken = chain_break(header, events, hashes)
    except (ValueError, RecursionError):
        raise RecordingError(f"{objects[0][0]}: is nested too deeply") from None
    return Recording(
        task=header.task,
        agent=header.agent_name,
        files=tuple(files),
        start="the recording",
        steps=tuple(_own_steps(events)),
        chain_break=broken,
        said=_said_after(events),
        header=header,
        events=tuple(events),
    )


def of_journal(header: Header, events: Sequence[AnyEvent]) -> Recording:
    """A session of this harness as a recording; its chain is taken to be whole."""
    files = (
        EditableFile.from_text(f.name, f.text, [(r.name, r.first, r.last) for r in f.regions])
        for f in header.files
    )
    return Recording(
        task=header.task,
        agent=header.agent_name,
        files=tuple(files),
        start="the recording",
        steps=tuple(_own_steps(events)),
        said=_said_after(events),
        header=header,
        events=tuple(events),
    )


def _said_after(events: Sequence[AnyEvent]) -> tuple[Said, ...]:
    """The messages after the last call."""
    found: list[Said] = []
    for event in reversed(events):
        if isinstance(event, ToolCalled):
            break
        if isinstance(event, MessageKept):
            found.append(Said(event.role, event.text, event.at))
    return tuple(reversed(found))


def _own_steps(events: Sequence[AnyEvent]) -> Iterator[Step]:
    closed: str | None = None
    said: list[Said] = []
    for event in events:
        if isinstance(event, MessageKept):
            said.append(Said(event.role, event.text, event.at))
        if isinstance(event, Submitted):
            closed = f"ERROR: This session is closed: test #{event.number} was submitted."
        elif isinstance(event, SessionEnded):
            closed = f"ERROR: This session is closed: {event.reason}."
        elif isinstance(event, ToolCalled):
            header = VIEW_HEADER.search(event.text) if event.tool == "edit" else None
            yield Step(
                tool=event.tool,
                args=event.args,
                first_line=event.text.split("\n", 1)[0],
                refused=not event.ok,
                total_lines=int(header[3]) if header else None,
                restored=(
                    tuple(RESTORED.findall(event.text))
                    if event.tool == "undo" and event.ok
                    else None
                ),
                sha256=event.sha256,
                closed=closed,
                text=event.text,
                error=event.error,
                seconds=event.seconds,
                at=event.at,
                said=tuple(said),
            )
            said.clear()


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else first["msg"]


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
