"""`harness task check`: whether a task is sound, and where to mend it.

What is shown of a sound task: its regions cut no statement; its unedited files and every baseline
pass its own checks, through the path that an agent's edits take; each locked line refuses an edit;
a session over HTTP on the smallest profile gives every metric, tells nothing that is hidden, and
stays within the limits that are stated. Not shown: that what is measured means what the
instruction says, nor anything of a profile that was not run.
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import tempfile
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from harness import sandbox
from harness.datasets import DataError, datasets, prepare
from harness.edits import apply_edit
from harness.errors import AgentError
from harness.jobs.plan import PlanError
from harness.settings import Settings
from harness.state_folder import StateFolderError
from harness.task import Region, Task, TaskError, line_of, load_task
from harness.trial import Trial, TrialError, play
from harness.vetting import Case, NoSandbox, Verdict, vet

UNEDITED = "the unedited files"

CHECKS = {
    "schema": "task.yaml, and all that it names",
    "regions": "regions cut no statement",
    "locked lines": "an edit of each locked line is refused",
    "data": "the data set is made, and `run` sees nothing of `score`",
    "checks": "the unedited files and every baseline pass the task's checks",
    "session": "a session on the smallest profile ends with a score",
    "feedback": "each feedback metric is read from the log, and none from an empty one",
    "scores": "each scored metric is read from metrics.json",
    "hidden": "no answer to an agent holds a hidden value",
    "limits": "edits that are as slow as allowed fit into the limits",
}
"""In the order in which they are made; what follows a failed one may be left out."""


@dataclass(frozen=True)
class Fault:
    """One thing to mend."""

    check: str
    where: str
    """`path:line`"""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Outcome:
    """What one check found; `skipped` says why it was not made."""

    check: str
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def ok(self) -> bool:
        return not self.faults and not self.skipped


def check_task(
    folder: Path, settings: Settings, profile: str | None, tell: Callable[[str], None]
) -> Iterator[Outcome]:
    """The outcome of each of `CHECKS`, once it is known; `profile` is tried, or the smallest.

    `tell` is called with what is being done. Raises KeyError for a profile that there is not.
    """
    try:
        task = load_task(folder)
    except TaskError as error:
        found = [_schema_fault(folder, problem) for problem in error.problems]
        yield Outcome("schema", tuple(found))
        yield from _left_out("schema", "task.yaml cannot be read")
        return
    yield Outcome("schema", notes=tuple(_todos(task)))
    chosen = profile or smallest(task)
    task.profile(chosen)
    texts = [
        Outcome("regions", tuple(_regions(task))),
        Outcome("locked lines", tuple(_locked_lines(task))),
    ]
    yield from texts
    data = _data(task, chosen, settings, tell)
    yield data
    if not all(outcome.ok for outcome in (*texts, data)):
        yield from _left_out("data", "what is above comes first")
        return
    checks = _checks(task, chosen, settings, tell)
    yield checks
    if checks.faults:
        yield from _left_out("checks", "what is above comes first")
        return
    yield from _session(task, chosen, settings, tell)


def smallest(task: Task) -> str:
    """The profile that needs the fewest GPUs and, of those, the least time by its limits."""

    def size(name: str) -> tuple[int, float]:
        profile = task.profile(name)
        limits = (s.limits.seconds(r) or 0.0 for s in profile.stages for r in s.roles)
        return profile.gpus, sum(limits)

    return min(task.profiles, key=size)


def _left_out(last: str, why: str) -> Iterator[Outcome]:
    """The checks behind the `last` one that was made."""
    names = list(CHECKS)
    for name in names[names.index(last) + 1 :]:
        yield Outcome(name, skipped=why)


def _schema_fault(folder: Path, problem: str) -> Fault:
    found = re.match(r"(?P<where>.+?:\d+): (?P<message>.*)", problem, re.DOTALL)
    if found is None:
        return Fault("schema", f"{folder / 'task.yaml'}:1", problem)
    return Fault("schema", found["where"], found["message"])


def _at(task: Task, *loc: int | str) -> str:
    path = task.folder / "task.yaml"
    return f"{path}:{line_of(path, loc)}"


def _todos(task: Task) -> Iterator[str]:
    """What a new task's author has left to do."""
    for path in sorted(task.folder.rglob("*")):
        if path.suffix not in {".py", ".sh", ".md", ".yaml"} or "__pycache__" in path.parts:
            continue
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1):
            if "TODO" in line:
                yield f"{path}:{number}: {line.strip().lstrip('#<!- ')}"


# ---------------------------------------------------------------------------------------------
# From the texts alone


def _regions(task: Task) -> Iterator[Fault]:
    for index, file in enumerate(task.files):
        if not file.name.endswith(".py"):
            continue
        text = task.read_file(file.name)
        path = task.root_folder / file.name
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            yield Fault("regions", f"{path}:{error.lineno or 1}", f"is no Python: {error.msg}")
            continue
        for position, region in enumerate(file.regions):
            cut = cut_statement(text, tree, region.first, region.last)
            if cut is not None:
                yield Fault(
                    "regions",
                    _at(task, "files", index, "regions", position, "lines"),
                    f"{_span(region)} cuts the statement in lines {cut[0]}–{cut[1]} of {file.name}",
                )


def _span(region: Region) -> str:
    if region.last < region.first:
        return f"the empty region before line {region.first}"
    return f"{region.first}–{region.last}"


def cut_statement(text: str, tree: ast.Module, first: int, last: int) -> tuple[int, int] | None:
    """The lines of a statement that a region's border cuts, or None.

    A region may be a whole statement, several of them, or a part of one's body; its border is
    never within one line of logic, nor does it hold one statement's end and another's beginning.
    """
    for start, end in _logical_lines(text):
        if start < first <= end or start <= last < end:
            return start, end
    if last < first:
        return None
    lines = text.split("\n")
    while last > first and not lines[last - 1].split("#")[0].strip():
        last -= 1
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            start, end = _extent(node)
            begins_inside = first <= start <= last < end
            ends_inside = start < first <= end < last
            head_inside = start < first <= _head(node)
            if begins_inside or ends_inside or head_inside:
                return start, end
    return None


def _extent(node: ast.AST) -> tuple[int, int]:
    if isinstance(node, ast.match_case):
        return node.pattern.lineno, node.body[-1].end_lineno or node.pattern.lineno
    assert isinstance(node, ast.stmt | ast.excepthandler)
    decorators = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return start, node.end_lineno or node.lineno


def _head(node: ast.AST) -> int:
    """The last line of what stands before a statement's body, or of the statement itself."""
    body = getattr(node, "body", None)
    if isinstance(body, list) and body:
        return int(getattr(node, "lineno", 0))
    return int(getattr(node, "end_lineno", 0) or 0)


def _logical_lines(text: str) -> Iterator[tuple[int, int]]:
    """(first, last) line of each of Python's logical lines."""
    start = None
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            continue
        start = token.start[0] if start is None else start
        if token.type == tokenize.NEWLINE:
            yield start, token.end[0]
            start = None


def _locked_lines(task: Task) -> Iterator[Fault]:
    """Lines and gaps that an edit of an agent changes although no region holds them."""
    files = task.shipped()
    for name, file in files.items():
        path = task.root_folder / name
        open_lines = {n for r in file.regions for n in range(r.first, r.last + 1)}
        total = len(file.lines)
        borders = {r.first - 1 for r in file.regions} | {r.last for r in file.regions}
        for number in range(1, total + 1):
            edits: list[dict[str, Any]] = []
            if number not in open_lines:
                edits.append({"op": "replace", "start_line": number, "end_line": number})
                if number not in borders:
                    edits.append({"op": "insert", "after_line": number})
            for edit in edits:
                try:
                    apply_edit(files, {**edit, "filename": name, "content": "pass"})
                except AgentError:
                    continue
                yield Fault(
                    "locked lines", f"{path}:{number}", f"is locked, but {edit['op']} changes it"
                )


# ---------------------------------------------------------------------------------------------
# Data and checks


def _data(task: Task, profile: str, settings: Settings, tell: Callable[[str], None]) -> Outcome:
    where = _at(task, "profiles", profile, "data")
    tell(f"preparing the data of {profile}")
    try:
        data_dir = settings.resolved_data_dir
        folder = prepare(task, profile, data_dir, state_dir=settings.state_dir)
        own = next(d for d in datasets(task, data_dir) if profile in d.profiles)
        manifest = own.manifest()
    except DataError as error:
        return Outcome("data", (Fault("data", where, str(error)),))
    faults = [Fault("data", where, fault) for fault in own.faults(manifest)]
    seen = {_digest(p): p for p in _files_below(folder / "run")}
    for path in _files_below(folder / "score"):
        twin = seen.get(_digest(path))
        if twin is not None and path.stat().st_size > 0:
            same = f"{path.relative_to(folder)} is {twin.relative_to(folder)}: `run` sees it"
            faults.append(Fault("data", where, same))
    return Outcome("data", tuple(faults))


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checks(task: Task, profile: str, settings: Settings, tell: Callable[[str], None]) -> Outcome:
    cases = [Case(UNEDITED, ()), *(Case(b.name, b.edits) for b in task.all_baselines())]
    preflight = any("preflight" in stage.roles for stage in task.profile(profile).stages)
    state, data = settings.state_dir.absolute(), settings.resolved_data_dir
    faults: list[Fault] = []
    notes: list[str] = []
    sandboxed = settings.sandbox != "none"
    found = sandbox.find() if sandboxed else None
    if isinstance(found, sandbox.Problem):
        notes.append(f"made without a sandbox, which is not here: {found.reason}")
        sandboxed = False
    try:
        vetted = vet(task, profile if preflight else None, cases, state, data, sandboxed=sandboxed)
        for case in cases:
            tell(f"checking {case.name}")
            verdict = next(vetted)
            faults += _refused(task, verdict)
            notes += [f"{verdict.name}: {w.message}" for w in verdict.warnings]
    except (PlanError, NoSandbox, StateFolderError) as error:
        faults.append(Fault("checks", _at(task, "profiles", profile), str(error)))
    return Outcome("checks", tuple(faults), tuple(notes))


def _refused(task: Task, verdict: Verdict) -> Iterator[Fault]:
    for finding in verdict.findings:
        message = f"{finding.rule}: {finding.message}"
        if verdict.name == UNEDITED:
            path = task.root_folder / (finding.file or task.files[0].name)
            yield Fault("checks", f"{path}:{finding.line or 1}", message)
            continue
        path = task.folder / "baselines" / f"{verdict.name}.yaml"
        number = re.match(r"edit (\d+) ", finding.message)
        line = line_of(path, ("edits", int(number[1]) - 1)) if number else 1
        at = f" (line {finding.line} of {finding.file} as edited)" if finding.file else ""
        yield Fault("checks", f"{path}:{line}", message + at)


# ---------------------------------------------------------------------------------------------
# A real session


def _session(
    task: Task, profile: str, settings: Settings, tell: Callable[[str], None]
) -> Iterator[Outcome]:
    tell(f"a session on {profile}")
    with tempfile.TemporaryDirectory(prefix="harness-task-", ignore_cleanup_errors=True) as folder:
        try:
            trial = play(task, profile, settings, Path(folder))
        except TrialError as error:
            yield Outcome(
                "session", (Fault("session", _at(task, "profiles", profile), str(error)),)
            )
            yield from _left_out("session", "the session did not come to a result")
            return
        yield Outcome("session", tuple(_unfinished(task, profile, trial)))
        yield Outcome("feedback", tuple(_feedback(task, profile, trial)))
        yield Outcome("scores", tuple(_scores(task, profile, trial)))
        yield Outcome("hidden", tuple(_leaks(task, profile, trial)))
        yield Outcome(
            "limits", tuple(_limits(task, profile, trial)), tuple(_untried(task, profile))
        )


def _unfinished(task: Task, profile: str, trial: Trial) -> Iterator[Fault]:
    """What of a test's stages did not end well."""
    for stage in task.profile(profile).stages:
        for step in trial.status.steps:
            if step.stage == stage.label and step.state not in ("done", "waiting"):
                said = " ".join(step.reason) or f"exit {step.exit}"
                yield Fault(
                    "session",
                    f"{task.script_path(stage)}:1",
                    f"{stage.label}, {step.role}: {step.state}: {said}",
                )
    if trial.released:
        yield Fault("session", _at(task, "profiles", profile), trial.released)


def _feedback(task: Task, profile: str, trial: Trial) -> Iterator[Fault]:
    for index, metric in enumerate(task.metrics):
        if metric.kind != "feedback" or profile not in (metric.profiles or task.profiles):
            continue
        at = _at(task, "metrics", index, "pattern")
        stage = task.profile(profile).stage(metric.stage)
        if metric.pattern is not None and re.search(metric.pattern, ""):
            yield Fault("feedback", at, f"{metric.name} is read from an empty line too")
        values = [
            point.values.get(metric.name)
            for point in task.read_curve(profile, metric.stage, trial.logs.get(stage.label, ""))
        ]
        if not any(value is not None for value in values):
            lines = trial.logs.get(stage.label, "").count("\n")
            yield Fault(
                "feedback",
                at,
                f"{metric.name} is in none of the {lines} lines that {stage.label} printed",
            )


def _scores(task: Task, profile: str, trial: Trial) -> Iterator[Fault]:
    """What of metrics.json was not as declared; the runner's own reason says it."""
    wanted = {m.name for m in task.metrics_of(profile, kind="scored", hidden=False)}
    for index, metric in enumerate(task.metrics):
        if metric.kind == "scored" and metric.name in wanted - trial.metrics.keys():
            reason = next((r for r in trial.score_problems.get(metric.stage, ())), "no value came")
            yield Fault(
                "scores",
                _at(task, "metrics", index),
                f"{metric.name}: {reason.removeprefix('ERROR: ')}",
            )


def _leaks(task: Task, profile: str, trial: Trial) -> Iterator[Fault]:
    """Hidden values that stand in an answer, to all their digits or as they would be shown."""
    by_name = {m.name: (i, m) for i, m in enumerate(task.metrics) if m.kind == "scored"}
    shown = set(trial.metrics.values())
    for kind, name, value in trial.hidden:
        others = {v for other, v in trial.metrics.items() if other != name}
        if name not in by_name or (value in others and _few_valued(value)):
            continue
        index, metric = by_name[name]
        spellings = {repr(value)}
        if len(f"{abs(value):.{metric.decimals}f}".replace(".", "").strip("0")) >= 5:
            spellings.add(f"{value:.{metric.decimals}f}")
        spellings = {s for s in spellings if len(s.replace(".", "").strip("-0")) >= 4}
        told = next(
            (call for call, text in trial.answers for s in spellings if _holds(text, s)), None
        )
        if told is not None or (value in shown and value not in (0.0, 1.0, 100.0)):
            yield Fault(
                "hidden",
                _at(task, "metrics", index),
                f"{name}{' on the final split' if kind == 'final' else ''} stands in "
                f"the answer to {told or 'test'}",
            )


def _few_valued(value: float) -> bool:
    """Whether it is a percentage of at most 1000 items, or a whole number: one that two metrics
    may well have in common by chance."""
    share = Fraction(value / 100).limit_denominator(1000)
    return abs(100 * float(share) - value) < 1e-9


def _holds(text: str, number: str) -> bool:
    return re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", text) is not None


def _limits(task: Task, profile: str, trial: Trial) -> Iterator[Fault]:
    for position, stage in enumerate(task.profile(profile).stages):
        for step in trial.status.steps:
            spent = trial.seconds.get((step.stage, step.role))
            if step.stage != stage.label or step.role not in ("run", "score") or spent is None:
                continue
            factor = task.max_step_ratio if step.role == "run" else 1.0
            if spent * factor > step.limit_s:
                yield Fault(
                    "limits",
                    _at(task, "profiles", profile, "stages", position, "limits", f"{step.role}_s"),
                    f"{step.role}_s is {step.limit_s:g}; the unedited files took {spent:.1f} s, "
                    f"and edits may take {factor:g} times as long",
                )


def _untried(task: Task, profile: str) -> Iterator[str]:
    others = [name for name in task.profiles if name != profile]
    if others:
        yield f"tried on {profile} only; not on {', '.join(others)}"
