"""The contract of an edited custom_pretrain.py, checked in seconds on a CPU at small sizes.

    HARNESS_FILES=<snapshot> HARNESS_OUT=<folder> python nanoGPT/contract.py contract

writes $HARNESS_OUT/findings.json: what refuses a test, what is only worth knowing, and figures.

Rules that refuse:
  construction          GPT(GPTConfig(...)) raises, or the file cannot be imported
  locked-part           embeddings, final LayerNorm or head are not as locked code made them
  exception             a forward or a backward pass raises
  forward-shape         not (logits, loss) of the shapes that GPT.forward promises
  forward-dtype         logits or loss are not plain float32 tensors
  loss                  the loss is not plain cross-entropy of the logits, or targets are altered
  targets-reach-logits  other targets, or none, change the logits
  causality             later tokens change earlier logits, in training or evaluation
  batch-independence    other rows of the batch change a row, in evaluation
  changes-itself        a forward in evaluation changes parameters, buffers, modes or random states
  not-deterministic     a forward in evaluation depends on the forwards before it
  optimizer             configure_optimizers fails, returns no Optimizer, or steps change nothing
  not-finite            logits or loss are not finite at the start or after some steps
  compile               torch.compile(backend="eager") fails; graph breaks are fine
  time                  the probes do not end in time
Warnings: unused-parameter (no backward pass reaches it, or no optimizer group holds it), autocast
(fails under bfloat16), checkpoint (a new model with the trained state predicts something else),
batch-independence and not-deterministic in training, not-deterministic where evaluation draws
random numbers.

Guaranteed: a leak that moves any logit of the probes is found, however small, in the states,
modes, lengths and batch sizes that are tried; and no honest model is refused for rounding of up to
1e-5 of its largest logit, if it runs in float64, where a leak stays and rounding does not.
Not guaranteed: anything against code that knows it is probed. It runs in this process, could look
at the sizes (a width, a token or a position of the full profile), at the device, or at the clock,
and could change what this file reports. The audit after scoring is the boundary for that.
"""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch

from edited_file import import_file
from probes import pairs
from probes.forward import compiled, forwards
from probes.parts import check_parts
from probes.report import Report, TimeUp, changed_lines, choose_line
from probes.state import seed_everything
from probes.subject import Call, Subject
from probes.training import Trainer, age, counted, fresh, perturb

FILE = "nanoGPT/custom_pretrain.py"

# Depths that real profiles have: an edit may group layers by fours. Widths and vocabularies are as
# small as their use allows.
SIZES: tuple[dict[str, Any], ...] = (
    {"n_layer": 4, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 64},
    {"n_layer": 6, "n_head": 4, "n_embd": 32, "block_size": 24, "vocab_size": 288,
     "bias": True, "dropout": 0.1},
)  # fmt: skip
WIDE = {"n_layer": 24, "n_head": 2, "n_embd": 32, "block_size": 1024, "vocab_size": 50304}
TINY = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 128, "vocab_size": 4096}


def examine(path: Path, name: str = FILE, seed: int = 0, quick: bool = False) -> Report:
    """All checks of the edited file at `path`, whose siblings lie beside it.

    Nothing that the edited code prints is shown, and nothing that it raises comes through. Half of
    them run in a process beside this one, which is forked when the file has been imported.
    `quick` leaves out that half and the full depth, and ends with the first state in which
    something is found: a sixth of the work.
    """
    start = time.perf_counter()
    report = Report(path, name, own_lines(path))
    threads, logged = torch.get_num_threads(), logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        logging.disable()  # what a compiler has to say is in its exception
        torch.set_num_threads(1)  # handing small tensors over takes longer than computing them
        try:
            with in_time(report):
                _examine(path, report, seed, quick)
        finally:
            torch.set_num_threads(threads)
            logging.disable(logged)
    report.facts["contract_s"] = round(time.perf_counter() - start, 2)
    return report


def _examine(path: Path, report: Report, seed: int, quick: bool) -> None:
    module, settings = None, None
    with report.guard("construction", "importing the file"):
        module = import_file(path)
    if module is None:
        return
    with report.guard("construction", "reading CONFIG_OVERRIDES"):
        settings = module.read_settings([], module.CONFIG_OVERRIDES)
    if settings is None:
        return
    if quick:
        examine_half(0, module, settings, seed, report, quick)
        return
    second = Report(path, report.name, report.own)
    with beside(examine_half, 1, module, settings, seed, second) as result:
        with in_time(report):
            examine_half(0, module, settings, seed, report)
        report.merge(result())


def examine_half(
    half: int, module: ModuleType, settings: Any, seed: int, report: Report, quick: bool = False
) -> None:
    """One of the sizes in all its states, and some of the checks that have sizes of their own."""
    subject = construct(module, SIZES[half], seed + half, report)
    if subject is None or not examine_size(subject, module, settings, report, quick):
        return
    if not quick and half == 0:
        own_sizes(module, seed, settings.max_iters, report)
        wide(module, seed, settings.max_iters, report)
    elif not quick:
        compiled(module, SIZES[0], seed, report)
    # What is made under inference_mode cannot take part in a backward pass, and an edit may keep
    # it: last of all.
    call = Call(False, settings.max_iters, "inference", targets=False)
    pairs.evaluation(subject, report, call)
    pairs.independence(subject, report, [call, call])
    report.facts["forwards"] = subject.forwards


@contextlib.contextmanager
def in_time(report: Report) -> Iterator[None]:
    """Notes it in `report` if the time is up."""
    try:
        yield
    except TimeUp as error:
        advice = "Make the construction or the forward faster."
        report.add("time", str(error), advice=advice, line=error.line)


@contextlib.contextmanager
def beside(examine: Callable[..., None], *arguments: Any) -> Iterator[Callable[[], Report]]:
    """Runs `examine(*arguments)`, the last of which is a report, in a forked process.

    What it yields waits for the end and gives that report. The process has a timer like this one's.
    """
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    report: Report = arguments[-1]
    timer = signal.getitimer(signal.ITIMER_PROF)

    def work() -> None:
        with in_time(report):
            signal.setitimer(signal.ITIMER_PROF, *timer)
            examine(*arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sender.send(report)

    def result() -> Report:
        try:
            found: Report = receiver.recv()
        except EOFError:
            process.join()
            text = f"The process of the probes ended with code {process.exitcode}"
            report.add("exception", text, advice="Let the edited code end no process.")
            return report
        return found

    process = fork.Process(target=work)
    process.start()
    sender.close()
    try:
        yield result
    finally:
        process.kill()
        process.join()
        receiver.close()


def own_lines(path: Path) -> frozenset[int]:
    """The lines in which the file at `path` differs from the one beside this."""
    pristine = Path(__file__).with_name(path.name)
    if not pristine.is_file():
        return frozenset()
    return changed_lines(path.read_text(encoding="utf-8"), pristine.read_text(encoding="utf-8"))


def rewritten(report: Report) -> frozenset[str]:
    """The classes of which the edit has lines of its own, by name."""
    tree = ast.parse(report.path.read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and not report.own.isdisjoint(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    )


def construct(
    module: ModuleType, sizes: dict[str, Any], seed: int, report: Report
) -> Subject | None:
    """A new model of these sizes, or None with a finding."""
    where = f"{sizes['n_layer']} layers, width {sizes['n_embd']}, {sizes['n_head']} heads"
    advice = "Take sizes from config: the checks build the model at other sizes too."
    with report.guard("construction", where, advice=advice):
        seed_everything(seed)
        config = module.GPTConfig(**sizes)
        model = module.GPT(config)
        check_parts(model, module, config, report, "at initialisation")
        return Subject(model, config, seed, rewritten(report))
    return None


def examine_size(
    subject: Subject, module: ModuleType, settings: Any, report: Report, quick: bool = False
) -> bool:
    """One model from its construction to some training; False if its forward does not work."""
    last = settings.max_iters  # what GPT.step holds when the trained model is scored
    works = [forwards(subject, Call(train, 0), report) for train in (False, True)]
    if not all(works):
        return False
    steps = (0, 30, 300, 5000, last - 1, last)
    few = [Call(False, last), Call(True, 5000)]
    full = [
        *(Call(False, step, ("grad", "no_grad")[n % 2]) for n, step in enumerate(steps)),
        *(Call(True, step) for step in (0, 5000, last - 1)),
        Call(False, last, "autocast"),
        Call(True, 5000, "autocast"),
        Call(False, last, "no_grad", targets=False),
    ]
    for call in (Call(False, 0), Call(False, last, "no_grad")):
        pairs.evaluation(subject, report, call)
    check_parts(subject.model, module, subject.config, report, "after forwards", subject.watch)
    pairs.independence(subject, report, [Call(False, 0), *few])
    if quick and report.findings:
        return True
    start = subject.snapshot

    own = perturb(subject, 0.02, 0.02)
    subject.keep("all parameters moved at random by 0.02")
    pairs.independence(subject, report, full)
    pairs.sweep(subject, report, Call(False, last))
    if quick and report.findings:
        return True
    moved = subject.snapshot
    perturb(subject, 0.5, 0.5)
    subject.keep("all parameters moved at random by 0.5")
    pairs.independence(subject, report, few, lenient=True)
    # A gate may start far from where it opens.
    ways = ((1, "up"), (-1, "down"), (30, "far"), (1000, "up"), (-1000, "down"))
    for sigma, name in ways if own else ():
        moved.restore()
        subject.keep()
        perturb(subject, 0.0, sigma, one_way=name != "far")
        subject.keep(f"the edit's own parameters moved {name} at random by {abs(sigma)}")
        pairs.independence(subject, report, few, lenient=True)

    start.restore()
    subject.keep("at initialisation")
    before = counted(subject, module)
    trainer = Trainer(subject, settings, report)
    stepped = trainer.take((0, 1, 2))
    after = "after optimizer steps"
    check_parts(subject.model, module, subject.config, report, after, subject.watch)
    if not stepped:
        return True
    subject.keep("after 3 optimizer steps")
    some = [Call(False, 0), *few, Call(True, last - 1), Call(False, last, "no_grad", targets=False)]
    for call in (Call(False, last), Call(True, 5000)):
        forwards(subject, call, report)
    pairs.evaluation(subject, report, Call(False, last, "no_grad"))
    pairs.independence(subject, report, some)
    subject.snapshot.restore()
    if not trainer.take((5000, last - 2, last - 1)):
        return True
    trainer.judge()
    subject.keep("after 6 optimizer steps")
    trained = subject.snapshot
    fresh(subject, module, Call(False, last, "no_grad"), report)
    trained.restore()
    for call in few:
        subject.prepare(call)
        with report.guard("exception", f"{call}, {subject.state}"):
            subject.call(call, *[subject.ids("natural", 2, subject.config.block_size)] * 2)
    restore = age(subject, module, before)
    subject.keep("after 6 optimizer steps, with counters at a million")
    pairs.independence(subject, report, few, lenient=True)
    restore()
    trained.restore()
    subject.keep("after 6 optimizer steps")
    return True


def own_sizes(module: ModuleType, seed: int, step: int, report: Report) -> None:
    """The tiny profile as it is, with the batches and lengths of the profiles for CPUs."""
    subject = construct(module, TINY, seed, report)
    if subject is None:
        return
    perturb(subject, 0.02, 0.02)
    subject.keep("at the tiny profile's size, all parameters moved at random by 0.02")
    for b, t, train in ((8, 128, False), (8, 128, True), (1, 128, False), (4, 64, True)):
        call = Call(train, step, targets=False)
        ids = subject.ids("natural", b, t)
        with report.guard("exception", f"b={b}, t={t}, {call}, {subject.state}"):
            base = pairs.repeats(subject, report, call, ids, ids)
            if base is not None:
                pairs.causality(subject, report, call, ids, ids, (t // 2,), base)


def wide(module: ModuleType, seed: int, step: int, report: Report) -> None:
    """The full profile's depth, length and vocabulary at a small width, as scoring calls it."""
    torch.set_num_threads(2)
    subject = construct(module, WIDE, seed, report)
    if subject is not None:
        perturb(subject, 0.02, 0.02)
        subject.keep("at full depth and length, all parameters moved at random by 0.02")
        call = Call(False, step, "no_grad", targets=False)
        ids = subject.ids("natural", 1, WIDE["block_size"])
        ids[:, 1::3] = subject.ids("random", *ids[:, 1::3].shape)
        with report.guard("exception", f"{call}, {subject.state}"):
            base = pairs.repeats(subject, report, call, ids, ids)
            if base is not None:
                pairs.causality(subject, report, call, ids, ids, (600, 1023), base)
    torch.set_num_threads(1)


def main(argv: list[str] | None = None) -> None:
    if (argv or sys.argv[1:]) != ["contract"]:
        print("ERROR: this check has only the role contract. Call it with that.", file=sys.stderr)
        sys.exit(2)
    path = Path(os.environ["HARNESS_FILES"]).resolve() / FILE
    out = Path(os.environ["HARNESS_OUT"])
    budget = float(os.environ.get("HARNESS_LIMIT_S", 60)) * 5 / 6

    def end(_: int, frame: FrameType | None) -> None:
        lines: list[int] = []
        while frame is not None:
            if frame.f_code.co_filename == str(path):
                lines.insert(0, frame.f_lineno)
            frame = frame.f_back
        line = choose_line(lines, own_lines(path))
        raise TimeUp(f"The probes do not end within {budget:.0f} s of processor time", line)

    # Processor time, since other work on the machine is not the edit's fault; and again each
    # second, should an edit catch everything.
    signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, budget, 1.0)
    try:
        report = examine(path, FILE, int(os.environ.get("HARNESS_SEED", "0")))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    found = {"findings": report.findings, "warnings": report.warnings, "facts": report.facts}
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f"findings.json.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, out / "findings.json")
    print(f"{len(report.findings)} findings, {len(report.warnings)} warnings")


if __name__ == "__main__":
    main()
