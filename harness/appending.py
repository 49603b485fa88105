"""What is added to a session's journal from outside of a server.

Guaranteed: it follows what the journal holds when it is added, whoever else writes meanwhile; a
server that runs takes it up as it does what another server has written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.events import AnyEvent, SessionEnded, Submitted
from harness.session import SessionState, journal_entries
from harness.store import StaleSession, Store

TRIES = 5


class CannotAppend(RuntimeError):
    """Nothing was added; the text says why."""


def append_to(
    store: Store, session_id: str, make: Callable[[SessionState], Sequence[AnyEvent]]
) -> Sequence[AnyEvent]:
    """Add what `make` finds to be added to the session as it is, perhaps nothing.

    It is asked again if another writer was first. Raises CannotAppend, and ValueError for a
    journal that does not hold together.
    """
    for _ in range(TRIES):
        state = state_of(store, session_id)
        entries = journal_entries(state, make(state))
        if not entries:
            return ()
        closes = any(isinstance(entry, Submitted | SessionEnded) for entry, _ in entries)
        try:
            store.append(session_id, entries, closes=closes)
        except StaleSession:
            continue
        return [entry for entry, _ in entries]
    raise CannotAppend(f"session {session_id} is being called; try again")


def state_of(store: Store, session_id: str) -> SessionState:
    """A session as its journal has it. Raises CannotAppend if there is none."""
    loaded = store.load(session_id)
    if loaded is None:
        raise CannotAppend(f"there is no session {session_id} in the database")
    header, events = loaded
    state = SessionState.start(header)
    for event in events:
        state.apply(event)
    return state
