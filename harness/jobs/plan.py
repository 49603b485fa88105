"""What a run directory says of itself: plan.json and status.json as types; preparing one."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from harness.task import Role, Stage, Task
from harness.workspace import PROGRESS_NAME, RunPaths, read_regular, write_atomic

RunState = Literal["queued", "running", "interrupted", "finished", "refused", "cancelled"]
StepState = Literal["waiting", "running", "done", "failed", "timeout", "skipped"]

FINAL_STATES: frozenset[RunState] = frozenset({"finished", "refused", "cancelled"})
"""A run in one of these is never touched again. `refused`: a check stopped it, uncounted."""
ENDED_STEPS: frozenset[StepState] = frozenset({"done", "failed", "timeout", "skipped"})

PROGRESS_LIMIT = 4096
"""Bytes of a progress.json that are read; a larger one is ignored."""


class PlanError(ValueError):
    """A plan that this machine can't carry out, or a run directory without a usable one."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PlanStep(_Part):
    """One half of a stage."""

    role: Role
    """The script's only argument."""
    limit_s: float
    """Wall clock, in seconds."""
    log_bytes: int = 16 << 20
    """Most that it may print."""
    env: dict[str, str]
    """Added to the plan's."""


class PlanStage(_Part):
    """One script of the test."""

    name: str
    """What the task's metrics refer to."""
    label: str
    """What agents see, and what files are named by."""
    script: str
    """Absolute path of a bash script."""
    needs: list[str] = []
    """Labels of earlier stages without whose success this one is skipped."""
    steps: list[PlanStep]
    """Its halves, in order."""


class PlanFeedback(_Part):
    """How the feedback lines of the logs are read."""

    prefix: str
    """What such a line begins with."""
    step: str
    """A pattern with one group."""


class Plan(_Part):
    """Everything that carrying out a test needs to know."""

    version: Literal[1] = 1
    """Of this format."""
    task: str
    """The task's name."""
    profile: str
    """The profile's name."""
    number: int
    """Of the test in its session, from 1."""
    attempt: int
    """Of this number, from 1."""
    seed: int
    """HARNESS_SEED."""
    env: dict[str, str]
    """The whole environment of every step, but for what the step adds."""
    stages: list[PlanStage]
    """In the order in which they run."""
    editable_files: list[str]
    """Names below ``files/``; a failure's frames are shown where they lie in one of these."""
    feedback: PlanFeedback | None = None
    """As the task has it."""


class StepStatus(BaseModel):
    """Where one step stands; once it has ended this is also its exit.json."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    stage: str
    """The stage's label."""
    role: Role
    """The half."""
    state: StepState = "waiting"
    """`failed` has a reason and mostly an exit code, `skipped` a reason only."""
    exit: int | None = None
    """128 + N for an end by signal N."""
    reason: list[str] = []
    """Why it did not end well, for the agent to read."""
    started_at: str | None = None
    """UTC, ISO 8601; of the last start, if it was resumed."""
    ended_at: str | None = None
    """UTC, ISO 8601."""
    limit_s: float
    """Its wall clock limit, in seconds."""


class Progress(BaseModel):
    """What the running step says of itself; the agent's code may have made it up."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    stage: str
    """The stage's label."""
    step: int | None = None
    """Optimizer steps (or items) done."""
    steps: int | None = None
    """Of how many."""
    loss: float | None = None
    """The last one printed."""
    tokens_per_s: float | None = None
    """Over all GPUs."""
    seconds_left: float | None = None
    """Of this step, by its own pace."""


class RunStatus(BaseModel):
    """status.json: always whole, replaced at each change and each second of a running step."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    state: RunState = "queued"
    """`interrupted`: the runner was told to stop; it goes on when started again."""
    starts: int = 0
    """How often a runner has begun or resumed it."""
    started_at: str | None = None
    """UTC, ISO 8601; when the first runner began."""
    ended_at: str | None = None
    """UTC, ISO 8601; set in the final states."""
    updated_at: str
    """UTC, ISO 8601."""
    steps: list[StepStatus]
    """One for each step of the plan, in its order."""
    progress: Progress | None = None
    """Of the running step, if it reports any."""

    def step(self, label: str, role: Role) -> StepStatus:
        """KeyError if the plan has no such step."""
        for step in self.steps:
            if (step.stage, step.role) == (label, role):
                return step
        raise KeyError(f"{label}.{role}")

    @property
    def running(self) -> StepStatus | None:
        """The step that runs now."""
        return next((step for step in self.steps if step.state == "running"), None)


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---------------------------------------------------------------------------------------------
# Making a plan


def base_environment(paths: RunPaths, *, threads: int | None = None) -> dict[str, str]:
    """The fixed small environment that every process of a test starts from.

    Nothing of the server's own environment is in it. `threads` is for CPU profiles; without it
    the number of cores that this process may use.
    """
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "PATH": f"{Path(sys.executable).parent}:{system}",
        "HOME": str(paths.home),
        "TMPDIR": str(paths.tmp),
        "USER": "harness",  # torch.compile names its cache folder by it
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # the snapshot stays what it was
        "OMP_NUM_THREADS": str(threads or len(os.sched_getaffinity(0))),
        # Threads that wait by spinning stand still where the cores are shared: ten times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
    }


@dataclass(frozen=True)
class Surroundings:
    """What a plan needs to know of the machine that it is carried out on."""

    paths: RunPaths
    data_dir: Path
    cache_dir: Path
    gpus: Sequence[int] = ()
    """ids that the stages may use"""
    threads: int | None = None
    """for stages on the CPU; the number of cores if left out"""


def make_plan(
    task: Task,
    profile: str,
    number: int,
    attempt: int,
    around: Surroundings,
    *,
    seed: int | None = None,
    extra_env: Mapping[str, str] | None = None,
) -> Plan:
    """The plan of a test.

    `seed` is the profile's unless given, `extra_env` is added to every step's environment. Raises
    PlanError if there are too few GPUs.
    """
    chosen = task.profile(profile)
    stages = [_plan_stage(task, profile, stage, stage.roles, around) for stage in chosen.stages]
    seed = chosen.seed if seed is None else seed
    return _plan(task, profile, number, attempt, stages, around, seed, extra_env)


def make_check_plan(
    task: Task, profile: str, kind: Literal["contract", "preflight"], around: Surroundings
) -> Plan:
    """The plan of a check alone: the task's contract, or every stage's preflight.

    It has no steps where the task has no such check. Raises PlanError if there are too few GPUs.
    """
    stages = []
    if kind == "preflight":
        stages = [
            _plan_stage(task, profile, stage, ("preflight",), around)
            for stage in task.profile(profile).stages
            if "preflight" in stage.roles
        ]
    elif task.contract is not None:
        env = {
            "HARNESS_OUT": str(_absolute(around.paths).role_out("contract", "contract")),
            "HARNESS_STAGE": "contract",
            "HARNESS_GPUS": "",
        }
        step = PlanStep(role="contract", limit_s=task.contract.limit_s, env=env)
        script = str(task.folder / task.contract.script)
        stages.append(PlanStage(name="contract", label="contract", script=script, steps=[step]))
    return _plan(task, profile, 0, 0, stages, around, task.profile(profile).seed, None)


def _absolute(paths: RunPaths) -> RunPaths:
    return RunPaths(paths.root.absolute())


def _plan_stage(
    task: Task, profile: str, stage: Stage, roles: Sequence[Role], around: Surroundings
) -> PlanStage:
    if stage.gpus > len(around.gpus):
        raise PlanError(
            f"stage {stage.label} needs {stage.gpus} GPU(s), there are {len(around.gpus)}; "
            f"choose a profile that needs fewer"
        )
    chosen = task.profile(profile)
    labels = {stage.name: stage.label for stage in chosen.stages}
    paths = _absolute(around.paths)
    steps = []
    for role in roles:
        limit = stage.limits.seconds(role)
        assert limit is not None  # load_task refuses a role without a limit
        env = {
            "HARNESS_OUT": str(paths.role_out(stage.label, role)),
            "HARNESS_STAGE": stage.label,
            "HARNESS_GPUS": ",".join(map(str, around.gpus[: stage.gpus])),
        }
        if role == "preflight":
            env["HARNESS_REFERENCE"] = str(paths.reference)
            env["HARNESS_CACHE"] = str(around.cache_dir.absolute())
            env["HARNESS_LIMIT_S"] = f"{stage.limits.seconds('run') or 0:g}"
            env["HARNESS_MAX_STEP_RATIO"] = f"{task.max_step_ratio:g}"
        else:
            env["HARNESS_DATA"] = str(around.data_dir.absolute() / chosen.data.name / role)
        if role == "score":
            env["HARNESS_RUN_OUT"] = str(paths.out)
        if stage.gpus:
            env["OMP_NUM_THREADS"] = "1"
        log_bytes = stage.limits.log_bytes
        steps.append(PlanStep(role=role, limit_s=limit, log_bytes=log_bytes, env=env))
    return PlanStage(
        name=stage.name,
        label=stage.label,
        script=str(task.script_path(stage)),
        needs=[labels[need] for need in stage.needs if "run" in roles or "score" in roles],
        steps=steps,
    )


def _plan(
    task: Task,
    profile: str,
    number: int,
    attempt: int,
    stages: list[PlanStage],
    around: Surroundings,
    seed: int,
    extra_env: Mapping[str, str] | None,
) -> Plan:
    paths = _absolute(around.paths)
    env = base_environment(paths, threads=around.threads) | {
        "HARNESS_FILES": str(paths.files),
        "HARNESS_SEED": str(seed),
        "HARNESS_PROFILE": profile,
    }
    feedback = task.feedback
    return Plan(
        task=task.name,
        profile=profile,
        number=number,
        attempt=attempt,
        seed=seed,
        env=env | dict(extra_env or {}),
        stages=stages,
        editable_files=[file.name for file in task.files],
        feedback=PlanFeedback(prefix=feedback.prefix, step=feedback.step) if feedback else None,
    )


def prepare_run_dir(
    paths: RunPaths,
    plan: Plan,
    files: Mapping[str, str | bytes],
    reference: Mapping[str, str | bytes] | None = None,
) -> None:
    """Makes the run directory: the snapshot, the status `queued`, and last the plan.

    `files` holds every file of the snapshot, editable ones and siblings, by name, and `reference`
    the unedited ones where a check compares with them. What an interrupted preparation left is
    overwritten; FileExistsError if there is a plan already.
    """
    if paths.plan.exists():
        raise FileExistsError(f"{paths.root} is prepared already")
    for folder in (paths.files, paths.out, paths.home, paths.tmp, paths.steps):
        folder.mkdir(parents=True, exist_ok=True)
    for folder, contents in ((paths.files, files), (paths.reference, reference or {})):
        for name, content in contents.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    write_status(paths, new_status(plan))
    write_atomic(paths.plan, plan.model_dump_json(indent=1) + "\n")


def snapshot(task: Task, edited: Mapping[str, str]) -> dict[str, str | bytes]:
    """The files of a test: the task's, with the texts in `edited` in place of the shipped ones."""
    files: dict[str, str | bytes] = {file.name: task.read_file(file.name) for file in task.files}
    unknown = edited.keys() - files.keys()
    if unknown:
        raise KeyError(f"not editable: {', '.join(sorted(unknown))}")
    return files | dict(edited) | dict(task.sibling_contents())


# ---------------------------------------------------------------------------------------------
# Reading and writing


def read_plan(paths: RunPaths) -> Plan:
    """Raises PlanError if there is none or it is broken."""
    try:
        return Plan.model_validate_json(paths.plan.read_bytes())
    except FileNotFoundError:
        raise PlanError(f"{paths.root} has no plan.json; prepare the run first") from None
    except ValueError as e:
        raise PlanError(f"{paths.plan}: {e}") from None


def new_status(plan: Plan) -> RunStatus:
    """The status of a run that has not begun."""
    steps = [
        StepStatus(stage=stage.label, role=step.role, limit_s=step.limit_s)
        for stage in plan.stages
        for step in stage.steps
    ]
    return RunStatus(updated_at=utc_now(), steps=steps)


def read_status(paths: RunPaths) -> RunStatus | None:
    """None if there is none; ValueError if it is broken."""
    content = read_regular(paths.status, 1 << 20)
    return None if content is None else RunStatus.model_validate_json(content)


def write_status(paths: RunPaths, status: RunStatus) -> None:
    status.updated_at = utc_now()
    write_atomic(paths.status, status.model_dump_json(indent=1) + "\n")


def read_progress(out: Path, label: str) -> Progress | None:
    """What a step of stage `label` says in its HARNESS_OUT.

    None where there is nothing, or nothing that can be taken: another stage's, no regular file,
    too large, not a JSON object. Fields that are no finite number of the right kind are left
    out, and unknown ones ignored.
    """
    try:
        content = read_regular(out / PROGRESS_NAME, PROGRESS_LIMIT)
        raw = json.loads(content) if content is not None else None
    except (ValueError, RecursionError, OSError):
        return None
    if not isinstance(raw, dict) or raw.get("stage") != label:
        return None
    numbers = {name: _finite(raw.get(name)) for name in ("step", "steps", "loss", "tokens_per_s")}
    step, steps = numbers["step"], numbers["steps"]
    return Progress(
        stage=label,
        step=None if step is None or step < 0 else int(step),
        steps=None if steps is None or steps < 0 else int(steps),
        loss=numbers["loss"],
        tokens_per_s=numbers["tokens_per_s"],
    )


def _finite(value: object) -> float | None:
    # Integers beyond 2**53 are no steps, and may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return float(value) if abs(value) <= 2**53 else None
    return value if math.isfinite(value) and abs(value) <= 2**53 else None
