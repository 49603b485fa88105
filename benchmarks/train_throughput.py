"""Speed, memory and losses of the first steps of a training stage.

    python benchmarks/train_throughput.py [--script gpt_345m.sh] [--steps 20] [--gpus 0,1]
    python benchmarks/train_throughput.py --nanogpt FOLDER --rounds 2

Runs the stage's own script as a test would, and prints Markdown tables: the loss of the first and
the last step (nats/token), seconds until the first step is done (imports and compilation included),
tokens/s over the later steps, peak GPU memory. The tokens are random unless --data names a prepared
folder.

FOLDER holds nanoGPT's train.py, model.py and configurator.py, which whoever runs this fetches. It
then trains a model of the same sizes in turn with ours, one process a round: same micro-batch and
global batch, compiled, bfloat16, evaluated before the first step alone; each tells the time of
every step, and reads its loss there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from serving import ROOT, settings_of  # puts the packages below on the path

import custom_pretrain  # isort: split

from stage_process import Measured, stage_command, stage_environment

PEER_STEP = re.compile(r"^iter (\d+): loss ([\d.]+), time ([\d.]+)ms")
PEER_FILES = ("train.py", "model.py", "configurator.py")


class Benchmark:
    """The stage, and nanoGPT beside it, on the same random tokens."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        profile = options.script.removeprefix("gpt_").removesuffix(".sh")
        self.settings = custom_pretrain.read_settings(settings_of(profile), {})
        self.gpus = [gpu for gpu in options.gpus.split(",") if gpu]

    def prepare(self) -> None:
        """Makes random tokens where they are needed."""
        if not self.options.data:
            self._random()
        if self.options.nanogpt:
            self._random_for_peer()

    def _random(self) -> None:
        prepare = [sys.executable, ROOT / "nanoGPT/prepare_data.py", "random"]
        sizes = ["--tokens", self.options.tokens, "--vocab-size", self.options.vocab_size]
        command = [*prepare, "--out", self.folder / "data", *sizes]
        subprocess.run([str(part) for part in command], check=True)

    def _random_for_peer(self) -> None:
        data = self.folder / "nanogpt/data/openwebtext"
        data.mkdir(parents=True)
        for name in PEER_FILES:
            shutil.copy(self.options.nanogpt / name, self.folder / "nanogpt")
        random = np.random.default_rng(0)
        for split in ("train", "val"):
            tokens = random.integers(self.options.vocab_size, size=self.options.tokens)
            tokens.astype(np.uint16).tofile(data / f"{split}.bin")

    def ours(self) -> Measured:
        out = Path(tempfile.mkdtemp(dir=self.folder))
        data = self.options.data or self.folder / "data"
        environment = stage_environment(ROOT, data, out, self.options.gpus, self.options.seed)
        command = stage_command(self.options.script, self.options.steps, self.options.extra)
        found, began = Measured(), time.perf_counter()
        for line in lines_of(command, ROOT, environment):
            found.read(line, time.perf_counter() - began)
        return found

    def peer(self) -> Measured:
        s = self.settings
        sizes = {"batch_size": s.micro_batch, "block_size": s.block_size, "n_layer": s.n_layer}
        sizes |= {"n_head": s.n_head, "n_embd": s.n_embd, "eval_iters": 64 // s.micro_batch}
        sizes |= {"gradient_accumulation_steps": s.global_batch // s.micro_batch}
        sizes |= {"max_iters": self.options.steps - 1, "eval_interval": 1_000_000}
        flags = [f"--{name}={value}" for name, value in sizes.items()]
        flags += ["--log_interval=1", "--bias=False", "--dropout=0.0", "--wandb_log=False"]
        flags += ["--init_from=scratch", "--compile=True", "--dtype=bfloat16"]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": self.options.gpus}
        command = [sys.executable, "train.py", *flags]
        if len(self.gpus) > 1:
            torchrun = ["-m", "torch.distributed.run", "--standalone"]
            command[1:1] = [*torchrun, f"--nproc_per_node={len(self.gpus)}"]
        found, began = Measured(), time.perf_counter()
        tokens = s.global_batch * s.block_size
        for line in lines_of(command, self.folder / "nanogpt", environment):
            if match := PEER_STEP.match(line):
                found.first_step = found.first_step or time.perf_counter() - began
                found.losses.append(float(match[2]))
                # Its first one is timed from before the evaluation.
                if int(match[1]) > 0:
                    found.speeds.append(tokens / float(match[3]) * 1000)
        return found


def lines_of(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """What the command prints, shown as it comes. Ends the program if it fails."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            yield line
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with exit code {process.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--script", default="gpt_345m.sh")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--gpus", default="0", help="ids, comma-separated; empty for a CPU")
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--vocab-size", type=int, default=50257)
    parser.add_argument("--data", type=Path, help="a prepared folder in place of random tokens")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--nanogpt", type=Path, help="folder of the program to run beside it")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each")
    parser.add_argument("extra", nargs="*", help="further --key=value settings, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(options, Path(folder))
        benchmark.prepare()
        rounds = [
            (benchmark.ours(), benchmark.peer() if options.nanogpt else None)
            for _ in range(options.rounds)
        ]
    first = rounds[0][0]
    print("\n| what | figure |\n|---|---|")
    for name, value in (
        ("hardware", hardware(len(benchmark.gpus))),
        ("loss, first step", f"{first.losses[0]:.4f}"),
        (f"loss, step {len(first.losses)}", f"{first.losses[-1]:.4f}"),
        ("until the first step is done", f"{first.first_step:.0f} s"),
        ("tokens/s, median", f"{median(ours.speed for ours, _ in rounds):,.0f}"),
        ("peak GPU memory", first.peak),
    ):
        print(f"| {name} | {value} |")
    pairs = [(ours, peer) for ours, peer in rounds if peer is not None]
    if not pairs:
        return
    print("\n| round | the stage, tokens/s | nanoGPT, tokens/s | ratio | losses at the end |")
    print("|---|---|---|---|---|")
    for number, (ours, peer) in enumerate(pairs, start=1):
        ratio = ours.speed / peer.speed
        ends = f"{ours.losses[-1]:.4f}, {peer.losses[-1]:.4f}"
        print(f"| {number} | {ours.speed:,.0f} | {peer.speed:,.0f} | {ratio:.3f} | {ends} |")


def hardware(gpus: int) -> str:
    if not torch.cuda.is_available():
        return f"{os.cpu_count()} CPU cores, torch {torch.__version__}"
    return f"{gpus} x {torch.cuda.get_device_name()}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
