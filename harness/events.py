"""The typed events of a session, and the hash chain that binds them.

A session is its header and its events, nothing else: `session.py` folds them into a state. The
chain starts at the header's hash; every event carries the hash of what stands before it, and its
own hash covers its redacted form, so that a reader who may not see hidden values verifies the same
chain as one who may.

Hidden values stand in an event's `private` part only. The chain commits to them by
`private_digest`, a salted SHA-256; the salt is stored with the values, so that nobody can find
them by trying numbers.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

FORMAT: Final = "harness-transcript"
VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RegionRecord(_Record):
    name: str
    first: int
    last: int


class FileRecord(_Record):
    """An editable file as the session found it."""

    name: str
    text: str
    regions: tuple[RegionRecord, ...]


class Header(_Record):
    """What a session starts from; the first line of a transcript."""

    format: Literal["harness-transcript"] = FORMAT
    version: int = VERSION
    session: str
    created_at: datetime
    """UTC"""
    task: str
    task_version: int
    profile: str
    agent: dict[str, Any] | None = None
    """`name`, or `model`, `scaffold`, `sampling`, `other_tools`, as the client gave them"""
    tests: int
    """how many counted tests the session may run"""
    files: tuple[FileRecord, ...]
    locked_digest: str
    """over every locked byte of the editable files and the whole of their siblings"""
    # What follows is left out where it says nothing: older headers keep their hash.
    purpose: Literal["agent", "baseline", "confirmation"] = Field(
        default="agent", exclude_if=lambda purpose: purpose == "agent"
    )
    """`baseline`: the harness plays a baseline's edits; `confirmation`: a submission's, anew"""
    of: str | None = Field(default=None, exclude_if=lambda of: of is None)
    """the baseline's name (empty for the unedited files), or the session that is confirmed"""
    seeds: tuple[int, ...] = Field(default=(), exclude_if=lambda seeds: not seeds)
    """the seed of each test, where they are not all the profile's"""

    @property
    def agent_name(self) -> str | None:
        """The agent's name, or its model's, for people."""
        for key in ("name", "model"):
            if self.agent and isinstance(self.agent.get(key), str):
                return str(self.agent[key])
        return None

    @property
    def hash(self) -> str:
        return digest_of(self.model_dump(mode="json"))


class Event(_Record):
    """One thing that happened. `seq` counts from 1; `previous` is the hash before it."""

    seq: int = 0
    at: datetime | None = None
    previous: str = ""
    private_digest: str | None = None
    private: dict[str, Any] | None = Field(default=None, exclude=True)
    """hidden values; never part of the chain, the transcript or an answer"""

    def redacted(self) -> dict[str, Any]:
        """The event as anyone may read it, ready for JSON."""
        return self.model_dump(mode="json", exclude_none=True)

    def line(self) -> str:
        """What stands in the journal: the redacted event, which the hash covers."""
        return canonical(self.redacted())

    @cached_property
    def hash(self) -> str:
        return _sha256(self.line())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("hash", None)  # another event has another
        return copied


class ToolCalled(Event):
    """An answered tool call. An `edit` or `undo` that is `ok` is what changes the files."""

    type: Literal["tool_called"] = "tool_called"
    tool: str
    args: dict[str, Any]
    ok: bool
    text: str
    error: str | None = None
    """the error's code, if not ok"""
    seconds: float
    """from the call's arrival to its answer"""
    sha256: dict[str, str] | None = None
    """after an accepted edit or undo: each changed file's name and the hash of its new text"""
    test: int | None = None
    """the number of the test that the call started, joined or reported"""
    key: str | None = None
    """the call's Idempotency-Key"""


class MessageKept(Event):
    """What the model thought or said between two calls."""

    type: Literal["message_kept"] = "message_kept"
    role: str
    text: str
    usage: dict[str, Any] | None = None


class TestQueued(Event):
    """A snapshot of the files was handed to the executor as test `number`."""

    __test__ = False
    type: Literal["test_queued"] = "test_queued"
    number: int
    attempt: int
    files_digest: str
    seed: int
    place: str | None = None
    """the state folder that holds its run directory, by the folder's name"""


class TestCounted(Event):
    """The test's first stage has started: it is one of the session's tests now."""

    __test__ = False
    type: Literal["test_counted"] = "test_counted"
    number: int
    attempt: int


class TestResumed(Event):
    """The test was interrupted through no fault of its own and goes on from its last checkpoint."""

    __test__ = False
    type: Literal["test_resumed"] = "test_resumed"
    number: int
    attempt: int
    resumption: int
    """1 for the first"""


class StageResult(_Record):
    """What an agent is told of one stage."""

    name: str
    label: str
    script: str
    state: Literal["done", "failed", "timeout", "void", "skipped"]
    """`void`: its audit failed, with the category as reason"""
    exit: int | None = None
    reason: tuple[str, ...] = ()
    seconds: float | None = None
    limit_s: float | None = None
    feedback: tuple[str, ...] = ()
    """the last feedback lines that the stage printed, at most five"""
    metrics: dict[str, float] = {}
    """visible scored metrics, on the split that an agent may see"""


class TestFinished(Event):
    """A test's outcome, taken once from its run directory. `private` holds the hidden values."""

    __test__ = False
    type: Literal["test_finished"] = "test_finished"
    number: int
    attempt: int
    scored: bool
    """whether the primary metric has a value"""
    stages: tuple[StageResult, ...]
    curve: tuple[dict[str, float], ...] = ()
    """the feedback metrics at every line that had them, thinned to at most 500 points"""
    void: str | None = None
    """the category of the audit that failed; the test counts and has no score"""
    provenance: dict[str, Any] = {}


class TestReleased(Event):
    """The test is given back: its number is free again and its metrics are withheld."""

    __test__ = False
    type: Literal["test_released"] = "test_released"
    number: int
    attempt: int
    kind: Literal["refused", "interrupted", "cancelled", "lost"]
    """`refused`: a check stood in the way, before anything was counted; `lost`: its run directory
    is gone"""
    reason: str
    """what the agent is told, behind `ERROR: `"""
    findings: tuple[dict[str, Any], ...] = ()


class TestRegraded(Event):
    """A finished test's metrics as another scoring rule has them; the latest counts.

    `private` holds the hidden values, as that of `test_finished`.
    """

    __test__ = False
    type: Literal["test_regraded"] = "test_regraded"
    number: int
    attempt: int
    task_version: int
    """of the task whose rule was applied"""
    scored: bool
    metrics: dict[str, dict[str, float]]
    """visible scored metrics by stage"""


Verdict = Literal["clean", "suspect", "disqualified"]


class Reviewed(Event):
    """A person's verdict on the session; the latest counts. `private` holds the note."""

    type: Literal["reviewed"] = "reviewed"
    verdict: Verdict
    category: str = ""
    """the class of the fault, which everybody may read who may read the session"""

    @property
    def note(self) -> str:
        """What else was found; empty where the reader may not see it."""
        return str(((self.private or {}).get("values") or {}).get("note", ""))


class Submitted(Event):
    """The session's final result was chosen; it is closed."""

    type: Literal["submitted"] = "submitted"
    number: int
    by: Literal["agent", "end"]
    """`end`: the session ended without a submit, so its last scored test stands for it"""


class SessionEnded(Event):
    """The session ended with no test that could be submitted."""

    type: Literal["session_ended"] = "session_ended"
    reason: str


AnyEvent = Annotated[
    ToolCalled
    | MessageKept
    | TestQueued
    | TestCounted
    | TestResumed
    | TestFinished
    | TestReleased
    | TestRegraded
    | Reviewed
    | Submitted
    | SessionEnded,
    Field(discriminator="type"),
]

_adapter: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)


def parse_event(value: Mapping[str, Any]) -> AnyEvent:
    """An event from its JSON object. Raises pydantic's ValidationError."""
    return _adapter.validate_python(value)


def canonical(value: Any) -> str:
    """JSON with one spelling: keys sorted, no blanks, no escapes that UTF-8 does not need."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(value: Any) -> str:
    return _sha256(canonical(value))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def seal(values: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Hidden values with a fresh salt, and the digest that commits to both."""
    private = {"salt": secrets.token_hex(16), "values": dict(values)}
    return private, digest_of(private)


def chain_break(
    header: Header, events: Sequence[AnyEvent], hashes: Sequence[str] | None = None
) -> str | None:
    """Where the chain of `events` after `header` breaks, in a sentence; None if it is whole.

    `hashes` are the events' own, if they are known already.
    """
    previous = header.hash
    for position, event in enumerate(events, start=1):
        if event.seq != position:
            return f"event {position} has seq {event.seq}"
        if event.previous != previous:
            return f"event {position} does not follow from what stands before it"
        previous = event.hash if hashes is None else hashes[position - 1]
    return None
