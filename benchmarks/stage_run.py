"""A stage as the harness carries it out, sandbox and all, with settings of one's own.

    python benchmarks/stage_run.py --profile 345m --gpus 0,1 -- --max_iters=20 --eval_interval=10

Copies the task, adds the settings to the profile's, prepares random tokens (or takes the prepared
folder that --data names), and lets the runner go through the first stage, or as many as --stages
says: reference and preflight if the profile has them, then training and scoring. Prints a Markdown
table of the steps with their times, what training printed, the size and hash of the checkpoint, and
what the audit measured. With --edit, a Python file's text takes the place of the block loop's
line; --baseline takes the files of one. --picture draws the losses, and needs matplotlib. Needs
numpy, torch, psutil, pydantic, pyyaml, packaging, and this checkout, no installed harness.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from baselines import baseline_files  # noqa: E402

from harness import sandbox  # noqa: E402
from harness.jobs.plan import (  # noqa: E402
    Surroundings,
    give_gpus,
    make_plan,
    prepare_run_dir,
    read_status,
    snapshot,
)
from harness.task import Task, load_task  # noqa: E402
from harness.workspace import RunPaths  # noqa: E402

TASK = "llm-pretrain-residual"
FILE = "nanoGPT/custom_pretrain.py"
LOOP = "            x = block(x)\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--profile", default="345m")
    parser.add_argument("--gpus", default="0,1", help="ids, comma-separated; empty for a CPU")
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--vocab-size", type=int, default=50257)
    parser.add_argument("--data", type=Path, help="a prepared folder in place of random tokens")
    parser.add_argument("--stages", type=int, default=1, help="so many of the profile's")
    parser.add_argument("--lines", default="", help="further ones of the profile's settings file")
    parser.add_argument("--picture", type=Path, help="draws the losses of training there")
    parser.add_argument("--windows", type=int, default=64, help="that are scored, of each split")
    parser.add_argument("--edit", type=Path, help="text in place of the block loop's line")
    parser.add_argument("--baseline", help="the name of the task's baseline to train")
    parser.add_argument("--keep", type=Path, help="copies logs, results, checkpoints there")
    parser.add_argument("extra", nargs="*", help="further --key=value settings, behind --")
    options = parser.parse_args()
    gpus = [gpu for gpu in options.gpus.split(",") if gpu]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = own_copy(folder, options)
        data = folder / "data"
        prepare_data(task, options, data)
        paths = RunPaths(folder / "run")
        cache = folder / "cache"
        cache.mkdir()
        found = sandbox.find()
        print(f"sandbox: {found}")
        around = Surroundings(
            paths, data, cache, gpus=len(gpus), sandbox=not isinstance(found, sandbox.Problem)
        )
        plan = make_plan(task, options.profile, 1, 1, around)
        plan = plan.model_copy(update={"stages": plan.stages[: options.stages]})
        edited = baseline_files(task, options.baseline) if options.baseline else {}
        if options.edit:
            text = task.read_file(FILE)
            assert text.count(LOOP) == 1
            edited[FILE] = text.replace(LOOP, options.edit.read_text(encoding="utf-8"))
        prepare_run_dir(paths, plan, snapshot(task, edited), snapshot(task, {}))
        give_gpus(paths, gpus)
        command = [sys.executable, "-m", "harness.jobs.runner", str(paths.root)]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        for stage in plan.stages:
            show(paths, stage.label)
        if options.picture:
            draw(paths.step(plan.stages[0].label, "run").log, options.picture)
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            for file in paths.root.rglob("*"):
                if file.name in ("log.txt", "metrics.json", "exit.json"):
                    name = f"{file.parent.parent.name}.{file.parent.name}.{file.name}"
                    shutil.copy(file, options.keep / name)
                elif file.name.startswith("ckpt_") and file.is_file():
                    shutil.copy(file, options.keep / file.name)


def own_copy(folder: Path, options: argparse.Namespace) -> Task:
    """The task in a folder of its own, where the profile's settings go on as the options say."""
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "nanoGPT", folder / "nanoGPT", ignore=left_out)
    shutil.copytree(ROOT / "tasks" / TASK, folder / "tasks" / TASK, ignore=left_out)
    scripts = folder / "tasks" / TASK / "scripts"
    with (scripts / f"settings_{options.profile}.sh").open("a") as file:
        file.write(f"settings+=({' '.join(options.extra)})\n")
        file.write(f"scoring+=(--max-windows={options.windows})\n{options.lines}\n")
    return load_task(folder / "tasks" / TASK)


def prepare_data(task: Task, options: argparse.Namespace, data: Path) -> None:
    """Random tokens, or the folder of the options, in the place of the profile's data set."""
    own = data / task.profile(options.profile).data.name
    if options.data:
        shutil.copytree(options.data, own)
        return
    prepare = [sys.executable, ROOT / "nanoGPT/prepare_data.py", "random", "--out", own]
    sizes = ["--tokens", options.tokens, "--vocab-size", options.vocab_size]
    subprocess.run([str(part) for part in [*prepare, *sizes]], check=True)


def show(paths: RunPaths, label: str) -> None:
    """What the run came to."""
    status = read_status(paths)
    assert status is not None
    print(f"\n{status.state}\n\n| step | state | seconds |\n|---|---|---|")
    for step in status.steps:
        taken = ""
        if step.started_at and step.ended_at:
            began, ended = map(datetime.fromisoformat, (step.started_at, step.ended_at))
            taken = f"{(ended - began).total_seconds():.1f}"
        print(f"| {step.role} | {step.state} {' '.join(step.reason)} | {taken} |")
    for step in status.steps:
        for kept in step.kept:
            print(f"{kept.file}: {kept.bytes:,} bytes, sha256 {kept.sha256[:16]}")
    for role in ("reference", "preflight", "run", "score", "serve", "feed"):
        log = paths.step(label, role).log
        if log.is_file():
            print(f"\n-- {role}, the last lines of its log")
            print("\n".join(log.read_text(errors="replace").splitlines()[-12:]))
    for findings in sorted(paths.root.glob("checks/*/findings.json")):
        print(f"\n{findings.parent.name}: {findings.read_text()[:1500]}")
    metrics = paths.step(label, "score").metrics
    if metrics.is_file():
        content: dict[str, Any] = json.loads(metrics.read_text())
        print(json.dumps({"void": content.get("void"), **content["metrics"]}))
        print(json.dumps(content["hidden"]["audit"], indent=1))


def draw(log: Path, picture: Path) -> None:
    """The losses in a training log: of each step that it tells, and on the monitor split."""
    from matplotlib import pyplot

    text = log.read_text(errors="replace")
    steps = re.findall(r"^step (\d+) of \d+: loss ([\d.]+)", text, re.MULTILINE)
    evaluated = re.findall(r"^TRAIN_METRICS: step=(\d+), .*val_loss=([\d.]+)", text, re.MULTILINE)
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for points, style, label in ((steps, "-", "training batch"), (evaluated, "o-", "monitor")):
        x, y = zip(*((int(step), float(loss)) for step, loss in points), strict=True)
        axes.plot(x, y, style, label=label)
    axes.set(xlabel="step (524,288 tokens)", ylabel="loss, nats/token")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(picture)


if __name__ == "__main__":
    main()
