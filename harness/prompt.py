"""What an agent is told at the start: the task, its files, its baselines, the rules of the game."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness import render
from harness.constraints import Constraints, RegionRules
from harness.likeness import UNEDITED
from harness.metrics import format_values
from harness.regions import EditableFile
from harness.task import Baseline, File, Metric, Profile, Published, Role, Stage, Task


def build_prompt(
    task: Task,
    profile_name: str,
    files: Mapping[str, EditableFile],
    baseline_results: Mapping[str, Mapping[str, float]],
    seeds: Mapping[str, int] | None = None,
) -> str:
    """The whole prompt in Markdown.

    `baseline_results` holds our own measured visible metrics by baseline, those of the unedited
    files under `likeness.UNEDITED`; baselines without one are shown by their edits alone. `seeds`
    says how many seeds a result is the mean of, where that is not one.
    """
    profile = task.profile(profile_name)
    sections = [
        task.read_instruction().strip(),
        *(_file_section(file) for file in files.values()),
        _siblings_section(task),
        _rules_section(task),
        _baselines_section(task, profile_name, baseline_results, seeds or {}),
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


# -----------------------------------------------------------------------------
# what regions may hold


def _rules_section(task: Task) -> str:
    """The task's constraints in words; files without any are left out."""
    parts = [
        f"`{file.name}`:\n\n" + "\n".join(f"- {line}" for line in _file_rules(file))
        for file in task.files
        if file.constraints != Constraints()
    ]
    if not parts:
        return ""
    head = (
        "Looked at after every edit. An edit that breaks a rule is kept, with a warning; `test` "
        "refuses, at no cost, until it is mended."
    )
    return "\n\n".join(["## What the regions may hold", head, *parts])


def _file_rules(file: File) -> Iterator[str]:
    rules = file.constraints
    for region in file.regions:
        yield f"*{region.title or region.name}*: {_region_rule(rules.region(region.name))}."
    if rules.signatures:
        kept = [
            f"`{signature.name}({signature.parameters})`"
            + (" (further parameters with defaults may follow)" if signature.further else "")
            for signature in rules.signatures
        ]
        yield f"Signatures stay: {', '.join(kept)}."
    if rules.forbidden_names:
        yield f"Not named in a region, except as its own output: {_names(rules.forbidden_names)}."
    if rules.forbidden_attributes:
        yield (
            "Not used in a region as attributes of any object but your own: "
            f"{_listed(rules.forbidden_attributes)}."
        )
    if rules.imports is not None:
        denied = f"; of these not {_listed(rules.imports.denied)}" if rules.imports.denied else ""
        yield (
            "Modules that may be imported and used, with what lies below them: "
            f"{_listed(rules.imports.allowed)}{denied}."
        )
        if rules.imports.through:
            yield f"A dotted name leads through {_listed(rules.imports.through)} only."
    limits = [
        f"{limit:,} {what}"
        for limit, what in (
            (rules.limits.region_bytes, "bytes a region"),
            (rules.limits.literal_chars, "characters a literal"),
            (rules.limits.literal_total, "characters in all strings of a region"),
            (rules.limits.name_chars, "characters a name"),
            (rules.limits.name_total, "characters in all names that a region binds"),
            (rules.limits.collection_constants, "constants a collection or call"),
        )
        if limit is not None
    ]
    if limits:
        yield f"At most {', '.join(limits)}."


def _region_rule(rules: RegionRules) -> str:
    outputs = _names(rules.outputs)
    match rules.holds:
        case "definitions":
            made = f"; it defines {outputs}" if outputs else ""
            return f"classes, functions, literal constants and imports under new names{made}"
        case "function":
            return f"one undecorated `def`, {outputs}"
        case "literal":
            keys = [f"`{key.name}` ({key.min:g} to {key.max:g})" for key in rules.keys]
            which = f" with keys from {', '.join(keys)}" if keys else ""
            return f"{outputs} as one literal dict of finite numbers{which}"
    after = f" except {outputs}" if outputs else ""
    return (
        f"statements; no `return`, and a name that locked code reads later is not bound anew{after}"
    )


def _listed(names: Iterable[str]) -> str:
    """A long list in one piece of code, as each in its own costs an agent twice the tokens."""
    return f"`{', '.join(names)}`"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# -----------------------------------------------------------------------------
# what others reached, and what a test does


def _baselines_section(
    task: Task,
    profile: str,
    results: Mapping[str, Mapping[str, float]],
    seeds: Mapping[str, int],
) -> str:
    parts = ["## Baselines (read-only reference)"]
    decimals = visible_decimals(task, profile)
    if task.published:
        parts.append(
            "Published results, as published: other hardware and other data, so not comparable "
            "with yours digit by digit."
        )
        parts.append(
            "\n".join(
                f"- {row.name}{_of_profile(row, profile)}: "
                f"{format_values(row.metrics, _published_decimals(task))}"
                for row in task.published
            )
        )
    if UNEDITED in results:
        parts.append(
            f"The unedited files, measured here{_mean_of(seeds.get(UNEDITED))}: "
            f"{format_values(results[UNEDITED], decimals)}"
        )
    for baseline in task.all_baselines():
        mean = _mean_of(seeds.get(baseline.name))
        parts.append(_baseline(baseline, results.get(baseline.name), mean, decimals))
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _of_profile(row: Published, profile: str) -> str:
    return f" (profile `{row.profile}`)" if row.profile not in (None, profile) else ""


def _mean_of(seeds: int | None) -> str:
    return f" (mean of {seeds} seeds)" if seeds is not None and seeds > 1 else ""


def _baseline(
    baseline: Baseline,
    result: Mapping[str, float] | None,
    mean: str,
    decimals: Mapping[str, int],
) -> str:
    lines = [f"### {baseline.title}"]
    if baseline.description:
        lines.append(baseline.description.strip())
    if baseline.paper:
        lines.append(f"Source: {baseline.paper}")
    if result:
        lines.append(f"Measured here{mean}: {format_values(result, decimals)}")
    if len(baseline.edits) > 1:
        lines.append(
            "Its edits apply in this order; line numbers are those after the edits before."
        )
    for edit in baseline.edits:
        arguments = {key: value for key, value in edit.items() if key != "content"}
        block = json.dumps(arguments, ensure_ascii=False)
        if "content" in edit:
            block += "\n" + str(edit["content"]).rstrip("\n")
        lines.append(_fenced(block))
    return "\n\n".join(lines)


def _tests_section(task: Task, profile_name: str, profile: Profile) -> str:
    title = f", {profile.title}" if profile.title else ""
    head = [f"## Tests (profile `{profile_name}`{title})"]
    if profile.details:
        head.append(profile.details.strip())
    head.append("A test runs these stages, in order, on a snapshot of your files:")
    stages = []
    for stage in profile.stages:
        shown = [m for m in task.metrics_of(profile_name, stage.name) if m.kind == "scored"]
        visible = ", ".join(_metric(metric) for metric in shown if not metric.hidden)
        hidden = any(metric.hidden for metric in shown)
        rest = " Further metrics of it are measured and not shown." if hidden else ""
        stages.append(f"- {stage.label} ({stage.script}{_means(stage)}): {visible}.{rest}")
    ranked = (
        "What you are shown is measured on the development split. Results are ranked on a split "
        "that is never shown."
    )
    tail = [part for part in (_tried_first(task, profile), ranked) if part]
    return "\n\n".join([*head, "\n".join(stages), *tail])


def _means(stage: Stage) -> str:
    """What a stage is given: GPUs, and time for each of its halves."""
    gpus = f"; {stage.gpus} GPU{'s' if stage.gpus > 1 else ''}" if stage.gpus else ""
    words: dict[Role, str] = {"run": "training", "score": "scoring"}
    times = [
        f"{words[role]} at most {_duration(seconds)}"
        for role in words
        if role in stage.roles and (seconds := stage.limits.seconds(role)) is not None
    ]
    return "".join([gpus, *(f"; {time}" for time in times)])


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"


def _tried_first(task: Task, profile: Profile) -> str:
    """What stands in the way of a test at full size; GPUs only, as time on a CPU says little."""
    if not any("preflight" in stage.roles and stage.gpus for stage in profile.stages):
        return ""
    return (
        "Before a test is counted its first steps are tried at full size: they must fit in memory, "
        f"a step may take at most {task.max_step_ratio:g} times as long as the unedited files' on "
        "the same machine, and all steps together must fit in the limit."
    )


def _metric(metric: Metric) -> str:
    said = ["primary"] if metric.primary else []
    said += [metric.unit] if metric.unit else []
    return f"`{metric.name}` ({', '.join([*said, f'{metric.direction} is better'])})"


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
