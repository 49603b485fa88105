"""How a session ends without a `submit`: idle for too long, or by its operator; and how one goes on
whose test was lost with the server that ran it.

Its last test with a score is submitted for it; without one it is closed.
"""

from __future__ import annotations

from datetime import timedelta

from harness.appending import CannotAppend, append_to
from harness.events import SessionEnded, Submitted, TestReleased
from harness.session import SessionState
from harness.store import Store


def ending(state: SessionState, reason: str) -> Submitted | SessionEnded:
    """The event that ends an open session in which no test waits or runs."""
    scored = [number for number, result in sorted(state.results.items()) if result.scored]
    return Submitted(number=scored[-1], by="end") if scored else SessionEnded(reason=reason)


def idle_reason(idle: timedelta) -> str:
    return f"it was idle for {idle.total_seconds() / 3600:g} h"


def end_session(store: Store, session_id: str, reason: str) -> str:
    """End a session from outside of a server; what was done, in words. Raises CannotAppend."""

    def make(state: SessionState) -> list[Submitted | SessionEnded]:
        _require_open(state)
        if (active := state.active) is not None:
            raise CannotAppend(
                f"test #{active.number} of session {session_id} waits or runs; first: "
                f"harness cancel {session_id}"
            )
        return [ending(state, reason)]

    [entry] = append_to(store, session_id, make)
    if isinstance(entry, Submitted):
        return f"ended; its test #{entry.number} was submitted"
    return "ended; it has no test with a score"


def give_back_lost(store: Store, session_id: str, here: str | None) -> str:
    """Give a test back whose server is gone for good with its state folder, in words.

    `here` is the name of the state folder at hand, whose own tests are not lost. Should the other
    server come back, it ends the run. Raises CannotAppend.
    """

    def make(state: SessionState) -> list[TestReleased]:
        _require_open(state)
        active = state.active
        if active is None:
            raise CannotAppend(f"no test of session {session_id} waits or runs")
        if active.place is None or active.place == here:
            raise CannotAppend(
                f"test #{active.number} of session {session_id} belongs to this state folder, and "
                f"is not lost: harness cancel {session_id}"
            )
        reason = (
            f"Test #{active.number} was lost with the server that ran it, and is given back, not "
            "counted. Call test() to run it again."
        )
        return [
            TestReleased(number=active.number, attempt=active.attempt, kind="lost", reason=reason)
        ]

    [entry] = append_to(store, session_id, make)
    assert isinstance(entry, TestReleased)
    return f"test #{entry.number} is given back"


def _require_open(state: SessionState) -> None:
    if state.closed:
        raise CannotAppend(f"session {state.header.session} is closed already")
