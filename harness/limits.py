"""How much one key, one session or one address may ask for.

Requests are counted in this process: several servers on one database each have their own counts.
Open sessions are counted in the database (harness/store.py).
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.refused import too_many

BURST_SECONDS = 10
"""a bucket holds what its rate gives in so many seconds"""

FAILURES_PER_SECOND = 5
"""requests without a fitting key or token that one address may make"""

REMEMBERED = 10_000
"""buckets of one kind that are kept; the one that was unused the longest goes first"""


class Buckets:
    """A token bucket for each name: `rate` requests a second, ten seconds' worth at once."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """A rate of 0 is no limit."""
        self.rate, self.capacity = rate, rate * BURST_SECONDS
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take one; 0 if there was one, else the seconds until there will be."""
        if self.rate <= 0:
            return 0.0
        now = self._clock()
        left, at = self._left.get(name, (self.capacity, now))
        left = min(self.capacity, left + (now - at) * self.rate)
        short = left < 1
        self._left[name] = (left if short else left - 1, now)
        self._left.move_to_end(name)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        return (1 - left) / self.rate if short else 0.0


@dataclass(frozen=True)
class Allowance:
    """The settings `HARNESS_LIMIT_*`; 0 is no limit."""

    session_requests: int = 0
    """a second, with one session's token"""
    key_requests: int = 0
    """a second, with one key"""
    session_calls: int = 0
    """at the same time, with one session's token; waiting calls are such"""
    open_sessions: int = 0
    """of one key"""
    body_bytes: int = 2_000_000


@dataclass
class Limits:
    """What has been used of an allowance. Every method raises Refused (429) past it."""

    allowance: Allowance = field(default_factory=Allowance)

    def __post_init__(self) -> None:
        self._sessions = Buckets(self.allowance.session_requests)
        self._keys = Buckets(self.allowance.key_requests)
        self._failures = Buckets(FAILURES_PER_SECOND)
        self._calls: Counter[str] = Counter()

    def count_session_request(self, session_id: str) -> None:
        if wait := self._sessions.take(session_id):
            raise too_many(
                "too_many_requests",
                f"This session makes more than {self.allowance.session_requests} requests a "
                "second.",
                wait,
            )

    def count_key_request(self, key: str) -> None:
        if wait := self._keys.take(key):
            raise too_many(
                "too_many_requests",
                f"This key makes more than {self.allowance.key_requests} requests a second.",
                wait,
            )

    def count_failure(self, address: str) -> None:
        """One more request without a fitting key or token."""
        if wait := self._failures.take(address):
            raise too_many(
                "too_many_requests",
                "Too many requests from this address had no fitting key or token.",
                wait,
            )

    def begin_call(self, session_id: str) -> None:
        """A request of the session is under way; `end_call` must follow."""
        most = self.allowance.session_calls
        if 0 < most <= self._calls[session_id]:
            raise too_many(
                "too_many_calls",
                f"{most} calls of this session are under way already.",
                1,
                "Wait for one of them; one call that waits is enough.",
            )
        self._calls[session_id] += 1

    def end_call(self, session_id: str) -> None:
        self._calls[session_id] -= 1
        if self._calls[session_id] <= 0:
            del self._calls[session_id]
