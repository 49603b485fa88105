"""What the benchmarks of scoring share: a profile's settings, and how its model server starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for part in (ROOT, ROOT / "nanoGPT", ROOT / "harness/transport", ROOT / "tests"):
    sys.path.insert(0, str(part))

# As the stages have it; threads that wait by spinning stand still where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from harness import sandbox  # noqa: E402
from harness.sandbox import Confinement, Mount  # noqa: E402

SCRIPTS = ROOT / "tasks/llm-pretrain-residual/scripts"


def settings_of(profile: str) -> list[str]:
    """The settings that the profile's scripts pass on."""
    script = f'source "{SCRIPTS}/settings_{profile}.sh"; printf "%s\\n" "${{settings[@]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line]


def on_own_gpu(command: list[str]) -> list[str]:
    """The command, seeing the one GPU that is meant for its process, as the stages do it."""
    return ["sh", "-c", 'CUDA_VISIBLE_DEVICES="$HARNESS_GPU" exec "$@"', "sh", *command]


def server_plan(folder: Path, settings: list[str], gpus: str) -> dict[str, object]:
    """How the harness would start the model server of a checkpoint in `folder`."""
    env = {"HARNESS_GPUS": gpus, "HARNESS_SEED": "42", "OMP_WAIT_POLICY": "PASSIVE", "USER": "me"}
    program = sandbox.find()
    if isinstance(program, sandbox.Problem):
        print(f"no sandbox here: {program.reason}")
        path = f"{ROOT / 'nanoGPT'}:{ROOT / 'harness/transport'}"
        env |= {"PATH": os.environ["PATH"], "PYTHONPATH": path}
        env |= {"HARNESS_FILES": str(ROOT), "HARNESS_RUN_OUT": str(folder)}
        command = on_own_gpu([sys.executable, "-P", "-m", "model_server", "--", *settings])
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
    command = on_own_gpu(["python", "-P", "-m", "model_server", "--", *settings])
    return {
        "argv": sandbox.limited(confinement, command),
        "env": {},
        "cwd": "/",
        "sandbox": [program, *sandbox.arguments(confinement, env)],
    }
