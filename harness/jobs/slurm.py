"""Runs as Slurm jobs, through submitit: one job a run, from a login node.

State folder, tasks, data and the Python environment lie on a file system that login and compute
nodes share under the same paths. A job's name is made from its run directory, so that a restarted
server finds it again, whatever it was doing when it ended.

Guaranteed: at most one job of a run waits or runs; a job that nears its wall-time limit, or is
preempted, ends its runner in order, is requeued by itself, and goes on from the last checkpoint,
which costs the test no resumption. Where a job is told from squeue; a Slurm controller that does
not answer leaves what was last known. Not guaranteed: places in the queue of other users' jobs.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from harness.jobs import ExecutorAway, JobState
from harness.jobs.plan import FINAL_STATES, give_gpus, read_plan, read_status, write_status
from harness.jobs.processes import run_mark
from harness.jobs.runner import GIVEN_MEMORY, mark_cancelled
from harness.workspace import RunPaths

PACKAGE_ROOT = Path(__file__).resolve().parents[2]

SQUEUE_SECONDS = 2.0
"""how old what squeue has said may be"""
COMMAND_SECONDS = 30
SETTLE_SECONDS = 60.0
"""that a run's last status is waited for when its job has ended: shared file systems show late what
another machine wrote, and a job that is being requeued may be in no listing for an instant"""
SIGNAL_SECONDS = 120
"""before its wall-time limit a job is told to save what it has"""
PATIENCE_SECONDS = 100
"""that its runner then has to end all of its processes"""
MOST_REQUEUES = 1000
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
OVER = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE",
        "BOOT_FAIL", "PREEMPTED")  # fmt: skip


AWAY_SECONDS = 15.0
"""after a failure no run is handed in for so long"""


class SlurmError(ExecutorAway):
    """A command of Slurm's that failed."""


@dataclass(frozen=True)
class _Job:
    id: str
    state: str
    starts_at: float | None
    """seconds since 1970, as the scheduler expects"""


class CarryOut(submitit.helpers.Checkpointable):
    """What the job runs: the runner, as a process of its own."""

    def __init__(self) -> None:
        self._runner: subprocess.Popen[bytes] | None = None

    def __call__(self, folder: str, gpus: int) -> int:
        run = RunPaths(Path(folder))
        visible = [g for g in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if g]
        give_gpus(run, visible[:gpus])
        with run.runner_log.open("ab") as log:
            self._runner = subprocess.Popen(
                [sys.executable, "-P", "-m", "harness.jobs.runner", folder],
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "HOME": str(run.home),
                    "LANG": "C.UTF-8",
                    "PYTHONPATH": str(PACKAGE_ROOT),
                    "PYTHONUNBUFFERED": "1",
                    GIVEN_MEMORY: str(_given_memory(os.environ)),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Slurm sends it to every process of the job; it is meant for this one.
                preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
            )
        return self._runner.wait()

    def checkpoint(self, folder: str, gpus: int) -> submitit.helpers.DelayedSubmission:
        """Called before the job is requeued: ends the runner, which a later one goes on from."""
        if self._runner is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._runner.pid, signal.SIGTERM)
            deadline = time.monotonic() + PATIENCE_SECONDS
            # The thread that was interrupted waits for it too, so nobody may wait here.
            while time.monotonic() < deadline and _lives(self._runner.pid):
                time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(CarryOut(), folder, gpus)


def _given_memory(env: Mapping[str, str]) -> int:
    """Bytes of memory that the job was given; 0 if Slurm does not say. It counts in MiB."""
    if whole := int(env.get("SLURM_MEM_PER_NODE", "0")):
        return whole << 20
    cores = int(env.get("SLURM_CPUS_ON_NODE", "1"))
    return int(env.get("SLURM_MEM_PER_CPU", "0")) * cores << 20


def _setup() -> list[str]:
    """Shell lines ahead of the job: where programs, this package and Slurm's configuration are."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(PACKAGE_ROOT)}
    if "SLURM_CONF" in os.environ:
        env["SLURM_CONF"] = os.environ["SLURM_CONF"]
    return [f"export {name}={shlex.quote(value)}" for name, value in env.items()]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class SlurmExecutor:
    """Slurm's queue, for the jobs of this user.

    Args:
        partition, account: as sbatch has them; the cluster's defaults if left out.
        time_min: wall-time limit of one job, minutes; a run may take several.
        cpus: cores of a job.
        extra: further parameters of sbatch by name, such as {"constraint": "h100"}.
    """

    gpus: int | None = None
    """What a run can get is not known here."""

    def __init__(
        self,
        *,
        partition: str | None = None,
        account: str | None = None,
        time_min: int = 1440,
        cpus: int = 8,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        own = {"partition": partition, "account": account}
        self._parameters: dict[str, Any] = {key: value for key, value in own.items() if value}
        self._time_min, self._cpus, self._extra = time_min, cpus, dict(extra or {})
        self._lock = threading.RLock()
        self._jobs: dict[str, _Job] = {}
        self._asked = -SQUEUE_SECONDS
        self._failed = -AWAY_SECONDS
        self._answered = False
        """whether squeue has answered yet"""
        self._seen: dict[RunPaths, float] = {}
        """when a run last had a job"""

    @property
    def threads(self) -> int | None:
        """As Executor.threads."""
        return self._cpus

    def submit(self, run: RunPaths) -> None:
        """As Executor.submit. Raises plan.PlanError or SlurmError."""
        plan = read_plan(run)
        with self._lock:
            status = read_status(run)
            if status is not None and status.state in FINAL_STATES:
                return
            if time.monotonic() - self._failed < AWAY_SECONDS:
                raise SlurmError("Slurm did not answer a moment ago")
            try:
                self._hand_in(run, plan.gpus)
            except SlurmError:
                self._failed = time.monotonic()
                raise

    def _hand_in(self, run: RunPaths, gpus: int) -> None:
        # A job that was handed in just before a server was killed is known by its name alone.
        self._ask(at_once=True)
        if self._job(run) is not None:
            return
        executor = submitit.SlurmExecutor(
            folder=run.root.absolute() / "slurm", max_num_timeout=MOST_REQUEUES
        )
        executor.update_parameters(
            job_name=_name(run),
            time=self._time_min,
            cpus_per_task=self._cpus,
            signal_delay_s=SIGNAL_SECONDS,
            setup=_setup(),
            srun_args=["--export=ALL"],
            # Of the server's environment, which may hold secrets, a job gets nothing.
            additional_parameters={
                "export": "NIL",
                "requeue": True,
                "open_mode": "append",
                **self._extra,
            },
            **({"gpus_per_node": gpus} if gpus else {}),
            **self._parameters,
        )
        try:
            executor.submit(CarryOut(), str(run.root.absolute()), gpus)
        except (OSError, submitit.core.utils.FailedJobError) as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise SlurmError(f"sbatch: {said}") from error
        self._ask(at_once=True)

    def cancel(self, run: RunPaths) -> None:
        """As Executor.cancel. A runner looks for the mark itself."""
        with self._lock:
            lost = not run.root.is_dir()
            if not lost:
                run.cancel.touch()
            self._ask(at_once=True)
            job, status = self._job(run), read_status(run)
            if job is not None and job.state not in WAITING and not lost:
                return
            if job is not None:
                _command("scancel", job.id)
            if status is not None and status.state not in FINAL_STATES:
                mark_cancelled(status)
                write_status(run, status)

    def state(self, run: RunPaths) -> JobState:
        """As Executor.state."""
        with self._lock:
            self._ask()
            job = self._job(run)
            if job is None:
                return JobState("running" if self._may_live(run) else "gone")
            self._seen[run] = time.monotonic()
            if job.state not in WAITING:
                return JobState("running")
            waiting = sorted(int(j.id) for j in self._jobs.values() if j.state in WAITING)
            seconds = None if job.starts_at is None else max(0.0, job.starts_at - time.time())
            return JobState("queued", waiting.index(int(job.id)) + 1, seconds)

    def _may_live(self, run: RunPaths) -> bool:
        """Whether a begun run without a job may go on, or may have ended well."""
        status = read_status(run)
        if status is None or status.starts == 0 or status.state in FINAL_STATES:
            return False
        if not self._answered:
            return True  # a controller that is away takes nobody's test
        return time.monotonic() - self._seen.get(run, -math.inf) < SETTLE_SECONDS

    def idle(self, gpus: int = 0) -> bool:
        """As Executor.idle: nobody knows when the cluster would start it."""
        return False

    def poll(self) -> None:
        """As Executor.poll: Slurm starts them."""

    def _job(self, run: RunPaths) -> _Job | None:
        return self._jobs.get(_name(run))

    def _ask(self, *, at_once: bool = False) -> None:
        """Takes in what squeue says, if the last answer is old. Raises SlurmError if `at_once`."""
        if not at_once and time.monotonic() - self._asked < SQUEUE_SECONDS:
            return
        try:
            listing = _command("squeue", "--me", "--noheader", "--format=%i|%T|%S|%j")
        except SlurmError:
            if at_once:
                raise
            return  # the controller is away: what was last known holds
        self._asked = time.monotonic()
        self._answered = True
        self._jobs = {}
        for line in listing.splitlines():
            job, state, start, name = line.strip().split("|", 3)
            if state not in OVER and job.isdigit():
                starts = float(start) if start.isdigit() else None
                self._jobs[name] = _Job(job, state, starts)


def _name(run: RunPaths) -> str:
    return f"harness-{run_mark(run)}"


def _command(*argv: str) -> str:
    """What one of Slurm's commands prints. Raises SlurmError."""
    env = os.environ | {"SLURM_TIME_FORMAT": "%s"}
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=COMMAND_SECONDS, env=env, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{argv[0]}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise SlurmError(f"{argv[0]}: {said}")
    return done.stdout
