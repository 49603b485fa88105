"""The first optimizer steps of a training file, timed: one process that preflight.py starts.

    python -P nanoGPT/preflight_steps.py REQUEST      a `Request` as JSON

Builds and trains as the loop of custom_pretrain.py does, with the model and the optimizer of the
file in `folder`, on random tokens: two micro-batches a step, because the second one's backward
pass meets the gradients of the first, which is where memory peaks. Then one forward pass in eval
mode. What it finds goes to the file `events`, a JSON object a line, the last one `result` or
`failed`.

Not guaranteed: that the figures are true. The edited code runs in this process and could write
what it likes; all that it would win is a test that fails.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
import statistics
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

WARM_UPS = (2, 12)
"""Steps before the timed ones: at least, and at most while each still compiles something."""
TIMED_S = 15.0
"""No further step is timed after so many seconds."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What to measure."""

    folder: str
    """holds the training file and its siblings"""
    events: str
    settings: list[str]
    """--key=value, as the training file takes them"""
    seed: int
    world: int
    """ranks that share a step; this process does the work of one"""
    mode: str
    """`train` as the settings say, `eager` without torch.compile, or `memory`: what needs most"""
    steps: int
    """steps to time; 0 for one step that shows only whether it works"""
    memory_gib: float | None = None
    """GPU memory that torch may use, if not all"""


class Ended(Exception):
    """The steps cannot go on; `report` says why."""

    def __init__(self, **report: Any) -> None:
        super().__init__(report.get("message"))
        self.report = report


class Loop:
    """One rank's part of the training loop, on `rows` random sequences a micro-batch.

    Args:
        module: the training file.
        s: its TrainConfig.
        request: whose part of the work.
    """

    def __init__(self, module: ModuleType, s: Any, request: Request) -> None:
        self.module, self.s, self.seed = module, s, request.seed
        self.device = torch.device(s.device)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self.amp = torch.autocast(self.device.type, torch.bfloat16, enabled=s.bfloat16)
        module.seed_random(request.seed, module.INIT)
        self.model = module.GPT(s.model()).to(self.device)
        self.optimizer = self.model.configure_optimizers(
            s.weight_decay, s.learning_rate, (s.beta1, s.beta2), self.device.type
        )
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        # What several ranks add their gradients up in.
        count = sum(p.numel() for p in self.params) + len(self.params) + 1
        self.flat = torch.empty(count if request.world > 1 else 0, device=self.device)
        self.run = torch.compile(self.model) if s.compile else self.model
        pieces = math.ceil(s.global_batch / s.micro_batch)
        self.micro_batches = math.ceil(pieces / request.world)
        """of one rank in a step"""
        self.rows = min(s.micro_batch, s.global_batch)
        generator = torch.Generator(self.device).manual_seed(request.seed)
        shape = (min(2, self.micro_batches), self.rows, s.block_size + 1)
        self.tokens = torch.randint(s.vocab_size, shape, generator=generator, device=self.device)
        self.logits: torch.Tensor | None = None
        self.losses: list[torch.Tensor] = []

    def step(self, number: int, rows: int | None = None) -> tuple[float, float]:
        """One optimizer step; seconds of its last micro-batch and of its update."""
        module, s = self.module, self.s
        self.model.step.fill_(number)
        self.model.zero_grad(set_to_none=True)
        marks = [self._mark()]
        for index, block in enumerate(self.tokens[:, :rows]):
            inputs, targets = block[:, :-1].contiguous(), block[:, 1:].contiguous()
            module.seed_random(self.seed, module.TRAIN, number, index)
            with self.amp:
                # The loop, too, holds the logits until the next micro-batch gives others.
                self.logits, part = self.run(inputs, targets)
            self.losses.append(part.detach())
            part = part * (len(inputs) / s.global_batch)
            part.backward()
            marks.append(self._mark())
        if self.flat.numel():
            self._through_flat()
        if s.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(self.params, s.grad_clip)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * s.schedule(number) / s.learning_rate
        module.seed_random(self.seed, module.UPDATE, number)
        self.optimizer.step()
        marks.append(self._mark())
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return _seconds(marks[-3], marks[-2]), _seconds(marks[-2], marks[-1])

    def evaluate(self) -> tuple[float, float]:
        """Seconds of a forward pass in eval mode without torch.compile, and its loss."""
        self.model.eval()
        block = self.tokens[0]
        seconds = 0.0
        with torch.no_grad():
            for _ in range(2):  # the first one may still choose its kernels
                began = self._mark()
                with self.amp:
                    logits, loss = self.model(block[:, :-1].contiguous(), block[:, 1:].contiguous())
                ended = self._mark()
                value = float(loss)
                seconds = _seconds(began, ended)
                del logits
        self.model.train()
        return seconds, value

    def check_finite(self, step: int) -> None:
        """Raises Ended if one of the losses so far, up to `step`, is not a finite number."""
        values = [float(loss) for loss in self.losses]
        for index, value in enumerate(values):
            if not math.isfinite(value):
                first = step + 1 - math.ceil((len(values) - index) / len(self.tokens))
                raise Ended(rule="not-finite", message=f"the loss is {value} at step {first}.")
        self.losses.clear()

    def _through_flat(self) -> None:
        start = 0
        for param in self.params:
            part = self.flat[start : start + param.numel()].view_as(param)
            start += param.numel()
            if param.grad is not None:
                part.copy_(param.grad)
                param.grad.copy_(part)

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        new: Any = torch.cuda.Event
        event = new(enable_timing=True)
        event.record()
        return event


def _seconds(began: Any, ended: Any) -> float:
    if isinstance(began, float):
        return float(ended - began)
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1000


def run(request: Request) -> None:
    """Measures, and writes every event."""

    def tell(event: str, **values: Any) -> None:
        with open(request.events, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event} | values) + "\n")

    folder = Path(request.folder) / "nanoGPT"
    file = folder / "custom_pretrain.py"
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("custom_pretrain")
        s = module.read_settings(request.settings, module.CONFIG_OVERRIDES)
        s.compile = s.compile and request.mode == "train"
        if s.device == "cuda" and request.memory_gib is not None:
            fraction = request.memory_gib * 2**30 / _card_bytes()
            torch.cuda.set_per_process_memory_fraction(min(1.0, fraction))
        loop = Loop(module, s, request)
        tell("built")
        if request.mode == "memory":
            tell("result", **what_holds_memory(loop, file))
        else:
            tell("result", **measure(loop, request, tell))
    except Ended as ended:
        tell("failed", **ended.report)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        tell("failed", **_failure(error, file, request))
    # Threads and exit handlers of the edited code have nothing more to do here.
    sys.stdout.flush()


def measure(loop: Loop, request: Request, tell: Any) -> dict[str, Any]:
    """Warms up, times `request.steps` steps, evaluates; the figures, times in seconds.

    Raises Ended if a loss is not finite.
    """
    s, cuda = loop.s, loop.device.type == "cuda"
    number, durations = 0, []
    least, most = WARM_UPS if request.steps else (1, 1)
    while True:
        graphs, began = _compiled_graphs(), time.perf_counter()
        times = loop.step(number)
        durations.append(time.perf_counter() - began)
        loop.check_finite(number)
        number += 1
        # A module that counts in Python may be compiled again at every step.
        if number >= most or (number >= least and graphs == _compiled_graphs()):
            break
    tell("warm")
    compile_s = sum(durations) - len(durations) * min(durations) if s.compile else 0.0
    samples = [times]
    began = time.perf_counter()
    if request.steps:
        samples = []
        while len(samples) < 2 or (
            len(samples) < request.steps and time.perf_counter() - began < TIMED_S
        ):
            samples.append(loop.step(number))
            number += 1
        loop.check_finite(number - 1)
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    micro_s = statistics.median(sample[0] for sample in samples)
    update_s = statistics.median(sample[1] for sample in samples)
    loop.logits = None
    try:
        forward_s, value = loop.evaluate()
    except RuntimeError as error:
        if not loop.module.progress.is_out_of_memory(error) or not s.compile:
            raise
        # The run evaluates compiled, in less memory; a forward pass is a third of a micro-batch.
        forward_s, value = micro_s / 3, 0.0
    if not math.isfinite(value):
        raise Ended(
            rule="not-finite", message=f"the loss is {value} in eval mode after {number} steps."
        )
    step_s = loop.micro_batches * micro_s + update_s
    windows = math.ceil(math.ceil(s.eval_windows / s.micro_batch) / request.world)
    evaluations = s.max_iters // s.eval_interval + (s.max_iters % s.eval_interval > 0) + 1
    return {
        "steps": s.max_iters,
        "micro_batch": loop.rows,
        "micro_batches": loop.micro_batches,
        "micro_batch_s": micro_s,
        "update_s": update_s,
        "step_s": step_s,
        "timed_steps": len(samples),
        "compile_s": compile_s,
        "compiled": bool(s.compile),
        "cache_hits": _cache_hits(),
        "test_s": compile_s + s.max_iters * step_s + evaluations * windows * forward_s,
        "peak_bytes": peak,
        "memory_bytes": _usable_bytes(request) if cuda else 0,
    }


def what_holds_memory(loop: Loop, file: Path) -> dict[str, Any]:
    """Which lines of `file` hold the tensors that a forward pass keeps, without torch.compile.

    Measured at an eighth and a quarter of the micro-batch, which may fit where all of it does not,
    and scaled up: activations grow with the rows, parameters do not.

    Returns `micro_batch`, `needed_bytes`, the peak of a whole step, and `lines`, line -> bytes.
    """
    sizes = sorted({max(1, loop.rows // 8), max(1, loop.rows // 4)})
    peaks = []
    for rows in sizes:
        loop.step(0, rows)
        torch.cuda.reset_peak_memory_stats()
        loop.step(1, rows)
        peaks.append(torch.cuda.max_memory_allocated())
    needed = peaks[-1]
    if len(sizes) > 1:
        per_row = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
        needed = int(peaks[1] + per_row * (loop.rows - sizes[1]))
    loop.model.zero_grad(set_to_none=True)
    loop.logits = None
    block = loop.tokens[0, : sizes[0]]
    memory: Any = torch.cuda.memory
    memory._record_memory_history("state", context="state", stacks="python")
    with loop.amp:
        kept = loop.model(block[:, :-1].contiguous(), block[:, 1:].contiguous())
    lines: dict[int, int] = {}
    for segment in memory._snapshot()["segments"]:
        for piece in segment["blocks"]:
            if piece["state"] != "active_allocated":
                continue
            # Innermost first: what a block allocates inside itself is not the loop's doing.
            own = [f["line"] for f in piece.get("frames", ()) if Path(f["filename"]) == file]
            if own:
                lines[own[0]] = lines.get(own[0], 0) + piece["size"]
    memory._record_memory_history(None)
    del kept
    scale = loop.rows / sizes[0]
    return {
        "micro_batch": loop.rows,
        "needed_bytes": needed,
        "lines": {str(line): int(size * scale) for line, size in lines.items()},
    }


def _failure(error: BaseException, file: Path, request: Request) -> dict[str, Any]:
    """The event of an exception: rule, line of the training file, type and message."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file]
    # torch.compile names the line in its message, and so does a file that does not parse.
    named = re.findall(rf'{re.escape(file.name)}", line (\d+)', str(error))
    line = int(named[-1]) if named else lines[-1] if lines else None
    if isinstance(error, SyntaxError) and error.filename == str(file):
        line = error.lineno
    cuda = torch.cuda.is_available()
    progress = sys.modules.get("progress")
    if progress is not None and progress.is_out_of_memory(error):
        asked = re.search(r"Tried to allocate ([\d.]+) ([KMG])iB", str(error))
        units = {"K": 2**10, "M": 2**20, "G": 2**30}
        return {
            "rule": "memory",
            "line": line,
            "asked_bytes": int(float(asked[1]) * units[asked[2]]) if asked else 0,
            "held_bytes": torch.cuda.max_memory_allocated() if cuda else 0,
            "memory_bytes": _usable_bytes(request) if cuda else 0,
        }
    first = next((part for part in str(error).splitlines() if part.strip()), "")
    name = type(error).__name__
    return {"rule": "exception", "line": line, "message": f"{name}: {first}" if first else name}


def _card_bytes() -> int:
    return int(torch.cuda.get_device_properties(0).total_memory)


def _usable_bytes(request: Request) -> int:
    if request.memory_gib is None:
        return _card_bytes()
    return min(_card_bytes(), int(request.memory_gib * 2**30))


def _compiled_graphs() -> int:
    """How many graphs torch.compile has made in this process so far."""
    utils = sys.modules.get("torch._dynamo.utils")
    return int(utils.counters["stats"]["unique_graphs"]) if utils else 0


def _cache_hits() -> int:
    utils = sys.modules.get("torch._dynamo.utils")
    if not utils:
        return 0
    hits = utils.counters["aot_autograd"]["autograd_cache_hit"]
    return int(hits + utils.counters["inductor"]["fxgraph_cache_hit"])


if __name__ == "__main__":
    run(Request(**json.loads(sys.argv[1])))
