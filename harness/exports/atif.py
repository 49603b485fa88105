"""The Agent Trajectory Interchange Format, version 1.4, of the Harbor project (its RFC 0001).

What ATIF has no place for stands under `extra.harness`: the files with their regions at the root,
seconds, error code and hashes at a step. `trajectories.read_atif` reads it again; the hash chain
is not kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.recorded import Said
from harness.story import Happening, Story, StoryStep, review_of

SCHEMA_VERSION = "ATIF-v1.4"


def export(story: Story) -> str:
    return json.dumps(trajectory(story), ensure_ascii=False, indent=1) + "\n"


def trajectory(story: Story) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    for step in story.steps:
        steps += _before(step.before, keep_last=True)
        steps.append(_step(step))
    steps += _before(story.after, keep_last=False)
    if not steps:  # ATIF wants one
        steps.append({"source": "system", "message": "Nothing was called in this session."})
    for number, value in enumerate(steps, start=1):
        value["step_id"] = number
    header = story.header
    return {
        "schema_version": SCHEMA_VERSION,
        "session_id": header.session if header else "recorded",
        "agent": _agent(story),
        "steps": [{"step_id": value.pop("step_id"), **value} for value in steps],
        "notes": " ".join(story.notes) or "Exported from a session of the research harness.",
        "final_metrics": {
            "total_steps": len(steps),
            "extra": {f"test_{t.number}": t.metrics for t in story.results if t.metrics},
        },
        "extra": {"harness": _root(story)},
    }


def _agent(story: Story) -> dict[str, Any]:
    given: Mapping[str, Any] = (story.header.agent if story.header else None) or {}
    agent: dict[str, Any] = {
        "name": str(given.get("scaffold") or given.get("name") or story.agent),
        "version": str(given.get("version") or "unknown"),
    }
    model = given.get("model") or (None if story.header else story.recording.agent)
    if model:
        agent["model_name"] = str(model)
    if given:
        agent["extra"] = dict(given)
    return agent


def _root(story: Story) -> dict[str, Any]:
    return {
        "task": story.recording.task,
        "profile": story.profile,
        "submitted": story.submitted,
        **review_of(story),
        "notes": list(story.notes),
        "files": [
            {
                "name": file.name,
                "text": file.text,
                "regions": [
                    {"name": r.name, "first": r.first, "last": r.last} for r in file.regions
                ],
            }
            for file in story.start.values()
        ],
    }


def _before(items: tuple[Said | Happening, ...], *, keep_last: bool) -> list[dict[str, Any]]:
    """Steps of their own for what was said or happened; the step itself takes `_own(items)`."""
    own = _own(items) if keep_last else ()
    found = []
    for item in items:
        if any(item is taken for taken in own):
            continue
        role = item.role if isinstance(item, Said) else "system"
        source = {"assistant": "agent", "thought": "agent", "user": "user"}.get(role, "system")
        step: dict[str, Any] = {"source": source, "message": item.text}
        if role == "thought":
            step |= {"message": "", "reasoning_content": item.text}
        if item.at is not None:
            step["timestamp"] = item.at.isoformat()
        found.append(step)
    return found


def _own(items: tuple[Said | Happening, ...]) -> tuple[Said, ...]:
    """What the model said last before a call: one message, and one thought before it."""
    said = [item for item in items if isinstance(item, Said)]
    found: list[Said] = []
    for item in reversed(said):
        if item.role not in ("assistant", "thought") or any(item.role == f.role for f in found):
            break
        if found and item.role == "assistant":
            break
        found.append(item)
    return tuple(reversed(found))


def _step(step: StoryStep) -> dict[str, Any]:
    own = _own(step.before)
    call = f"call-{step.index}"
    value: dict[str, Any] = {
        "source": "agent",
        "message": next((item.text for item in own if item.role == "assistant"), ""),
        "tool_calls": [
            {
                "tool_call_id": call,
                "function_name": step.tool,
                "arguments": dict(step.args) if step.args is not None else {"error": "not JSON"},
            }
        ],
        "observation": {"results": [{"source_call_id": call, "content": step.text}]},
    }
    thought = next((item.text for item in own if item.role == "thought"), None)
    if thought is not None:
        value["reasoning_content"] = thought
    if step.at is not None:
        value["timestamp"] = step.at.isoformat()
    hashes = {change.after.name: change.after.sha256 for change in step.changes}
    extra = {"seconds": step.seconds, "error": step.error, "sha256": hashes or None}
    kept = {name: item for name, item in extra.items() if item is not None}
    if kept:
        value["extra"] = {"harness": kept}
    return value
