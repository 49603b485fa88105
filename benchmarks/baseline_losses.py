"""What a task's baselines make of the first steps of training at full size, over several seeds.

    python benchmarks/baseline_losses.py --data FOLDER --gpus 0,1,2,3 --steps 140 \\
        --runs unedited:42,block_attention_residuals:42,unedited:43 --logs LOGS
    python benchmarks/baseline_losses.py --logs LOGS

Each run is a process of the stage's own script on a GPU of its own; as many go on at once as there
are GPUs, in the order given. Settings behind -- go on to the script. Runs of one seed see the same
tokens in the same order. LOGS receives what each printed, a file a run, with the seconds since its
start; the folder is enough for the tables. Those are Markdown: a row a run; then each baseline's
loss on the monitor split less the unedited file's of the same seed, with the 95% interval that
these differences give by themselves.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean, stdev

from serving import ROOT  # puts the packages below on the path

# isort: split
from baselines import baseline_files
from stage_process import Measured, stage_command, stage_environment

from harness.scoring import quantile
from harness.task import load_task

UNEDITED = "unedited"
ENDED = "ended with exit code "

Runs = dict[tuple[str, int], Measured]
"""What was measured, by the baseline's name and the seed."""


def runs_of(text: str) -> list[tuple[str, int]]:
    """NAME:SEED,... as names and seeds."""
    try:
        runs = [(name, int(seed)) for name, seed in (run.split(":") for run in text.split(","))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:SEED,NAME:SEED,...") from None
    if len(set(runs)) < len(runs):
        raise argparse.ArgumentTypeError(f"{text!r} names a run twice; name each once")
    return runs


def train(options: argparse.Namespace) -> None:
    """Carries out all runs, and leaves their logs."""
    options.logs.mkdir(parents=True)
    free: SimpleQueue[str] = SimpleQueue()
    for gpu in options.gpus.split(","):
        free.put(gpu)

    def run(name: str, seed: int) -> None:
        gpu = free.get()
        try:
            with tempfile.TemporaryDirectory() as folder:
                one_run(options, Path(folder), name, seed, gpu)
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(free.qsize()) as pool:
        for done in [pool.submit(run, name, seed) for name, seed in options.runs]:
            done.result()


def one_run(options: argparse.Namespace, folder: Path, name: str, seed: int, gpu: str) -> None:
    files = edited(options.task, name, folder)
    out = folder / "out"
    out.mkdir()
    command = stage_command(options.script, options.steps, options.extra)
    environment = stage_environment(files, options.data, out, gpu, seed)
    began = time.perf_counter()
    with (
        (options.logs / f"{name}-{seed}.log").open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            cwd=files,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            log.write(f"{time.perf_counter() - began:.1f} {line}")
            log.flush()
        log.write(f"{time.perf_counter() - began:.1f} {ENDED}{process.wait()}\n")


def edited(task: str, name: str, folder: Path) -> Path:
    """The checkout, or a folder with the baseline's files in the place of the unedited ones."""
    if name == UNEDITED:
        return ROOT
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "nanoGPT", folder / "nanoGPT", ignore=left_out)
    for file, text in baseline_files(load_task(ROOT / "tasks" / task), name).items():
        (folder / file).write_text(text, encoding="utf-8")
    return folder


def read_logs(folder: Path) -> tuple[Runs, list[str]]:
    """What was measured, and a line for each run that did not come to its end."""
    found: Runs = {}
    unfinished = []
    for path in sorted(folder.glob("*-*.log")):
        name, _, seed = path.stem.rpartition("-")
        run = found[name, int(seed)] = Measured()
        said = ["nothing"]
        for line in path.read_text(encoding="utf-8").splitlines():
            seconds, _, printed = line.partition(" ")
            run.read(printed, float(seconds))
            said.append(printed)
        if said[-1] != f"{ENDED}0":
            unfinished.append(f"{path.name} did not come to its end: {'; '.join(said[-2:])}")
    runs = sorted(found.items(), key=lambda item: (item[0][0] != UNEDITED, item[0]))
    return dict(runs), unfinished


def show_runs(runs: Runs) -> None:
    """A row a run: cost, and the loss on the monitor split on its way."""
    steps = sorted({step for run in runs.values() for step in run.monitor})
    usual = [run.speed for (name, _), run in runs.items() if name == UNEDITED and run.speed]
    heads = ["file", "seed", "until the first step", "step time, ratio", "peak"]
    heads += [f"monitor, step {step}" for step in steps]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for (name, seed), run in runs.items():
        ratio = f"{fmean(usual) / run.speed:.3f}" if usual and run.speed else "-"
        first = f"{run.first_step:.0f} s" if run.losses else "-"
        cells = [name, str(seed), first, ratio, run.peak]
        cells += [f"{run.monitor[step]:.4f}" if step in run.monitor else "-" for step in steps]
        print(f"| {' | '.join(cells)} |")
    if usual:
        print(f"\nThe unedited file: {fmean(usual):,.0f} tokens/s.")


def show_differences(runs: Runs) -> None:
    """Each baseline less the unedited file, by seed, at every step that both have."""
    names = [name for name in dict.fromkeys(name for name, _ in runs) if name != UNEDITED]
    print("\n| baseline | step | seeds | less the unedited file's | 95% interval |")
    print("|---|---|---|---|---|")
    for name in names:
        for step, differences in paired(runs, name).items():
            interval = "-"
            if (count := len(differences)) > 1:
                half = quantile(count - 1) * stdev(differences) / count**0.5
                mean = fmean(differences)
                interval = f"[{mean - half:+.4f}, {mean + half:+.4f}]"
            print(f"| {name} | {step} | {count} | {fmean(differences):+.4f} | {interval} |")


def paired(runs: Runs, name: str) -> Mapping[int, list[float]]:
    """Differences of the losses on the monitor split, nats/token, by step; one a seed."""
    found: dict[int, list[float]] = {}
    for (other, seed), run in runs.items():
        unedited = runs.get((UNEDITED, seed))
        if other == name and unedited:
            for step in sorted(run.monitor.keys() & unedited.monitor.keys() - {0}):
                found.setdefault(step, []).append(run.monitor[step] - unedited.monitor[step])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--logs", type=Path, required=True, help="folder of the runs' logs")
    parser.add_argument("--runs", type=runs_of, help="NAME:SEED,...; --logs is to be new then")
    parser.add_argument("--data", type=Path, help="a prepared folder")
    parser.add_argument("--gpus", default="0", help="ids, comma-separated")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--task", default="llm-pretrain-residual")
    parser.add_argument("--script", default="gpt_345m.sh")
    parser.add_argument("extra", nargs="*", help="further --key=value settings, after --")
    options = parser.parse_args()
    if options.runs:
        if not (options.data and (options.data / "run").is_dir()):
            parser.error("--data names the prepared folder to train on")
        if options.logs.exists():
            parser.error(f"{options.logs} is there already; name a new folder for these runs")
        known = {UNEDITED, *load_task(ROOT / "tasks" / options.task).baselines}
        if unknown := sorted({name for name, _ in options.runs} - known):
            parser.error(f"no baseline {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        train(options)
    runs, unfinished = read_logs(options.logs)
    if not runs:
        sys.exit(f"no logs of runs in {options.logs}; --runs makes some")
    show_runs(runs)
    show_differences(runs)
    if unfinished:
        sys.exit("\n".join(unfinished))


if __name__ == "__main__":
    main()
