"""The gate that every request passes: host, origin, credential, limits, body; in this order.

Guaranteed: but for `access.OPEN` nothing behind it runs without a fitting credential; a key in an
address becomes a cookie and goes no further. `scope["harness.caller"]` says to what is behind it
whom the request comes from. It is plain ASGI, so answers that stream go on streaming.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from harness.access import OPEN, Access, Caller, cookie_of, is_reading
from harness.logs import caller as logged_caller
from harness.logs import session_id as logged_session
from harness.refused import App, Receive, Refused, Scope, Send, respond

SESSIONS = "/v1/sessions/"

KEY_NEEDED = (
    "Send 'Authorization: Bearer <key>' with a key of HARNESS_API_KEY or the one that the server "
    "printed when it started; a browser opens the printed link."
)

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
"""what is looked for in the database; nothing else can be a session's"""

TokenFits = Callable[[str, str], Awaitable[bool]]
"""whether a token is the session's, by the session's id"""


class Gate:
    """The ASGI middleware."""

    def __init__(self, app: App, access: Access, token_fits: TokenFits) -> None:
        self.app, self.access, self.token_fits = app, access, token_fits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = _headers(scope)
        try:
            self._require_host(scope, headers)
            if scope["query_string"] and (key := _key_in_address(scope)):
                await self._exchange(scope, send, key)
                return
            caller = await self._caller(scope, headers)
            self._require_reach(scope, headers, caller)
        except Refused as refused:
            await _refuse(refused, scope, headers, send)
            return
        assert caller is not None
        scope["harness.caller"] = caller
        logged_caller.set(f"{caller.kind} {caller.name}")
        limits = self.access.limits
        try:
            if caller.is_owner:
                limits.count_key_request(caller.name)
            else:
                limits.count_session_request(caller.name)
                limits.begin_call(caller.name)
        except Refused as refused:
            await refused.send(send)
            return
        try:
            body = _Body(receive, send, limits.allowance.body_bytes)
            await body.run(self.app, scope, headers)
        finally:
            if not caller.is_owner:
                limits.end_call(caller.name)

    def _require_host(self, scope: Scope, headers: Mapping[bytes, str]) -> None:
        hosts, host = self.access.hosts, headers.get(b"host")
        server = scope.get("server")
        if not hosts.answers_to(host, server[0] if server else None):
            raise Refused(
                403,
                "bad_host",
                "This server does not answer to that Host.",
                "Use the address that it printed, or name yours in HARNESS_ALLOWED_HOSTS.",
            )
        origin = headers.get(b"origin")
        if origin is not None and not hosts.accepts_origin(origin, host):
            raise Refused(
                403,
                "bad_origin",
                "Pages of another origin may not call this server.",
                "Open its own pages, or call it from a program, without an Origin header.",
            )

    async def _caller(self, scope: Scope, headers: Mapping[bytes, str]) -> Caller | None:
        if (sent := headers.get(b"authorization")) is not None:
            scheme, _, credential = sent.partition(" ")
            credential = credential.strip()
            if scheme.lower() != "bearer" or not credential:
                return None
            if (key := self.access.key(credential)) is not None:
                return Caller("owner", key.name)
            session_id = credential.partition(".")[0] if "." in credential else _session_in(scope)
            if _SESSION_ID.fullmatch(session_id) and await self.token_fits(session_id, credential):
                return Caller("agent", session_id)
            return None
        if (cookies := headers.get(b"cookie")) is not None and _from_our_page(scope, headers):
            value = _cookie(cookies, cookie_name(scope))
            if value and (key := self.access.key_of_cookie(value)) is not None:
                return Caller("owner", key.name)
        return None

    def _require_reach(
        self, scope: Scope, headers: Mapping[bytes, str], caller: Caller | None
    ) -> None:
        session_id = _session_in(scope)
        if session_id:
            logged_session.set(session_id[:40])
        if caller is not None:
            if caller.is_owner and session_id and not _SESSION_ID.fullmatch(session_id):
                raise Refused(404, "unknown_session", "There is no such session.")
            if caller.is_owner or caller.name == session_id:
                return
            if not session_id:
                if scope["method"] in ("GET", "HEAD") and is_reading(scope["path"]):
                    return
                raise Refused(
                    403,
                    "key_needed",
                    "A session's token reaches only its own session.",
                    KEY_NEEDED,
                )
        self.access.limits.count_failure(_address(scope))
        if session_id:
            raise Refused(
                401,
                "bad_token",
                "The token does not belong to this session.",
                "Send 'Authorization: Bearer <token>' with the token that creating it gave, or "
                "a key.",
                {"WWW-Authenticate": "Bearer"},
            )
        raise Refused(
            401, "bad_key", "This needs an API key.", KEY_NEEDED, {"WWW-Authenticate": "Bearer"}
        )

    async def _exchange(self, scope: Scope, send: Send, text: str) -> None:
        """Turn a key in the address into a cookie, and lead to the address without it."""
        if self.access.key(text) is None:
            self.access.limits.count_failure(_address(scope))
            raise Refused(
                401, "bad_key", "The key in the address is not this server's.", KEY_NEEDED
            )
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{cookie_name(scope)}={cookie_of(text)}; Path=/; HttpOnly; SameSite=Strict"
        headers = {
            "Location": _without_key(scope),
            "Set-Cookie": cookie + secure,
            "Cache-Control": "no-store",
        }
        await respond(send, 303, b"", "text/plain", headers)


class _Body:
    """Refuses a body of more than `most` bytes, without reading the rest of it."""

    def __init__(self, receive: Receive, send: Send, most: int) -> None:
        self._receive, self._send, self._most = receive, send, most
        self._taken = 0
        self._begun = False
        self._refused = False

    async def run(self, app: App, scope: Scope, headers: Mapping[bytes, str]) -> None:
        length = headers.get(b"content-length", "")
        if length.isdecimal() and int(length) > self._most:
            await self._refuse()
            return
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            # What an application makes of a body that breaks off is no fault of its own.
            if not self._refused:
                raise

    async def receive(self) -> Any:
        if self._refused:
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._taken += len(message.get("body", b""))
        if self._taken > self._most and not self._begun:
            await self._refuse()
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Any) -> None:
        if not self._refused:
            self._begun = True
            await self._send(message)

    async def _refuse(self) -> None:
        self._refused = True
        message = f"The request is larger than {self._most} bytes."
        await Refused(413, "too_large", message, "Send a smaller edit.").send(self._send)


def cookie_name(scope: Mapping[str, Any]) -> str:
    """Browsers share cookies between the ports of a host, so each port has a name of its own."""
    server = scope.get("server")
    return f"harness_{server[1] if server else 0}"


def _headers(scope: Scope) -> dict[bytes, str]:
    """The first of each name."""
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        found.setdefault(name, value.decode("latin-1"))
    return found


def _session_in(scope: Scope) -> str:
    path = str(scope["path"])
    return path[len(SESSIONS) :].partition("/")[0] if path.startswith(SESSIONS) else ""


def _from_our_page(scope: Scope, headers: Mapping[bytes, str]) -> bool:
    """Whether a browser sent its cookie for one of our pages, or a person came here.

    SameSite keeps other sites out; this keeps out what other ports of this host serve.
    """
    if scope["method"] not in ("GET", "HEAD") and b"origin" not in headers:
        return False
    if headers.get(b"sec-fetch-site", "none") in ("none", "same-origin"):
        return True
    mode, dest = headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")
    return scope["method"] == "GET" and (mode, dest) == ("navigate", "document")


def _cookie(text: str, name: str) -> str:
    try:
        found = SimpleCookie(text).get(name)
    except CookieError:
        return ""
    return str(found.value) if found is not None else ""


def _key_in_address(scope: Scope) -> str:
    if scope["method"] not in ("GET", "HEAD") or b"key=" not in scope["query_string"]:
        return ""
    return dict(parse_qsl(str(scope["query_string"], "latin-1"))).get("key", "")


def _without_key(scope: Scope) -> str:
    # A second slash at the start would lead to another host.
    path = "/" + quote(scope["path"].lstrip("/\\"))
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    rest = urlencode([(name, value) for name, value in pairs if name != "key"])
    return f"{path}?{rest}" if rest else path


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>A key is needed</title>
<body style="font-family: system-ui; max-width: 40em; margin: 3em auto; padding: 0 1em">
<h1>A key is needed</h1>
<p>Open the link that <code>harness serve</code> printed when it started; it ends in
<code>?key=…</code>. If you came here by that link, reload this page.</p>
"""


async def _refuse(refused: Refused, scope: Scope, headers: Mapping[bytes, str], send: Send) -> None:
    wants_page = "text/html" in headers.get(b"accept", "") and not scope["path"].startswith("/v1/")
    if refused.code == "bad_key" and wants_page:
        await respond(send, 401, _PAGE.encode(), "text/html; charset=utf-8", refused.headers)
    else:
        await refused.send(send)
