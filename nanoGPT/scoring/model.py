"""A trained model as scoring sees it: token ids in, log-likelihoods out.

All that is asked of the model's own code is a function from token ids to the hidden states that
enter the final LayerNorm. The final LayerNorm, the tied head and the cross-entropy are applied
here, in fp32, with the checkpoint's weights: the model's own logits and loss are never used.
`load_direct` gets that function by importing the edited file into this process.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from scoring.report import ScoreError
from scoring.spans import Span, batches

LAYER_NORM_EPS = 1e-5
TIED_HEAD = "lm_head.weight"

LOGITS_AT_ONCE = 1 << 25
"""Numbers in the largest block of logits (128 MiB in fp32)."""


class HiddenStates(Protocol):
    def __call__(self, idx: Tensor) -> Tensor:
        """(b, t) int64 token ids -> (b, t, c) hidden states that enter the final LayerNorm."""


@dataclass(frozen=True)
class Head:
    """The final LayerNorm and the output matrix, in fp32."""

    norm_weight: Tensor
    """(c,)"""
    norm_bias: Tensor | None
    """(c,) or None"""
    embedding: Tensor
    """(vocab_size, c): the token embedding, which is the output matrix too"""

    @classmethod
    def from_checkpoint(cls, tensors: dict[str, Tensor], device: torch.device) -> Head:
        """Raises ScoreError if the checkpoint lacks one of the tensors."""
        try:
            norm_weight = tensors["transformer.ln_f.weight"]
            embedding = tensors["transformer.wte.weight"]
        except KeyError as error:
            raise ScoreError(f"the checkpoint has no tensor {error}. Train again.") from None
        bias = tensors.get("transformer.ln_f.bias")
        return cls(
            norm_weight.to(device, torch.float32),
            None if bias is None else bias.to(device, torch.float32),
            embedding.to(device, torch.float32),
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, c) hidden states -> (n, vocab_size) fp32 logits."""
        x = F.layer_norm(
            hidden.float(), self.norm_weight.shape, self.norm_weight, self.norm_bias, LAYER_NORM_EPS
        )
        return x @ self.embedding.T

    def score(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c), (n,) -> the loss of each target in nats (n,), whether it was the best (n,)."""
        losses, best = [], []
        rows = max(1, LOGITS_AT_ONCE // self.embedding.shape[0])
        for some, wanted in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
            logits = self.logits(some)
            right = logits.gather(-1, wanted[:, None])[:, 0]
            # What F.cross_entropy computes, without a second block as large as the logits.
            losses.append(logits.logsumexp(-1) - right)
            best.append(right == logits.amax(-1))
        return torch.cat(losses), torch.cat(best)


@dataclass(frozen=True)
class SpanScore:
    """What a model makes of a span's targets."""

    loss: float
    """Sum over the targets, nats."""
    greedy: bool
    """Whether each target was the likeliest token at its place."""


@dataclass(frozen=True)
class ScoredModel:
    """A model's hidden states and head, and what one needs to know to feed it."""

    hidden_states: HiddenStates
    head: Head
    block_size: int
    vocab_size: int
    device: torch.device

    @torch.inference_mode()
    def score(self, spans: Sequence[Span], batch_tokens: int = 8192) -> list[SpanScore]:
        """One result a span, in the spans' order, whatever batches they were put in.

        Shorter spans of a batch are padded on the right, which a causal model cannot see.
        Raises ScoreError if a loss is not finite, ValueError if a span is too long.
        """
        results: dict[int, SpanScore] = {}
        for batch in batches(spans, batch_tokens):
            longest = len(spans[batch[0]].inputs)
            if longest > self.block_size:
                raise ValueError(f"a span of {longest} tokens, the model takes {self.block_size}")
            idx = torch.zeros(len(batch), longest, dtype=torch.int64)
            scored = torch.zeros(len(batch), longest, dtype=torch.bool)
            for row, i in enumerate(batch):
                end = len(spans[i].inputs)
                idx[row, :end] = torch.as_tensor(spans[i].inputs)
                scored[row, end - len(spans[i].targets) : end] = True
            targets = torch.cat([torch.as_tensor(spans[i].targets) for i in batch])
            hidden = self.hidden_states(idx.to(self.device))
            loss, best = self.head.score(
                hidden[scored.to(self.device)], targets.to(self.device, torch.int64)
            )
            sizes = [len(spans[i].targets) for i in batch]
            losses = torch.split(loss.double().cpu(), sizes)
            greedy = torch.split(best.cpu(), sizes)
            for i, a, b in zip(batch, losses, greedy, strict=True):
                results[i] = SpanScore(float(a.sum()), bool(b.all()))
        if not all(abs(r.loss) < float("inf") for r in results.values()):
            raise ScoreError(
                "the model's loss is not a finite number. Look at the losses that training "
                "printed: a lower learning rate or a smaller change may keep them finite."
            )
        return [results[i] for i in range(len(spans))]


# -----------------------------------------------------------------------------
# the edited file in this process


def import_file(path: Path) -> ModuleType:
    """Import one file by its path, its own folder first on the path while it is imported."""
    if not path.is_file():
        raise ScoreError(f"no file {path.name} in the run's files")
    spec = importlib.util.spec_from_file_location("edited_" + path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def read_checkpoint(folder: Path, label: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The model's fields and its tensors.

    Raises ScoreError if the training of stage `label` left none in `folder`.
    """
    facts_file = folder / f"ckpt_{label}.json"
    weights_file = folder / f"ckpt_{label}.safetensors"
    if not (facts_file.is_file() and weights_file.is_file()):
        raise ScoreError(
            f"no checkpoint ckpt_{label}.safetensors. Stage {label} has to finish its training."
        )
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    return facts["model"], load_file(weights_file)


def load_direct(file: Path, checkpoint_folder: Path, label: str, device: str) -> ScoredModel:
    """The model of the edited `file` with the weights of stage `label`, in this process.

    Raises ScoreError for a missing or unfit checkpoint; exceptions of the edited code pass through.
    """
    fields, tensors = read_checkpoint(checkpoint_folder, label)
    where = torch.device(device)
    module = import_file(file)
    model = module.GPT(module.GPTConfig(**fields))
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if set(missing) - {TIED_HEAD} or unexpected:
        raise ScoreError(
            f"the checkpoint does not fit the model: {sorted(missing)} are missing, "
            f"{sorted(unexpected)} are unknown. Train again."
        )
    model.to(where).eval()

    entering: list[Tensor] = []
    model.transformer.ln_f.register_forward_pre_hook(lambda _, args: entering.append(args[0]))

    def hidden_states(idx: Tensor) -> Tensor:
        entering.clear()
        model(idx)
        return entering[-1]

    head = Head.from_checkpoint(tensors, where)
    return ScoredModel(hidden_states, head, fields["block_size"], fields["vocab_size"], where)
