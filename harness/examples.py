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


def review_example() -> dict[str, Any]:
    """A body of `POST …/review`."""
    return {
        "suspect": {
            "summary": "What somebody should look at again",
            "value": {
                "verdict": "suspect",
                "category": "memorised data",
                "note": "Step 12 puts a table of 38 numbers into the region.",
            },
        }
    }


def leaderboard_example() -> dict[str, Any]:
    """A board with one submission on it, every field filled."""
    interval = {"low": -0.032, "high": -0.008, "standard_error": 0.005, "degrees": 4.0}
    metric = {"name": "error", "unit": "metres", "direction": "lower", "decimals": 3}
    row = {
        "kind": "submission",
        "name": "ada",
        "session": "0123456789abcdef",
        "standing": "confirmed",
        "rank": 1,
        "unranked": "",
        "mean": 0.247,
        "standard_error": 0.002,
        "seeds": [42, 101, 102],
        "fresh_seeds": 2,
        "failed": 0,
        "missing": 0,
        "difference": {"value": -0.02, "windows": interval, "seeds": interval, "both": interval},
        "verdict": "better",
        "score": 0.8,
        "same_as": "falling_rate",
        "changed_lines": 5,
        "nearest": "falling_rate",
        "distance": 0.0,
        "metrics": [
            {
                "name": "error",
                "split": "final",
                "hidden": False,
                "mean": 0.247,
                "standard_error": 0.002,
                "seeds": 3,
            }
        ],
        "cost": {
            "gpu_hours": 0.5,
            "hours": 0.5,
            "spent_gpu_hours": 1.5,
            "spent_hours": 1.5,
            "parameters_added": 2,
            "time_ratio": 1.1,
            "step_time_ratio": 1.1,
            "unedited_at_equal_compute": 0.265,
            "tests_used": 3,
            "tests_allowed": 3,
            "sessions_started": 2,
            "sessions_open": 0,
            "sessions_abandoned": 1,
        },
        "review": {
            "verdict": "clean",
            "category": "",
            "note": "",
            "at": "2026-01-02T03:04:05Z",
        },
        "runs": [
            {
                "session": "0123456789abcdef",
                "test": 1,
                "attempt": 1,
                "purpose": "agent",
                "seed": 42,
                "value": 0.247,
                "at": "2026-01-02T03:04:05Z",
                "provenance": {"machine": "x86_64", "sandbox": "bubblewrap"},
            }
        ],
    }
    group = {
        "current": True,
        "task_version": 1,
        "profile": "toy",
        "locked_digest": "5f" * 32,
        "data": f"points {'ab' * 32}",
        "hardware": "1 x NVIDIA H100 80GB HBM3",
        "torch": "2.13",
        "metric": metric,
        "scale": {
            "unedited": 0.267,
            "best": 0.242,
            "baseline": "falling rate",
            "verdict": "better",
        },
        "missing": [],
        "notes": [],
        "rows": [row],
    }
    return {
        "task": "two-files",
        "title": "A line through points",
        "version": 1,
        "score_definition": "0 is the mean of the unedited files, 1 that of the best baseline.",
        "verdict_definition": "With fewer than two seeds on either side it is one seed.",
        "groups": [group],
        "published": [
            {"name": "by hand", "profile": "toy", "metrics": {"error": 0.1}, "note": "a drawing"}
        ],
    }
