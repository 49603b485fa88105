"""Made recordings for tests of pages and replays: sessions of ours of any length."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from harness import render
from harness.edits import apply_edit
from harness.errors import AgentError
from harness.events import (
    AnyEvent,
    FileRecord,
    Header,
    RegionRecord,
    ToolCalled,
    canonical,
)
from harness.regions import EditableFile, locked_digest

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TEXT = """\
import math


def scale(x):
    return x


# from here on nothing is to be edited
def loss(x):
    return math.fabs(scale(x))
"""
REGIONS = [("scale", 4, 5)]
NAME = "src/model.py"


def header(text: str = TEXT, tests: int = 3, **agent: Any) -> Header:
    file = EditableFile.from_text(NAME, text, REGIONS)
    return Header(
        session="0123456789abcdef",
        created_at=START,
        task="made-up",
        task_version=1,
        profile="toy",
        agent=agent or {"name": "scripted"},
        tests=tests,
        files=(
            FileRecord(
                name=NAME,
                text=text,
                regions=tuple(RegionRecord(name=n, first=a, last=b) for n, a, b in REGIONS),
            ),
        ),
        locked_digest=locked_digest([file], []),
    )


def edit(first: int, last: int, content: str) -> dict[str, Any]:
    return {
        "op": "replace",
        "filename": NAME,
        "start_line": first,
        "end_line": last,
        "content": content,
    }


def play(head: Header, edits: Iterable[dict[str, Any]]) -> list[AnyEvent]:
    """The edits as events, answered as a session answers them; not sealed yet."""
    [record] = head.files
    files = {
        NAME: EditableFile.from_text(
            NAME, record.text, [(r.name, r.first, r.last) for r in record.regions]
        )
    }
    found: list[AnyEvent] = []
    for args in edits:
        try:
            result = apply_edit(files, args)
        except AgentError as error:
            text = f"{error.text}\n\n{render.current_file_view(files[NAME])}"
            found.append(
                ToolCalled(
                    tool="edit", args=args, ok=False, text=text, error=error.code, seconds=0.01
                )
            )
            continue
        files[NAME] = result.after
        view = render.current_file_view(result.after, result.region)
        found.append(
            ToolCalled(
                tool="edit",
                args=args,
                ok=True,
                text=f"{result.summary}\n\n{view}",
                seconds=0.02,
                sha256={NAME: result.after.sha256},
            )
        )
    return found


def sealed(head: Header, events: Sequence[AnyEvent]) -> list[AnyEvent]:
    """The events in a chain, a second apart."""
    found: list[AnyEvent] = []
    previous = head.hash
    for seq, event in enumerate(events, start=1):
        at = event.at or START + timedelta(seconds=seq)
        entry = event.model_copy(update={"seq": seq, "at": at, "previous": previous})
        previous = entry.hash
        found.append(entry)
    return found


def transcript(head: Header, events: Sequence[AnyEvent]) -> str:
    values = [head.model_dump(mode="json"), *(e.redacted() for e in sealed(head, events))]
    return "".join(canonical(value) + "\n" for value in values)


def long_transcript(steps: int, size: int) -> str:
    """A session of so many steps and about so many bytes."""
    head = header(TEXT + "".join(f"# locked line {n}\n" for n in range(430)))
    padding = "x" * max(0, size // steps - 1500)
    events = play(
        head,
        (
            edit(5, 5, f"    return x * {n}" + ("\n    # more" if n % 7 == 0 else ""))
            for n in range(1, steps + 1)
        ),
    )
    events = [
        event.model_copy(update={"text": f"{event.text}\n{padding}"})
        for event in events
        if isinstance(event, ToolCalled)
    ]
    return transcript(head, events)


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
