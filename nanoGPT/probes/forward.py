"""One forward by itself: shapes, dtypes, the loss; and all of it under torch.compile."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from probes.pairs import ADVICE
from probes.report import Report
from probes.state import seed_everything
from probes.subject import ROUNDING, SHRINKS, Call, Difference, Subject, difference

# The locked code reads the same name from the same module; an edit must not replace this one.
_cross_entropy = F.cross_entropy


def forwards(subject: Subject, call: Call, report: Report) -> bool:
    """Shapes, dtypes and the loss, with targets and without; True if other probes make sense."""
    config, where = subject.config, f"{call}, {subject.state}"
    works = True
    # Training has no short sequences; scoring may ask for the logits of a single token.
    sizes = ((3, config.block_size), (2, 5) if call.train else (1, 1))
    for b, t in sizes:
        ids = subject.ids("natural", b, t)
        targets = subject.other(ids)
        targets[:, ::4] = -1 if t > 1 else targets[:, ::4]  # left out of the loss
        for given, shape in ((targets, (b, t)), (None, (b, 1))):
            what = f"b={b}, t={t}, {'with' if given is not None else 'without'} targets, {where}"
            done = False
            with report.guard("exception", what):
                subject.start(call)
                sent, labels = ids.clone(), None if given is None else given.clone()
                result = subject.call(call, sent, labels)
                wrong = _wrong_shape(result, (*shape, config.vocab_size), given is not None)
                if wrong:
                    report.add("forward-shape", wrong, where=what)
                    continue
                logits, loss = result
                for name, tensor in (("logits", logits), ("loss", loss)):
                    if tensor is not None and tensor.dtype is not torch.float32:
                        text = f"The {name} are {tensor.dtype}, not torch.float32"
                        report.add("forward-dtype", text, where=what)
                    elif tensor is not None and type(tensor) is not Tensor:
                        # Its methods would be the edit's where the loop calls them.
                        text = f"The {name} are a {type(tensor).__name__}, not a torch.Tensor"
                        report.add("forward-dtype", text, where=what)
                if not logits.isfinite().all():
                    report.add("not-finite", "Some logits are not finite numbers", where=what)
                elif given is not None:
                    check_loss(logits, loss, given, what, report)
                kept = labels is None or torch.equal(labels, targets)
                if not kept or not torch.equal(sent, ids):
                    text = "A forward writes into the tensors that it was given"
                    report.add("loss", text, where=what, advice="Work on a copy.", kind="inputs")
                done = True
            works = works and (done or t == 1)
    return works


def _wrong_shape(result: object, shape: tuple[int, ...], with_loss: bool) -> str | None:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], Tensor):
        return "GPT.forward does not return (logits, loss)"
    logits, loss = result
    if tuple(logits.shape) != shape:
        return f"The logits have the shape {tuple(logits.shape)}, not {shape}"
    if with_loss and not (isinstance(loss, Tensor) and loss.dim() == 0):
        return "The loss is not a tensor without axes"
    if not with_loss and loss is not None:
        return "The loss without targets is not None"
    return None


def check_loss(logits: Tensor, loss: Tensor, targets: Tensor, what: str, report: Report) -> None:
    """The loss is the plain one, of the logits that came with it."""
    plain = float(_cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1))
    if not abs(float(loss) - plain) <= 1e-5 * max(1.0, plain):
        report.add(
            "loss",
            f"The loss is {float(loss):.6f} where cross-entropy of the logits is {plain:.6f}",
            where=what,
            advice="The locked lines behind the block loop compute it; leave F and targets alone.",
        )


def _predict(model: Any, tokens: Tensor, targets: Tensor, seed: int) -> Tensor:
    seed_everything(seed)
    predicted: Tensor = model(tokens, targets)[0][:, :5]
    return predicted


def _in_double(
    model: Any, pair: tuple[Tensor, Tensor], targets: Tensor, seed: int, found: Difference
) -> Difference | None:
    """The difference of a compiled model, or None if float64 shows that it was rounding."""
    torch._dynamo.reset()
    torch.set_default_dtype(torch.float64)
    try:
        fast = torch.compile(model.double(), backend="eager")
        again = difference(*(_predict(fast, tokens, targets, seed) for tokens in pair))
    except Exception:
        return found
    finally:
        torch.set_default_dtype(torch.float32)
    return None if again is None or again[0] <= SHRINKS * found[0] else found


def compiled(module: ModuleType, sizes: dict[str, Any], seed: int, report: Report) -> None:
    """A training step and evaluations run under torch.compile, and keep to causality there."""
    start = time.perf_counter()
    with report.guard("compile", "torch.compile(model, backend='eager')"):
        torch._dynamo.reset()
        config = module.GPTConfig(**sizes)
        seed_everything(seed)
        model: Any = module.GPT(config)
        model.step.fill_(5000)
        fast: Any = torch.compile(model, backend="eager")
        ids = torch.randint(0, config.vocab_size, (2, 8))
        fast(ids, ids)[1].backward()
        model.eval()
        changed = ids.clone()
        changed[:, 5:] = (ids[:, 5:] + 1) % config.vocab_size
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
            fast(ids, ids)
            pair = [_predict(fast, tokens, ids, seed) for tokens in (ids, changed)]
            found = difference(*pair)
            if found is not None and found[0] <= ROUNDING * float(pair[0].abs().max()):
                found = _in_double(model, (ids, changed), ids, seed, found)
        if found is not None:
            report.add(
                "causality",
                f"Changing the tokens from 5 on changes earlier logits by {found[0]:.1e}",
                where="evaluation, compiled",
                advice=ADVICE["causality"],
                kind="compiled",
            )
    torch._dynamo.reset()
    report.facts["compile_s"] = round(time.perf_counter() - start, 2)
