"""How a server stands: whether it can take calls, and what its sessions and tests are doing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, runtime_checkable

from harness.jobs import Executor
from harness.service import LiveSession, Service
from harness.state_folder import unwritable
from harness.telemetry import Survey

log = logging.getLogger("harness.standing")


@runtime_checkable
class TellsCapacity(Protocol):
    """An executor that can say what it has; one that can't leaves those metrics out."""

    def capacity(self) -> Mapping[str, tuple[int, int]]:
        """By kind (`slot`, `gpu`): how many there are, how many tests use. Quick, and safe to call
        from threads."""


def faults(service: Service) -> list[str]:
    """What keeps the server from taking calls, a sentence each; blocks while it looks.

    For anybody to read: no path, address or driver's words, which go to the log.
    """
    looks: dict[str, Callable[[], object]] = {
        "The database does not answer": service.store.check,
        "The executor does not answer": service.executor.idle,
    }
    found = []
    for sentence, look in looks.items():
        try:
            look()
        except Exception as error:  # whatever a driver raises is the answer here
            log.warning("not ready: %s: %s", sentence, str(error).split("\n")[0])
            found.append(f"{sentence}.")
    if (reason := unwritable(service.state.root)) is not None:
        found.append(f"The state folder cannot be written: {reason}.")
    if not service.is_watching:
        found.append("Running tests are not followed.")
    return found


def state_of(live: LiveSession) -> Literal["open", "submitted", "ended"]:
    """Whether the session can be called."""
    state = live.session.state
    return "submitted" if state.submitted else "ended" if state.ended else "open"


def survey(service: Service) -> Survey:
    """How things stand now; reads the status of each test that runs."""
    sessions: Counter[str] = Counter({"open": 0, "submitted": 0, "ended": 0})
    tests: Counter[str] = Counter({"checking": 0, "queued": 0, "running": 0})
    for live in service.live_sessions():
        sessions[state_of(live)] += 1
        if (progress := service.progress(live)) is not None:
            tests[progress.state] += 1
    return Survey(sessions, tests, _capacity(service.executor))


def _capacity(executor: Executor) -> Mapping[str, tuple[int, int]]:
    return executor.capacity() if isinstance(executor, TellsCapacity) else {}
