"""`harness check`: edits from a file, checked as a session's would be, many cases side by side."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness import hardware, sandbox
from harness.checks import static
from harness.checks.findings import Finding, Report
from harness.checks.static import STRUCTURAL
from harness.edits import apply_edit, require_size
from harness.errors import AgentError
from harness.jobs.local import LocalExecutor
from harness.jobs.plan import Surroundings, make_check_plan
from harness.jobs.starting import NotStarted, Starting
from harness.probes import Kind, check_report, submit_check
from harness.state_folder import state_folder
from harness.task import Task
from harness.workspace import RunPaths

POLL_SECONDS = 0.1


class CasesError(ValueError):
    """The file of edits cannot be used; the message says where and why."""


class NoSandbox(RuntimeError):
    """The edits cannot be run safely; the message says why, and what to do."""


@dataclass(frozen=True)
class Case:
    """Some edits, applied one after the other to the unedited files."""

    name: str
    edits: tuple[Mapping[str, Any], ...]


@dataclass
class Verdict:
    """What the checks say of one case."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        violations = [
            {"rule": f.rule, "line": f.line or None, "region": f.region, "message": f.message}
            for f in self.findings
        ]
        return {"name": self.name, "ok": self.ok, "violations": violations}


def read_cases(path: Path) -> list[Case]:
    """JSON or YAML: a list of edits (one case), or a list of `{"name", "edits"}`.

    Raises CasesError.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise CasesError(f"{path}: {reason}") from None
    try:
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise CasesError(f"{path}: {_marked(error)}") from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise CasesError(f"{path}: {str(error).splitlines()[0]}") from None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise CasesError(f"{path}: give a list of edits, or of objects with 'name' and 'edits'")
    if all("op" in item and "edits" not in item for item in value):
        return [Case(path.stem, tuple(value))]
    cases = []
    for position, item in enumerate(value, start=1):
        if "edits" not in item:
            raise CasesError(
                f"{path}: item {position} has neither 'op', as an edit, nor 'edits', as a case"
            )
        edits = item["edits"]
        if not isinstance(edits, list) or not all(isinstance(edit, dict) for edit in edits):
            raise CasesError(f"{path}: case {position}: 'edits' must be a list of edits")
        cases.append(Case(str(item.get("name", position)), tuple(edits)))
    return cases


def _marked(error: yaml.MarkedYAMLError) -> str:
    """What is wrong with the YAML and where, in one line."""
    said = ", ".join(part for part in (error.context, error.problem) if part)
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {said}" if mark else said


def vet(
    task: Task,
    profile: str | None,
    cases: Sequence[Case],
    state_dir: Path,
    data_dir: Path,
    *,
    sandboxed: bool = True,
) -> Iterator[Verdict]:
    """The verdicts in the order of the cases, each once it is known.

    With a profile its preflight is taken too. Raises plan.PlanError if that needs more GPUs than
    there are, NoSandbox if the edits shall run in a sandbox and there is none, or
    StateFolderError.
    """
    state_folder(state_dir)
    found = sandbox.find() if sandboxed else None
    if isinstance(found, sandbox.Problem):
        raise NoSandbox(f"there is no sandbox to run the edits in: {found}")
    kinds: list[Kind] = ["contract"] if task.contract is not None else []
    gpus = [str(gpu.id) for gpu in hardware.gpus()]
    if profile is not None:
        kinds.append("preflight")
    profile = profile or next(iter(task.profiles))
    cores = os.cpu_count() or 1
    with _scratch() as scratch, _executor(cores, gpus) as (executor, runs):
        for kind in kinds:  # nothing is run if one of the checks cannot be
            make_check_plan(
                task, profile, kind, _around(scratch / kind, data_dir, state_dir, sandboxed)
            )
        vetted = [
            _Vetted(task, profile, case, scratch / str(n), data_dir, state_dir, sandboxed)
            for n, case in enumerate(cases)
        ]
        for one in vetted:
            one.begin(executor, kinds, runs)
        for one in vetted:
            while not one.done(executor):
                time.sleep(POLL_SECONDS)
            yield one.verdict


class _Vetted:
    """One case on its way through the checks."""

    def __init__(
        self,
        task: Task,
        profile: str,
        case: Case,
        folder: Path,
        data: Path,
        state: Path,
        sandboxed: bool,
    ) -> None:
        self.task, self.profile, self.folder = task, profile, folder
        self.data, self.state, self.sandboxed = data, state, sandboxed
        self.verdict = Verdict(case.name)
        self.pristine = task.shipped()
        self.files = dict(self.pristine)
        self._waiting: list[Kind] = []
        self._runs: list[RunPaths] = []
        self._starting: Starting | None = None
        self._edit(case)

    def _edit(self, case: Case) -> None:
        for number, edit in enumerate(case.edits, start=1):
            try:
                result = apply_edit(self.files, edit)
                require_size(result)
            except AgentError as error:
                message = f"edit {number} is refused: {error.message}"
                self.verdict.findings.append(Finding(error.code, "", 0, message))
                return
            self.files[result.after.name] = result.after
        constraints = self.task.constraints()
        self.verdict.findings += static.find_all(self.files.values(), self.pristine, constraints)

    def begin(self, executor: LocalExecutor, kinds: Sequence[Kind], runs: list[RunPaths]) -> None:
        refused = any(not f.file or f.rule in STRUCTURAL for f in self.verdict.findings)
        self._waiting = [] if refused else list(kinds)
        self._runs = runs
        self._submit(executor)

    def _submit(self, executor: LocalExecutor) -> None:
        if not self._waiting:
            return
        kind = self._waiting[0]
        around = _around(self.folder / kind, self.data, self.state, self.sandboxed)
        self._starting = self._starting or Starting(executor)
        submit_check(self._starting, self.task, self.profile, kind, self.files, around)
        self._runs.append(around.paths)

    def _paths(self) -> RunPaths:
        return RunPaths(self.folder / self._waiting[0])

    def done(self, executor: LocalExecutor) -> bool:
        """Whether the verdict is complete; goes on to the next check where one has ended."""
        executor.poll()
        if not self._waiting:
            return True
        assert self._starting is not None
        report: Report | None
        try:
            report = check_report(self._starting, self._paths(), self.files)
        except NotStarted as error:
            report = Report((Finding("not-started", "", 0, f"The check was not run: {error}"),))
        if report is None:
            return False
        self.verdict.findings += report.findings
        self.verdict.warnings += report.warnings
        # What does not run at a small size is not run at a large one.
        self._waiting = self._waiting[1:] if report.ok else []
        self._submit(executor)
        return not self._waiting


def _around(folder: Path, data_dir: Path, state_dir: Path, sandboxed: bool) -> Surroundings:
    cache = state_dir / "cache"
    cache.mkdir(exist_ok=True)
    gpus = len(hardware.gpus())
    # One thread a case: the cases share the cores.
    return Surroundings(RunPaths(folder), data_dir, cache, gpus, threads=1, sandbox=sandboxed)


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="harness-check-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def _executor(slots: int, gpus: Sequence[str]) -> Iterator[tuple[LocalExecutor, list[RunPaths]]]:
    """An executor, and the runs given to it; those that have not ended by then are cancelled."""
    executor = LocalExecutor(slots, gpus)
    runs: list[RunPaths] = []
    try:
        yield executor, runs
    finally:
        for run in runs:
            executor.cancel(run)
        while any(executor.state(run).kind != "gone" for run in runs):
            time.sleep(POLL_SECONDS)
