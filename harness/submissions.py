"""What a session submitted, and the edits that lead to it again. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.events import AnyEvent, Header
from harness.regions import EditableFile
from harness.session import SessionState

Files = Mapping[str, EditableFile]


class NoSubmission(ValueError):
    """There is nothing to train again; the message says why."""


@dataclass(frozen=True)
class Submission:
    """An agent's submitted test."""

    header: Header
    number: int
    version: int
    """of the task by whose rules it is scored"""
    seeds: frozenset[int]
    """of all tests of the session"""
    start: Files
    files: Files
    """as they were tested"""

    def edits(self) -> Iterator[dict[str, Any]]:
        """Arguments of `edit` that make of `start` what was tested, each region at once.

        From the last region of a file to its first, so that no edit moves another's lines.
        """
        for name, before in self.start.items():
            after = self.files[name]
            for old, new in reversed(list(zip(before.regions, after.regions, strict=True))):
                lines = after.lines[new.first - 1 : new.last]
                if lines == before.lines[old.first - 1 : old.last]:
                    continue
                yield {
                    "op": "replace",
                    "filename": name,
                    "start_line": old.first,
                    "end_line": old.last,
                    "content": "".join(f"{line}\n" for line in lines),
                }


def submission_of(header: Header, events: Sequence[AnyEvent]) -> Submission:
    """Raises NoSubmission."""
    name = header.session
    if header.purpose != "agent":
        raise NoSubmission(f"session {name} is the harness's own: a {header.purpose}")
    state = SessionState.start(header)
    for event in events:
        state.apply(event)
    if state.submitted is None:
        ended = "ended without a submission" if state.ended else "is open: nothing is submitted yet"
        raise NoSubmission(f"session {name} {ended}")
    number = state.submitted.number
    attempt = next(a for a in state.attempts if a.number == number and a.result is not None)
    assert attempt.result is not None
    return Submission(
        header=header,
        number=number,
        version=int(attempt.result.provenance.get("task_version", header.task_version)),
        seeds=frozenset(a.seed for a in state.attempts),
        start=SessionState.start(header).files,
        files=attempt.files,
    )
