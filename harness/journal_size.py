"""How much one session may put into its journal.

Every answered call is journaled whole, refused edits too: what an agent tried is what people read,
and what a replay compares. So the whole has a limit. What a session needs to come to its end has a
reserve: `test` and `status`, and `submit` still more. Not guaranteed: the limit to the byte, since
the last answer before it may be long.

Sizes are characters of text and arguments, some hundreds more for what an event holds besides;
they come from the events themselves, so that a restart and a second server count the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.events import AnyEvent, MessageKept, TestReleased, ToolCalled

BESIDES = 400
"""about what an event takes beside its text and arguments: hashes, times, names"""

RESERVES: Mapping[str | None, float] = {"test": 0.1, "status": 0.1, "submit": 0.2}
"""parts of the limit that these may take on top of it"""


class JournalFull(Exception):
    """The session has no room for what a call would add; nothing of it was done."""

    def __init__(self, used: int, limit: int) -> None:
        super().__init__(
            f"This session's journal holds {used} bytes, and at most {limit} are kept; there is no "
            "room for this call."
        )
        self.hint = "test, status and submit have a reserve: submit the best test."


def weight(event: AnyEvent) -> int:
    """About how many bytes the event takes."""
    match event:
        case ToolCalled():
            return BESIDES + len(event.text) + _size(event.args)
        case MessageKept():
            return BESIDES + len(event.text) + len(event.role) + _size(event.usage)
        case TestReleased():
            return BESIDES + len(event.reason) + _size(event.findings)
        case _:
            return BESIDES


def weights(events: Iterable[AnyEvent]) -> int:
    return sum(map(weight, events))


def require_room(tool: str | None, what: Mapping[str, Any], used: int, limit: int) -> None:
    """Raises JournalFull if there is no room for a call with these arguments, or, without a tool,
    for a message. To be asked before anything of it is done; a limit of 0 is none."""
    most = limit * (1 + RESERVES.get(tool, 0.0))
    if limit > 0 and most < used + BESIDES + _size(what):
        raise JournalFull(used, limit)


def _size(value: Any) -> int:
    """About the length of a value as JSON."""
    match value:
        case str():
            return len(value) + 3
        case Mapping():
            return sum(_size(key) + _size(item) for key, item in value.items()) + 2
        case list() | tuple():
            return sum(map(_size, value)) + 2
        case _:
            return len(str(value)) + 1
