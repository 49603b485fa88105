"""ATIF by Harbor's own package. Standard input: {"check": [trajectory texts]} or {"write": …}.

Standard output: for each text what its validator has against it; or a trajectory in the newest
version, written by its models around the given calls of tools.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from harbor.models.trajectories import (
    Agent,
    ContentPart,
    FinalMetrics,
    ImageSource,
    Metrics,
    Observation,
    ObservationResult,
    Step,
    SubagentTrajectoryRef,
    ToolCall,
    Trajectory,
)
from harbor.utils.trajectory_validator import TrajectoryValidator


def check(texts: list[str]) -> list[list[str]]:
    found = []
    for text in texts:
        validator = TrajectoryValidator()
        assert validator.validate(text) == (not validator.errors)
        found.append(validator.errors)
    return found


def write(calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Steps with all that the format has: parts, pictures, several calls, subagents, metrics."""
    agent = Agent(name="scripted", version="1", model_name="m", tool_definitions=[{"a": 1}])
    picture = ContentPart(type="image", source=ImageSource(media_type="image/png", path="a.png"))
    other = Trajectory(
        trajectory_id="other",
        agent=agent,
        steps=[Step(step_id=1, source="user", message="of a subagent")],
    )
    steps = [
        Step(step_id=1, source="system", message="Be fair."),
        Step(
            step_id=2,
            source="user",
            timestamp="2026-01-02T03:04:05Z",
            message=[ContentPart(type="text", text="Look at this."), picture],
        ),
    ]
    for call in calls:
        asked = [
            ToolCall(tool_call_id=f"c{n}", function_name=f"mcp__harness__{tool}", arguments=args)
            for n, (tool, args) in enumerate(call["calls"])
        ]
        results = [
            ObservationResult(
                source_call_id=f"c{n}" if call["named"] else None,
                content=[ContentPart(type="text", text=text), picture] if n % 2 else text,
            )
            for n, text in enumerate(call["answers"])
        ]
        steps.append(
            Step(
                step_id=len(steps) + 1,
                source="agent",
                timestamp="2026-01-02T03:05:00+00:00",
                model_name="m",
                reasoning_effort="high",
                reasoning_content="I think.",
                message="I act.",
                tool_calls=asked,
                observation=Observation(results=results),
                metrics=Metrics(prompt_tokens=1, cost_usd=0.5, logprobs=[-0.1]),
                llm_call_count=1,
                extra={"own": True},
            )
        )
    reference = SubagentTrajectoryRef(trajectory_id="other")
    result = ObservationResult(content="Asked.", subagent_trajectory_ref=[reference])
    steps.append(
        Step(
            step_id=len(steps) + 1,
            source="system",
            message="A subagent ran.",
            observation=Observation(results=[result]),
        )
    )
    whole = Trajectory(
        trajectory_id="whole",
        session_id="s",
        agent=agent,
        steps=steps,
        subagent_trajectories=[other],
        final_metrics=FinalMetrics(total_steps=len(steps), total_cost_usd=1.5),
        extra={"own": {}},
    )
    return whole.to_json_dict()


question = json.load(sys.stdin)
answer = check(question["check"]) if "check" in question else write(question["write"])
json.dump(answer, sys.stdout)
