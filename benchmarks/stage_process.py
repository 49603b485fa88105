"""What the benchmarks of training share: a stage's own script as a process, and what it printed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from serving import SCRIPTS

STEP = re.compile(r"^step (\d+) of \d+: loss ([\d.]+)(?:, ([\d,]+) tokens/s)?")
EVALUATED = re.compile(r"^TRAIN_METRICS: step=(\d+), .*val_loss=([\d.]+)")
PEAK = re.compile(r"^peak memory: ([\d.]+) GiB")


@dataclass
class Measured:
    """What one process of training printed."""

    first_step: float = 0.0
    """Seconds from its start until a first step was done."""
    losses: list[float] = field(default_factory=list)
    """Of the training batches, nats/token."""
    speeds: list[float] = field(default_factory=list)
    """Tokens/s of single steps."""
    monitor: dict[int, float] = field(default_factory=dict)
    """Loss on the monitor split after so many steps, nats/token."""
    peak: str = "-"

    @property
    def speed(self) -> float:
        """Tokens/s, the median; the first steps after compilation still warm up."""
        steady = self.speeds[len(self.speeds) // 4 :]
        return median(steady) if steady else 0.0

    def read(self, line: str, seconds: float) -> None:
        """Takes in a line that the stage printed so long after its start."""
        if match := STEP.match(line):
            self.first_step = self.first_step or seconds
            self.losses.append(float(match[2]))
            if match[3]:
                self.speeds.append(float(match[3].replace(",", "")))
        if match := EVALUATED.match(line):
            self.monitor[int(match[1])] = float(match[2])
        if match := PEAK.match(line):
            self.peak = f"{match[1]} GiB"


def stage_command(script: str, steps: int, extra: Iterable[str] = ()) -> list[str]:
    """The stage's script in the role `run`, which tells every step."""
    settings = [f"--max_iters={steps}", "--log_interval=1", "--save_interval=0"]
    settings += [f"--eval_interval={steps}", "--eval_windows=64", *extra]
    return ["bash", str(SCRIPTS / script), "run", *settings]


def stage_environment(files: Path, data: Path, out: Path, gpus: str, seed: int) -> dict[str, str]:
    """The variables that the harness would give it; `data` is a prepared folder."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HARNESS_FILES": str(files),
        "HARNESS_DATA": str(data.absolute() / "run"),
        "HARNESS_OUT": str(out),
        "HARNESS_SEED": str(seed),
        "HARNESS_GPUS": gpus,
        "HARNESS_PROFILE": "benchmark",
        "HARNESS_STAGE": "benchmark",
        "PYTHONUNBUFFERED": "1",
    }
