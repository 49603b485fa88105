"""A model under examination: how it is called, what it reads, when two results are the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from probes.double import Double, convert
from probes.state import Snapshot, natural_ids, random_ids, seed_everything

ROUNDING = 1e-5
"""Differences up to this, against the largest number, may be rounding."""
SHRINKS = 1e-3
"""What is left of rounding in float64 is far less than this part of it; of a leak, all."""


@dataclass(frozen=True)
class Call:
    """How a forward is made."""

    train: bool
    step: int
    """What GPT.step holds."""
    context: str = "grad"
    """grad, no_grad, autocast (to bfloat16) or inference."""
    targets: bool = True
    """Without, the states that enter the last LayerNorm are compared: what scoring reads."""

    def __str__(self) -> str:
        words = ["training" if self.train else "evaluation", f"step {self.step}"]
        words += [] if self.context == "grad" else [f"under {self.context}"]
        words += [] if self.targets else ["without targets"]
        return ", ".join(words)


class Subject:
    """A model under examination.

    Args:
        model: it is changed by the probes.
        config: its sizes.
        seed: for the random numbers of the probes.
        rewritten: names of the file's classes of which an edit changed lines.

    `finite`: numbers that are not finite are an error, as they mean nothing.
    """

    def __init__(
        self, model: Any, config: Any, seed: int, rewritten: frozenset[str] = frozenset()
    ) -> None:
        self.model, self.config, self.rewritten = model, config, rewritten
        self.rng = torch.Generator().manual_seed(seed)
        self.seed = seed
        self.state = "at initialisation"
        self.forwards = 0
        self.finite = False
        self._entering: list[Tensor] = []
        # The last LayerNorm sees what the block loop made, at all positions.
        self.watch: int = model.transformer.ln_f.register_forward_pre_hook(
            lambda _, inputs: self._entering.append(inputs[0])
        ).id
        """the hook's number"""
        self.keep()

    def keep(self, state: str | None = None) -> None:
        """Makes the present state the one that forwards start from."""
        self.state = state or self.state
        self.snapshot = Snapshot(self.model)
        self._in_mode: dict[bool, Snapshot] = {}

    def start(self, call: Call) -> None:
        """Brings the kept state back, and prepares the call."""
        if call.train not in self._in_mode:
            self.snapshot.restore()
            self.model.train(call.train)
            self._in_mode[call.train] = Snapshot(self.model)
        self._in_mode[call.train].restore()
        self.prepare(call)

    def prepare(self, call: Call, seed: int | None = None) -> None:
        """Mode, step and random numbers of a call."""
        if self.model.training != call.train:
            self.model.train(call.train)
        if isinstance(getattr(self.model, "step", None), Tensor):
            self.model.step.fill_(call.step)
        seed_everything(self.seed if seed is None else seed)

    def call(self, call: Call, idx: Tensor, targets: Tensor | None) -> Any:
        """What the model returns for these very tensors, from the present state on."""
        self.forwards += 1
        self._entering.clear()
        contexts: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
            "grad": contextlib.nullcontext,
            "no_grad": torch.no_grad,
            "inference": torch.inference_mode,
            "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        }
        with contexts[call.context]():
            return self.model(idx, targets)

    @property
    def entering(self) -> Tensor:
        """What entered the last LayerNorm in the last forward, (b, t, c)."""
        return self._entering[-1].detach()

    def outputs(self, call: Call, idx: Tensor, targets: Tensor, restore: bool = True) -> Tensor:
        """What is compared, (b, t, n), from the kept state on."""
        if restore:
            self.start(call)
        logits, _ = self.call(call, idx.clone(), targets.clone() if call.targets else None)
        # A model may write its next states into the same memory.
        read: Tensor = logits.detach() if call.targets else self.entering.clone()
        # Zero times infinity: a weight of zero keeps nothing out, in an honest model either.
        if self.finite and not read.isfinite().all():
            raise ArithmeticError("these parameters bring the model out of range")
        return read

    def rounds(
        self,
        figure: float,
        largest: float,
        pair: Sequence[tuple[Call, Tensor, Tensor]],
        pick: Callable[[Tensor], Tensor],
    ) -> bool:
        """Whether two forwards that are `figure` apart differ by rounding alone.

        Only what is small against the `largest` number is tried again, in float64: rounding then
        shrinks by 2**29, what the tokens have to do with it does not. Where the model does not run
        in float64, the difference stands.
        """
        if not figure <= ROUNDING * largest:
            return False
        results = []
        try:
            for call, ids, targets in pair:
                self.start(call)
                convert(self.model)
                with Double():
                    logits, _ = self.call(
                        call, ids.clone(), targets.clone() if call.targets else None
                    )
                results.append(pick(logits.detach() if call.targets else self.entering))
        except Exception:
            return False
        finally:
            self.start(pair[0][0])
        if any(result.dtype is not torch.float64 for result in results):
            return False
        found = difference(*results)
        return found is None or found[0] <= SHRINKS * figure

    def ids(self, kind: str, b: int, t: int) -> Tensor:
        """Fresh token ids, (b, t), of one of the kinds of text."""
        vocab_size = self.config.vocab_size
        if kind == "natural":
            return natural_ids(vocab_size, b, t, self.rng)
        if kind == "constant":
            return torch.full((b, t), int(random_ids(vocab_size, 1, 1, self.rng)))
        if kind == "alike":  # rows that part ways in their second half
            return natural_ids(vocab_size, 1, t, self.rng).repeat(b, 1)
        return random_ids(vocab_size, b, t, self.rng)

    def other(self, ids: Tensor) -> Tensor:
        """Ids of the same shape, each another one."""
        shift = torch.randint(1, self.config.vocab_size, ids.shape, generator=self.rng)
        return torch.remainder(ids + shift, self.config.vocab_size)


Difference: TypeAlias = "tuple[float, list[int]]"
"""The largest change, and where it is."""


def difference(a: Tensor, b: Tensor) -> Difference | None:
    """The largest change and where it is, or None if there is none; NaN is equal to NaN."""
    if a.shape != b.shape:
        return float("inf"), []
    if torch.equal(a, b):
        return None
    apart = ((a != b) & ~((a != a) & (b != b))).flatten()
    if not apart.any():
        return None
    change = torch.where(apart, (a.double() - b.double()).abs().flatten(), 0.0)
    change = change.nan_to_num(nan=torch.inf)
    index = int(change.argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(index), a.shape)]
    return float(change[index]), place
