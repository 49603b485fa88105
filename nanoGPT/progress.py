"""What a training process tells the world while it runs: metric lines, progress.json, errors.

Lines that start with ``TRAIN_METRICS: `` are feedback for whoever reads the log. Nothing printed
here is ever scored.
"""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from pathlib import Path
from typing import Any

import torch


class StageError(Exception):
    """A run that cannot go on, for a reason its reader can mend; the text says what to do next.

    Every rank of a run comes to the same one.
    """


class RankError(StageError):
    """One that a single rank may come to, while the others know nothing of it."""


def finite(loss: float, step: int) -> float:
    """The loss itself.

    Raises:
        StageError: it is not a finite number; nothing that follows would mean anything.
    """
    if not math.isfinite(loss):
        raise StageError(
            f"the loss is {loss} at step {step}. Lower the learning rate, or look in the edited "
            "lines for something that overflows or divides by zero."
        )
    return loss


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU or the machine had no more memory to give."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    text = str(error)  # CUDA libraries and torch's CPU allocator raise a plain RuntimeError
    return known or "out of memory" in text or "can't allocate memory" in text


def out_of_memory(error: BaseException, file: str) -> str:
    """One line for a reader: where in `file` memory ran out, how much there was, what to do."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [str(f.lineno) for f in frames if Path(f.filename).name == file]
    where = f" (line {lines[-1]} of {file})" if lines else ""
    use = ""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**30
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30
        use = f": {peak:.1f} of {total:.1f} GiB were in use"
    return f"out of memory{where}{use}. Keep fewer or smaller tensors for the backward pass."


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replaces `path` in one step, so that a reader never meets half a file."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _peak_memory() -> int | None:
    """Most GPU memory that this process has held at once, in bytes; None on a CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


class Progress:
    """Prints metric lines and keeps `<folder>/progress.json`; silent on every rank but the first.

    Args:
        folder: where progress.json goes.
        stage: the stage's label.
        steps: optimizer steps in the whole run.
        tokens_per_step: tokens in a global batch.
        quiet: True on the ranks that must not speak.
    """

    def __init__(
        self, folder: Path, stage: str, steps: int, tokens_per_step: int, quiet: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "progress.json"
        self._stage = stage
        self._steps = steps
        self._tokens_per_step = tokens_per_step
        self._quiet = quiet
        self._tokens_per_s: float | None = None
        self._mark: tuple[int, float] | None = None

    def start_clock(self, step: int) -> None:
        """Leaves what came before out of the speed: compilation, evaluation, a saved file."""
        self._mark = (step, time.perf_counter())

    def report(self, step: int, loss: float) -> None:
        """`step` optimizer steps are done; `loss` is the last one's training loss (nats/token)."""
        if self._quiet:
            return
        now = time.perf_counter()
        if self._mark is not None and step > self._mark[0]:
            done = (step - self._mark[0]) * self._tokens_per_step
            self._tokens_per_s = round(done / (now - self._mark[1]), 1)
        self._mark = (step, now)
        speed = "" if self._tokens_per_s is None else f", {self._tokens_per_s:,.0f} tokens/s"
        print(f"step {step} of {self._steps}: loss {loss:.4f}{speed}", flush=True)
        self._write(step, loss)

    def metrics(self, step: int, train_loss: float, val_loss: float) -> None:
        """The losses of an evaluation, both in nats/token, before the update of `step`."""
        if self._quiet:
            return
        print(
            f"TRAIN_METRICS: step={step}, train_loss={train_loss:.4f}, val_loss={val_loss:.4f}",
            flush=True,
        )
        self._write(step, train_loss)

    def _write(self, step: int, loss: float) -> None:
        write_json(
            self._path,
            {
                "stage": self._stage,
                "step": step,
                "steps": self._steps,
                "loss": loss,
                "tokens_per_s": self._tokens_per_s,
                "peak_memory_bytes": _peak_memory(),
            },
        )
