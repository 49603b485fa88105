"""Small data folders, edited copies of the training file, and runs of it in this process."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from corpus.layout import describe_split, write_shard

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "nanoGPT"
FILE = FOLDER / "custom_pretrain.py"

SMALL = (
    "--device=cpu",
    "--bfloat16=false",
    "--compile=false",
    "--vocab_size=64",
    "--n_layer=3",
    "--n_head=2",
    "--n_embd=16",
    "--block_size=16",
    "--global_batch=8",
    "--micro_batch=2",
    "--max_iters=8",
    "--learning_rate=1e-2",
    "--eval_interval=2",
    "--eval_windows=6",
    "--log_interval=1",
    "--save_interval=0",
)
"""Settings of a run of 0.1 s: four micro-batches a step, so that ranks can share them."""

_numbers = itertools.count()


def make_data(folder: Path, vocab_size: int = 64, tokens: int = 2000) -> Path:
    """A data folder of the run role: random tokens in which each even id is followed by its next.

    The loss can fall below that of uniform guessing, ln(vocab_size), by learning that much.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", tokens), ("monitor", 200)):
        ids = rng.integers(0, vocab_size // 2, size=count // 2) * 2
        write_split(folder, name, np.stack([ids, ids + 1], axis=1).ravel(), vocab_size=vocab_size)
    return folder


def write_split(folder: Path, name: str, *parts: ArrayLike, vocab_size: int = 64) -> None:
    """A split of a data folder, a shard for each part, and its place in meta.json."""
    path = folder / "meta.json"
    meta = json.loads(path.read_text()) if path.exists() else {"eot": 0, "splits": {}}
    for old in folder.glob(f"{name}-*"):
        old.unlink()
    shards = [
        write_shard(folder, name, number, np.asarray(part, dtype=np.uint16), [0])
        for number, part in enumerate(parts)
    ]
    meta |= {"vocab_size": vocab_size, "dataset": "pairs"}
    meta["splits"][name] = describe_split(shards)
    path.write_text(json.dumps(meta))


def load(file: Path = FILE) -> ModuleType:
    """The training file at `file` as a module of its own, its locked siblings beside it."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"training_file_{next(_numbers)}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def edited(folder: Path, *changes: tuple[str, str]) -> Path:
    """A copy of the training file in `folder` with each old text replaced by the new one."""
    text = FILE.read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{text.count(old)} times in the file: {old}"
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE.name
    path.write_text(text)
    return path


@dataclass
class Trainer:
    """Runs the training file over one data folder; each run has its own output folder."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    seed: int = 42

    def environment(self, out: str) -> dict[str, str]:
        return {
            "HARNESS_DATA": str(self.folder / "data"),
            "HARNESS_OUT": str(self.folder / out),
            "HARNESS_SEED": str(self.seed),
            "HARNESS_STAGE": "gpt-test",
        }

    def run(self, *arguments: str, file: Path = FILE, out: str = "out") -> str:
        """What a run in this process prints. SystemExit if it fails."""
        for name, value in self.environment(out).items():
            self.monkeypatch.setenv(name, value)
        self.capsys.readouterr()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            load(file).main([*SMALL, *arguments])
        finally:
            torch.set_num_threads(threads)
        return self.capsys.readouterr().out

    def fail(self, *arguments: str, file: Path = FILE, out: str = "out") -> str:
        """The one line that a failing run leaves on stderr."""
        with pytest.raises(SystemExit) as ending:
            self.run(*arguments, file=file, out=out)
        assert ending.value.code == 1
        line, rest = self.capsys.readouterr().err.split("\n", 1)
        assert rest == ""
        return line

    def run_ranks(self, world: int, *arguments: str, file: Path = FILE, out: str = "out") -> str:
        """What the first of `world` gloo processes prints, once all of them have ended well."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {
            **os.environ,
            **self.environment(out),
            "PYTHONPATH": str(FOLDER),
            "OMP_NUM_THREADS": "1",
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        ranks = [
            subprocess.Popen(
                [sys.executable, str(file), *SMALL, *arguments],
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        try:
            said = [rank.communicate(timeout=100) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        assert [rank.returncode for rank in ranks] == [0] * world, said
        assert all(text == "" for text, _ in said[1:])
        return said[0][0]


def metrics(log: str) -> dict[int, tuple[float, float]]:
    """Training and validation loss of each evaluation by step, as printed."""
    pattern = r"^TRAIN_METRICS: step=(\d+), train_loss=(\S+), val_loss=(\S+)$"
    found = re.findall(pattern, log, re.MULTILINE)
    return {int(step): (float(train), float(val)) for step, train, val in found}


def losses(log: str) -> list[float]:
    """The training loss of each step that the log tells, in order."""
    return [float(x) for x in re.findall(r"^step \d+ of \d+: loss ([0-9.]+)", log, re.MULTILINE)]
