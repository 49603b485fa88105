"""Which Host and Origin a request may carry: against DNS rebinding and cross-site requests.

Guaranteed: a page of another origin cannot make this server act with a browser's cookie, and a name
that an attacker points at this machine is not answered. Not guaranteed: anything about programs
that are no browser; they send what they like, and need a key or a token.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def host_name(host: str) -> str:
    """The name or address in a Host header or an authority, in lower case, without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") <= 1 else host


class Hosts:
    """The names that the server answers to."""

    def __init__(self, allowed: Iterable[str] = (), bound: str = "") -> None:
        names = {host_name(name) for name in allowed if name.strip()}
        self._any = "*" in names
        self._named = frozenset(names)
        """named by the operator: also as an Origin behind a proxy that changes the Host"""
        self._bound = host_name(bound)
        """where the server listens: no Origin, since all ports of a machine share its name"""

    def answers_to(self, host: str | None, reached_at: str | None) -> bool:
        """Whether a Host header is one of ours: local, named, or the address of the socket."""
        if self._any:
            return True
        if not host:
            return False
        name = host_name(host)
        if name in LOCAL or name in self._named or name == self._bound:
            return True
        return reached_at is not None and _same_address(name, reached_at)

    def accepts_origin(self, origin: str, host: str | None) -> bool:
        """Whether a request that a page of `origin` makes comes from our own pages."""
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or not parts.netloc:
            return False
        if host is not None and parts.netloc.lower() == host.strip().lower():
            return True
        return host_name(parts.netloc) in self._named


def _same_address(name: str, reached_at: str) -> bool:
    if name == reached_at.lower():
        return True
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(reached_at)
    except ValueError:
        return False
