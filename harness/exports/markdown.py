"""A session as a Markdown page: its facts, every step with its change, its tests."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.diffs import diff_lines
from harness.metrics import format_value
from harness.printable import visible
from harness.recorded import Said
from harness.story import Story, StoryStep, StoryTest, verdict_text

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~&])")


def export(story: Story) -> str:
    return "\n".join(_lines(story)) + "\n"


def _lines(story: Story) -> Iterator[str]:
    yield f"# {_plain(story.agent)} on {_plain(story.recording.task)}"
    yield ""
    facts = [f"profile {story.profile}"] if story.profile else []
    facts += [story.state, f"{len(story.steps)} steps"]
    if story.started_at:
        facts.append(story.started_at.isoformat(timespec="seconds"))
    if story.submitted is not None:
        facts.append(f"test {story.submitted} submitted")
    if story.review is not None:
        facts.append(f"a person's verdict: {verdict_text(story.review)}")
    yield _plain(", ".join(facts))
    yield ""
    for note in story.notes:
        yield f"> {_plain(note)}"
        yield ">"
    for test in story.results:
        yield from _test(test)
    for step in story.steps:
        yield from _step(step)
    for item in story.after:
        yield from _said(item.role if isinstance(item, Said) else "", item.text)


def _test(test: StoryTest) -> Iterator[str]:
    yield f"## Test {test.number}"
    yield ""
    for stage in test.stages:
        seconds = f", {stage.seconds:.1f} s" if stage.seconds is not None else ""
        yield f"- {_plain(stage.label)}: {_plain(stage.state)}{seconds}"
    yield ""
    told = [line for stage in test.stages for line in (*stage.feedback, *stage.reason)]
    if told:
        yield from _fenced("\n".join(told), "")
    if test.metrics:
        yield "| metric | value |"
        yield "|---|---|"
        for name, value in test.metrics.items():
            yield f"| {_plain(name)} | {format_value(value, 4)} |"
        yield ""


def _step(step: StoryStep) -> Iterator[str]:
    for item in step.before:
        yield from _said(item.role if isinstance(item, Said) else "", item.text)
    said = "" if step.ok else ", refused"
    yield f"## Step {step.index}: {_plain(step.tool)}{said}"
    yield ""
    for note in step.notes:
        yield f"> {_plain(note)}"
        yield ""
    text = step.first_line if step.tool in ("edit", "view") else step.text
    yield from _fenced(text, "")
    content = (step.args or {}).get("content", (step.args or {}).get("new_str"))
    if not step.ok and isinstance(content, str):
        yield "Attempted:"
        yield ""
        yield from _fenced(content, "")
    for change in step.changes:
        lines = diff_lines(change.before.lines, change.after.lines, 3)
        body = "\n".join(f"{sign}{line}" for sign, _, line in lines)
        yield from _fenced(f"--- {change.before.name}\n+++ {change.after.name}\n{body}", "diff")


def _said(who: str, text: str) -> Iterator[str]:
    yield f"**{_plain(who)}**" if who else f"*{_plain(text)}*"
    yield ""
    if who:
        yield from _fenced(text, "text")


def _fenced(text: str, language: str) -> Iterator[str]:
    """A block that its own text cannot end."""
    text = visible(text, lines=True)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{fence}{language}"
    yield text
    yield fence
    yield ""


def _plain(text: str) -> str:
    """Text on one line in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", visible(text))
