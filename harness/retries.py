"""When a request to the server is sent again, and what an answer that refuses it becomes.

HarnessError
├── Refused                 the server refuses the call: `status`, `code`, `message`, `hint`
│   ├── BadToken            401: no token or key, or one that does not fit
│   ├── NotFound            404: no such session, task, test, file or tool
│   ├── Conflict            409: an Idempotency-Key came back with another call
│   ├── Busy                429: too many requests, and no patience left to wait
│   └── Away                5xx: the server could not answer, and no patience left to wait
├── Unreachable             no answer came for as long as the client has patience
└── BadAnswer               what came is no answer of a harness
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
from pydantic import ValidationError

from harness.wire import ErrorBody

AGAIN = (429, 502, 503, 504)
"""statuses after which the same request may succeed; a proxy's among them"""

NOTHING_DONE = (429, 503)
"""those of them that say that nothing of the call was done"""


class HarnessError(Exception):
    """Whatever a call of the client's can end with but an answer."""


class Unreachable(HarnessError):
    """No answer came for as long as the client has patience."""


class BadAnswer(HarnessError):
    """What came is no answer of a harness: something else listens there, or stands between."""


class Refused(HarnessError):
    """The server refuses the call."""

    def __init__(self, status: int, code: str, message: str, hint: str) -> None:
        super().__init__(f"{message} {hint}".strip())
        self.status, self.code, self.message, self.hint = status, code, message, hint


class BadToken(Refused):
    pass


class NotFound(Refused):
    pass


class Conflict(Refused):
    pass


class Busy(Refused):
    pass


class Away(Refused):
    pass


_KINDS: dict[int, type[Refused]] = {401: BadToken, 404: NotFound, 409: Conflict, 429: Busy}


@dataclass(frozen=True)
class Patience:
    """How long, and how, a client goes on trying. All in seconds."""

    total_s: float = 300
    """from the first try, or the last sign of life, to giving up"""
    first_s: float = 0.2
    """the pause after the first failure; each further one is up to twice as long"""
    longest_s: float = 20
    """the longest pause, unless the server asks for a longer one"""


def send(
    attempt: Callable[[], httpx.Response], patience: Patience, *, repeatable: bool
) -> httpx.Response:
    """The response to a request that is sent until it is answered. Raises HarnessError.

    One that is not `repeatable` is sent again only if the server cannot have done anything of it.
    """
    pauses = _pauses(patience)
    deadline = time.monotonic() + patience.total_s
    while True:
        wanted: float | None = None
        try:
            response = attempt()
        except httpx.TransportError as error:
            never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            failure: HarnessError = Unreachable(f"no answer: {error or type(error).__name__}")
            failure.__cause__ = error
            if not repeatable and not never_sent:
                raise failure from error
        else:
            if response.status_code < 400:
                return response
            failure = refused(response)
            if response.status_code not in (AGAIN if repeatable else NOTHING_DONE):
                raise failure
            wanted = retry_after(response)
        pause = max(next(pauses), wanted or 0)
        if time.monotonic() + pause > deadline:
            raise failure
        time.sleep(pause)


def _pauses(patience: Patience) -> Iterator[float]:
    """Exponential, with full jitter in their upper half: many clients do not come back at once."""
    longest = patience.first_s
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(2 * longest, patience.longest_s)


def retry_after(response: httpx.Response) -> float | None:
    """What Retry-After asks for, in seconds; None for a date, which no server of ours sends."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def refused(response: httpx.Response) -> HarnessError:
    """What a status from 400 on means; a streamed response must have been read."""
    status = response.status_code
    kind = Away if status >= 500 else _KINDS.get(status, Refused)
    try:
        error = ErrorBody.model_validate_json(response.content).error
    except ValidationError:
        if status not in AGAIN:  # a proxy's own page
            said = response.text[:200]
            return BadAnswer(f"status {status} without an error object: {said!r}")
        return kind(status, "http_error", f"status {status}, {response.reason_phrase}", "")
    return kind(status, error.code, error.message, error.hint)
