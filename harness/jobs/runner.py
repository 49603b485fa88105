"""Carries out a run directory: ``python -m harness.jobs.runner RUN_DIR``.

Steps run one after the other, each as a process group of its own, with the plan's environment
and nothing else. Guaranteed: before a step begins and before the runner ends well, no process of
an earlier step is alive; a step whose exit.json exists is never run again; at most one runner
works on a directory; what runs an agent's code is confined, unless the plan says that the operator
turned the sandbox off. Beside a `run` its `feed` works, which ends with it; how a `serve` is
started is written down for the `score`. What a `run` left is hashed and put out of reach when all
its processes are dead. Started again on a directory that is not finished, it goes on: the step
that was interrupted is run again, with ``out/`` as it was left. Killed, it gives the step its whole
time limit again; told to stop, what is left of it and `LOST_S` more.

SIGTERM ends the step's processes; the state is then `cancelled` if RUN_DIR/cancel exists, else
`interrupted`. Exit codes: 0 the run is finished or cancelled, 2 no usable plan, 3 another runner
is at work, 75 interrupted, 1 our own fault (the traceback stands in runner.log).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from harness import hardware, sandbox
from harness.checks.findings import FINDINGS_BYTES, read_findings
from harness.jobs.limits import MEMORY_SHARE, excess
from harness.jobs.plan import (
    ENDED_STEPS,
    FINAL_STATES,
    Kept,
    Plan,
    PlanError,
    PlanKeep,
    PlanProcess,
    PlanStage,
    PlanStep,
    Progress,
    RunStatus,
    StepState,
    StepStatus,
    given_gpus,
    new_status,
    read_plan,
    read_progress,
    read_status,
    utc_now,
    write_status,
)
from harness.jobs.processes import (
    StillAlive,
    adopt_orphans,
    descendants,
    die_first,
    die_with_parent,
    end_descendants,
    end_leftovers,
    lock_run,
    processor_seconds,
    reap,
    run_mark,
    write_runner,
)
from harness.metrics import METRICS_BYTES, void_category
from harness.sandbox import Problem
from harness.task import CONFINED, UNCOUNTED
from harness.tracebacks import failure_reason
from harness.transport.channel import LISTEN, Listener, sandboxed
from harness.workspace import (
    PROGRESS_NAME,
    RunPaths,
    StepPaths,
    read_regular,
    remove_tree,
    write_atomic,
)

EXIT_NO_PLAN = 2
EXIT_BUSY = 3
EXIT_INTERRUPTED = 75

TICK_S = 0.25
"""How often a running step is looked at; the status is written at least every fourth time."""
STATUS_S = 1.0
"""The longest that status.json stays as it is while a step runs."""
REASON_BYTES = 1 << 20
"""How much of a log's end is searched for the reason of a failure."""
GIVEN_MEMORY = "HARNESS_GIVEN_MEMORY"
"""Variable of the runner: bytes that a cluster gave the whole job."""
LOST_S = 900.0
"""Of an interrupted step's time, what does not count against its limit: what it did since its last
checkpoint and what it takes to come up again."""


LIMITS_S = 1.0
"""How often memory, processes and disk of a step are measured; processes alone at every tick."""


class Unfit(Exception):
    """A file that a `run` left cannot be taken; the text says why, for the agent."""


class Interrupted(Exception):
    """SIGTERM came; the step's processes are dead."""


class Refused(Exception):
    """A check has found something: what follows is not run, and nothing is counted."""


class Runner:
    """One run directory being carried out by this process."""

    def __init__(self, paths: RunPaths, plan: Plan) -> None:
        self.paths = paths
        self.plan = plan
        self.status = self._recall()
        self.stopping = False
        self.gpus = given_gpus(paths)
        if len(self.gpus) < plan.gpus:
            raise PlanError(f"{paths.root} needs {plan.gpus} GPU(s), {len(self.gpus)} are given")

    def _recall(self) -> RunStatus:
        """The status as finished steps and the last status left it."""
        old = read_status(self.paths)
        status = new_status(self.plan)
        if old is not None:
            status.started_at, status.starts = old.started_at, old.starts
            status.state, status.ended_at = old.state, old.ended_at
            for step, before in zip(status.steps, old.steps, strict=True):
                step.spent_s = before.spent_s
        for index, step in enumerate(status.steps):
            exit_path = self.paths.step(step.stage, step.role).exit
            if exit_path.is_file():
                status.steps[index] = StepStatus.model_validate_json(exit_path.read_bytes())
        return status

    # -----------------------------------------------------------------------------------------

    def run(self) -> int:
        """Goes through the plan; the exit code of the process."""
        if self.status.state in FINAL_STATES:
            return 0
        self._listen()
        adopt_orphans()
        end_leftovers(self.paths)
        self.status.state = "running"
        self.status.starts += 1
        self.status.started_at = self.status.started_at or utc_now()
        write_status(self.paths, self.status)
        write_runner(self.paths)
        found = hardware.description(self.gpus)
        write_atomic(self.paths.hardware, json.dumps(found, indent=1) + "\n")
        try:
            for stage in self.plan.stages:
                self._stage(stage)
            self.status.state = "finished"
        except Interrupted:
            return self._stopped()
        except Refused:
            self.status.state = "refused"
        self.status.ended_at = utc_now()
        write_status(self.paths, self.status)
        remove_tree(self.paths.cache)
        return 0

    def _listen(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            self.stopping = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        # Its arrival is enough: it wakes the loop that waits for the step's output.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        if self.paths.cancel.exists():
            self.stopping = True

    def _stopped(self) -> int:
        cancelled = self.paths.cancel.exists()
        if cancelled:
            mark_cancelled(self.status)
        else:
            self.status.state = "interrupted"
        self.status.progress = None
        write_status(self.paths, self.status)
        return 0 if cancelled else EXIT_INTERRUPTED

    # -----------------------------------------------------------------------------------------

    def _stage(self, stage: PlanStage) -> None:
        for step in stage.steps:
            status = self.status.step(stage.label, step.role)
            if status.state in ENDED_STEPS:
                continue
            culprit = self._failed_before(stage)
            if culprit is None:
                self._step(stage, step, status)
            else:
                status.state, status.reason = "skipped", [f"{culprit} failed"]
            self._keep(status)
            # A plan of checks alone goes through all of them, for one answer with everything.
            if step.role in UNCOUNTED and self.plan.number > 0 and self._refuses(status):
                raise Refused

    def _refuses(self, status: StepStatus) -> bool:
        """Whether a check that has ended stands in the way: it failed, or it found something."""
        if status.state != "done":
            return True
        if status.role == "reference":
            return False
        try:
            content = read_regular(self.paths.findings(status.stage, status.role), FINDINGS_BYTES)
            return content is None or not read_findings(content, {}).ok
        except ValueError:
            return True

    def _failed_before(self, stage: PlanStage) -> str | None:
        """The label of the stage that makes the rest of this one pointless."""
        for label in [*stage.needs, stage.label]:
            for status in self.status.steps:
                if status.stage != label:
                    continue
                if status.state in ("failed", "timeout", "void"):
                    return label
                if status.state == "skipped":
                    return status.reason[0].removesuffix(" failed")
        return None

    def _keep(self, status: StepStatus) -> None:
        """Makes the end of a step final."""
        status.ended_at = utc_now()
        self.status.progress = None
        path = self.paths.step(status.stage, status.role).exit
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, status.model_dump_json(indent=1) + "\n")
        write_status(self.paths, self.status)

    def _step(self, stage: PlanStage, step: PlanStep, status: StepStatus) -> None:
        """Runs one step to its end and fills its status in."""
        if self.stopping:
            raise Interrupted
        paths = self.paths.step(stage.label, step.role)
        out = self.paths.role_out(stage.label, step.role)
        out.mkdir(parents=True, exist_ok=True)
        _make_ready(paths, out, fresh=step.role in ("score", "reference"))
        if "HARNESS_CACHE" in step.env and step.confinement is not None:
            self._warm(stage)
        status.state, status.started_at = "running", utc_now()
        write_status(self.paths, self.status)
        attempt = StepAttempt(self, stage, step, paths, status.spent_s)
        try:
            attempt.carry_out()
        except StillAlive as e:
            # Nothing may be scored while they live, and nobody can end them: not a failure of
            # the step but of the machine.
            raise SystemExit(f"runner: {stage.label}.{step.role}: {e}") from None
        if attempt.stopped:
            status.state, status.started_at = "waiting", None
            status.spent_s += max(0.0, attempt.elapsed - LOST_S)
            raise Interrupted
        status.exit = attempt.exit
        if attempt.over is not None:
            status.state, status.reason = attempt.over
        elif attempt.exit == 0:
            status.state = "done"
            self._take(stage, step, status)
        else:
            status.state = "failed"
            status.reason = failure_reason(
                _tail(paths.log, attempt.log_from, REASON_BYTES),
                self.plan.editable_files,
                attempt.exit,
                [str(self.paths.files), str(self.paths.root), str(sandbox.INSIDE)],
            )

    def _warm(self, stage: PlanStage) -> None:
        """Gives the run a copy of the compile cache that the unedited files left."""
        warm = self.paths.role_out(stage.label, "reference") / "cache"
        if warm.is_dir() and not any(self.paths.cache.iterdir()):
            shutil.copytree(warm, self.paths.cache, dirs_exist_ok=True)

    def _take(self, stage: PlanStage, step: PlanStep, status: StepStatus) -> None:
        """What a step that ended well has left: files for scoring, or an audit's verdict."""
        try:
            out = self.paths.role_out(stage.label, step.role)
            status.kept = [_keep(keep, out, self.paths.kept) for keep in step.keeps]
            if step.role == "score":
                content = read_regular(self.paths.step(stage.label, "score").metrics, METRICS_BYTES)
                if content is not None and (category := void_category(content)) is not None:
                    status.state, status.reason = "void", [category]
        except Unfit as unfit:
            status.state, status.exit, status.reason = "failed", 1, [f"ERROR: {unfit}"]
        except ValueError:
            return  # whoever reads the metrics says what is wrong with them


def _keep(keep: PlanKeep, out: Path, kept: Path) -> Kept:
    """Moves a file that the agent's code may have made out of its reach, and hashes it.

    Raises Unfit.
    """
    source, target = out / keep.file, kept / keep.file
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unfit(f"training left no {keep.file}.") from None
    except OSError:
        raise Unfit(f"{keep.file} is not a regular file.") from None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise Unfit(f"{keep.file} is not a regular file.")
        if found.st_size > keep.bytes:
            raise Unfit(f"{keep.file} has {found.st_size} bytes; at most {keep.bytes} are taken.")
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fchmod(fd, 0o444)
        os.replace(source, target)
    return Kept(file=keep.file, bytes=found.st_size, sha256=digest)


def _make_ready(paths: StepPaths, out: Path, *, fresh: bool) -> None:
    """The step's folders, and nothing in them that an earlier step or start would pass on.

    The agent's code could write here while it ran, so links are removed, never followed.
    """
    if paths.root.is_symlink() or (paths.root.exists() and not paths.root.is_dir()):
        paths.root.unlink()
    elif fresh and paths.root.exists():
        remove_tree(paths.root)
    paths.root.mkdir(parents=True, exist_ok=True)
    progress = out / PROGRESS_NAME
    if progress.is_symlink() or (progress.exists() and not progress.is_dir()):
        progress.unlink()
    if paths.log.is_symlink() or (paths.log.exists() and not paths.log.is_file()):
        paths.log.unlink()


class StepAttempt:
    """The processes of one step, from their start to the death of the last of them."""

    def __init__(
        self, runner: Runner, stage: PlanStage, step: PlanStep, paths: StepPaths, spent_s: float
    ) -> None:
        self.runner, self.stage, self.step, self.paths = runner, stage, step, paths
        self.spent_before = spent_s
        """Seconds of the limit that earlier attempts have used."""
        self.elapsed = 0.0
        """Seconds that this attempt took."""
        self.out = runner.paths.role_out(stage.label, step.role)
        self.exit = 0
        self.over: tuple[StepState, list[str]] | None = None
        """State and reason if a limit ended the step."""
        self.stopped = False
        """Whether the runner was told to stop."""
        self.log_from = 0
        """Where in the log this attempt begins."""
        self._pace = Pace()
        self._companion: subprocess.Popen[bytes] | None = None
        self._measured = 0.0

    def carry_out(self) -> None:
        """Returns when every process of the step is dead."""
        if descendants():
            raise StillAlive("processes of an earlier step are alive")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        log = os.open(self.paths.log, flags, 0o644)
        self.log_from = os.fstat(log).st_size
        # The step writes into a pipe, not the file: it can neither overrun the cap nor rewrite
        # what it has said.
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        pump = Pump(read_end, log, self.step.log_bytes)
        try:
            self._begin_companion()
            process = self._start(self.step, stdout=write_end)
            os.close(write_end)
            write_end = -1
            code = self._watch(process.pid, pump)
            ended = end_descendants()
            self.exit = ended.get(process.pid, 1) if code is None else code
            process.returncode = self.exit  # collected by reap(), which Popen can't know
            if self._companion is not None:
                self._companion.returncode = 0
            pump.move()
            if pump.full and self.over is None:
                self._over_log()
            if self.over is not None:
                pump.say(f"\n[stopped: {self.over[1][0]}]\n")
        finally:
            for fd in (read_end, write_end, log):
                if fd >= 0:
                    os.close(fd)

    def _start(
        self, process: PlanProcess, stdout: int, pass_fds: tuple[int, ...] = (), **env: str
    ) -> subprocess.Popen[bytes]:
        """Starts the stage's script in the process's role, in the sandbox where it is confined."""
        command = Command.of(self.runner, self.stage, process)
        argv, fds = list(command.argv), list(pass_fds)
        if command.sandbox is not None:
            argv, fd = sandboxed(command.sandbox[1:], argv)
            fds.append(fd)
        try:
            return subprocess.Popen(
                argv,
                executable=command.sandbox[0] if command.sandbox else None,
                cwd=command.cwd,
                env=command.env | env,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=fds,
                # Safe: this process has one thread. What runs the agent's code dies before us.
                preexec_fn=die_first if process.role in CONFINED else die_with_parent,
            )
        finally:
            for fd in fds[len(pass_fds) :]:
                os.close(fd)

    def _begin_companion(self) -> None:
        """Starts what works beside this step, or says how the step itself may start it."""
        companion, run = self.step.companion, self.runner.paths
        if companion is None:
            return
        beside = run.step(self.stage.label, companion.role)
        beside.root.mkdir(parents=True, exist_ok=True)
        if companion.role == "serve":
            # Not the step's own log: what it prints may repeat what it was asked.
            command = Command.of(self.runner, self.stage, companion)
            started = command.as_json() | {"log": str(beside.log)}
            write_atomic(run.server(self.stage.label), json.dumps(started) + "\n")
            return
        # Bound here, so that whoever connects first waits for nobody.
        listener = Listener.bind(run.feed_socket)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        log = os.open(beside.log, flags, 0o644)
        try:
            number = listener.fileno()
            self._companion = self._start(companion, log, (number,), **{LISTEN: str(number)})
        finally:
            os.close(log)
            listener.close()

    def _watch(self, pid: int, pump: Pump) -> int | None:
        """Until the script ends (its exit code), or must be ended (None)."""
        started = time.monotonic()
        written = 0.0
        with contextlib.ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            wake = _wake_on_signal(stack)
            selector.register(wake, selectors.EVENT_READ)
            selector.register(pump.source, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(TICK_S):
                    if key.fd == wake:
                        with contextlib.suppress(BlockingIOError):
                            os.read(wake, 4096)
                    elif not pump.move():
                        selector.unregister(pump.source)
                ended = reap()
                if (code := ended.get(pid)) is not None:
                    if code >= 128 and self._told_too():
                        self.stopped = True
                        return None
                    return code
                beside = self._companion
                if beside is not None and beside.pid in ended:
                    if self._told_too():
                        self.stopped = True
                        return None
                    what = f"ended with exit code {ended[beside.pid]}; see its log"
                    raise StillAlive(f"the process that works beside it {what}")
                now = time.monotonic()
                self.elapsed = now - started
                if self.runner.stopping or self.runner.paths.cancel.exists():
                    self.stopped = True
                    return None
                if self.spent_before + self._spent(self.elapsed) > self.step.limit_s:
                    limit = f"{self.step.limit_s:g}"
                    self.over = ("timeout", [f"It ran longer than its limit of {limit} s."])
                    return None
                if pump.full:
                    self._over_log()
                    return None
                if self._exceeds(now):
                    return None
                changed = self._progress(self.elapsed)
                if now - written >= (TICK_S if changed else STATUS_S - TICK_S):
                    # The step itself may have filled the disk: that must not end its runner.
                    with contextlib.suppress(OSError):
                        write_status(self.runner.paths, self.runner.status)
                    written = now

    def _memory_bytes(self) -> int | None:
        """The step's limit, and where a cluster gave the run less, so much that it comes first."""
        given = int(os.environ.get(GIVEN_MEMORY, "0"))
        if not given:
            return self.step.memory_bytes
        return min(self.step.memory_bytes or given, int(given * MEMORY_SHARE))

    def _told_too(self) -> bool:
        """Whether what ended the step, or its companion, was meant for the runner as well: a
        cluster that ends a job, and a machine that goes down, signal every process, in any order.
        """
        deadline = time.monotonic() + 2 * TICK_S
        while not self.runner.stopping and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.runner.stopping

    def _spent(self, elapsed: float) -> float:
        """Seconds that count against the limit.

        A contract is a short computation that may share its cores with tests and other checks. It
        is held to processor time, and to three times its limit by the clock.
        """
        if self.step.role != "contract":
            return elapsed
        return max(elapsed / 3, processor_seconds())

    def _exceeds(self, now: float) -> bool:
        """Whether the processes of a confined step hold too much together."""
        if self.step.disk_bytes is None or now - self._measured < LIMITS_S:
            return False
        what = excess(
            [self.out, self.runner.paths.cache],
            processes=self.step.processes,
            memory_bytes=self._memory_bytes(),
            disk_bytes=self.step.disk_bytes,
        )
        self._measured = time.monotonic()
        if what is not None:
            self.over = ("failed", [f"It was stopped: {what}"])
        return what is not None

    def _over_log(self) -> None:
        what = f"It printed more than its limit of {self.step.log_bytes} bytes. Print less."
        self.over = ("failed", [what])

    def _progress(self, elapsed: float) -> bool:
        """Takes over what the step reports; whether it is news."""
        found = read_progress(self.out, self.stage.label)
        if found is None:
            return False
        found.seconds_left = self._pace.seconds_left(elapsed, found)
        status = self.runner.status
        before = status.progress.step if status.progress else None
        status.progress = found
        return found.step != before


@dataclass(frozen=True)
class Command:
    """How one process of a stage is started."""

    argv: list[str]
    env: dict[str, str]
    """The whole environment of the process, or inside the sandbox."""
    cwd: str
    sandbox: list[str] | None
    """The sandbox's program and its arguments; None where there is none around it."""

    @classmethod
    def of(cls, runner: Runner, stage: PlanStage, process: PlanProcess) -> Command:
        """Raises SystemExit if it must be confined and there is no sandbox here."""
        run, gpus = runner.paths, ",".join(runner.gpus[: stage.gpus])
        argv = ["bash", stage.script, process.role]
        env = runner.plan.env | process.env | {"HARNESS_GPUS": gpus}
        if process.confinement is None:
            return cls(argv, env, env.get("HARNESS_FILES", str(run.root)), None)
        program = sandbox.find()
        if isinstance(program, Problem):
            raise SystemExit(f"runner: no sandbox: {program}")
        inside = next(
            str(Path(mount.target) / Path(stage.script).name)
            for mount in process.confinement.mounts
            if Path(mount.source) == Path(stage.script).parent
        )
        argv = sandbox.limited(process.confinement, ["bash", inside, process.role])
        # The program itself gets nothing but the mark by which its run is known.
        wrapped = [program, *sandbox.arguments(process.confinement, env)]
        return cls(argv, {"HARNESS_RUN": run_mark(run)}, "/", wrapped)

    def as_json(self) -> dict[str, Any]:
        """As the transport's Server reads it."""
        return {"argv": self.argv, "env": self.env, "cwd": self.cwd, "sandbox": self.sandbox}


class Pump:
    """Moves a step's output into its log, up to a cap."""

    def __init__(self, source: int, log: int, limit: int) -> None:
        self.source, self._log, self._left = source, log, limit
        self.full = False
        """Whether more came than the log may hold."""

    def move(self) -> bool:
        """Takes what is there, at most some megabytes; False at the end of the output."""
        for _ in range(64):
            try:
                part = os.read(self.source, 1 << 16)
            except BlockingIOError:
                return True
            if not part:
                return False
            if len(part) > self._left:
                self.full = True
            self._write(part[: self._left])
            self._left -= min(len(part), self._left)
        return True

    def say(self, text: str) -> None:
        """A line of the runner's own."""
        self._write(text.encode())

    def _write(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._log, content) :]


class Pace:
    """How long a step still takes, by its own reports."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def seconds_left(self, elapsed: float, progress: Progress) -> float | None:
        """`elapsed` is in seconds since the step began; None as long as nothing can be said."""
        step, steps = progress.step, progress.steps
        if step is None or not steps or step > steps:
            return None
        # From the first report on: what comes before is loading and compiling, and a resumed
        # training does not begin at 0.
        if self._first is None or step < self._first[1]:
            self._first = (elapsed, step)
        seconds, done = elapsed - self._first[0], step - self._first[1]
        if done == 0:
            return 0.0 if step == steps else None
        return round(seconds / done * (steps - step), 1)


def _wake_on_signal(stack: contextlib.ExitStack) -> int:
    """A file descriptor that becomes readable with every signal, until the stack unwinds."""
    read_end, write_end = os.pipe()
    for fd in (read_end, write_end):
        os.set_blocking(fd, False)
        stack.callback(os.close, fd)
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    stack.callback(signal.set_wakeup_fd, before)
    return read_end


def _tail(path: Path, start: int, limit: int) -> str:
    """The last `limit` bytes of a log behind `start`, as text."""
    with path.open("rb") as f:
        size = f.seek(0, os.SEEK_END)
        f.seek(max(start, size - limit))
        return f.read(limit).decode("utf-8", errors="replace")


def mark_cancelled(status: RunStatus) -> None:
    """Makes the status that of a cancelled run; steps that have ended stay as they are."""
    status.state, status.ended_at, status.progress = "cancelled", utc_now(), None
    for step in status.steps:
        if step.state not in ENDED_STEPS:
            step.state, step.reason = "skipped", ["cancelled"]


def main(argv: Sequence[str]) -> int:
    if not 1 <= len(argv) <= 2:
        print("usage: python -m harness.jobs.runner RUN_DIR [LOCK_FD]", file=sys.stderr)
        return EXIT_NO_PLAN
    paths = RunPaths(Path(argv[0]).resolve())
    if len(argv) == 2:  # whoever started us has locked the run, and let us inherit that
        os.set_inheritable(int(argv[1]), False)
    elif lock_run(paths) is None:
        print(f"runner: another runner is at work on {paths.root}", file=sys.stderr)
        return EXIT_BUSY
    try:
        runner = Runner(paths, read_plan(paths))
    except PlanError as e:
        print(f"runner: {e}", file=sys.stderr)
        return EXIT_NO_PLAN
    return runner.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
