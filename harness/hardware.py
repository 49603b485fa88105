"""What this machine offers to tests."""

from __future__ import annotations

import functools
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

import psutil


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU; `memory` in bytes."""

    id: int
    name: str
    memory: int


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver's own tool lists; none where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (subprocess.SubprocessError, OSError):
        return ()
    found = []
    for line in listing.stdout.splitlines():
        index, name, mebibytes = (part.strip() for part in line.split(","))
        found.append(Gpu(int(index), name, int(mebibytes) << 20))
    return tuple(found)


def description(ids: Sequence[str] | None = None) -> dict[str, object]:
    """The hardware and versions that a result's provenance names; of the GPUs, those with `ids`."""
    used = [gpu for gpu in gpus() if ids is None or str(gpu.id) in ids]
    return {
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "lm_eval": metadata.version("lm_eval"),
        "machine": platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [gpu.name for gpu in used],
        "gpu_memory_bytes": [gpu.memory for gpu in used],
    }
