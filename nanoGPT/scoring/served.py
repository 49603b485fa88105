"""The model of an edited file, behind a process that cannot see what is scored.

The model server (nanoGPT/model_server.py) is confined; it gets token ids and returns hidden states.
Its checkpoint is read here too: the final LayerNorm and the head are taken from it, after its keys,
shapes and dtypes were compared with what the file declares and with the unedited model.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

import channel
import custom_pretrain
from pinning import pin, unpin
from progress import StageError
from scoring.model import BATCH_TOKENS, Batch, Head, ScoredModel
from scoring.report import ScoreError

GPU = "HARNESS_GPU"
"""Variable of a model server: the one of the stage's GPUs that it uses."""
TIED_HEAD = "lm_head.weight"
LOCKED = ("transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight")
LOCKED_WITH_BIAS = (*LOCKED, "transformer.ln_f.bias")

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""safetensors' names; a checkpoint with others is refused."""

Tensors = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""dtype and shape by name."""


@dataclass(frozen=True)
class Sizes:
    """What the unedited training file makes of a profile's settings."""

    config: custom_pretrain.GPTConfig

    @classmethod
    def of(cls, settings: Sequence[str]) -> Sizes:
        """Raises ScoreError for settings that the training file does not take."""
        try:
            return cls(custom_pretrain.read_settings(list(settings), {}).model())
        except StageError as error:
            raise ScoreError(str(error)) from None

    @property
    def block_size(self) -> int:
        return self.config.block_size

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def n_embd(self) -> int:
        return self.config.n_embd

    @cached_property
    def tensors(self) -> Tensors:
        """All that the unedited model saves; torch takes seconds to make the first one."""
        with torch.device("meta"):
            model: torch.nn.Module = custom_pretrain.GPT(self.config)  # type: ignore[no-untyped-call]
            state = model.state_dict()
        return {name: (t.dtype, tuple(t.shape)) for name, t in state.items()}


def check_tensors(found: Tensors, declared: Tensors, unedited: Tensors, max_extra: float) -> None:
    """Whether a checkpoint is what the edited file declares, and in what is allowed.

    `max_extra` is how many numbers, parameters and buffers together, it may hold besides those of
    the unedited model, as a share of theirs. Raises ScoreError.
    """
    for name in LOCKED_WITH_BIAS:
        if found.get(name) != unedited.get(name):
            has, wants = _said(found.get(name)), _said(unedited.get(name))
            raise ScoreError(f"the checkpoint has {has} as {name}; it must be {wants}.")
    names = declared.keys() - {TIED_HEAD}
    if missing := sorted(names - found.keys()):
        raise ScoreError(f"the checkpoint lacks {_some(missing)}, which the file declares.")
    if unknown := sorted(found.keys() - names):
        raise ScoreError(f"the checkpoint holds {_some(unknown)}, which the file does not declare.")
    for name in sorted(names):
        if found[name] != declared[name]:
            has, wants = _said(found[name]), _said(declared[name])
            raise ScoreError(f"the checkpoint has {has} as {name}; the file declares {wants}.")
    held, usual = numbers(found), numbers({k: v for k, v in unedited.items() if k != TIED_HEAD})
    if held > usual * (1 + max_extra):
        raise ScoreError(
            f"the model holds {held:,} numbers in parameters and buffers, the unedited one "
            f"{usual:,}; at most {max_extra:.0%} more are allowed."
        )


def numbers(tensors: Tensors) -> int:
    return sum(math.prod(shape) for _, shape in tensors.values())


def cost(checkpoint: Checkpoint, sizes: Sizes, flops: float | None) -> dict[str, float | None]:
    """What a model is made of, beside the unedited one: reported next to its scores.

    `numbers` are those in parameters and buffers that are saved, counted in the checkpoint.
    """
    usual = {name: tensor for name, tensor in sizes.tensors.items() if name != TIED_HEAD}
    return {
        "numbers": numbers(checkpoint.tensors),
        "unedited_numbers": numbers(usual),
        "flops_per_token": flops,
    }


def _said(tensor: tuple[torch.dtype, tuple[int, ...]] | None) -> str:
    return "nothing" if tensor is None else f"{tensor[0]} of shape {list(tensor[1])}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name[:100] for name in names[:3]) + more


class Checkpoint:
    """What a run left, as the harness keeps it: out of its reach, and hashed.

    Args:
        folder: where the checkpoints are kept.
        label: of the stage that trained.

    Raises ScoreError if there is none or it is not one.
    """

    def __init__(self, folder: Path, label: str) -> None:
        path = folder / f"ckpt_{label}.safetensors"
        if not path.is_file():
            raise ScoreError(
                f"no checkpoint {path.name}. Stage {label} has to finish its training."
            )
        self.tensors: Tensors = {}
        self._head: dict[str, Tensor] = {}
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  it is no mapping
                    part = file.get_slice(name)
                    self.tensors[name] = (DTYPES[part.get_dtype()], tuple(part.get_shape()))
                for name in LOCKED_WITH_BIAS:
                    if name in self.tensors and name != "transformer.wpe.weight":
                        self._head[name] = file.get_tensor(name)
        except (SafetensorError, KeyError) as error:
            raise ScoreError(f"{path.name} is no checkpoint that can be read: {error}") from None

    def head(self, device: torch.device) -> Head:
        """The final LayerNorm and the output matrix, which `check_tensors` has found there."""
        own = {name: tensor.to(device, torch.float32) for name, tensor in self._head.items()}
        return Head(
            own["transformer.ln_f.weight"],
            own.get("transformer.ln_f.bias"),
            own["transformer.wte.weight"],
        )


class ServedModel:
    """Model servers of its own, one for each GPU of the stage: fresh processes for one use.

    Args:
        label: of the stage whose checkpoint they are to load.
        sizes: of the unedited model.
        bfloat16: whether their forwards run under autocast, as in training.
        most: GPUs that are used; default: all.

    They start at once and are ready when they are first asked. Leave the context to end them.
    """

    def __init__(
        self, label: str, sizes: Sizes, *, bfloat16: bool = False, most: int | None = None
    ) -> None:
        self._label, self._sizes, self.bfloat16 = label, sizes, bfloat16
        gpus = os.environ.get("HARNESS_GPUS", "")
        tokens = max(BATCH_TOKENS[device_of(gpus).type], sizes.block_size)
        # Ids and places (8 bytes each) go in, hidden states (4 bytes a number) come out.
        memory = tokens * (16 + 4 * sizes.n_embd) + 3 * channel.ALIGNMENT
        self._servers = [
            channel.Server(memory, {GPU: gpu} if gpu else {}) for gpu in gpus.split(",")[:most]
        ]
        self._device = device_of(gpus)
        self._copies: Any = torch.cuda.Stream() if gpus else None  # type: ignore[no-untyped-call]
        self._pinned: list[NDArray[np.uint8]] = []

    def __enter__(self) -> ServedModel:
        self._pinned = [memory for server in self._servers if pin(memory := server.memory)]
        return self

    def __exit__(self, *_: object) -> None:
        for memory in self._pinned:
            unpin(memory)
        for server in self._servers:
            server.close()

    def declared(self) -> Tensors:
        """What the edited file says that its model saves."""
        tensors = self._facts("declare")[0].get("tensors")
        known = {str(dtype): dtype for dtype in DTYPES.values()}
        found: Tensors = {}
        try:
            assert isinstance(tensors, Mapping)
            for name, (dtype, shape) in tensors.items():
                found[str(name)] = (known[dtype], tuple(int(n) for n in shape))
        except (AssertionError, KeyError, TypeError, ValueError):
            raise ScoreError("the model declares a tensor of a kind that is not known.") from None
        return found

    def load(self) -> None:
        """Fills the model with its checkpoint."""
        self._facts("load", label=self._label)

    def digest(self) -> str:
        """Of parameters and buffers, as the processes themselves say."""
        return " ".join(str(facts.get("sha256"))[:64] for facts in self._facts("digest"))

    def flops(self) -> float | None:
        """Operations a token, of a forward over a whole context, as the process itself says."""
        count = self._facts("flops")[0].get("flops_per_token")
        return float(count) if isinstance(count, int | float) and 0 <= count < 1e18 else None

    def _facts(self, call: str, **args: Any) -> list[dict[str, Any]]:
        """What each process answers; they work side by side."""
        with _explained():
            for server in self._servers:
                server.submit(call, **args)
            return [server.result()[1] for server in self._servers]

    def hidden_states(self, batches: Iterable[Batch]) -> Iterator[Tensor]:
        """See `HiddenStates`. The batches are dealt out to the processes, each of which computes
        one while the one before is looked at."""
        under_way: deque[channel.Server] = deque()
        turns = itertools.cycle(self._servers)
        with _explained():
            for batch in batches:
                if len(under_way) == channel.Server.SLOTS * len(self._servers):
                    yield self._taken(under_way.popleft())
                given = {"idx": batch.idx.numpy(), "places": batch.places.numpy()}
                wanted = {"hidden": (np.float32, (len(batch.places), self._sizes.n_embd))}
                server = next(turns)
                server.submit("hidden", given, wanted, bfloat16=self.bfloat16)
                under_way.append(server)
            while under_way:
                yield self._taken(under_way.popleft())

    def _taken(self, server: channel.Server) -> Tensor:
        def copy(view: NDArray[Any]) -> Tensor:
            return torch.from_numpy(view).to(self._device, copy=True)

        if self._device.type == "cpu":
            return cast(Tensor, server.result(copy)[0]["hidden"])
        # Beside the work on the batch before, which the usual stream would wait for.
        with torch.cuda.stream(self._copies):
            hidden: Tensor = server.result(copy)[0]["hidden"]
        hidden.record_stream(torch.cuda.current_stream())
        return hidden


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turns what goes wrong with the server into a ScoreError that repeats nothing it said."""
    try:
        yield
    except channel.ServerFailed as error:
        raise ScoreError(
            f"the model failed while it was scored ({error}). It is given token ids alone, up to "
            f"block_size of them, in eval mode and without gradients. Its own words are not shown, "
            f"since they may repeat held-out text."
        ) from None
    except (channel.ChannelClosed, channel.ProtocolError):
        raise ScoreError("the process of the model ended while it was scored.") from None


def device_of(gpus: str) -> torch.device:
    """The first of the stage's GPUs, or the CPU; `gpus` is HARNESS_GPUS."""
    return torch.device("cuda" if gpus else "cpu")


def ready(
    server: ServedModel, checkpoint: Checkpoint, sizes: Sizes, max_extra: float
) -> ScoredModel:
    """The model with its checkpoint, both checked. Raises ScoreError."""
    unedited = sizes.tensors  # before the server is asked: it is still starting
    check_tensors(checkpoint.tensors, server.declared(), unedited, max_extra)
    server.load()
    device = device_of(os.environ.get("HARNESS_GPUS", ""))
    return ScoredModel(
        server.hidden_states,
        checkpoint.head(device),
        sizes.block_size,
        sizes.vocab_size,
        device,
        tf32=server.bfloat16,
    )
