"""The parts that locked code made are those that it finds again.

Scoring applies the final LayerNorm and the head, which is the token embedding, by itself, with the
checkpoint's weights. A model that was trained through others would be scored as something that it
is not. The rules on the text refuse what they can read; this looks at what came out, whichever way
it took: a helper function, `apply`, `load_state_dict(assign=True)`, a parametrization.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from probes.report import Report
from probes.state import INTERNAL

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
ADVICE = (
    "Embeddings, dropout behind them, final LayerNorm and head stay as the locked lines make them "
    "and without hooks: scoring applies them by itself. Change what lies between them, and give "
    "your own modules other names."
)


def check_parts(
    model: Any, module: ModuleType, config: Any, report: Report, state: str, watch: int = -1
) -> None:
    """Says which locked parts of `model` are not what `module`'s locked code made.

    `watch` is the id of the one hook that is ours.
    """
    with report.guard("locked-part", f"looking at the locked parts, {state}", advice=ADVICE):
        for name, made in _expected(module, config).items():
            for what in _changed(_at(model, name), made, watch):
                text = f"{name} {what}"
                report.add("locked-part", text, where=state, advice=ADVICE, kind=name)
        wrong = []
        if type(model) is not module.GPT or set(vars(model)) & _functions(module.GPT):
            wrong.append("GPT is another class, or has other methods")
        if any(hook != watch for table in HOOKS for hook in getattr(model, table)):
            wrong.append("the whole model has a hook")
        if _at(model, "lm_head.weight") is not _at(model, "transformer.wte.weight"):
            wrong.append("lm_head.weight is no longer transformer.wte.weight")
        step = _at(model, "step")
        if not (isinstance(step, Tensor) and step.shape == () and step.dtype is torch.int64):
            wrong.append("step is no longer the buffer that the training loop fills")
        for text in wrong:
            report.add("locked-part", text, where=state, advice=ADVICE, kind=text)


def _expected(module: ModuleType, config: Any) -> dict[str, nn.Module]:
    """Each part as locked code makes it; no random numbers are used up."""
    state = torch.get_rng_state()
    # Not on the device "meta", which takes longer to import than all of this on the CPU.
    made = {
        "transformer.wte": nn.Embedding(config.vocab_size, config.n_embd),
        "transformer.wpe": nn.Embedding(config.block_size, config.n_embd),
        "transformer.drop": nn.Dropout(config.dropout),
        "transformer.ln_f": module.LayerNorm(config.n_embd, bias=config.bias),
        "lm_head": nn.Linear(config.n_embd, config.vocab_size, bias=False),
    }
    torch.set_rng_state(state)
    return made


def _at(model: Any, name: str) -> Any:
    for part in name.split("."):
        model = getattr(model, part, None)
    return model


def _functions(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if callable(value)}


def _changed(part: Any, made: nn.Module, watch: int) -> list[str]:
    """What is different about one part, in words."""
    if type(part) is not type(made):
        return [f"is a {type(part).__name__}, not a {type(made).__name__}"]
    found = []
    own = vars(part)
    if covered := sorted(name for name in own if callable(getattr(type(part), name, None))):
        found.append(f"has a {covered[0]} of its own")
    if any(hook != watch for table in HOOKS for hook in own[table]):
        found.append("has a hook")
    for name, value in vars(made).items():
        if name not in INTERNAL and own.get(name) != value:
            found.append(f"has {name} = {own.get(name)!r:.40}, not {value!r:.40}")
    shapes = {name: p.shape for name, p in made.named_parameters()}
    tensors = dict(part.named_parameters())
    if {name: p.shape for name, p in tensors.items()} != shapes:
        found.append(f"has the parameters {sorted(tensors)}, of other names or shapes")
    if any(type(tensor) is not nn.Parameter for tensor in tensors.values()):
        found.append("has a parameter of another class")
    return found
