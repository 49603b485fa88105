"""The static check in processes of its own, so that edits in many sessions use all cores.

Guaranteed: the same findings as `static.find_all`, also if a worker dies; a worker ends with the
process that it belongs to, however that ended, for its standard input ends then. Files without
rules beyond their structure are checked where they are: to hand them over would take longer.
"""

from __future__ import annotations

import atexit
import gc
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
Regions = tuple[tuple[str, ...], ...]
Change = Regions | EditableFile
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
        self._base = b""
        """what the process compares with until it is told something else"""

    def check(self, base: bytes, edited: EditableFile) -> Findings:
        """Raises OSError or EOFError if the process is gone."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "harness.checks.pool"],
                env=os.environ | {"PYTHONPATH": str(PACKAGE_ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            self._base = b""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if base != self._base:
            _write(self._process.stdin, base)
            self._base = base
        _write(self._process.stdin, _changed(_unpacked(base)[0], edited))
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


def _changed(pristine: EditableFile, edited: EditableFile) -> Change:
    """What tells a version of a file from the unedited one; the file itself if it is another."""
    regions = tuple(segment.lines for segment in edited.segments[1::2])
    return regions if _with(pristine, regions) == edited else edited


def _with(pristine: EditableFile, regions: Regions) -> EditableFile | None:
    if len(regions) != len(pristine.segments) // 2:
        return None
    for index, lines in enumerate(regions):
        pristine = pristine.with_region(index, lines)
    return pristine


# ---- In a worker ---------------------------------------------------------------------------------


def _check(base: bytes, edited: EditableFile) -> Findings:
    pristine, constraints = _unpacked(base)
    return tuple(static.check(pristine, edited, constraints))


@lru_cache(maxsize=64)
def _unpacked(base: bytes) -> tuple[EditableFile, Constraints]:
    unpacked: tuple[EditableFile, Constraints] = pickle.loads(base)
    return unpacked


def work(stdin: IO[bytes], stdout: IO[bytes]) -> None:
    """Answer until the input ends: a packed base goes on holding for the changes behind it."""
    base = b""
    while True:
        try:
            sent = _read(stdin)
        except EOFError:
            return
        if isinstance(sent, bytes):
            base = sent
            continue
        edited = _with(_unpacked(base)[0], sent) if isinstance(sent, tuple) else sent
        assert edited is not None
        _write(stdout, _check(base, edited))


if __name__ == "__main__":
    # What was imported stays; a tree that is thrown away has no cycles that collecting would find.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    work(sys.stdin.buffer, sys.stdout.buffer)
