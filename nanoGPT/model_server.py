"""Answers for a trained model: token ids in, hidden states out.

The process of the role `serve`. It imports the edited file, and so it is confined: it has the
checkpoint, but neither held-out data nor anything that is scored. The scorer calls `declare`,
`load`, `hidden`, `digest` and `flops` through harness/transport/channel.py; the arguments are the
training file's settings.

Guaranteed to the scorer by the transport alone: shape and dtype of what comes back. Nothing here
is trusted: this code runs beside the edited one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import channel
from edited_file import import_file
from pinning import pin

Arrays = Mapping[str, NDArray[Any]]


class ModelServer:
    """The model of an edited file, built as training builds it.

    Args:
        file: the edited file.
        settings: --key=value arguments, as training gets them.
        seed: training's; what is random in building and is not saved comes out the same.
        device: where the model runs.
    """

    def __init__(self, file: Path, settings: Sequence[str], seed: int, device: str) -> None:
        # It would make a plan for each shape of a batch, and every batch has another.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self._module = import_file(file)
        self._seed = seed
        self._device = torch.device(device)
        sizes = self._module.read_settings(list(settings), {}).model()
        self._module.seed_random(seed, self._module.INIT)
        self._model = self._module.GPT(sizes).to(self._device).eval()
        self._entering: list[Tensor] = []
        self._copies = _Copies(self._device) if device != "cpu" else None
        # The scorer applies the final LayerNorm and the head itself.
        self._model.transformer.ln_f.register_forward_pre_hook(
            lambda _, args: self._entering.append(args[0])
        )

    def declare(self, inputs: Arrays, outputs: Arrays) -> dict[str, Any]:
        """Fact `tensors`: name -> [dtype, shape] of all that the file's model saves."""
        state = self._model.state_dict()
        return {"tensors": {n: [str(t.dtype), list(t.shape)] for n, t in state.items()}}

    def load(self, inputs: Arrays, outputs: Arrays, folder: str, label: str) -> None:
        """Fills the model with the weights of the stage `label` that lie in `folder`."""
        self._module.checkpoint.load_weights(Path(folder), label, self._model)

    def hidden(
        self, inputs: Arrays, outputs: Arrays, bfloat16: bool = False
    ) -> channel.Later | None:
        """What enters the final LayerNorm at some places of a batch.

        `idx` (b, t) int64 and `places` (n,) int64, of the b * t positions in their order ->
        `hidden` (n, c) float32. With `bfloat16` the forward runs under autocast, as in training.
        """
        self._entering.clear()
        # The same chance for every call, so that the order of the calls makes no difference.
        self._module.seed_random(self._seed, self._module.EVALUATE)
        # Without waiting for the batch before, which may still be computed.
        idx, places = (
            torch.from_numpy(inputs[name]).to(self._device, non_blocking=True)
            for name in ("idx", "places")
        )
        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=bfloat16)
        with torch.no_grad(), autocast:
            self._model(idx)
        entering = self._entering[-1]
        if entering.shape[:2] != idx.shape:
            raise ValueError("the final LayerNorm got another shape than (b, t, c)")
        states = entering.flatten(0, 1)[places]
        wanted = torch.from_numpy(outputs["hidden"])
        if self._copies is not None:
            return self._copies.begin(states, wanted)
        wanted.copy_(states)
        return None

    def digest(self, inputs: Arrays, outputs: Arrays) -> dict[str, Any]:
        """Fact `sha256`: of every parameter and buffer, the unsaved ones too."""
        total = hashlib.sha256()
        for kind in (self._model.named_parameters(), self._model.named_buffers()):
            for name, tensor in kind:
                content = tensor.detach().cpu().contiguous().reshape(-1)
                total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
                total.update(memoryview(content.view(torch.uint8).numpy()))
        return {"sha256": total.hexdigest()}

    def flops(self, inputs: Arrays, outputs: Arrays) -> dict[str, Any]:
        """Fact `flops_per_token`: of a forward over a whole context; None if none can be told."""
        idx = torch.zeros(1, self._model.config.block_size, dtype=torch.int64, device=self._device)
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                self._model(idx)
        except Exception:  # edited code runs under a counter that it was not written for
            return {"flops_per_token": None}
        return {"flops_per_token": counter.get_total_flops() / idx.numel()}


class _Copies:
    """Copies from a GPU, beside the forward of the next batch."""

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begin(self, source: Tensor, target: Tensor) -> channel.Later:
        """Takes `source`, once it is computed, as float32 into `target`.

        Beside other work only if the pages of `target` are locked.
        """
        source = source.float()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            return partial(_ended, self._stream.record_event(), source)


def _ended(event: Any, source: Tensor) -> None:
    """Waits; `source` is given so that its memory is kept until then."""
    event.synchronize()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Answer for a trained model.")
    parser.add_argument("--file", default="nanoGPT/custom_pretrain.py", help="defines the model")
    parser.add_argument("settings", nargs="*", help="--key=value, behind --")
    args = parser.parse_args(argv)
    device = "cuda" if os.environ.get("HARNESS_GPUS") else "cpu"
    file = Path(os.environ["HARNESS_FILES"]) / args.file
    made: list[ModelServer] = []

    def model() -> ModelServer:
        """Built at the first call: what goes wrong in it is then told to the scorer."""
        if not made:
            seed = int(os.environ.get("HARNESS_SEED", "42"))
            made.append(ModelServer(file, args.settings, seed, device))
        return made[0]

    run_out = os.environ["HARNESS_RUN_OUT"]
    channel.serve(
        {
            "declare": lambda i, o: model().declare(i, o),
            "load": lambda i, o, label: model().load(i, o, run_out, label),
            "hidden": lambda i, o, bfloat16: model().hidden(i, o, bfloat16),
            "digest": lambda i, o: model().digest(i, o),
            "flops": lambda i, o: model().flops(i, o),
        },
        begin=pin,
    )


if __name__ == "__main__":
    main()
