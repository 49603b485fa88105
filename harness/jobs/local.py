"""Runs on this machine: one detached runner process for each run, in `slots` slots.

Guaranteed: a runner is a session of its own with an environment of its own, so it outlives the
server and has none of its secrets; after a restart of the server `submit` finds it again by pid
and time of creation. Not kept: the queue. Whoever restarts the server submits what was queued.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

from harness.jobs import JobState
from harness.jobs.plan import FINAL_STATES, read_plan, read_status, write_status
from harness.jobs.processes import living_runner
from harness.jobs.runner import mark_cancelled
from harness.workspace import RunPaths


class LocalExecutor:
    """A queue, first in first out, before `slots` runs at a time."""

    def __init__(self, slots: int = 1) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.slots = slots
        self._lock = threading.RLock()
        self._pending: list[RunPaths] = []
        self._running: dict[RunPaths, int | None] = {}  # pid if the runner is our own child
        self._swept: set[Path] = set()

    def submit(self, run: RunPaths) -> None:
        """As Executor.submit. Raises plan.PlanError if the directory is not prepared."""
        read_plan(run)
        with self._lock:
            self.poll()
            if run in self._pending or run in self._running:
                return
            if living_runner(run) is not None:
                self._running[run] = None
                return
            status = read_status(run)
            if status is not None and status.state in FINAL_STATES:
                return
            self._pending.append(run)
            self.poll()

    def cancel(self, run: RunPaths) -> None:
        """As Executor.cancel."""
        with self._lock:
            run.cancel.touch()
            if run in self._pending:
                self._pending.remove(run)
            self.poll()
            pid = self._running.get(run)
            if pid is not None:
                # Our own child, not collected yet: the pid can't be another's.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
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
                return JobState("queued", self._pending.index(run) + 1)
            alive = run in self._running or living_runner(run) is not None
            return JobState("running" if alive else "gone")

    def idle(self) -> bool:
        """As Executor.idle."""
        with self._lock:
            self.poll()
            return not self._pending and len(self._running) < self.slots

    def capacity(self) -> dict[str, tuple[int, int]]:
        """As standing.TellsCapacity."""
        with self._lock:
            return {"slot": (self.slots, len(self._running))}

    def poll(self) -> None:
        """As Executor.poll."""
        with self._lock:
            for run, pid in list(self._running.items()):
                if not _alive(run, pid):
                    del self._running[run]
                    if run.cancel.exists():
                        self._finish_cancelled(run)
            while self._pending and len(self._running) < self.slots:
                run = self._pending.pop(0)
                self._running[run] = _start(run)

    def _finish_cancelled(self, run: RunPaths) -> None:
        """For a run without a runner: one that was never begun, or whose runner was killed."""
        status = read_status(run)
        if status is None or status.state in FINAL_STATES:
            return
        if status.state == "queued":
            mark_cancelled(status)
            write_status(run, status)
        elif run.root not in self._swept:
            # A runner ends what the killed one left, finds the cancellation, and is done.
            self._swept.add(run.root)
            self._running[run] = _start(run)


def _start(run: RunPaths) -> int:
    """The pid of a new runner."""
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
    # -P: what lies in the folder that the server was started in is not imported.
    argv = [sys.executable, "-P", "-m", "harness.jobs.runner", str(run.root.absolute())]
    # Not subprocess: its objects complain of processes that outlive them, and these shall.
    return os.posix_spawn(
        sys.executable,
        argv,
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGPIPE],
    )


def _alive(run: RunPaths, pid: int | None) -> bool:
    if pid is None:
        return living_runner(run) is not None
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False
