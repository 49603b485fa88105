"""Who may do what: API keys, session tokens, and what each reaches.

What a credential reaches:

    nothing          `/healthz`, `/readyz`
    session's token  `/v1/sessions/{id}` of that session and all below it, but its review; reading
                     the tools, the tasks and the description of the API
    API key          everything, every session included

Guaranteed: a route that is not named here, whoever adds it, needs a key (harness/gate.py); keys are
held as hashes and compared in constant time.
Not guaranteed: anything against the server's own user or root, who can read its memory.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.hosts import Hosts
from harness.limits import Limits

OPEN = frozenset({"/healthz", "/readyz"})
"""answered to anybody"""

READING = ("/v1/tools", "/v1/tasks", "/docs", "/redoc", "/openapi.json")
"""what any session's token may read, each with all below it"""

_KEY = re.compile(r"(?:([A-Za-z0-9_.-]{1,40}):)?([A-Za-z0-9._~+/=-]{16,200})")
KEY_SHAPE = (
    "one key or several with commas between, each of 16 to 200 letters, digits and ._~+/=- , with "
    "a name and a colon before it if you like"
)


class BadKeys(ValueError):
    """What is said never holds a key."""


@dataclass(frozen=True)
class Key:
    """An API key, of which only hashes are kept."""

    name: str
    sha256: bytes
    cookie_sha256: bytes

    @classmethod
    def of(cls, name: str, text: str) -> Key:
        return cls(name, _sha256(text), _sha256(cookie_of(text)))


def fresh_key() -> str:
    """A key that nobody has chosen."""
    return f"hk_{secrets.token_urlsafe(32)}"


def cookie_of(key: str) -> str:
    """What a browser keeps instead of the key: it opens pages, and is no key itself."""
    return hmac.new(key.encode(), b"harness browser", hashlib.sha256).hexdigest()


def parse_keys(text: str) -> list[Key]:
    """`HARNESS_API_KEY`. Raises BadKeys."""
    keys: list[Key] = []
    for number, part in enumerate(text.split(","), 1):
        match = _KEY.fullmatch(part.strip())
        if match is None:
            raise BadKeys(KEY_SHAPE)
        keys.append(Key.of(match[1] or f"key-{number}", match[2]))
    if len({key.name for key in keys}) < len(keys):
        raise BadKeys("keys whose names differ")
    return keys


@dataclass(frozen=True)
class Caller:
    """Whom a request comes from."""

    kind: Literal["owner", "agent"]
    name: str
    """the key's name, or the session's id"""

    @property
    def is_owner(self) -> bool:
        return self.kind == "owner"

    def may_enter(self, session_id: str) -> bool:
        return self.is_owner or self.name == session_id


def is_reading(path: str) -> bool:
    """Whether the path is one that any session's token may read."""
    return any(path == part or path.startswith(f"{part}/") for part in READING)


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Whom the gate found; KeyError where a request did not come through it."""
    caller: Caller = scope["harness.caller"]
    return caller


@dataclass
class Access:
    """What the gate goes by."""

    keys: Iterable[Key]
    hosts: Hosts = field(default_factory=Hosts)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.keys = tuple(self.keys)

    def key(self, text: str) -> Key | None:
        """The key whose text this is; every one is compared, whichever fits."""
        return self._fitting(_sha256(text), "sha256")

    def key_of_cookie(self, text: str) -> Key | None:
        return self._fitting(_sha256(text), "cookie_sha256")

    def _fitting(self, digest: bytes, which: str) -> Key | None:
        found = None
        for key in self.keys:
            if hmac.compare_digest(getattr(key, which), digest):
                found = key
        return found


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
