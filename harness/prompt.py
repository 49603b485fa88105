"""What an agent is told at the start: the task, its files, its baselines, the rules of the game."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from harness import render
from harness.metrics import format_values
from harness.regions import EditableFile
from harness.task import Baseline, Metric, Profile, Task


def build_prompt(
    task: Task,
    profile_name: str,
    files: Mapping[str, EditableFile],
    baseline_results: Mapping[str, Mapping[str, float]],
) -> str:
    """The whole prompt in Markdown.

    `baseline_results` holds our own measured visible metrics by baseline; those without one are
    shown by their edits alone.
    """
    profile = task.profile(profile_name)
    sections = [
        task.read_instruction().strip(),
        *(_file_section(file) for file in files.values()),
        _siblings_section(task),
        _baselines_section(task, profile_name, baseline_results),
        _tests_section(task, profile_name, profile),
        _tools_section(task),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _file_section(file: EditableFile) -> str:
    ranges = ", ".join(f"lines {region}" for region in file.regions)
    listing = render.numbered_listing(file)
    return f"## {file.name}  [EDITABLE — {ranges} only]\n\n{_fenced(listing)}"


def _fenced(text: str, language: str = "") -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def _siblings_section(task: Task) -> str:
    shown = [sibling.name for sibling in task.siblings if sibling.show]
    if not shown:
        return ""
    names = ", ".join(f"`{name}`" for name in shown)
    return f"Locked files beside it, which `view` shows: {names}."


def _baselines_section(task: Task, profile: str, results: Mapping[str, Mapping[str, float]]) -> str:
    parts = ["## Baselines (read-only reference)"]
    decimals = visible_decimals(task, profile)
    if task.published:
        parts.append(
            "Published results, as published: other hardware and other data, so not comparable "
            "with yours digit by digit."
        )
        rows = [
            (row.name, format_values(row.metrics, _published_decimals(task)))
            for row in task.published
        ]
        parts.append("\n".join(f"- {name}: {values}" for name, values in rows))
    for baseline in task.all_baselines():
        parts.append(_baseline(baseline, results.get(baseline.name), decimals))
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _baseline(
    baseline: Baseline, result: Mapping[str, float] | None, decimals: Mapping[str, int]
) -> str:
    lines = [f"### {baseline.title}"]
    if baseline.description:
        lines.append(baseline.description.strip())
    if baseline.paper:
        lines.append(f"Source: {baseline.paper}")
    if result:
        lines.append(f"Measured here: {format_values(result, decimals)}")
    for edit in baseline.edits:
        arguments = {key: value for key, value in edit.items() if key != "content"}
        block = json.dumps(arguments, ensure_ascii=False)
        if "content" in edit:
            block += "\n" + str(edit["content"]).rstrip("\n")
        lines.append(_fenced(block))
    return "\n\n".join(lines)


def _tests_section(task: Task, profile_name: str, profile: Profile) -> str:
    lines = [
        "## Tests",
        f"A test runs these stages, in order, on a snapshot of your files (profile "
        f"`{profile_name}`):",
    ]
    for stage in profile.stages:
        shown = [m for m in task.metrics_of(profile_name, stage.name) if m.kind == "scored"]
        visible = ", ".join(_metric(metric) for metric in shown if not metric.hidden)
        hidden = any(metric.hidden for metric in shown)
        rest = " Further metrics of it are measured and not shown." if hidden else ""
        lines.append(f"- {stage.label} ({stage.script}): {visible}.{rest}")
    lines.append(
        "What you are shown is measured on the development split. Results are ranked on a split "
        "that is never shown."
    )
    return "\n\n".join([lines[0], "\n".join(lines[1:-1]), lines[-1]])


def _metric(metric: Metric) -> str:
    unit = f" in {metric.unit}" if metric.unit else ""
    primary = "primary, " if metric.primary else ""
    return f"`{metric.name}` ({primary}{metric.direction} is better{unit})"


def _tools_section(task: Task) -> str:
    count = task.tests
    return (
        "## Tools and budget\n\n"
        "`view`, `edit`, `undo`, `check`, `status` are free. "
        f"`test` trains and evaluates; you have {count} counted "
        f"{'test' if count == 1 else 'tests'}. A test is counted when its first stage starts; "
        "files that a check refuses never come so far, and `check` tells what it would refuse. "
        "A test that runs is waited for with `status(wait_s=50)`; nothing else needs to be done "
        "meanwhile. "
        "`submit(n)` makes the result of test n final and closes the session."
    )


def visible_decimals(task: Task, profile: str) -> dict[str, int]:
    """The digits of every visible scored metric of a profile, in the task's order."""
    return {m.name: m.decimals for m in visible_metrics(task, profile)}


def visible_metrics(task: Task, profile: str) -> Sequence[Metric]:
    return [
        metric
        for stage in task.profile(profile).stages
        for metric in task.metrics_of(profile, stage.name)
        if metric.kind == "scored" and not metric.hidden
    ]


def _published_decimals(task: Task) -> dict[str, int]:
    return {m.name: m.decimals for m in task.metrics if m.kind == "scored" and not m.hidden}
