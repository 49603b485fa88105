"""Sessions whose test can't be followed at the moment: said once each, and asked after again with
growing pauses, so that a fault that lasts neither fills the log nor keeps a core busy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger("harness.service")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


@dataclass
class _Trouble:
    said: str
    times: int = 0
    until: float = 0.0


class Troubles:
    """By session. Used by one server's watch, and by calls that meet with the same."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, _Trouble] = {}

    def met(self, session: str, error: BaseException) -> None:
        """An error stood in the way; it is logged if it is another than the last one."""
        said = f"{type(error).__name__}: {error}"
        trouble = self._known.setdefault(session, _Trouble(""))
        if trouble.said != said:
            log.error("session %s: its test could not be followed", session, exc_info=error)
        trouble.said, trouble.times = said, trouble.times + 1
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(trouble.times - 1, 10))
        trouble.until = self._clock() + pause

    def rests(self, session: str) -> bool:
        """Whether it is too early to ask again."""
        trouble = self._known.get(session)
        return trouble is not None and self._clock() < trouble.until

    def times(self, session: str) -> int:
        """How often in a row."""
        trouble = self._known.get(session)
        return 0 if trouble is None else trouble.times

    def over(self, session: str) -> None:
        if self._known and self._known.pop(session, None) is not None:
            log.info("session %s: its test is followed again", session)
