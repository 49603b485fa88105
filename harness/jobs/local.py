"""Runs on this machine: one detached runner process for each run, on the GPUs that it was given.

Guaranteed: a GPU belongs to one run at a time, also across restarts of the server; a runner is a
session of its own with an environment of its own, so it outlives the server and has none of its
secrets; after a restart `submit` finds it again, by the lock that it has inherited. Runs that need
GPUs, and those that need none, wait in one queue each, and nobody overtakes: a run that needs
many cannot be starved. A run that can't be started (its directory is gone, no process is to be
had) leaves the queue, is `gone`, and holds nobody up. Not kept: the queue. Whoever restarts the
server submits what was queued, in its order, and what is alive first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.jobs import JobState
from harness.jobs.durations import Durations, Load, seconds_until_start
from harness.jobs.plan import (
    FINAL_STATES,
    Plan,
    PlanError,
    give_gpus,
    given_gpus,
    read_plan,
    read_status,
    write_status,
)
from harness.jobs.processes import end_leftovers, is_held, living_runner, lock_run, runners_on
from harness.jobs.runner import mark_cancelled
from harness.workspace import RunPaths

log = logging.getLogger("harness.jobs")


@dataclass(frozen=True)
class _Running:
    plan: Plan
    gpus: list[str]
    """that it holds"""
    pid: int | None
    """if the runner is our own child"""


class LocalExecutor:
    """The machine's GPUs, and `slots` runs at a time that need none.

    Args:
        slots: runs without GPUs at once.
        gpus: ids of the GPUs that may be given away.
    """

    def __init__(self, slots: int = 1, gpus: Sequence[str] = ()) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.slots, self._gpus = slots, list(gpus)
        self._lock = threading.RLock()
        self._pending: dict[RunPaths, Plan] = {}
        self._running: dict[RunPaths, _Running] = {}
        self._begun: set[RunPaths] = set()
        """those of the pending ones that a runner had begun before"""
        self._swept: set[Path] = set()
        self._durations = Durations()

    @property
    def gpus(self) -> int | None:
        """As Executor.gpus."""
        return len(self._gpus)

    @property
    def threads(self) -> int | None:
        """As Executor.threads."""
        return None

    def submit(self, run: RunPaths) -> None:
        """As Executor.submit. Raises plan.PlanError if the directory is not prepared, or if it
        needs more GPUs than there are."""
        plan = read_plan(run)
        with self._lock:
            self.poll()
            if run in self._pending or run in self._running:
                return
            if is_held(run):
                self._running[run] = _Running(plan, given_gpus(run), None)
                return
            status = read_status(run)
            if status is not None and status.state in FINAL_STATES:
                return
            if plan.gpus > len(self._gpus):
                raise PlanError(f"it needs {plan.gpus} GPU(s), there are {len(self._gpus)}")
            if status is not None and status.starts > 0:
                # It had its turn, and goes before those that had not.
                begun = {r: p for r, p in self._pending.items() if r in self._begun}
                self._begun.add(run)
                self._pending = begun | {run: plan} | self._pending
            else:
                self._pending[run] = plan
            self.poll()

    def cancel(self, run: RunPaths) -> None:
        """As Executor.cancel."""
        with self._lock:
            try:
                run.cancel.touch()
            except (FileNotFoundError, PermissionError):
                self._end_lost(run)
                return
            self.poll()
            running = self._running.get(run)
            if running is not None and running.pid is not None:
                # Our own child, not collected yet: the pid can't be another's.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running.pid, signal.SIGTERM)
            elif (runner := living_runner(run)) is not None:
                with contextlib.suppress(ProcessLookupError):
                    runner.send_signal(signal.SIGTERM)
            else:
                self._finish_cancelled(run)

    def state(self, run: RunPaths) -> JobState:
        """As Executor.state."""
        with self._lock:
            self.poll()
            if run in self._pending:
                queue = self._queue(self._pending[run].gpus)
                ahead = queue[: queue.index(run)]
                return JobState("queued", len(ahead) + 1, self._until_start(run, ahead))
            alive = run in self._running or is_held(run)
            return JobState("running" if alive else "gone")

    def idle(self, gpus: int = 0) -> bool:
        """As Executor.idle."""
        with self._lock:
            self.poll()
            return not self._queue(gpus) and self._fits(gpus)

    def capacity(self) -> dict[str, tuple[int, int]]:
        """By kind: how many there are, how many runs use."""
        with self._lock:
            without = sum(not running.gpus for running in self._running.values())
            found = {"slot": (self.slots, without)}
            if self._gpus:
                found["gpu"] = (len(self._gpus), len(self._gpus) - len(self._free()))
            return found

    def poll(self) -> None:
        """As Executor.poll."""
        with self._lock:
            for run, running in list(self._running.items()):
                if not _alive(run, running.pid):
                    del self._running[run]
                    # A run that cannot be read must not keep others from their turn.
                    with contextlib.suppress(ValueError, OSError):
                        if (status := read_status(run)) is not None:
                            self._durations.learn(running.plan, status)
                        if run.cancel.exists():
                            self._finish_cancelled(run)
            for run in [run for run in self._pending if run.cancel.exists()]:
                del self._pending[run]
                with contextlib.suppress(ValueError, OSError):
                    self._finish_cancelled(run)
            for gpus in (0, 1):  # the queues do not wait for each other
                for run in self._queue(gpus):
                    if not self._begin(run):
                        break

    def _queue(self, gpus: int) -> list[RunPaths]:
        """Those that wait for the same kind of thing as a run that needs `gpus`, in order."""
        return [run for run, plan in self._pending.items() if (plan.gpus > 0) == (gpus > 0)]

    def _free(self) -> list[str]:
        """GPUs that nobody holds."""
        held = {gpu for running in self._running.values() for gpu in running.gpus}
        return [gpu for gpu in self._gpus if gpu not in held]

    def _fits(self, gpus: int) -> bool:
        """Whether a run that needs `gpus` finds room now, the queue aside."""
        if gpus:
            return gpus <= len(self._free())
        return sum(not running.gpus for running in self._running.values()) < self.slots

    def _begin(self, run: RunPaths) -> bool:
        """Starts a pending run if it can be started now."""
        plan = self._pending[run]
        if not self._fits(plan.gpus):
            return False
        del self._pending[run]
        try:
            lock = lock_run(run)
            if lock is None:  # somebody has started it by hand
                self._running[run] = _Running(plan, given_gpus(run), None)
                return True
            try:
                ids = self._free()[: plan.gpus]
                give_gpus(run, ids)
                self._running[run] = _Running(plan, ids, _start(run, lock))
            finally:
                os.close(lock)
        except OSError as error:
            log.error("the runner of session %s, %s: %s", run.session, run.name, error)
        return True

    def _end_lost(self, run: RunPaths) -> None:
        """For a run whose directory is gone or closed: no cancellation can be written there."""
        self._pending.pop(run, None)
        running = self._running.get(run)
        with contextlib.suppress(ProcessLookupError):
            if running is not None and running.pid is not None:
                os.kill(running.pid, signal.SIGTERM)
                return
        runners = runners_on(run)
        for runner in runners:
            runner.terminate()
        if not runners:
            end_leftovers(run)

    def _until_start(self, run: RunPaths, ahead: Sequence[RunPaths]) -> float | None:
        """Seconds, about, until a pending run starts."""
        need = self._pending[run].gpus
        # Without GPUs every run takes one slot.
        capacity = len(self._gpus) if need else self.slots
        busy = [
            Load(max(1, len(running.gpus)), self._durations.left(running.plan, read_status(at)))
            for at, running in self._running.items()
            if (len(running.gpus) > 0) == (need > 0)
        ]
        waiting = [
            Load(max(1, plan.gpus), self._durations.left(plan, read_status(at)))
            for at, plan in ((at, self._pending[at]) for at in ahead)
        ]
        return seconds_until_start(capacity, busy, waiting, max(1, need))

    def _finish_cancelled(self, run: RunPaths) -> None:
        """For a run without a runner: one that was never begun, or whose runner was killed."""
        self._pending.pop(run, None)
        try:
            status = read_status(run)
        except ValueError:  # no runner could go on with it
            end_leftovers(run)
            return
        if status is None or status.state in FINAL_STATES:
            return
        if status.state == "queued":
            mark_cancelled(status)
            write_status(run, status)
        elif run.root not in self._swept and (lock := lock_run(run)) is not None:
            # A runner ends what the killed one left, finds the cancellation, and is done. It
            # computes nothing, so it may name the GPUs that the run had.
            self._swept.add(run.root)
            try:
                self._running[run] = _Running(read_plan(run), [], _start(run, lock))
            finally:
                os.close(lock)


def _start(run: RunPaths, lock: int) -> int:
    """The pid of a new runner, which inherits the run's lock."""
    package_root = Path(__file__).resolve().parents[2]
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(run.home.absolute()),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(package_root),
        "PYTHONUNBUFFERED": "1",
    }
    log = str(run.runner_log.absolute())
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    inherited = 3
    # -P: what lies in the folder that the server was started in is not imported.
    argv = [sys.executable, "-P", "-m", "harness.jobs.runner", str(run.root.absolute())]
    # Not subprocess: its objects complain of processes that outlive them, and these shall.
    # posix_spawn leaves a descriptor closed on exec where it is copied onto itself.
    source = os.dup(lock) if lock == inherited else lock
    try:
        return os.posix_spawn(
            sys.executable,
            [*argv, str(inherited)],
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, source, inherited),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGPIPE],
        )
    finally:
        if source != lock:
            os.close(source)


def _alive(run: RunPaths, pid: int | None) -> bool:
    if pid is None:
        return is_held(run) or (not run.root.is_dir() and bool(runners_on(run)))
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False
