"""States other than the first: parameters moved at random, optimizer steps, counters far on."""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from probes.report import Report
from probes.state import INTERNAL, seed_everything
from probes.subject import Call, Subject, difference

# What the pristine model has; other parameters are the edit's own, and so are those of a part whose
# class it rewrote. `Block` and `GPT` hold parts that other classes make.
LOCKED_PARAMETER = re.compile(
    r"(transformer\.(wte|wpe|ln_f|h\.\d+\.(ln_[12]|attn\.c_(attn|proj)|mlp\.c_(fc|proj)))|lm_head)"
    r"\.(weight|bias)"
)


FAR = 1_000_000
"""What a counter may come to: more than the steps, or the forwards, of any profile."""


def perturb(subject: Subject, sigma: float, own_sigma: float, one_way: bool = False) -> int:
    """Adds Gaussian noise to the kept parameters; the number of those that are the edit's own.

    `one_way`: all of the edit's own move up, or all down where `own_sigma` is negative.
    """
    subject.snapshot.restore()
    own = 0
    for name, parameter in subject.model.named_parameters():
        locked = _locked(subject, name)
        own += not locked
        noise = torch.randn(parameter.shape, generator=subject.rng)
        noise = noise.abs() + 0.5 if one_way and not locked else noise
        with torch.no_grad():
            parameter.add_((sigma if locked else own_sigma) * noise)
    return own


def _locked(subject: Subject, name: str) -> bool:
    """Whether locked code makes the parameter of that name."""
    if LOCKED_PARAMETER.fullmatch(name) is None:
        return False
    holder = subject.model.get_submodule(".".join(name.split(".")[:-2]))
    return type(holder).__name__ not in subject.rewritten - {"Block", "GPT"}


Number = tuple[str, Any, Any, Any]
"""Where it is, in words; what holds it, under which key; the number or tensor itself."""


def numbers(subject: Subject, module: ModuleType) -> Iterator[Number]:
    """Buffers, and numbers and tensors that modules, the file or its own objects hold, in lists and
    dicts as well; parameters are left out."""
    seen: set[int] = set()
    for prefix, part in subject.model.named_modules():
        yield from _inside(f"{prefix}.", part._buffers, module.__name__, seen)
        own = {key: value for key, value in vars(part).items() if key not in INTERNAL}
        yield from _inside(f"{prefix}.", own, module.__name__, seen, vars(part))
    yield from _inside("", vars(module), module.__name__, seen)


def _inside(
    where: str, values: Any, name: str, seen: set[int], holder: Any = None, depth: int = 0
) -> Iterator[Number]:
    holder = values if holder is None else holder
    if id(holder) in seen or depth > 4:
        return
    seen.add(id(holder))
    pairs = enumerate(values) if isinstance(values, list) else list(values.items())
    for key, value in pairs:
        place = f"{where}{key}"
        if isinstance(value, nn.Parameter) or place in (".step", ".training"):
            continue
        if isinstance(value, Tensor) or type(value) in (int, float):
            yield place, holder, key, value
        elif isinstance(value, list | dict):
            yield from _inside(f"{place}.", value, name, seen, None, depth + 1)
        elif isinstance(value, tuple):
            tensors = {n: part for n, part in enumerate(value) if isinstance(part, Tensor)}
            yield from _inside(f"{place}.", tensors, name, seen, value, depth + 1)
        elif isinstance(value, type):
            if value.__module__ == name:
                yield from _inside(f"{place}.", dict(vars(value)), name, seen, value, depth + 1)
        elif type(value).__module__ == name and not isinstance(value, nn.Module):
            yield from _inside(
                f"{place}.", getattr(value, "__dict__", {}), name, seen, None, depth + 1
            )


def counted(subject: Subject, module: ModuleType) -> dict[str, Any]:
    """All numbers as they are now."""
    return {
        place: value.detach().clone() if isinstance(value, Tensor) else value
        for place, _, _, value in numbers(subject, module)
    }


def age(subject: Subject, module: ModuleType, before: dict[str, Any]) -> Callable[[], None]:
    """Brings the numbers that training has changed to where a long run may bring them, a million
    further. Returns what puts those back that no snapshot of the model holds."""
    undo: list[tuple[Any, Any, Any]] = []
    for place, holder, key, value in list(numbers(subject, module)):
        old = before.get(place)
        if isinstance(value, Tensor):
            _age_tensor(value, old)
        elif old != value:
            known = type(old) in (int, float)
            undo.append((holder, key, value))
            _put(holder, key, type(value)(-FAR if known and value < old else FAR))

    def restore() -> None:
        for holder, key, value in undo:
            _put(holder, key, value)

    return restore


def _put(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, type):
        setattr(holder, key, value)
    else:
        holder[key] = value


def _age_tensor(value: Tensor, old: Any) -> None:
    # Masks are no counters; and what is there since training only may be what it was made from.
    if value.dtype is torch.bool or value.is_complex() or value.layout is not torch.strided:
        return
    data = value.detach()
    if not (isinstance(old, Tensor) and old.shape == data.shape):
        if data.numel() != 1:
            return
        old = torch.full_like(data, -1)
    least = 0 if data.dtype is torch.uint8 else -FAR
    most = FAR if data.is_floating_point() else min(FAR, torch.iinfo(data.dtype).max)
    far = torch.where(data < old, max(least, -most - 1), most).to(data.dtype)
    with contextlib.suppress(RuntimeError), torch.no_grad():  # parts of it may share memory
        data.copy_(torch.where(data != old, far, data))


class Trainer:
    """Takes optimizer steps as the training loop does, and notes what they reach."""

    def __init__(self, subject: Subject, settings: Any, report: Report) -> None:
        self.subject, self.settings, self.report = subject, settings, report
        self.reached: set[str] = set()
        self.optimizer: Any = None
        code = getattr(type(subject.model).configure_optimizers, "__code__", None)
        self.line = getattr(code, "co_firstlineno", None)
        self.start = {n: p.detach().clone() for n, p in subject.model.named_parameters()}
        subject.prepare(Call(True, 0))
        with report.guard("optimizer", "configure_optimizers"):
            s = settings
            made = subject.model.configure_optimizers(
                s.weight_decay, s.learning_rate, (s.beta1, s.beta2), "cpu"
            )
            if isinstance(made, torch.optim.Optimizer):
                self.rates = [float(group["lr"]) for group in made.param_groups]
                self.optimizer = made
            else:
                text = f"configure_optimizers returns a {type(made).__name__}"
                advice = "Return a torch.optim.Optimizer."
                report.add("optimizer", text, advice=advice, line=self.line)

    def take(self, steps: tuple[int, ...]) -> bool:
        """One optimizer step each; False if one of them failed."""
        subject, model, report = self.subject, self.subject.model, self.report
        if self.optimizer is None:
            return False
        for step in steps:
            call = Call(True, step)
            ids = subject.ids("natural", 4, subject.config.block_size)
            params = [p for p in model.parameters() if p.requires_grad]
            model.zero_grad(set_to_none=True)
            subject.seed += 1
            done = False
            with report.guard("exception", f"forward and backward, {call}"):
                subject.prepare(call)
                _, loss = subject.call(call, ids, ids.roll(-1, 1))
                loss.backward()
                done = True
            if not done:
                return False
            if not math.isfinite(float(loss)):
                when = "after some optimizer steps" if step else "before any optimizer step"
                text = f"The loss is {float(loss)} {when}"
                advice = "Look for what overflows, or lower the learning rate."
                report.add("not-finite", text, where=str(call), advice=advice)
                return False
            self.reached |= {n for n, p in model.named_parameters() if p.grad is not None}
            torch.nn.utils.clip_grad_norm_(params, self.settings.grad_clip or math.inf)
            done = False
            with report.guard("optimizer", f"optimizer.step(), step {step}"):
                for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                    group["lr"] = rate
                self.optimizer.step()
                self.optimizer.state_dict()  # is saved at intervals
                done = True
            if not done:
                return False
        return True

    def judge(self) -> None:
        """What all steps together have changed, and what they could not."""
        report, now = self.report, dict(self.subject.model.named_parameters())
        changed = [n for n, old in self.start.items() if n in now and not now[n].equal(old)]
        trained = [n for n, p in now.items() if p.requires_grad]
        if not changed:
            text = "Six optimizer steps change no parameter"
            report.add("optimizer", text, line=self.line, advice="Give the optimizer all of them.")
        if missed := [n for n in trained if n not in self.reached]:
            text = f"No backward pass reaches {listed(missed)}"
            advice = "Use them in a forward, or leave them out."
            report.add("unused-parameter", text, advice=advice, warning=True)
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if left := [n for n in trained if n in self.reached and id(now[n]) not in held]:
            text = f"No optimizer group holds {listed(left)}"
            report.add(
                "unused-parameter",
                text,
                advice="They stay as they are; add them in configure_optimizers.",
                kind="held",
                line=self.line,
                warning=True,
            )


def listed(names: list[str]) -> str:
    """The first three of the names and the number of the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def fresh(subject: Subject, module: ModuleType, call: Call, report: Report) -> None:
    """Whether a new model with the trained one's state predicts the same, as scoring needs it."""
    with report.guard("construction", "a second model of the same sizes"):
        seed_everything(subject.seed + 1000)
        other = Subject(module.GPT(subject.config), subject.config, subject.seed)
        ids = subject.ids("random", 2, subject.config.block_size)
        trained = subject.outputs(call, ids, ids)
        other.model.load_state_dict(copy.deepcopy(subject.model.state_dict()), strict=False)
        other.keep()
        found = difference(trained, other.outputs(call, ids, ids))
        if found is not None and found[0] > 1e-4:
            report.add(
                "checkpoint",
                "A new model with the trained one's parameters and buffers gives other logits, "
                f"{found[0]:.1e} apart",
                advice="Only parameters and buffers are saved and scored.",
                warning=True,
            )
