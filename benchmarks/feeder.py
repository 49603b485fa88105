"""How fast the feeder sends tokens, beside a process that reads the shards itself.

    python benchmarks/feeder.py [--seconds 5] [--rounds 5]

Feeding only, no model, on random tokens, at the sizes of `tiny` and of the 345M profile: a feeder
process and this one, which makes the tensors that training would get on a CPU. Beside it, in turn:
`ShardFeed`, which makes the same tensors from the shards, and the bare reading of the same rows
from np.memmap as int64. Prints a Markdown table of medians: tokens/s, ms a step, and the feeder's
ratio to bare reading.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
TRANSPORT = ROOT / "harness/transport"
sys.path[:0] = [str(ROOT / "nanoGPT"), str(TRANSPORT)]

import numpy as np  # noqa: E402
import torch  # noqa: E402

import channel  # noqa: E402
import data  # noqa: E402
import shards  # noqa: E402
from corpus.layout import describe_split, write_shard  # noqa: E402

SEED = 42
TOKENS = 20_000_000
VOCAB_SIZE = 4096
PROFILES = {
    "tiny": {"block_size": 128, "global_batch": 8, "micro_batch": 8, "save_interval": 100},
    "345m": {"block_size": 1024, "global_batch": 512, "micro_batch": 32, "save_interval": 1000},
}

Read = Callable[[int], object]
"""Takes all batches of a step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement, about")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| profile | tokens a step | how | tokens/s | ms a step | of np.memmap |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shards(folder)
        for profile, settings in PROFILES.items():
            rows(folder, profile, settings, options.seconds, options.rounds)


def make_shards(folder: Path) -> None:
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", TOKENS), ("monitor", 10_000)):
        ids = rng.integers(0, VOCAB_SIZE, size=count, dtype=np.uint16)
        splits[name] = describe_split([write_shard(folder, name, 0, ids, [0])])
    meta = {"vocab_size": VOCAB_SIZE, "splits": splits}
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def rows(folder: Path, profile: str, settings: dict[str, int], seconds: float, rounds: int) -> None:
    sizes = SimpleNamespace(**settings, vocab_size=VOCAB_SIZE, eval_windows=1)
    direct = data.ShardFeed(folder, SEED, sizes)
    bare = bare_reading(folder, sizes)
    steps = max(10, int(seconds / once(bare)))
    times: dict[str, list[float]] = {"np.memmap": [], "ShardFeed": [], "feeder": []}
    for _ in range(rounds):
        # One after the other in each round: what else the machine does meets all of them.
        times["np.memmap"].append(per_step(bare, steps))
        times["ShardFeed"].append(per_step(lambda step: drain(direct.train(step)), steps))
        times["feeder"].append(fed(folder, settings, sizes, steps))
    tokens = sizes.global_batch * sizes.block_size
    median = {how: statistics.median(values) for how, values in times.items()}
    for how, value in median.items():
        cells = (profile, f"{tokens:,}", how, f"{tokens / value:,.0f}", f"{value * 1e3:.2f}")
        print("| " + " | ".join(cells) + f" | {median['np.memmap'] / value:.2f} |", flush=True)


def bare_reading(folder: Path, sizes: SimpleNamespace) -> Read:
    """The rows of a step from the file, and no more."""
    tokens = np.memmap(folder / "train-00000.bin", dtype="<u2", mode="r")
    span = len(tokens) - sizes.block_size

    def read(step: int) -> None:
        starts = shards.sequence_starts(SEED, step, sizes.global_batch, span)
        for first in range(0, sizes.global_batch, sizes.micro_batch):
            chosen = starts[first : first + sizes.micro_batch]
            np.stack([tokens[s : s + sizes.block_size + 1] for s in chosen]).astype(np.int64)

    return read


def fed(folder: Path, settings: dict[str, int], sizes: SimpleNamespace, steps: int) -> float:
    """Seconds a step through a feeder of its own, which sends each step once."""
    out = Path(tempfile.mkdtemp(dir=folder))
    listener = channel.Listener.bind(out / "socket")
    given = {**settings, "vocab_size": VOCAB_SIZE, "max_iters": steps + 2, "eval_windows": 1}
    # No evaluation after the one that every run begins with.
    arguments = [f"--{k}={v}" for k, v in (given | {"eval_interval": steps + 2}).items()]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "feeder", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'nanoGPT'}{os.pathsep}{TRANSPORT}",
            "HARNESS_DATA": str(folder),
            "HARNESS_OUT": str(out),
            "HARNESS_SEED": str(SEED),
            channel.LISTEN: str(listener.fileno()),
        },
        pass_fds=[listener.fileno()],
        stdout=subprocess.DEVNULL,
    )
    try:
        listener.close()
        os.environ[channel.CHANNEL] = str(out / "socket")
        feed = data.StreamFeed(sizes, 0, 1, torch.device("cpu"))
        drain(feed.monitor(0))
        return per_step(lambda step: drain(feed.train(step)), steps)
    finally:
        process.kill()
        process.wait()


def drain(batches: object) -> None:
    for _ in batches:  # type: ignore[attr-defined]
        pass


def once(read: Read) -> float:
    """Seconds of a step when it is read again."""
    read(0)
    began = time.perf_counter()
    for step in range(10):
        read(step)
    return (time.perf_counter() - began) / 10


def per_step(read: Read, steps: int) -> float:
    """Seconds a step of steps 1..steps, after step 0, which does not count."""
    read(0)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        read(step)
    return (time.perf_counter() - began) / steps


if __name__ == "__main__":
    main()
