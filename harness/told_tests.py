"""A test's result read back from the text of an answer, for records that keep nothing else.

Whatever the text says is told, never checked: it is what an agent was shown.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

# A saved page runs the lines of a result together; each of these began one.
_BEGINS = re.compile(
    r" (?=### \S+ \(|Training metrics \(last|\[[A-Z][A-Z ]{3,30}[ :\]]|[A-Z][A-Z_]{2,30}: )"
)
_HEAD = re.compile(r"^\[Test #(\d{1,4})\] \(\d+ tests? remaining", re.MULTILINE)
_STAGE = re.compile(r"^### (\S{1,100}) \(([^)\n]{1,300})\)$")
_VALUE = re.compile(r"([A-Za-z_][\w.-]{0,60})=(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_STATE = re.compile(r"^\[(COMMAND FAILED|TIMEOUT|AUDIT FAILED|SKIPPED)(?: exit=(-?\d{1,4}))?.*\]$")
_STATES = {
    "COMMAND FAILED": "failed",
    "TIMEOUT": "timeout",
    "AUDIT FAILED": "void",
    "SKIPPED": "skipped",
}


@dataclass
class ToldStage:
    """What an answer says of one stage."""

    label: str
    script: str
    state: str = "done"
    exit: int | None = None
    feedback: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    reason: list[str] = field(default_factory=list)


@dataclass
class ToldTest:
    number: int
    text: str
    stages: list[ToldStage] = field(default_factory=list)


def in_lines(text: str) -> str:
    """A result as it was written, where a page has run its lines together."""
    if "\n### " in text or not _HEAD.search(text):
        return text
    return _BEGINS.sub("\n", text)


def told_test(text: str) -> ToldTest | None:
    """The result in an answer to `test`, `status` or `submit`; None if it holds none."""
    text = in_lines(text)
    head = _HEAD.search(text)
    if head is None:
        return None
    told = ToldTest(int(head[1]), text[head.start() :])
    stage: ToldStage | None = None
    for line in told.text.split("\n")[1:]:
        line = line.strip()
        if found := _STAGE.match(line):
            stage = ToldStage(found[1], found[2])
            told.stages.append(stage)
        elif stage is None or not line or line.startswith("Training metrics (last"):
            continue
        elif found := _STATE.match(line):
            stage.state = _STATES[found[1]]
            stage.exit = int(found[2]) if found[2] else None
            if stage.state in ("void", "skipped"):
                stage.reason.append(line.strip("[]").split(": ", 1)[-1])
        elif line.startswith("TEST_METRICS: "):
            stage.metrics.update(_values(line))
        elif stage.state == "done":
            stage.feedback.append(line)
        else:
            stage.reason.append(line)
    for stage in told.stages:
        if stage.state == "done" and not stage.metrics:
            stage.state = "no score"  # it may have failed: the text does not say
    return told if told.stages else None


def _values(line: str) -> dict[str, float]:
    found = ((name, float(value)) for name, value in _VALUE.findall(line))
    return {name: value for name, value in found if math.isfinite(value)}


def told_curve(feedback: list[str]) -> list[dict[str, float]]:
    """The feedback lines of an answer as points; those that name a step."""
    return [point for line in feedback if "step" in (point := _values(line))]
