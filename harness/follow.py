"""A session as it goes on: its events in order, and how far its test is between them.

Guaranteed: each event after the one that the follower has seen comes once, in the journal's order
and redacted. Not guaranteed: each state of a test's progress; a follower is told the newest, when
it has changed, at most once in PROGRESS_SECONDS.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from harness.answers import Progress, progress_line
from harness.events import AnyEvent
from harness.service import LiveSession, Service

PROGRESS_SECONDS = 1.0
QUIET_SECONDS = 5.0
"""how long a follower waits at most before it looks again by itself"""


@dataclass(frozen=True)
class TestProgress:
    """How far a session's test is."""

    __test__ = False
    number: int
    progress: Progress

    @property
    def line(self) -> str:
        return progress_line(self.number, self.progress)


@dataclass(frozen=True)
class Ended:
    """The session is closed and all that happened in it was told."""

    state: str
    """`submitted` or `ended`"""


async def follow(
    service: Service, live: LiveSession, after: int
) -> AsyncIterator[AnyEvent | TestProgress | Ended]:
    """What happens after event `after`, until the session is closed."""
    seen, told = after, None
    next_look = 0.0
    while True:
        # A session may have been read again, as another object.
        live = await service.get(live.session.id) or live
        if fresh := live.events[seen:]:
            for event in fresh:
                yield event
                seen = event.seq
            continue
        state = live.session.state
        if closed_state(live) is not None and state.active is None:
            yield Ended(closed_state(live) or "")
            return
        if state.active is not None and time.monotonic() >= next_look:
            now = await look(service, live)
            next_look = time.monotonic() + PROGRESS_SECONDS
            if now is not None and now != told:
                told = now
                yield now
            continue
        left = next_look - time.monotonic() if state.active is not None else QUIET_SECONDS
        await live.wait_for_change(max(0.01, left))
        await service.refresh(live)  # what another server has added


async def look(service: Service, live: LiveSession) -> TestProgress | None:
    """How far the session's test is; None if none is queued or running."""
    active = live.session.state.active
    progress = await service.in_thread(service.progress, live)
    if active is None or progress is None:
        return None
    return TestProgress(active.number, progress)


def closed_state(live: LiveSession) -> str | None:
    """`submitted` or `ended`; None while the session is open."""
    state = live.session.state
    return "submitted" if state.submitted else "ended" if state.ended else None
