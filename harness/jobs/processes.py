"""Processes of a run: who is alive, and ending all of them.

Guaranteed on Linux: `end_descendants` returns only when no process that this one started,
directly or through others, is left, whatever session or group it moved to, for orphans fall to
this process (`adopt_orphans`). It raises StillAlive if one can't be ended.
Not guaranteed: that a process is found which left its session *and* emptied its environment
after the runner itself was killed; only a sandbox with its own process namespace does that.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable

import psutil

from harness.workspace import RunPaths, read_regular, write_atomic

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class StillAlive(RuntimeError):
    """Processes that could not be ended, so that nothing may rely on their silence."""


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def adopt_orphans() -> None:
    """From now on descendants whose parent ends become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """To be called in a child between fork and exec: it is killed when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_first() -> None:
    """To be called in a child between fork and exec, in place of `die_with_parent`: where memory
    runs out, the kernel also ends it before its runner and everybody else."""
    die_with_parent()
    # If it fails, memory is measured all the same.
    with contextlib.suppress(OSError):
        number = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(number, b"1000")
        os.close(number)


def reap() -> dict[int, int]:
    """Collects every child that has ended: pid -> exit code, 128 + N for signal N."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        code = os.waitstatus_to_exitcode(status)
        ended[pid] = 128 - code if code < 0 else code


def descendants() -> list[psutil.Process]:
    """Every process below this one, also those that have ended and wait to be collected."""
    return psutil.Process().children(recursive=True)


def processor_seconds() -> float:
    """Processor time used by the processes below this one, and by those that they waited for."""
    total = 0.0
    for process in descendants():
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def end_descendants(grace_s: float = 3.0, patience_s: float = 30.0) -> dict[int, int]:
    """Ends every process below this one: SIGTERM, `grace_s` seconds to obey, SIGKILL.

    Returns the exit codes of the children that were collected. Raises StillAlive if some are
    left `patience_s` seconds after the first SIGKILL.
    """
    ended: dict[int, int] = {}
    deadline = time.monotonic() + grace_s + patience_s
    while True:
        ended |= reap()
        ended |= _end(descendants, grace_s, patience_s)
        try:
            # The kernel's own word: who adopts all orphans and has no child has no descendant.
            # Looking through /proc alone can miss one that is just being forked.
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ended
        if time.monotonic() > deadline:
            raise StillAlive("a child is left that is not among the processes of this machine")


def _end(
    find: Callable[[], list[psutil.Process]], grace_s: float, patience_s: float
) -> dict[int, int]:
    ended: dict[int, int] = {}
    if not (first := find()):
        return ended
    for process in first:
        _send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline:
        ended |= reap()
        if not find():
            return ended
        time.sleep(0.02)
    deadline = time.monotonic() + patience_s
    while True:
        # Stopped first: what forks faster than it is killed would otherwise never end.
        for _ in range(3):
            for process in find():
                _send(process, signal.SIGSTOP)
        for process in find():
            _send(process, signal.SIGKILL)
        ended |= reap()
        left = find()
        if not left:
            return ended
        if time.monotonic() > deadline:
            raise StillAlive(f"{len(left)} process(es) could not be ended: {left[:5]}")
        time.sleep(0.02)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    # psutil compares the time of creation first, so that no stranger with that pid is hit.
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def run_mark(paths: RunPaths) -> str:
    """HARNESS_RUN of a run's processes: which run they belong to, not where it lies."""
    return hashlib.sha256(str(paths.root.absolute()).encode()).hexdigest()[:24]


def end_leftovers(paths: RunPaths, grace_s: float = 1.0, patience_s: float = 30.0) -> int:
    """Ends what a killed runner left of this run; the number of processes found.

    They are known by the run's own HARNESS_RUN in their environment; what is in a sandbox died
    with the runner.
    """
    mark = run_mark(paths)

    def find() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get("HARNESS_RUN") == mark:
                    found.append(process)
        return found

    count = len(find())
    if count:
        _end(find, grace_s, patience_s)
    return count


# ---------------------------------------------------------------------------------------------
# The runner's own process, as others know it


def write_runner(paths: RunPaths) -> None:
    """Says in runner.json that this process carries out the run."""
    me = psutil.Process()
    record = {"pid": me.pid, "create_time": me.create_time()}
    write_atomic(paths.runner, json.dumps(record) + "\n")


def lock_run(paths: RunPaths) -> int | None:
    """A file descriptor that keeps every other runner off the run; None if another has it.

    A process that inherits it keeps the lock, whatever becomes of this one.
    """
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def is_held(paths: RunPaths) -> bool:
    """Whether a runner has the run, or is just being started for it; False if it is not there."""
    try:
        lock = lock_run(paths)
    except FileNotFoundError:
        return False
    if lock is not None:
        os.close(lock)
    return lock is None


def runners_on(paths: RunPaths) -> list[psutil.Process]:
    """Runners of the run by their command line, which stays when the directory is removed."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            command = process.cmdline()
            if "harness.jobs.runner" in command and str(paths.root.absolute()) in command:
                found.append(process)
    return found


def living_runner(paths: RunPaths) -> psutil.Process | None:
    """The process that carries out the run, by pid and time of creation; None if it is gone."""
    try:
        content = read_regular(paths.runner, 4096)
        if content is None:
            return None
        record = json.loads(content)
        process = psutil.Process(int(record["pid"]))
        # Both come from the same clock ticks; the boot time that they are added to may be
        # estimated anew, so that they can differ by some hundredths.
        if abs(process.create_time() - float(record["create_time"])) > 1.0:
            return None
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except (psutil.NoSuchProcess, ValueError, KeyError, TypeError):
        return None
