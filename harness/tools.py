"""The agent's tools, defined once: name, description, arguments, and how a call is answered.

A call that waits does so before it takes the session's lock for good, so that nothing else in the
session, or in another, waits with it. What an agent is told is in the journal before it is sent.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness import logs, render
from harness.answers import Answer
from harness.edits import line_number
from harness.errors import AgentError, BadArguments
from harness.events import Submitted, ToolCalled
from harness.journal_size import JournalFull, require_room
from harness.service import LiveSession, Service, storable
from harness.session import TestRequest, result_data

MAX_WAIT_S = 50
TEST_WAIT_S = 30


class UnknownTool(LookupError):
    """The client's mistake: there is no such tool."""


class KeyConflict(ValueError):
    """The client's mistake: an Idempotency-Key came back with another call."""


@dataclass(frozen=True)
class Tool:
    """One tool. `begin` may start or wait for a test; `answer` is quick and runs locked."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of the arguments: one flat object"""
    answer: Callable[[Service, LiveSession, Mapping[str, Any], TestRequest | None], Answer]
    begin: Callable[[Service, LiveSession, Mapping[str, Any]], Awaitable[TestRequest | None]] | (
        None
    ) = None


async def dispatch(
    service: Service,
    live: LiveSession,
    name: str,
    args: Mapping[str, Any],
    key: str | None = None,
) -> Answer:
    """Answer one tool call and journal it. Raises UnknownTool, KeyConflict or JournalFull."""
    known = name if name in TOOLS else "unknown"
    logs.tool.set(known)
    began, outcome = time.monotonic(), "fault"
    try:
        answer = await _dispatch(service, live, name, args, key)
        outcome = "ok" if answer.ok else answer.error or "refused"
        return answer
    except UnknownTool:
        outcome = "unknown_tool"
        raise
    except KeyConflict:
        outcome = "key_conflict"
        raise
    except JournalFull:
        outcome = "journal_full"
        raise
    finally:
        service.telemetry.tool_called(known, outcome, time.monotonic() - began)


async def _dispatch(
    service: Service, live: LiveSession, name: str, args: Mapping[str, Any], key: str | None
) -> Answer:
    tool = TOOLS.get(name)
    if tool is None:
        raise UnknownTool(name)
    args = storable(args)
    arrived = time.monotonic()
    request: TestRequest | None = None
    failure: AgentError | None = None
    async with live.lock:
        if (earlier := _earlier(live, key, name, args)) is not None:
            return await service.in_thread(_present_state, service, live, earlier)
    require_room(name, args, live.journaled, service.journal_bytes)
    try:
        live.session.require_open()
        if tool.begin is not None:
            request = await tool.begin(service, live, args)
    except AgentError as error:
        failure = error
    async with live.lock:

        def answer_and_journal() -> Answer:
            # Looked for here, since another server may have answered it meanwhile.
            if (earlier := _earlier(live, key, name, args)) is not None:
                return _present_state(service, live, earlier)
            answer = _answer(service, live, tool, args, request, failure)
            event = ToolCalled(
                tool=name,
                args=dict(args),
                ok=answer.ok,
                text=answer.text,
                error=answer.error,
                seconds=round(time.monotonic() - arrived, 3),
                sha256=answer.data.get("sha256"),
                test=answer.data.get("test"),
                key=key,
            )
            if name == "submit" and answer.ok:
                live.session.record(Submitted(number=answer.data["test"], by="agent"), event)
            else:
                live.session.record(event)
            return answer

        answer = await service.on_newest(live, answer_and_journal)
    live.changed()
    return answer


def _answer(
    service: Service,
    live: LiveSession,
    tool: Tool,
    args: Mapping[str, Any],
    request: TestRequest | None,
    failure: AgentError | None,
) -> Answer:
    try:
        if failure is not None:
            raise failure
        live.session.require_open()
        answer = tool.answer(service, live, args, request)
    except AgentError as error:
        answer = Answer.of_error(error)
    if tool.name == "view" and answer.ok:
        return answer  # paged by whole lines already
    return Answer(answer.ok, render.clip(answer.text), answer.error, answer.data)


def _earlier(
    live: LiveSession, key: str | None, name: str, args: Mapping[str, Any]
) -> ToolCalled | None:
    earlier = live.session.state.answers.get(key) if key is not None else None
    if earlier is not None and (earlier.tool, earlier.args) != (name, dict(args)):
        raise KeyConflict(key)
    return earlier


def _present_state(service: Service, live: LiveSession, earlier: ToolCalled) -> Answer:
    """What a repeated call is told: a test's present state, else the answer that it had."""
    if earlier.tool in ("test", "status") and earlier.ok and earlier.test is not None:
        service.catch_up(live)
        attempt = max(a.attempt for a in live.session.state.attempts if a.number == earlier.test)
        return live.session.test_answer(earlier.test, attempt, service.progress(live))
    data: dict[str, Any] = {"sha256": dict(earlier.sha256)} if earlier.sha256 else {}
    if earlier.test is not None:
        result = live.session.state.results.get(earlier.test)
        data |= result_data(result) if result is not None else {"test": earlier.test}
    return Answer(earlier.ok, earlier.text, earlier.error, data)


def wait_argument(args: Mapping[str, Any], default: int) -> int:
    """`wait_s` in seconds: 0 to 50; a longer wait is cut to that, not refused."""
    if args.get("wait_s") is None:
        return default
    seconds = line_number(args, "wait_s")
    if seconds < 0:
        raise BadArguments(f"'wait_s' must be 0 to {MAX_WAIT_S} seconds, not {seconds}")
    return min(seconds, MAX_WAIT_S)


async def _begin_test(
    service: Service, live: LiveSession, args: Mapping[str, Any]
) -> TestRequest | None:
    wait_s = wait_argument(args, TEST_WAIT_S)
    request = await service.begin_test(live)
    if request.reused is None:
        await service.wait_for_test(live, request.number, request.attempt, wait_s)
    return request


async def _begin_status(
    service: Service, live: LiveSession, args: Mapping[str, Any]
) -> TestRequest | None:
    wait_s = wait_argument(args, 0)
    active = live.session.state.active
    if active is None:
        return None
    await service.wait_for_test(live, active.number, active.attempt, wait_s)
    return TestRequest(active.number, active.attempt)


def _answer_test(
    service: Service, live: LiveSession, args: Mapping[str, Any], request: TestRequest | None
) -> Answer:
    assert request is not None
    return live.session.test_answer(request.number, request.attempt, service.progress(live))


def _answer_status(
    service: Service, live: LiveSession, args: Mapping[str, Any], request: TestRequest | None
) -> Answer:
    if request is not None:
        return _answer_test(service, live, args, request)
    return live.session.status_answer(service.progress(live))


async def _begin_check(
    service: Service, live: LiveSession, args: Mapping[str, Any]
) -> TestRequest | None:
    await service.wait_for_check(live, wait_argument(args, TEST_WAIT_S))
    return None


def _answer_check(
    service: Service, live: LiveSession, args: Mapping[str, Any], request: TestRequest | None
) -> Answer:
    return live.session.check_answer(*service.check(live))


def _answer_submit(
    service: Service, live: LiveSession, args: Mapping[str, Any], request: TestRequest | None
) -> Answer:
    return live.session.submission_answer(live.session.choose_submission(args).number)


def _schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


_LINE = {"type": "integer"}
_FILENAME = {"type": "string", "description": "The file, by its path or its name."}

TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(
            "view",
            "Show a file with line numbers, at most 150 lines a call. Locked lines are marked "
            "with '|' after the number.",
            _schema(
                {
                    "filename": _FILENAME,
                    "start_line": {**_LINE, "description": "First line to show; 1 if left out."},
                    "end_line": {**_LINE, "description": "Last line to show."},
                },
                "filename",
            ),
            lambda service, live, args, request: live.session.view(args),
        ),
        Tool(
            "edit",
            "Change lines inside the editable regions. op='replace' needs start_line, end_line "
            "and content (end_line = start_line - 1 inserts before start_line; empty content "
            "deletes). op='insert' needs after_line and content. op='str_replace' needs old_str, "
            "which must occur exactly once in a region, and new_str. The answer shows the new "
            "line numbers. Edits are free.",
            _schema(
                {
                    "op": {"type": "string", "enum": ["replace", "insert", "str_replace"]},
                    "filename": _FILENAME,
                    "start_line": {**_LINE, "description": "replace: first line to replace."},
                    "end_line": {**_LINE, "description": "replace: last line to replace."},
                    "after_line": {**_LINE, "description": "insert: the line to insert after."},
                    "content": {
                        "type": "string",
                        "description": "replace, insert: the new lines, without line numbers.",
                    },
                    "old_str": {"type": "string", "description": "str_replace: text to replace."},
                    "new_str": {"type": "string", "description": "str_replace: its replacement."},
                },
                "op",
                "filename",
            ),
            lambda service, live, args, request: live.session.edit(args),
        ),
        Tool(
            "undo",
            "Take back the last n accepted edits, latest first.",
            _schema({"n": {**_LINE, "description": "How many edits; 1 if left out."}}),
            lambda service, live, args, request: live.session.undo(args),
        ),
        Tool(
            "check",
            "Find out, at no cost, what would stand in the way of a test: rules that the edited "
            "regions break, and what goes wrong when they are run at a small size. A repeated "
            "call joins the check that is running.",
            _schema({"wait_s": {**_LINE, "description": "Seconds to wait, 0 to 50; 30."}}),
            _answer_check,
            _begin_check,
        ),
        Tool(
            "test",
            "Train and evaluate the files as they are now. Each test counts; a test of files "
            "that were tested before gives that result again and counts nothing. While one runs, "
            "this waits for it and starts nothing.",
            _schema({"wait_s": {**_LINE, "description": "Seconds to wait, 0 to 50; 30."}}),
            _answer_test,
            _begin_test,
        ),
        Tool(
            "status",
            "Tests left, and how far a running test is or what the last one gave. Free.",
            _schema(
                {"wait_s": {**_LINE, "description": "Seconds to wait for a test, 0 to 50; 0."}}
            ),
            _answer_status,
            _begin_status,
        ),
        Tool(
            "submit",
            "Choose the result of test n as final. This closes the session.",
            _schema({"n": {**_LINE, "description": "The number of the test."}}, "n"),
            _answer_submit,
        ),
    )
}


def schemas() -> list[dict[str, Any]]:
    """Every tool's name, description and JSON Schema, as a session's start and `/v1/tools` give."""
    return [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        for tool in TOOLS.values()
    ]
