"""Who may see pages: whoever has the key that the printed link carries.

Guaranteed: without the key, no page and no file is served; the key is compared in constant time
and leaves the address bar at once (a cookie takes its place); a request whose Host is not this
machine's loopback is refused where `loopback` is set, so that no website can reach the pages
through a name of its own. Not guaranteed: anything against who can read this user's memory or
terminal.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from urllib.parse import urlencode, urlsplit

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse

LOOPBACK = ("127.0.0.1", "localhost", "::1")
DAY = 86400


class LinkKey:
    """A key in a link, as notebooks have it; a guard of pages."""

    def __init__(self, *, loopback: bool, key: str | None = None) -> None:
        self.key = key or secrets.token_urlsafe(24)
        self.loopback = loopback
        # Cookies are shared by all ports of a host: each key has a name of its own.
        self.cookie = "harness-" + hashlib.sha256(self.key.encode()).hexdigest()[:12]

    def link(self, address: str, path: str = "/") -> str:
        return f"{address}{path}?key={self.key}"

    def redact(self, record: logging.LogRecord) -> bool:
        """A filter for logs of requests: the key does not reach them."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                arg.replace(self.key, "…") if isinstance(arg, str) else arg for arg in record.args
            )
        return True

    def __call__(self, request: Request) -> Response | None:
        if self.loopback and _host(request) not in LOOPBACK:
            return PlainTextResponse(
                "ERROR: pages are served under 127.0.0.1 and localhost only\n", 421
            )
        if self._fits(request.cookies.get(self.cookie)):
            return None
        if not self._fits(request.query_params.get("key")):
            return PlainTextResponse(
                "ERROR: open the link that was printed at the start; it carries a key\n", 403
            )
        rest = [(k, v) for k, v in request.query_params.multi_items() if k != "key"]
        query = f"?{urlencode(rest)}" if rest else ""
        response = RedirectResponse(f"{request.url.path}{query}", 303)
        response.set_cookie(self.cookie, self.key, DAY, httponly=True, samesite="lax", path="/")
        return response

    def _fits(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), self.key.encode())


def _host(request: Request) -> str | None:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None
