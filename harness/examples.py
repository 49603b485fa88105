"""Calls that work on this server, as the API's document shows them.

They name the first task that the server has, and change nothing of what its files mean: an edit
puts the text there that stands there already, or adds a comment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.task import Task


def session_examples(tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Bodies of `POST /v1/sessions`."""
    return {
        name: {
            "summary": task.title,
            "value": {"task": name, "profile": list(task.profiles)[-1], "agent": "me"},
        }
        for name, task in tasks.items()
    }


def tool_examples(task: Task) -> dict[str, Any]:
    """Bodies of tool calls, by tool; `edit` has one for each of its operations."""
    file = task.files[0]
    lines = task.read_file(file.name).splitlines()
    region = next((r for r in file.regions if r.last >= r.first), file.regions[0])
    text = "\n".join(lines[region.first - 1 : region.last])
    named: dict[str, Any] = {"filename": file.name}
    values = {
        "view": {**named, "start_line": 1, "end_line": min(40, len(lines))},
        "edit: replace": {
            "op": "replace",
            **named,
            "start_line": region.first,
            "end_line": region.last,
            "content": text,
        },
        "edit: insert": {
            "op": "insert",
            **named,
            "after_line": region.last,
            "content": "# a comment",
        },
        "edit: str_replace": {
            "op": "str_replace",
            **named,
            "old_str": text,
            "new_str": f"{text}  # so",
        },
        "undo": {"n": 1},
        "check": {"wait_s": 0},
        "test": {"wait_s": 0},
        "status": {"wait_s": 0},
        "submit": {"n": 1},
    }
    return {name: {"summary": f"For {name}", "value": value} for name, value in values.items()}


def message_example() -> dict[str, Any]:
    """A body of `POST …/messages`."""
    return {
        "thought": {
            "summary": "What a model thought between two calls",
            "value": {
                "role": "assistant",
                "text": "I try a smaller step first.",
                "usage": {"input_tokens": 5120, "output_tokens": 64},
            },
        }
    }
