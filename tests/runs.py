"""Run directories for tests: plans of shell scripts, and the processes that they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from harness.jobs.plan import (
    Plan,
    PlanStage,
    PlanStep,
    RunStatus,
    Surroundings,
    base_environment,
    prepare_run_dir,
    read_status,
)
from harness.task import Role
from harness.workspace import RunPaths

ROOT = Path(__file__).resolve().parents[1]


def around(paths: RunPaths, data_dir: Path, **known: Any) -> Surroundings:
    """A plan's surroundings, with the cache beside the run."""
    return Surroundings(paths, data_dir, paths.root / "cache", **known)


def stage(
    folder: Path,
    label: str,
    *,
    run: str | None = None,
    score: str | None = None,
    needs: Sequence[str] = (),
    limit_s: float = 20,
    log_bytes: int = 100_000,
) -> PlanStage:
    """A stage whose halves are these shell commands."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / f"{label}.sh"
    script.write_text(f"case $1 in\nrun)\n{run or ':'}\n;;\nscore)\n{score or ':'}\n;;\nesac\n")
    paths = RunPaths(folder / "run")
    roles: list[Role] = ["run"] if run is not None else []
    roles += ["score"] if score is not None else []
    steps = [
        PlanStep(
            role=role,
            limit_s=limit_s,
            log_bytes=log_bytes,
            env={"HARNESS_OUT": str(paths.role_out(label, role)), "HARNESS_STAGE": label},
        )
        for role in roles
    ]
    return PlanStage(name=label, label=label, script=str(script), needs=list(needs), steps=steps)


def prepare(folder: Path, *stages: PlanStage) -> RunPaths:
    """A run directory of these stages, ready to be carried out."""
    paths = RunPaths(folder / "run")
    plan = Plan(
        task="shell",
        profile="toy",
        number=1,
        attempt=1,
        seed=42,
        sandbox=False,
        env=base_environment(paths) | {"HARNESS_FILES": str(paths.files)},
        stages=list(stages),
        editable_files=["model.py"],
    )
    prepare_run_dir(paths, plan, {"model.py": "pass\n"})
    return paths


def start(paths: RunPaths, **environment: str) -> subprocess.Popen[str]:
    """A runner at work on the directory."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness.jobs.runner", str(paths.root)],
        cwd=ROOT,
        env=os.environ | environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(runner: subprocess.Popen[str], code: int = 0) -> str:
    """Waits for a runner; what it said."""
    said, _ = runner.communicate(timeout=30)
    assert runner.returncode == code, said
    return said


def carry_out(paths: RunPaths, **environment: str) -> RunStatus:
    """The status after a whole run."""
    finish(start(paths, **environment))
    return status_of(paths)


def status_of(paths: RunPaths) -> RunStatus:
    status = read_status(paths)
    assert status is not None
    return status


def wait_for(condition: Callable[[], object], seconds: float = 15) -> None:
    """Until it holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def alive(pid_file: Path) -> bool:
    """Whether the process whose id stands in the file lives."""
    try:
        return psutil.Process(int(pid_file.read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    os.killpg(os.getpgid(pid), number)
