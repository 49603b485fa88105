"""A session's journal as server-sent events.

Each event of the journal is one of its `type`, with its `seq` as id and its redacted form as data.
Between them come `progress` events without an id, and comment lines so that proxies keep the
connection open. An `end` event is the last; a stream that stops without one was cut off, and goes
on from the id that was read last.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from harness.follow import Ended, TestProgress, closed_state, follow
from harness.service import LiveSession, Service

HEARTBEAT_SECONDS = 10
RETRY_MS = 1000
"""what a browser waits before it comes back"""


def event_stream(service: Service, live: LiveSession, after: int) -> Response:
    """The events after `after`; 204, which ends a client's reconnecting, if none can come."""
    if closed_state(live) is not None and after >= live.session.state.seq:
        return Response(status_code=204)
    return EventSourceResponse(
        _messages(service, live, after),
        ping=HEARTBEAT_SECONDS,
        ping_message_factory=lambda: ServerSentEvent(comment="waiting", sep="\n"),
        sep="\n",
    )


async def _messages(
    service: Service, live: LiveSession, after: int
) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(comment="events follow", retry=RETRY_MS, sep="\n")
    async for told in follow(service, live, after):
        if isinstance(told, TestProgress):
            data = {"test": told.number, **told.progress.as_json(), "text": told.line}
            yield _message("progress", data)
        elif isinstance(told, Ended):
            yield _message("end", {"state": told.state})
        else:
            yield _message(told.type, told.redacted(), str(told.seq))


def _message(name: str, data: dict[str, Any], id: str | None = None) -> ServerSentEvent:
    # Escaped to ASCII: some clients take U+2028 and the like for the end of a line.
    return ServerSentEvent(json.dumps(data), event=name, id=id, sep="\n")
