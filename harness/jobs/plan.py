"""What a run directory says of itself: plan.json and status.json as types; preparing one."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from harness import sandbox
from harness.jobs.processes import run_mark
from harness.sandbox import INSIDE, RECORDER, TRANSPORT, Confinement, Mount
from harness.task import COMPANIONS, CONFINED, RECORDED, UNCOUNTED, Limits, Role, Stage, Task
from harness.workspace import PROGRESS_NAME, RunPaths, read_regular, write_atomic

RunState = Literal["queued", "running", "interrupted", "finished", "refused", "cancelled"]
StepState = Literal["waiting", "running", "done", "failed", "timeout", "void", "skipped"]

FINAL_STATES: frozenset[RunState] = frozenset({"finished", "refused", "cancelled"})
"""A run in one of these is never touched again. `refused`: a check stopped it, uncounted."""
ENDED_STEPS: frozenset[StepState] = frozenset({"done", "failed", "timeout", "void", "skipped"})
"""`void`: a score whose audit failed."""

LOG_BYTES = 16 << 20
"""The largest file that a model server may write, its log, which no pipe holds to a size."""
PROGRESS_LIMIT = 4096
"""Bytes of a progress.json that are read; a larger one is ignored."""


class PlanError(ValueError):
    """A plan that this machine can't carry out, or a run directory without a usable one."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PlanProcess(_Part):
    """A process that a step starts beside its own."""

    role: Role
    """The script's only argument."""
    env: dict[str, str]
    """Added to the plan's."""
    confinement: Confinement | None = None
    """What it can reach in the sandbox; None for trusted code."""


class PlanKeep(_Part):
    """A file that is put out of reach when a `run` has ended well."""

    file: str
    """Its name in HARNESS_OUT."""
    bytes: int
    """The largest that it may be."""


class PlanStep(PlanProcess):
    """One step of a stage."""

    limit_s: float
    """Wall clock, in seconds."""
    log_bytes: int = 16 << 20
    """Most that it may print."""
    disk_bytes: int | None = None
    """Most that it may write, if it or what works beside it is confined."""
    memory_bytes: int | None = None
    """Most memory that its processes may hold together; of the machine's if left out."""
    processes: int = 512
    """Most processes at once."""
    companion: PlanProcess | None = None
    """`feed` beside a `run`, `serve` beside a `score`."""
    keeps: list[PlanKeep] = []
    """Files that a `run` leaves for scoring."""


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
    gpus: int = 0
    """How many it uses; which ones is decided when the run starts."""
    steps: list[PlanStep]
    """Its halves, in order."""


class PlanFeedback(_Part):
    """How the feedback lines of the logs are read."""

    prefix: str
    """What such a line begins with."""
    step: str
    """A pattern with one group."""


class PlanData(_Part):
    """Which data set the test uses, as it is when the test is queued."""

    name: str
    """As the profile has it."""
    manifest_sha256: str | None = None
    """Of its manifest.json, which names and hashes all of it; None if there is none."""


class Plan(_Part):
    """Everything that carrying out a test needs to know."""

    version: Literal[1] = 1
    """Of this format."""
    task: str
    """The task's name."""
    task_version: int | None = None
    """Of the task as it was when this was made; None in plans from before this was kept."""
    profile: str
    """The profile's name."""
    number: int
    """Of the test in its session, from 1."""
    attempt: int
    """Of this number, from 1."""
    seed: int
    """HARNESS_SEED."""
    env: dict[str, str]
    """The whole environment of every trusted step, but for what the step adds."""
    sandbox: bool
    """Whether confined steps run in the sandbox; False only if the operator turned it off."""
    data: PlanData | None = None
    """None in plans that were made before this was kept."""
    stages: list[PlanStage]
    """In the order in which they run."""
    editable_files: list[str]
    """Names below ``files/``; a failure's frames are shown where they lie in one of these."""
    feedback: PlanFeedback | None = None
    """As the task has it."""

    @property
    def gpus(self) -> int:
        """How many the run holds from its start to its end."""
        return max((stage.gpus for stage in self.stages), default=0)


class Kept(_Part):
    """A file that a `run` left, as it was when all its processes were dead."""

    file: str
    """Its name."""
    bytes: int
    """Its size."""
    sha256: str
    """Of its content."""


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
    kept: list[Kept] = []
    """What a `run` left for scoring."""
    started_at: str | None = None
    """UTC, ISO 8601; of the last start, if it was resumed."""
    spent_s: float = 0.0
    """Seconds of its limit that earlier starts have used, which were told to stop."""
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
    peak_memory_bytes: float | None = None
    """Most that the first rank has held on its GPU."""
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
        # Marks the processes of this run, whoever looks for what a killed runner left.
        "HARNESS_RUN": run_mark(paths),
        "PYTHONPATH": str(TRANSPORT),
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
    gpus: int | None = 0
    """how many there are for a run; None if that is not known here"""
    threads: int | None = None
    """for stages on the CPU; the number of cores if left out"""
    sandbox: bool = True
    """False if the operator turned it off"""
    unedited: Mapping[str, Path] = field(default_factory=dict)
    """by stage label: the folder that scoring the unedited files left"""


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
            _plan_stage(task, profile, stage, UNCOUNTED, around)
            for stage in task.profile(profile).stages
            if "preflight" in stage.roles
        ]
    elif task.contract is not None:
        maker = _Steps(task, profile, None, around)
        step = maker.step("contract")
        script = str(task.folder / task.contract.script)
        stages.append(PlanStage(name="contract", label="contract", script=script, steps=[step]))
    return _plan(task, profile, 0, 0, stages, around, task.profile(profile).seed, None)


def _absolute(paths: RunPaths) -> RunPaths:
    return RunPaths(paths.root.absolute())


def _plan_stage(
    task: Task, profile: str, stage: Stage, roles: Collection[Role], around: Surroundings
) -> PlanStage:
    """The stage with those of its steps that are in `roles`."""
    if around.gpus is not None and stage.gpus > around.gpus:
        raise PlanError(
            f"stage {stage.label} needs {stage.gpus} GPU(s), there are {around.gpus}; "
            f"choose a profile that needs fewer"
        )
    labels = {stage.name: stage.label for stage in task.profile(profile).stages}
    maker = _Steps(task, profile, stage, around)
    steps = [r for r in stage.roles if r in roles and r not in COMPANIONS]
    return PlanStage(
        name=stage.name,
        label=stage.label,
        script=str(task.script_path(stage)),
        needs=[labels[need] for need in stage.needs if set(steps) - UNCOUNTED],
        gpus=stage.gpus,
        steps=[maker.step(role) for role in steps],
    )


class _Steps:
    """Makes the steps of one stage, or of the contract: environment, mounts, limits.

    A confined process sees the run's folders below `sandbox.INSIDE`, a trusted one, or any where
    the sandbox is turned off, where they are.
    """

    def __init__(self, task: Task, profile: str, stage: Stage | None, around: Surroundings) -> None:
        self.task, self.profile, self.stage, self.around = task, profile, stage, around
        self.paths = _absolute(around.paths)
        self.label = stage.label if stage else "contract"

    def step(self, role: Role) -> PlanStep:
        """A step, with the process that works beside it."""
        limits = self.stage.limits if self.stage else Limits()
        limit, memory = limits.seconds(role), limits.memory_bytes
        if self.task.contract is not None and role == "contract":
            limit, memory = self.task.contract.limit_s, self.task.contract.memory_bytes
        assert limit is not None  # load_task refuses a role without a limit
        beside = [r for r, main in COMPANIONS.items() if main == role and self._has(r)]
        keeps = self.stage.keeps if self.stage and role == "run" else ()
        return PlanStep(
            **dict(self.process(role, limits.disk_bytes)),
            limit_s=limit,
            log_bytes=limits.log_bytes,
            disk_bytes=limits.disk_bytes if role in CONFINED or beside else None,
            memory_bytes=memory,
            processes=limits.processes,
            companion=self.process(beside[0], LOG_BYTES) if beside else None,
            keeps=[PlanKeep(file=keep.file, bytes=keep.bytes) for keep in keeps],
        )

    def process(self, role: Role, file_bytes: int) -> PlanProcess:
        """What a process of this role is given."""
        own = self.task.profile(self.profile)
        paths, confined = self.paths, role in CONFINED and self.around.sandbox
        mounts: list[Mount] = []

        def shown(path: Path, name: str, *, writable: bool = False) -> str:
            """The folder's path as the process knows it."""
            if not confined:
                return str(path)
            target = str(INSIDE / name)
            mounts.append(Mount(source=str(path), target=target, writable=writable))
            return target

        env = {"HARNESS_STAGE": self.label}
        if self.stage and self.stage.gpus:
            env["OMP_NUM_THREADS"] = "1"
        if role in CONFINED:
            env["HARNESS_FILES"] = shown(paths.files, "files")
        if role == "reference":
            env["HARNESS_FILES"] = str(paths.reference)
            env["HARNESS_CACHE"] = str(self.around.cache_dir.absolute())
        if role != "serve":
            out = paths.role_out(self.label, role)
            env["HARNESS_OUT"] = shown(out, "out", writable=True)
        if role in ("preflight", "run"):
            env["HARNESS_CACHE"] = shown(paths.cache, "cache", writable=True)
        data = self.around.data_dir.absolute() / own.data.name
        if role == "feed" or (role == "run" and not self._has("feed")):
            env["HARNESS_DATA"] = shown(data / "run", "data")
        if role == "run" and self._has("feed"):
            folder = shown(paths.feed, "feed")
            env["HARNESS_CHANNEL"] = f"{folder}/{paths.feed_socket.name}"
        if role == "preflight":
            assert self.stage is not None
            env["HARNESS_REFERENCE"] = shown(paths.reference, "reference")
            if self._has("reference"):
                measured = paths.role_out(self.label, "reference")
                env["HARNESS_MEASURED"] = shown(measured, "measured")
            env["HARNESS_LIMIT_S"] = f"{self.stage.limits.run_s or 0:g}"
            env["HARNESS_MAX_STEP_RATIO"] = f"{self.task.max_step_ratio:g}"
        if role in ("serve", "score"):
            env["HARNESS_RUN_OUT"] = shown(paths.kept, "run")
        if role == "score":
            env["HARNESS_DATA"] = str(data / "score")
            if self._has("serve"):
                env["HARNESS_SERVER"] = str(paths.server(self.label))
            else:  # not confined yet: it loads the edited files itself
                env["HARNESS_FILES"] = str(paths.files)
            if (unedited := self.around.unedited.get(self.label)) is not None:
                env["HARNESS_UNEDITED"] = str(unedited.absolute())
        before = sandbox.environment() if confined else {"PYTHONPATH": str(TRANSPORT)}
        if role in RECORDED:
            recorder = shown(RECORDER, "recorder")
            env["PYTHONPATH"] = f"{recorder}:{before['PYTHONPATH']}"
        if not confined:
            return PlanProcess(role=role, env=env)
        for source in self._code():
            target = str(INSIDE / "code" / source.relative_to(self._code_root()))
            mounts.append(Mount(source=str(source), target=target))
        confinement = Confinement(
            mounts=mounts,
            packages=list(self.task.sandbox.packages),
            gpus=bool(self.stage and self.stage.gpus),
            file_bytes=file_bytes,
            chdir=env["HARNESS_FILES"],
        )
        return PlanProcess(role=role, env=before | env, confinement=confinement)

    def _has(self, role: Role) -> bool:
        return self.stage is not None and role in self.stage.roles

    def _code(self) -> list[Path]:
        """What is shown of the task: its scripts' folder, and the code that it lists."""
        listed = [self.task.root_folder / name for name in self.task.sandbox.code]
        return [self.script().parent, *listed]

    def script(self) -> Path:
        """The script of the stage, or of the contract."""
        if self.stage is not None:
            return self.task.script_path(self.stage)
        assert self.task.contract is not None
        return self.task.folder / self.task.contract.script

    def _code_root(self) -> Path:
        return code_root(self.task)


def code_root(task: Task) -> Path:
    """The folder whose layout the sandbox repeats: it holds the task's folder and its root."""
    return Path(os.path.commonpath([task.folder, task.root_folder]))


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
        "HARNESS_SEED": str(seed),
        "HARNESS_PROFILE": profile,
    }
    feedback = task.feedback
    return Plan(
        task=task.name,
        task_version=task.version,
        profile=profile,
        number=number,
        attempt=attempt,
        seed=seed,
        env=env | dict(extra_env or {}),
        sandbox=around.sandbox,
        data=data_of(task, profile, around.data_dir),
        stages=stages,
        editable_files=[file.name for file in task.files],
        feedback=PlanFeedback(prefix=feedback.prefix, step=feedback.step) if feedback else None,
    )


def data_of(task: Task, profile: str, data_dir: Path) -> PlanData:
    """The profile's data set as it is now."""
    name = task.profile(profile).data.name
    try:
        manifest = (data_dir / name / "manifest.json").read_bytes()
    except FileNotFoundError:
        return PlanData(name=name)
    return PlanData(name=name, manifest_sha256=hashlib.sha256(manifest).hexdigest())


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
    for folder in (
        paths.files, paths.reference, paths.out, paths.cache, paths.kept, paths.feed,
        paths.home, paths.tmp, paths.steps,
    ):  # fmt: skip
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


def give_gpus(paths: RunPaths, ids: Sequence[str]) -> None:
    """Says which GPUs the run has, before its runner starts."""
    write_atomic(paths.gpus, json.dumps(list(ids)) + "\n")


def given_gpus(paths: RunPaths) -> list[str]:
    """The ids of the GPUs that the run has, as CUDA_VISIBLE_DEVICES takes them."""
    content = read_regular(paths.gpus, 4096)
    return [] if content is None else [str(gpu) for gpu in json.loads(content)]


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
    names = ("step", "steps", "loss", "tokens_per_s", "peak_memory_bytes")
    numbers = {name: _finite(raw.get(name)) for name in names}
    step, steps = numbers["step"], numbers["steps"]
    return Progress(
        stage=label,
        step=None if step is None or step < 0 else int(step),
        steps=None if steps is None or steps < 0 else int(steps),
        loss=numbers["loss"],
        tokens_per_s=numbers["tokens_per_s"],
        peak_memory_bytes=numbers["peak_memory_bytes"],
    )


def _finite(value: object) -> float | None:
    # Integers beyond 2**53 are no steps, and may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return float(value) if abs(value) <= 2**53 else None
    return value if math.isfinite(value) and abs(value) <= 2**53 else None
