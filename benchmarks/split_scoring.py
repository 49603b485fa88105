"""What scoring through a confined model server costs beside scoring in one process.

    python benchmarks/split_scoring.py [--profile tiny] [--windows 400] [--rounds 3]

Scores the same windows of random tokens by the same untrained model in both ways, in turn, and
prints a Markdown table: seconds of each (median over the rounds), the ratio, and the largest
difference of a loss. Then how long a sandbox and the server in it take to start. The server runs
in the sandbox if this machine has one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from serving import ROOT, server_plan, settings_of  # puts the packages below on the path

import channel  # isort: split

from scored import direct

import checkpoint
import custom_pretrain
from harness import sandbox
from harness.sandbox import Confinement
from scoring.served import Checkpoint, ServedModel, Sizes, ready
from scoring.spans import fixed_windows

LABEL = "gpt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--windows", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpus", default="", help="id of a GPU; empty for a CPU")
    options = parser.parse_args()
    os.environ["HARNESS_GPUS"] = options.gpus
    settings = settings_of(options.profile)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = Sizes.of(settings)
        config = custom_pretrain.read_settings(settings, {}).model()
        torch.manual_seed(1)
        checkpoint.save_weights(folder, LABEL, custom_pretrain.GPT(config), {})
        plan = server_plan(folder, settings, options.gpus) | {"log": str(folder / "serve.log")}
        (folder / "serve.json").write_text(json.dumps(plan))
        os.environ[channel.SERVER] = str(folder / "serve.json")
        tokens = np.random.default_rng(2).integers(
            0, sizes.vocab_size, options.windows * sizes.block_size + 1
        )
        spans = fixed_windows(tokens, sizes.block_size)
        device = "cuda" if options.gpus else "cpu"
        alone = direct(ROOT / "nanoGPT/custom_pretrain.py", settings, folder, LABEL, device)
        began = time.perf_counter()
        times: dict[str, list[float]] = {"direct": [], "split": []}
        with ServedModel(LABEL, sizes) as server:
            split = ready(server, Checkpoint(folder, LABEL), sizes, 0.0)
            start = time.perf_counter() - began
            losses = {}
            for round_number in range(options.rounds + 1):  # the first warms up
                for way, model in (("direct", alone), ("split", split)):
                    began = time.perf_counter()
                    losses[way] = np.concatenate([r.losses for r in model.score(spans)])
                    if round_number:
                        times[way].append(time.perf_counter() - began)
    one, two = (statistics.median(times[way]) for way in ("direct", "split"))
    count = len(spans) * sizes.block_size
    differ = float(np.abs(losses["direct"] - losses["split"]).max())
    print(f"\n{options.profile}, {device}, {count:,} tokens, {options.rounds} rounds")
    print("\n| scored | seconds | tokens/s | ratio |\n|---|---|---|---|")
    print(f"| in one process | {one:.2f} | {count / one:,.0f} | 1 |")
    print(f"| through the model server | {two:.2f} | {count / two:,.0f} | {two / one:.3f} |")
    print(
        f"\nLargest difference of a loss: {differ:.1e} nats. The server was ready in {start:.1f} s."
    )
    print_start_up()


def print_start_up() -> None:
    """How long an empty sandbox takes, beside the same program without one."""
    program = sandbox.find()
    if isinstance(program, sandbox.Problem):
        return
    confinement = Confinement(mounts=[], packages=["torch"], file_bytes=1 << 20, chdir="/")
    inside = [program, *sandbox.arguments(confinement, sandbox.environment()), "--", "true"]
    times: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(11):
        for way, command in (("without", ["true"]), ("with", inside)):
            began = time.perf_counter()
            subprocess.run(command, check=True)
            times[way].append(time.perf_counter() - began)
    one, two = (1000 * statistics.median(times[way]) for way in ("without", "with"))
    print(f"A sandbox starts and ends in {two:.0f} ms; the program alone in {one:.1f} ms.")


if __name__ == "__main__":
    main()
