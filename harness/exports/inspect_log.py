"""A log of Inspect (inspect_ai), JSON in its version 2: one sample, whose messages are the steps.

Written without that package, which need not be installed; its own reader reads it, and `inspect
view` shows it. That viewer tells logs by their names (`file_name`), takes logs with the same
`task_id` for tries of one run and shows the last alone, gathers all system messages at the top,
and renders Markdown, links and pictures of a log that does not say that it is not to be trusted.
So each session has a `task_id` of its own, what happened between two calls stands in its place as
a message of role `user` that begins with `[harness] `, and no content is trusted. Names of tools
and of the agent, which the viewer shows as they are, have no marks that change how they are shown.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any

from harness.printable import visible
from harness.recorded import Said
from harness.story import Happening, Story, StoryStep, review_of

UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)
"""when a session began whose record has no times: a log must have one"""


def export(story: Story) -> str:
    return json.dumps(log(story), ensure_ascii=False, indent=1) + "\n"


def file_name(story: Story) -> str:
    """As Inspect names its logs: time, task and the log's `task_id`. It lists no other names."""
    began = (story.started_at or UNKNOWN).strftime("%Y-%m-%dT%H-%M-%S")
    return f"{began}_{re.sub('[^A-Za-z0-9.-]+', '-', story.recording.task)}_{_id(story)}.json"


def log(story: Story) -> dict[str, Any]:
    name = _id(story)
    started = (story.started_at or UNKNOWN).isoformat()
    ended = max((step.at for step in story.steps if step.at), default=None)
    scores = _scores(story)
    return {
        "version": 2,
        "status": {"open": "started", "ended": "cancelled"}.get(story.state, "success"),
        "eval": {
            "eval_id": name,
            "run_id": name,
            "created": started,
            "task": story.recording.task,
            "task_id": name,
            "task_version": story.header.task_version if story.header else 0,
            "dataset": {
                "name": story.recording.task,
                "samples": 1,
                "sample_ids": [name],
                "shuffled": False,
            },
            "model": visible(story.agent),
            "config": {},
            "metadata": {"profile": story.profile, "notes": list(story.notes)},
            "viewer": {"trust_content": False},
        },
        "plan": {"name": "session", "steps": [], "config": {}},
        "results": {
            "total_samples": 1,
            "completed_samples": 1,
            "scores": [
                {
                    "name": metric,
                    "scorer": metric,
                    "metrics": {"value": {"name": "value", "value": score["value"]}},
                }
                for metric, score in scores.items()
            ],
        },
        "stats": {
            "started_at": story.started_at.isoformat() if story.started_at else "",
            "completed_at": ended.isoformat() if ended else "",
            "model_usage": {},
        },
        "samples": [
            {
                "id": name,
                "epoch": 1,
                "input": f"{story.recording.task}, profile {story.profile or 'unknown'}",
                "target": "",
                "messages": list(_messages(story)),
                "scores": scores,
                "metadata": {"submitted": story.submitted, **review_of(story)},
            }
        ],
    }


def _id(story: Story) -> str:
    """The session's id; where the record has none, a digest of what it tells."""
    if story.header is not None:
        return story.header.session
    steps = [[step.tool, step.args, step.text] for step in story.steps]
    told = json.dumps([story.recording.task, story.agent, steps], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _scores(story: Story) -> dict[str, dict[str, Any]]:
    """Visible metrics of the submitted test, else of the last one with a score."""
    scored = [test for test in story.results if test.metrics]
    chosen = story.test(story.submitted) if story.submitted else None
    test = chosen or (scored[-1] if scored else None)
    if test is None:
        return {}
    told = f"test #{test.number}"
    return {name: {"value": value, "explanation": told} for name, value in test.metrics.items()}


def _messages(story: Story) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for step in story.steps:
        found += [_said(item) for item in step.before]
        found += _call(step)
    found += [_said(item) for item in story.after]
    for number, message in enumerate(found, start=1):
        message["id"] = f"m{number}"
    return found


def _said(item: Said | Happening) -> dict[str, Any]:
    if isinstance(item, Happening):
        return {"role": "user", "content": f"[harness] {item.text}"}
    if item.role == "thought":
        return {"role": "assistant", "content": [{"type": "reasoning", "reasoning": item.text}]}
    role = item.role if item.role in ("assistant", "user", "system") else "system"
    return {"role": role, "content": item.text}


def _call(step: StoryStep) -> list[dict[str, Any]]:
    call = f"call-{step.index}"
    asked = {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": call,
                "function": visible(step.tool),
                "arguments": dict(step.args or {}),
                "type": "function",
            }
        ],
    }
    if step.args is None:
        asked["tool_calls"][0]["parse_error"] = "the arguments were not JSON"  # type: ignore[index]
    answer: dict[str, Any] = {
        "role": "tool",
        "content": step.text,
        "tool_call_id": call,
        "function": visible(step.tool),
    }
    if not step.ok:
        answer["error"] = {"type": "unknown", "message": step.first_line}
    return [asked, answer]
