"""What is seen of a request from outside: its id, its line in the log, its place in the metrics."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

from harness import logs
from harness.refused import App, Receive, Refused, Scope, Send
from harness.telemetry import Telemetry

log = logging.getLogger("harness.requests")

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")

QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""asked every few seconds; logged only if they fail"""

_SAFETY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


class Observed:
    """The outermost ASGI middleware: gives a request its id, and tells how it ended.

    The query string is never logged: it may hold a key.
    """

    def __init__(self, app: App, telemetry: Telemetry) -> None:
        self.app, self.telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        logs.begin_request(request_id)
        headers = [(b"x-request-id", request_id.encode()), *_SAFETY]
        status = 499  # the client went away before anything was sent

        async def observed(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        try:
            await self.app(scope, receive, observed)
        except Exception:
            if status == 499:
                await Refused(
                    500,
                    "internal_error",
                    "The server has made a mistake.",
                    f"Tell its operator the request's id, {request_id}.",
                ).send(observed)
            status = 500
            raise
        finally:
            self._tell(scope, status, time.perf_counter() - began)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "none"
        self.telemetry.request_ended(scope["method"], route, status, seconds)
        path: str = scope["path"]
        if path in QUIET and status < 400:
            return
        client = scope.get("client")
        log.log(
            logging.ERROR if status >= 500 else logging.INFO,
            "%s %s %d",
            scope["method"],
            path[:200],
            status,
            extra={
                "method": scope["method"],
                "path": path[:200],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
                "client": client[0] if client else None,
            },
        )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            told = value.decode("latin-1")
            if _SANE_ID.fullmatch(told):
                return str(told)
            break
    return secrets.token_hex(8)
