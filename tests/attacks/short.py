"""Copies of the task without checks and second stage: what stands behind has to do alone.

An attack that some day gets past the rules on the text and the probes ends here as it would in the
task, in a third of the time. Only the structure of the file is still checked. The second stage is
scored and audited by the same code as the first. With the contract, only the rules on the text are
left out.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

TASK = "llm-pretrain-residual"
PROFILE = "smoke"
KEPT = "gpt"
"""The stage that trains."""

SCORE_S = 240
"""Tests are played side by side with others."""


def make(repository: Path, folder: Path, *, contract: bool = False) -> Path:
    """The folder of tasks in a copy of the repository's parts below `folder`."""
    tasks = folder / "tasks"
    for name in ("nanoGPT", f"tasks/{TASK}"):
        shutil.copytree(repository / name, folder / name)
    with (tasks / TASK / "scripts" / f"settings_{PROFILE}.sh").open("a", encoding="utf-8") as file:
        file.write("export OMP_NUM_THREADS=1\n")
    path = tasks / TASK / "task.yaml"
    task: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    profile = task["profiles"][PROFILE]
    profile["stages"] = [stage for stage in profile["stages"] if stage["name"] == KEPT]
    for stage in profile["stages"]:
        stage["limits"]["score_s"] = SCORE_S
        stage["roles"] = [role for role in stage["roles"] if role != "preflight"]
    if not contract:
        del task["contract"]
    for file in task["files"]:
        del file["constraints"]
    task["profiles"] = {PROFILE: profile}
    task["metrics"] = [
        metric
        for metric in task["metrics"]
        if metric["stage"] == KEPT and PROFILE in metric.pop("profiles", [PROFILE])
    ]
    task |= {"baselines": [], "published": []}
    path.write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    return tasks
