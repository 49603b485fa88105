"""Pairs of forwards that must agree: later tokens, other rows, targets and time leave no trace.

Both forwards of a pair start from the same state and random numbers (see state.py) and have
the same shape, so that every operation runs in the same order on the same numbers: an honest model
differs by exactly nothing, in training too. Batch sizes or lengths are never compared with each
other, since kernels may sum in another order there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from probes.report import Report
from probes.state import natural_ids, random_ids, random_states, seed_everything, tensors_of
from probes.subject import Call, Subject, difference

ADVICE = {
    "causality": "A position may depend on itself and on earlier positions only. Apply flip, "
    "roll, cumsum, sort and mean to the axis of layers or channels, not to time (axis 1 of x).",
    "batch-independence": "A sequence may not see the others of its batch; reduce over channels or "
    "depth, not over axis 0 of x.",
    "targets-reach-logits": "Logits may depend on idx alone; leave the targets to the locked lines "
    "behind the block loop.",
    "not-deterministic": "Keep what must survive a call in parameters or buffers, change it only "
    "in training, and keep no results of earlier calls.",
    "changes-itself": "Change parameters, buffers and random states only `if self.training`.",
}


def repeats(
    subject: Subject, report: Report, call: Call, ids: Tensor, targets: Tensor
) -> Tensor | None:
    """What a forward gives, if an equal one from the same state agrees; says so if it does not.

    If it does not, state is kept where it cannot be put back, and no pair would mean anything.
    """
    first = subject.outputs(call, ids, targets)
    found = difference(first, subject.outputs(call, ids, targets))
    if found is None:
        return first
    report.add(
        "not-deterministic",
        "Two forwards of the same tokens from the same parameters, buffers and random states "
        f"differ by up to {found[0]:.1e}",
        where=f"{call}, {subject.state}",
        advice=ADVICE["not-deterministic"],
        kind="train" if call.train else "",
        figure=found[0],
        warning=call.train,
    )
    return None


def causality(
    subject: Subject,
    report: Report,
    call: Call,
    ids: Tensor,
    targets: Tensor,
    cuts: Iterable[int],
    base: Tensor | None = None,
) -> None:
    """Changing tokens from each of `cuts` on leaves all positions before it alone.

    `base` is what the unchanged tokens give, where that is known.
    """
    t = ids.shape[1]
    base = subject.outputs(call, ids, targets) if base is None else base
    for n, cut in enumerate(cuts):
        end = cut + 1 if n % 2 or cut == t - 1 else t
        changed = ids.clone()
        changed[:, cut:end] = subject.other(ids[:, cut:end])
        found = difference(base[:, :cut], subject.outputs(call, changed, targets)[:, :cut])
        if found is None:
            continue
        pair = [(call, ids, targets), (call, changed, targets)]
        if subject.rounds(found[0], _largest(base), pair, partial(_before, cut)):
            continue
        figure, place = found
        read = "logits" if call.targets else "state"
        kind = "train" if call.train else "eval"
        known = report.knows("causality", kind)
        what = f"token {cut} alone" if end == cut + 1 else f"all tokens from {cut} on"
        text = f"Changing {what}, of {t}, changes the {read} of position {place[1]} by {figure:.1e}"
        seen = "" if known else locate(subject, call, (ids, changed), targets, cut)
        report.add(
            "causality",
            text + seen,
            where=f"{call}, {subject.state}",
            advice=ADVICE["causality"],
            figure=figure if not known else 0.0,
            kind=kind,
        )


def locate(subject: Subject, call: Call, pair: Sequence[Tensor], targets: Tensor, cut: int) -> str:
    """Where between the blocks a leak to positions before `cut` is first seen, in words."""
    seen: list[tuple[str, Tensor]] = []

    def watch(name: str, tensors: Any) -> None:
        value = tensors[0] if isinstance(tensors, tuple) else tensors
        if isinstance(value, Tensor) and value.dim() > 1:
            seen.append((name, value.detach()[:, :cut].clone()))

    blocks = enumerate(subject.model.transformer.h)
    handles = [
        handle
        for i, block in blocks
        for handle in (
            block.register_forward_pre_hook(lambda _, a, i=i: watch(f"goes into block {i}", a)),
            block.register_forward_hook(lambda _, a, o, i=i: watch(f"comes out of block {i}", o)),
        )
    ]
    try:
        traces = []
        for ids in pair:
            seen.clear()
            subject.outputs(call, ids, targets)
            traces.append(list(seen))
    finally:
        for handle in handles:
            handle.remove()
    for (name, a), (_, b) in zip(*traces, strict=False):
        if difference(a, b) is not None:
            return f"; it is first seen in what {name}"
    return "; it is first seen behind the last block"


def rows(
    subject: Subject,
    report: Report,
    call: Call,
    ids: Tensor,
    targets: Tensor,
    row: int,
    base: Tensor,
) -> None:
    """Changing all other rows leaves `row` alone; in training this is only a warning.

    `base` is what the unchanged rows give.
    """
    b, t = ids.shape
    changed = subject.other(ids)
    if torch.equal(ids[0], ids[1]):  # rows with a common beginning, as answers to one question
        changed[:, : t // 2] = ids[:, : t // 2]
    changed[row] = ids[row]
    found = difference(base[row], subject.outputs(call, changed, targets)[row])
    pair = [(call, ids, targets), (call, changed, targets)]
    if found is not None and not subject.rounds(
        found[0], _largest(base), pair, lambda out: out[row]
    ):
        report.add(
            "batch-independence",
            f"Changing the other {b - 1} sequences of a batch changes the "
            f"{'logits' if call.targets else 'states'} of sequence {row} by {found[0]:.1e}",
            where=f"{call}, {subject.state}",
            advice=ADVICE["batch-independence"],
            figure=found[0],
            warning=call.train,
        )


def _before(cut: int, outputs: Tensor) -> Tensor:
    return outputs[:, :cut]


def _largest(outputs: Tensor) -> float:
    return float(outputs.abs().max())


def labels(subject: Subject, report: Report, call: Call, ids: Tensor, targets: Tensor) -> None:
    """Other targets, or none, leave logits and the states before them alone."""
    base = subject.outputs(call, ids, targets)
    hidden = subject.entering
    without = replace(call, targets=False)
    trials = [
        ("Giving other targets", subject.outputs(call, ids, subject.other(targets)), base),
        ("Leaving all out of the loss", subject.outputs(call, ids, targets * 0 - 1), base),
        ("Giving no targets", subject.outputs(without, ids, targets), hidden),
    ]
    for what, after, before in trials:
        if (found := difference(before, after)) is not None:
            report.add(
                "targets-reach-logits",
                f"{what} changes what the model predicts by {found[0]:.1e}",
                where=f"{call}, {subject.state}",
                advice=ADVICE["targets-reach-logits"],
                figure=found[0],
            )


def evaluation(subject: Subject, report: Report, call: Call) -> None:
    """What `_evaluation` finds, an exception among it."""
    with report.guard("exception", f"{call}, {subject.state}"):
        _evaluation(subject, report, call, subject.config.block_size)


def _evaluation(subject: Subject, report: Report, call: Call, t: int) -> None:
    """An eval forward changes nothing and, other forwards later, gives what it gave before."""
    model: nn.Module = subject.model
    vocab_size = subject.config.vocab_size
    first, second = (natural_ids(vocab_size, 2, t, subject.rng) for _ in range(2))
    first[:, t // 2 :] = random_ids(vocab_size, 2, t - t // 2, subject.rng)  # never seen before
    targets = subject.other(first)
    subject.start(call)
    before = {name: (x, x.detach().clone()) for name, x in tensors_of(model)}
    modes = [module.training for module in model.modules()]
    flags = torch.is_grad_enabled(), torch.get_default_dtype()
    results, ends = [], []
    for ids in (first, second, first[:, : t // 2], first):
        seed_everything(subject.seed)
        results.append(subject.outputs(call, ids, targets[:, : ids.shape[1]], restore=False))
        ends.append(random_states())
    for n in range(2):
        seed_everything(subject.seed + 1 + n)
        other = subject.outputs(call, first, targets, restore=False)
        ends.append(random_states())
    after = dict(tensors_of(model))
    altered = [
        name
        for name, (_, values) in before.items()
        if name not in after or difference(after[name].detach(), values) is not None
    ]
    altered += [name for name in after if name not in before]
    if modes != [module.training for module in model.modules()]:
        altered.append("the mode (train or eval)")
    if flags != (torch.is_grad_enabled(), torch.get_default_dtype()):
        altered.append("settings of torch")
        torch.set_grad_enabled(flags[0])
        torch.set_default_dtype(flags[1])
    # Drawing numbers moves a generator on; only setting it brings two starts to the same end.
    altered += [
        f"the random state of {name}" for name in ends[0] if ends[-2][name] == ends[-1][name]
    ]
    where = f"{call}, {subject.state}"
    if altered:
        more = f" and {len(altered) - 3} more" if len(altered) > 3 else ""
        text = f"A forward in evaluation changes {', '.join(altered[:3])}{more}"
        report.add("changes-itself", text, where=where, advice=ADVICE["changes-itself"])
    found = difference(results[0], results[3])
    if found is not None:
        report.add(
            "not-deterministic",
            "A forward in evaluation gives another result once other sequences went through the "
            f"model: {found[0]:.1e} apart",
            where=where,
            advice=ADVICE["not-deterministic"],
            figure=found[0],
        )
    elif (found := difference(results[0], other)) is not None:
        report.add(
            "not-deterministic",
            "With other random numbers a forward in evaluation gives other results, "
            f"{found[0]:.1e} apart",
            where=where,
            advice="Its score will be a matter of chance.",
            kind="chance",
            figure=found[0],
            warning=True,
        )


def independence(
    subject: Subject, report: Report, calls: Sequence[Call], lenient: bool = False
) -> None:
    """All pairs under each of `calls`, over kinds of text, lengths and positions in turn."""
    block = subject.config.block_size
    kinds = ("natural", "random", "alike", "constant")
    lengths = (2, block - 1, 3, block // 2, 5, block // 2 + 1)
    subject.finite = lenient
    for n, call in enumerate(calls):
        rule = "autocast" if call.context == "autocast" else "exception"
        subject.seed += 1  # chance may open a gate
        where = f"{call}, {subject.state}"
        with report.guard(rule, where, lenient=lenient, warning=rule == "autocast"):
            ids = subject.ids(kinds[n % 4], 3, block)
            targets = subject.other(ids)
            base = repeats(subject, report, call, ids, targets)
            if base is None:
                continue
            cuts = (1, block - 1, block // 3, block // 2, block - 2)
            causality(subject, report, call, ids, targets, cuts[:3] if n % 2 else cuts[2:], base)
            rows(subject, report, call, ids, targets, n % 3, base)
            if call.targets and n % 2 == 0:
                labels(subject, report, call, ids, targets)
            short = subject.ids(kinds[(n + 1) % 4], 3, t := lengths[n % 6])
            causality(subject, report, call, short, subject.other(short), (t - 1, t // 2))
    subject.finite = False


def sweep(subject: Subject, report: Report, call: Call) -> None:
    """Every position as the first that changes, every length, and batches of several sizes."""
    block = subject.config.block_size
    with report.guard("exception", f"{call}, {subject.state}"):
        ids = subject.ids("natural", 2, block)
        targets = subject.other(ids)
        base = repeats(subject, report, call, ids, targets)
        if base is None:
            return
        causality(subject, report, call, ids, targets, range(1, block), base)
        for t in range(2, block):
            ids = subject.ids("random", 1, t)
            causality(subject, report, call, ids, subject.other(ids), (t // 2,))
        # Those that profiles train with, 4, 8 and 32, and others.
        for b in (2, 4, 5, 6, 7, 8, 12, 16, 24, 32, 33, 64):
            ids = subject.ids("random", b, 6)
            targets = subject.other(ids)
            base = subject.outputs(call, ids, targets)
            causality(subject, report, call, ids, targets, (3,), base)
            rows(subject, report, call, ids, targets, b - 1, base)
