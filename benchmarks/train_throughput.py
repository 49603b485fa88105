"""Speed and memory of the first steps of a training stage, on random tokens.

    python benchmarks/train_throughput.py [--script gpt_345m.sh] [--steps 20] [--gpus 0]

Runs the stage's own script as a test would, and prints a Markdown table: the loss of the first and
the last step (nats/token), seconds until the first step is done (imports and compilation included),
tokens/s over the later steps, peak GPU memory. Needs no harness, only torch and numpy.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "tasks/llm-pretrain-residual/scripts"
STEP = re.compile(r"^step (\d+) of \d+: loss ([\d.]+)(?:, ([\d,]+) tokens/s)?")
PEAK = re.compile(r"^peak memory: ([\d.]+) GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--script", default="gpt_345m.sh")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--gpus", default="0", help="ids, comma-separated; empty for a CPU")
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--vocab-size", type=int, default=50257)
    parser.add_argument("extra", nargs="*", help="further --key=value settings, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    print("\n| what | figure |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


def measure(options: argparse.Namespace, folder: Path) -> list[tuple[str, str]]:
    data = folder / "data"
    prepare = [sys.executable, ROOT / "nanoGPT/prepare_data.py", "random", "--out", data]
    sizes = ["--tokens", options.tokens, "--vocab-size", options.vocab_size]
    subprocess.run([str(part) for part in [*prepare, *sizes]], check=True)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HARNESS_FILES": str(ROOT),
        "HARNESS_DATA": str(data / "run"),
        "HARNESS_OUT": str(folder / "out"),
        "HARNESS_SEED": "42",
        "HARNESS_GPUS": options.gpus,
        "HARNESS_PROFILE": "benchmark",
        "HARNESS_STAGE": "benchmark",
        "PYTHONUNBUFFERED": "1",
    }
    (folder / "out").mkdir()
    settings = [f"--max_iters={options.steps}", "--log_interval=1", "--save_interval=0"]
    settings += [f"--eval_interval={options.steps}", "--eval_windows=64", *options.extra]
    command = ["bash", str(SCRIPTS / options.script), "run", *settings]
    began = time.perf_counter()
    first_step = 0.0
    losses: list[float] = []
    speeds: list[float] = []
    peak = "-"
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if match := STEP.match(line):
                first_step = first_step or time.perf_counter() - began
                losses.append(float(match[2]))
                if match[3]:
                    speeds.append(float(match[3].replace(",", "")))
            if match := PEAK.match(line):
                peak = f"{match[1]} GiB"
    if process.returncode != 0 or not losses:
        sys.exit(f"the stage failed with exit code {process.returncode}")
    # The first steps after compilation still warm up caches and allocator.
    steady = sorted(speeds[len(speeds) // 4 :])
    median = steady[len(steady) // 2] if steady else 0.0
    return [
        ("hardware", hardware()),
        ("loss, first step", f"{losses[0]:.4f}"),
        (f"loss, step {len(losses)}", f"{losses[-1]:.4f}"),
        ("until the first step is done", f"{first_step:.0f} s"),
        ("tokens/s, median", f"{median:,.0f}"),
        ("peak GPU memory", peak),
    ]


def hardware() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"{os.cpu_count()} CPU cores, torch {torch.__version__}"
    return (
        f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
