"""Logs: one record a line, with the request, the session and the tool that it belongs to.

Guaranteed: a record is one line of printable characters, whatever an agent put into it (for
reading, a traceback follows, each line of it indented); session tokens, fresh keys, bearer
headers and `key=` in an address are not written. Not guaranteed: that a secret of another shape is
recognised; nothing here writes one.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

LogFormat = Literal["text", "json"]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
session_id: ContextVar[str | None] = ContextVar("session_id", default=None)
tool: ContextVar[str | None] = ContextVar("tool", default=None)
caller: ContextVar[str | None] = ContextVar("caller", default=None)

_CONTEXT = (
    ("request", request_id),
    ("session", session_id),
    ("tool", tool),
    ("caller", caller),
)

FIELDS = ("method", "path", "route", "status", "ms", "client")
"""what a record about a request says beside its text, given as `extra`"""


def begin_request(name: str) -> None:
    """From here on, what this task logs belongs to the request of that id."""
    request_id.set(name)
    # A connection's next request may be carried out in the context of the one before it.
    session_id.set(None)
    tool.set(None)
    caller.set(None)


_SECRETS = (
    # A word that is cheap to look for, and what is hidden where it occurs.
    ("hs_", re.compile(r"[A-Za-z0-9_-]*\.?hs_[A-Za-z0-9_-]{20,}")),
    ("hk_", re.compile(r"hk_[A-Za-z0-9_-]{20,}")),
    ("key=", re.compile(r"(?<=key=)[^&\s\"'\\]+")),
    ("earer ", re.compile(r"(?<=earer )[^\s\"'\\]+")),
)

_json = json.JSONEncoder(ensure_ascii=True, default=str, check_circular=False).encode


def scrubbed(text: str) -> str:
    """`text` with `[hidden]` for what looks like a token or a key."""
    for word, pattern in _SECRETS:
        if word in text:
            text = pattern.sub("[hidden]", text)
    return text


def escaped(text: str) -> str:
    """`text` on one line, with `\\x1b` and the like for what is not for reading."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


class JsonLines(logging.Formatter):
    """One JSON object a record: `at`, `level`, `logger`, `event`, what is known of the request,
    and `exception` with the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": f"{_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # ASCII escapes leave nothing that moves a cursor or ends a line.
        return scrubbed(_json(line))


class ReadableLines(logging.Formatter):
    """`2026-01-02 03:04:05 INFO harness.service: text [request=… session=…]`"""

    def format(self, record: logging.LogRecord) -> str:
        known = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        at = _second(int(record.created)).replace("T", " ")
        line = f"{at} {record.levelname} {record.name}: {record.getMessage()}"
        lines = [escaped(f"{line} [{known}]" if known else line)]
        if record.exc_info:
            told = self.formatException(record.exc_info).split("\n")
            lines += [f"    {escaped(part)}" for part in told]
        return scrubbed("\n".join(lines))


@functools.lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found = {name: variable.get() for name, variable in _CONTEXT}
    found |= {name: getattr(record, name, None) for name in FIELDS}
    return {name: value for name, value in found.items() if value is not None}


def configure(chosen: LogFormat | None, stream: TextIO | None = None) -> None:
    """Send every logger's records of level INFO and above to `stream`, standard error if left out.

    Without a choice: for reading on a terminal, else JSON.
    """
    stream = stream or sys.stderr
    chosen = chosen or ("text" if stream.isatty() else "json")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if chosen == "json" else ReadableLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
