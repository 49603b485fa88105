"""Limits on what a step's processes hold together: memory, processes, disk.

The runner looks several times a second and ends the step that is over one. This is what can be
had everywhere without control groups. Not guaranteed: that nothing exceeds a limit between two
looks; the size of single files, of /tmp and of /dev/shm is held by the kernel (harness/sandbox.py).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.jobs.processes import descendants
from harness.workspace import entries_below

GIB = 1 << 30
MEMORY_SHARE = 0.9
"""Of the machine's memory, where the task names no limit."""

ENTRY_BYTES = 512
"""What an entry takes besides its content, about."""
DEEPEST = 1000
"""Characters of a path below a folder of the run; the kernel knows none of more than 4095."""


@dataclass(frozen=True)
class Use:
    """What the processes below this one hold."""

    processes: int
    memory_bytes: int
    """Resident; what several share is counted once, as far as it can be told."""
    deleted_bytes: int
    """In files that no folder names any more, but that are open."""


def measure() -> Use:
    """Looks at every process below this one."""
    memory, shared = 0, 0
    files: dict[tuple[int, int], int] = {}
    found = descendants()
    for process in found:
        with contextlib.suppress(psutil.Error, OSError):
            info = process.memory_info()
            memory += info.rss - info.shared
            shared = max(shared, info.shared)
        with contextlib.suppress(OSError):
            files.update(_deleted(process.pid))
    return Use(len(found), memory + shared, sum(files.values()))


def _deleted(pid: int) -> Iterable[tuple[tuple[int, int], int]]:
    """Identity and size of the open files of a process that have no name."""
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            status = os.stat(f"{folder}/{name}")
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                yield (status.st_dev, status.st_ino), status.st_blocks * 512


class TooDeep(Exception):
    """Folders in folders beyond what can be measured."""


def folder_bytes(folders: Sequence[Path]) -> int:
    """Disk that what lies below the folders takes; links are not followed. Raises TooDeep.

    Each entry counts ENTRY_BYTES more, so that empty files have an end too.
    """
    total = 0
    for folder in folders:
        for entry in entries_below(folder):
            if len(entry.path) > len(str(folder)) + DEEPEST:
                raise TooDeep
            with contextlib.suppress(OSError):
                total += ENTRY_BYTES + entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def excess(
    folders: Sequence[Path], *, processes: int, memory_bytes: int | None, disk_bytes: int
) -> str | None:
    """Which limit is exceeded, as the agent is told; None if none is."""
    use = measure()
    if memory_bytes is None:
        memory_bytes = int(psutil.virtual_memory().total * MEMORY_SHARE)
    if use.processes > processes:
        return f"It had more than {processes} processes."
    if use.memory_bytes > memory_bytes:
        return f"It held more than {memory_bytes / GIB:.1f} GiB of memory."
    try:
        written = folder_bytes(folders)
    except TooDeep:
        return f"It made folders in folders, with paths of more than {DEEPEST} characters."
    if written + use.deleted_bytes > disk_bytes:
        return f"It wrote more than {_size(disk_bytes)}."
    return None


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / (1 << 20):.0f} MiB"
