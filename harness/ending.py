"""How a session ends without a `submit`: idle for too long, or by its operator; and how one goes on
whose test was lost with the server that ran it.

Its last test with a score is submitted for it; without one it is closed.
"""

from __future__ import annotations

from datetime import timedelta

from harness.events import SessionEnded, Submitted, TestReleased
from harness.session import SessionState, journal_entries
from harness.store import StaleSession, Store


class CannotEnd(RuntimeError):
    """A session that cannot be ended now; the text says why."""


def ending(state: SessionState, reason: str) -> Submitted | SessionEnded:
    """The event that ends an open session in which no test waits or runs."""
    scored = [number for number, result in sorted(state.results.items()) if result.scored]
    return Submitted(number=scored[-1], by="end") if scored else SessionEnded(reason=reason)


def idle_reason(idle: timedelta) -> str:
    return f"it was idle for {idle.total_seconds() / 3600:g} h"


def end_session(store: Store, session_id: str, reason: str) -> str:
    """End a session from outside of a server; what was done, in words. Raises CannotEnd."""
    state = _open_state(store, session_id)
    if (active := state.active) is not None:
        raise CannotEnd(
            f"test #{active.number} of session {session_id} waits or runs; first: "
            f"harness cancel {session_id}"
        )
    entry = ending(state, reason)
    _append(store, state, entry, closes=True)
    if isinstance(entry, Submitted):
        return f"ended; its test #{entry.number} was submitted"
    return "ended; it has no test with a score"


def give_back_lost(store: Store, session_id: str, here: str | None) -> str:
    """Give a test back whose server is gone for good with its state folder, in words.

    `here` is the name of the state folder at hand, whose own tests are not lost. Should the other
    server come back, it ends the run. Raises CannotEnd.
    """
    state = _open_state(store, session_id)
    active = state.active
    if active is None:
        raise CannotEnd(f"no test of session {session_id} waits or runs")
    if active.place is None or active.place == here:
        raise CannotEnd(
            f"test #{active.number} of session {session_id} belongs to this state folder, and is "
            f"not lost: harness cancel {session_id}"
        )
    reason = (
        f"Test #{active.number} was lost with the server that ran it, and is given back, not "
        "counted. Call test() to run it again."
    )
    entry = TestReleased(number=active.number, attempt=active.attempt, kind="lost", reason=reason)
    _append(store, state, entry, closes=False)
    return f"test #{active.number} is given back"


def _open_state(store: Store, session_id: str) -> SessionState:
    loaded = store.load(session_id)
    if loaded is None:
        raise CannotEnd(f"there is no session {session_id} in the database")
    header, events = loaded
    state = SessionState.start(header)
    for event in events:
        state.apply(event)
    if state.closed:
        raise CannotEnd(f"session {session_id} is closed already")
    return state


def _append(
    store: Store,
    state: SessionState,
    entry: Submitted | SessionEnded | TestReleased,
    *,
    closes: bool,
) -> None:
    session_id = state.header.session
    try:
        store.append(session_id, journal_entries(state, [entry]), closes=closes)
    except StaleSession:
        raise CannotEnd(f"session {session_id} was called just now; try again") from None
