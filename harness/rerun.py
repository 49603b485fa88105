"""`harness replay FILE --run`: the recorded tests again, on the replayed code.

What runs is an agent's code, in the sandbox as any test of a server, after the checks that stand
before a test of a server: the text, the contract, each stage's first steps. Its numbers come from
the task as it is here. They are set beside the recorded ones: equal numbers are no proof, and
different ones may be due to other hardware, data or versions.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import hardware, sandbox
from harness.checks import static
from harness.checks.findings import Finding, Report
from harness.datasets import datasets
from harness.jobs.local import LocalExecutor
from harness.jobs.plan import (
    FINAL_STATES,
    PlanError,
    Surroundings,
    make_plan,
    prepare_run_dir,
    read_status,
    snapshot,
)
from harness.jobs.starting import NotStarted, Starting
from harness.probes import check_report, report_of, submit_check
from harness.regions import EditableFile
from harness.results import collect
from harness.state_folder import StateFolderError, state_folder
from harness.story import Story, StoryTest, stages_of
from harness.task import Task
from harness.workspace import RunPaths

POLL_SECONDS = 0.1


class RerunError(ValueError):
    """The tests cannot be run; the message says what to do."""


@dataclass(frozen=True)
class Rerun:
    """A recorded test and what running its files again came to."""

    recorded: StoryTest
    metrics: dict[str, float]
    stages: tuple[str, ...]
    """`label: state` of each stage"""
    problem: str = ""
    """why it was not run"""


@dataclass(frozen=True)
class Place:
    """Where and how tests run here."""

    state_dir: Path
    data_dir: Path
    sandboxed: bool


def choose(story: Story, task: Task, profile: str | None) -> str:
    """The profile to run at. Raises RerunError."""
    wanted = profile or story.profile
    if wanted in task.profiles:
        return wanted
    known = ", ".join(task.profiles)
    what = f"no profile {wanted!r}" if wanted else "the recording names no profile"
    raise RerunError(f"{what}; name one with --profile: {known}")


def rerun(
    story: Story, task: Task, profile: str, place: Place, tell: Callable[[str], None]
) -> Iterator[Rerun]:
    """Each finished test of the story again, in order. Raises RerunError before the first."""
    shipped = task.shipped()
    _require_same_locked(story, shipped)
    data = next(d for d in datasets(task, place.data_dir) if profile in d.profiles)
    if not data.ready:
        raise RerunError(f"the data set {data.name} is not prepared: {data.remedy}")
    found = sandbox.find() if place.sandboxed else None
    if isinstance(found, sandbox.Problem):
        raise RerunError(f"there is no sandbox to run recorded code in: {found}")
    if not story.results:
        raise RerunError("the recording holds no finished test")
    try:
        state_folder(place.state_dir)
    except StateFolderError as error:
        raise RerunError(str(error)) from error
    for test in story.results:
        yield _run(test, task, profile, place, shipped, tell)


def _require_same_locked(story: Story, shipped: dict[str, EditableFile]) -> None:
    for name, file in story.start.items():
        ours = shipped.get(name)
        if ours is None:
            raise RerunError(f"the task here has no editable file {name}")
        if ours.locked_digest != file.locked_digest:
            raise RerunError(
                f"the locked text of {name} is not the task's as it is here; "
                "use the version of the task that was recorded"
            )
        names = [region.name for region in ours.regions]
        if [region.name for region in file.regions] != names:
            raise RerunError(
                f"the regions of {name} have other names in the task as it is here: "
                f"{', '.join(names)}; use the version of the task that was recorded"
            )


def _run(
    test: StoryTest,
    task: Task,
    profile: str,
    place: Place,
    shipped: dict[str, EditableFile],
    tell: Callable[[str], None],
) -> Rerun:
    constraints = task.constraints()

    def refused(findings: Sequence[Finding]) -> Rerun:
        told = "; ".join(f.describe(several_files=len(shipped) > 1) for f in findings[:3])
        return Rerun(test, {}, (), f"refused by a check as it is here: {told}")

    findings = static.find_all(test.files.values(), shipped, constraints)
    if findings:
        return refused(findings)
    cache = place.state_dir / "cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="harness-rerun-", ignore_cleanup_errors=True) as folder:
        gpus = [str(gpu.id) for gpu in hardware.gpus()]
        executor = LocalExecutor(gpus=gpus)

        def around(name: str) -> Surroundings:
            run = RunPaths(Path(folder) / name)
            return Surroundings(run, place.data_dir, cache, len(gpus), sandbox=place.sandboxed)

        if task.contract is not None:
            report = _contract(executor, test, task, profile, around("contract"), tell)
            if not report.ok:
                return refused(report.findings)
        paths = around("run").paths
        try:
            plan = make_plan(task, profile, test.number, 1, around("run"))
        except PlanError as error:
            raise RerunError(f"{error}") from error
        edited = {name: file.text for name, file in test.files.items()}
        prepare_run_dir(paths, plan, snapshot(task, edited), snapshot(task, {}))
        executor.submit(paths)
        with _ended(executor, paths):
            _wait(executor, paths, test.number, tell)
        status = read_status(paths)
        if status is None or status.state not in FINAL_STATES:
            return Rerun(test, {}, (), "its runner ended before the test did")
        if status.state == "refused":
            return refused(report_of(paths, status, test.files).findings)
        if status.state == "cancelled":
            return Rerun(test, {}, (), "it was cancelled")
        result = collect(task, profile, paths, status, number=test.number, attempt=1, provenance={})
    stages = stages_of(result)
    metrics = {name: value for stage in stages for name, value in stage.metrics.items()}
    return Rerun(test, metrics, tuple(f"{s.label}: {s.state}" for s in stages))


@contextmanager
def _ended(executor: LocalExecutor, paths: RunPaths) -> Iterator[None]:
    """No process of the run is left behind, however its wait ends."""
    try:
        yield
    finally:
        executor.cancel(paths)
        while executor.state(paths).kind != "gone":
            time.sleep(POLL_SECONDS)


def _contract(
    executor: LocalExecutor,
    test: StoryTest,
    task: Task,
    profile: str,
    around: Surroundings,
    tell: Callable[[str], None],
) -> Report:
    """What the task's contract says of the replayed files."""
    tell(f"test #{test.number}: contract")
    starting = Starting(executor)
    try:
        with _ended(executor, around.paths):
            submit_check(starting, task, profile, "contract", test.files, around)
            while (report := check_report(starting, around.paths, test.files)) is None:
                executor.poll()
                time.sleep(POLL_SECONDS)
    except NotStarted as error:
        raise RerunError(f"the contract was not run: {error}") from error
    return report


def _wait(
    executor: LocalExecutor, paths: RunPaths, number: int, tell: Callable[[str], None]
) -> None:
    said = ""
    while True:
        executor.poll()
        job = executor.state(paths)
        status = read_status(paths)
        if status is not None and (step := status.running) is not None:
            now = f"test #{number}: {step.stage} {step.role}"
            if now != said:
                tell(now)
                said = now
        if job.kind == "gone":
            return
        time.sleep(POLL_SECONDS)


def rows(rerun: Rerun, names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """(metric, recorded, now, difference) for people."""
    recorded = rerun.recorded.metrics
    found = []
    for name in dict.fromkeys((*names, *recorded, *rerun.metrics)):
        old, new = recorded.get(name), rerun.metrics.get(name)
        if old is None and new is None:
            continue
        difference = "" if old is None or new is None else f"{new - old:+.6g}"
        shown = ["–" if value is None else f"{value:.6g}" for value in (old, new)]
        found.append((name, shown[0], shown[1], difference))
    return found
