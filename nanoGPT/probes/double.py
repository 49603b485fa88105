"""A forward in float64, to tell rounding from a leak.

An honest model may choose its kernels by what it reads: routing sends other numbers of rows through
a layer when later tokens change, and sums then round otherwise. In float64 such a difference is
smaller by about 2**29, while one that comes from the tokens themselves stays what it is.

Parameters and buffers are converted, and every other float32, bfloat16 or float16 tensor on its way
into an operation; requests for these types, `x.float()` say, give float64 as well. Random numbers
are drawn as in float32, so that chance takes the same turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LOW = (torch.float32, torch.bfloat16, torch.float16)
_CASTS = ("float", "half", "bfloat16")


class Double(TorchFunctionMode):
    """Within it, floating-point operations are carried out in float64."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__"):
            return func(*args, **(kwargs or {}))
        if name in _CASTS and args and isinstance(args[0], Tensor):
            return _raised(args[0])
        if args and isinstance(args[0], Tensor) and _writes(name):
            to_double(args[0])
        if isinstance(out := (kwargs or {}).get("out"), Tensor):
            to_double(out)
        given = [_raised(arg) for arg in args]
        more = {key: _raised(value) for key, value in (kwargs or {}).items()}
        return _raised(func(*given, **more))


def _writes(name: str) -> bool:
    return name == "__setitem__" or name.startswith("__i") or name.rstrip("_") + "_" == name


def to_double(tensor: Tensor) -> None:
    """Converts a tensor where it is; a snapshot brings it back."""
    if tensor.dtype in LOW:
        tensor.data = tensor.data.double()


def convert(model: nn.Module) -> None:
    """Converts parameters and buffers where they are."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.grad = None
        to_double(tensor)


def _raised(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype in LOW else value
    if isinstance(value, torch.dtype):
        return torch.float64 if value in LOW else value
    if type(value) in (list, tuple):
        return type(value)(_raised(part) for part in value)
    return value
