"""A session in other forms: pick one by its name.

Nothing hidden is exported: a story is made of what a transcript holds.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.exports import atif, inspect_log, jsonl, markdown, page
from harness.exports.jsonl import ExportError
from harness.story import Story

EXPORTS: dict[str, Callable[[Story], str]] = {
    "jsonl": jsonl.export,
    "atif": atif.export,
    "inspect": inspect_log.export,
    "markdown": markdown.export,
    "html": page.export,
}
"""by the format's name; each gives the whole text of one file, or raises ExportError"""

SUFFIXES = {
    "jsonl": ".jsonl",
    "atif": ".atif.json",
    "markdown": ".md",
    "html": ".html",
}


def file_name(format: str, story: Story, name: str) -> str:
    """What an export is called if nobody says otherwise; `name` is the session's or its file's."""
    if format == "inspect":
        return inspect_log.file_name(story)
    return name + SUFFIXES[format]


__all__ = ["EXPORTS", "ExportError", "file_name"]
