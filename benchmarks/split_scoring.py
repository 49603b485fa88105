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
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for part in (ROOT, ROOT / "nanoGPT", ROOT / "harness/transport", ROOT / "tests"):
    sys.path.insert(0, str(part))

# As the stages have it; threads that wait by spinning stand still where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scored import direct  # noqa: E402

import channel  # noqa: E402
import checkpoint  # noqa: E402
import custom_pretrain  # noqa: E402
from harness import sandbox  # noqa: E402
from harness.sandbox import Confinement, Mount  # noqa: E402
from scoring.served import Checkpoint, ServedModel, Sizes, ready  # noqa: E402
from scoring.spans import fixed_windows  # noqa: E402

LABEL = "gpt"
SCRIPTS = ROOT / "tasks/llm-pretrain-residual/scripts"


def settings_of(profile: str) -> list[str]:
    """The settings that the profile's scripts pass on."""
    script = f'source "{SCRIPTS}/settings_{profile}.sh"; printf "%s\\n" "${{settings[@]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line]


def server_plan(folder: Path, settings: list[str], gpus: str) -> dict[str, object]:
    """How the harness would start the model server of a checkpoint in `folder`."""
    env = {"HARNESS_GPUS": gpus, "HARNESS_SEED": "42", "OMP_WAIT_POLICY": "PASSIVE", "USER": "me"}
    program = sandbox.find()
    if isinstance(program, sandbox.Problem):
        print(f"no sandbox here: {program.reason}")
        path = f"{ROOT / 'nanoGPT'}:{ROOT / 'harness/transport'}"
        env |= {"PATH": os.environ["PATH"], "PYTHONPATH": path}
        env |= {"HARNESS_FILES": str(ROOT), "HARNESS_RUN_OUT": str(folder)}
        command = [sys.executable, "-P", "-m", "model_server", "--", *settings]
        return {"argv": command, "env": env, "cwd": "/", "sandbox": None}
    mounts = [
        Mount(source=str(ROOT / "nanoGPT"), target="/harness/files/nanoGPT"),
        Mount(source=str(folder), target="/harness/run"),
    ]
    packages = ["torch", "numpy", "safetensors", "psutil"]
    confinement = Confinement(
        mounts=mounts, packages=packages, gpus=bool(gpus), file_bytes=16 << 20, chdir="/"
    )
    env = sandbox.environment() | env
    env["PYTHONPATH"] += ":/harness/files/nanoGPT"
    env |= {"HARNESS_FILES": "/harness/files", "HARNESS_RUN_OUT": "/harness/run"}
    command = ["python", "-P", "-m", "model_server", "--", *settings]
    return {
        "argv": sandbox.limited(confinement, command),
        "env": {},
        "cwd": "/",
        "sandbox": [program, *sandbox.arguments(confinement, env)],
    }


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
