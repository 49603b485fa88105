"""The static check in processes of its own, so that edits in many sessions use all cores.

Guaranteed: the same findings as `static.find_all`, also if a worker dies; a worker ends with the
process that it belongs to, however that ended, for its standard input ends then. Files without
rules beyond their structure are checked where they are: to hand them over would take longer.
"""

from __future__ import annotations

import atexit
import os
import pickle
import queue
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from harness.checks import static
from harness.checks.findings import Finding
from harness.constraints import Constraints
from harness.regions import EditableFile

Findings = tuple[Finding, ...]
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def find_all(
    files: Iterable[EditableFile],
    pristine: Mapping[str, EditableFile],
    constraints: Mapping[str, Constraints],
) -> list[Finding]:
    """As `static.find_all`. To be called from a thread: it waits for a worker."""
    found: list[Finding] = []
    for file in files:
        rules = constraints.get(file.name)
        if rules is None or rules == Constraints():
            found += static.find_all([file], pristine, constraints)
        else:
            found += _checked(_packed(pristine[file.name], rules), file)
    return found


@lru_cache(maxsize=64)
def _packed(pristine: EditableFile, constraints: Constraints) -> bytes:
    return pickle.dumps((pristine, constraints))


@lru_cache(maxsize=512)
def _checked(base: bytes, edited: EditableFile) -> Findings:
    worker = _idle.get()
    try:
        return worker.check(base, edited)
    except (OSError, EOFError):  # it was killed, say; the next call starts another
        worker.end()
        return _check(base, edited)
    finally:
        _idle.put(worker)


class Worker:
    """A process that checks one file at a time; started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def check(self, base: bytes, edited: EditableFile) -> Findings:
        """Raises OSError or EOFError if the process is gone."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "harness.checks.pool"],
                env=os.environ | {"PYTHONPATH": str(PACKAGE_ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _write(self._process.stdin, (base, edited))
        found: Findings = _read(self._process.stdout)
        return found

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


_workers = [Worker() for _ in os.sched_getaffinity(0)]
_idle: queue.LifoQueue[Worker] = queue.LifoQueue()
for _worker in _workers:
    _idle.put(_worker)


@atexit.register
def _end_workers() -> None:
    for worker in _workers:
        worker.end()


def _write(stream: IO[bytes], value: Any) -> None:
    content = pickle.dumps(value)
    stream.write(struct.pack("<I", len(content)) + content)
    stream.flush()


def _read(stream: IO[bytes]) -> Any:
    """Raises EOFError at the end."""
    head = stream.read(4)
    size = struct.unpack("<I", head)[0] if len(head) == 4 else 0
    content = stream.read(size)
    if not content or len(content) < size:
        raise EOFError
    return pickle.loads(content)


# ---- In a worker ---------------------------------------------------------------------------------


def _check(base: bytes, edited: EditableFile) -> Findings:
    pristine, constraints = _unpacked(base)
    return tuple(static.check(pristine, edited, constraints))


@lru_cache(maxsize=64)
def _unpacked(base: bytes) -> tuple[EditableFile, Constraints]:
    unpacked: tuple[EditableFile, Constraints] = pickle.loads(base)
    return unpacked


def work(stdin: IO[bytes], stdout: IO[bytes]) -> None:
    """Answer until the input ends."""
    while True:
        try:
            base, edited = _read(stdin)
        except EOFError:
            return
        _write(stdout, _check(base, edited))


if __name__ == "__main__":
    work(sys.stdin.buffer, sys.stdout.buffer)
