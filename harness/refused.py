"""A request that is refused before, or instead of, being carried out."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Refused(Exception):
    """Becomes a status with `{"error": {"code", "message", "hint"}}`."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}

    async def send(self, send: Send) -> None:
        """Answer a request with it, from outside any framework."""
        content = json.dumps(self.body, ensure_ascii=False).encode()
        await respond(send, self.status, content, "application/json", self.headers)


def too_many(code: str, message: str, seconds: float, hint: str = "") -> Refused:
    """A 429 that says when to come again."""
    wait = max(1, math.ceil(seconds))
    hint = hint or f"Repeat the call in {wait} s; nothing of it was done."
    return Refused(429, code, message, hint, {"Retry-After": str(wait)})


async def respond(
    send: Send, status: int, content: bytes, media_type: str, headers: Mapping[str, str]
) -> None:
    """A whole response."""
    raw = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(len(content)).encode()),
        *((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})
