"""Page-locked memory: copies between it and a GPU run at the speed of the bus."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from numpy.typing import NDArray


def pin(memory: NDArray[Any]) -> bool:
    """Locks an array's pages for this process's GPU; False if there is none or it will not.

    The array must live until `unpin`.
    """
    if not torch.cuda.is_available():
        return False
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    if int(runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0)) == 0:
        return True
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda")  # takes up the error, which a later launch would raise
    print("no page-locked memory; copies to and from the GPU are slower", flush=True)
    return False


def unpin(memory: NDArray[Any]) -> None:
    """Undoes `pin`."""
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    runtime.cudaHostUnregister(memory.ctypes.data)
