"""`diffusion-digits`: what its scorer measures, and what its audit finds.

Servers planted here answer the real scorer through the real channel. The task's own files are
played by `make tasks`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
TASK = ROOT / "tasks" / "diffusion-digits"
TRANSPORT = ROOT / "harness" / "transport"

# An honest server without any training: digits are taken to be one Gaussian. The training digits
# stand in for what a cheat has kept among its parameters.
HONEST = """
import os
import sys
import numpy as np
import channel

train = np.load(os.environ["TRAIN"])
mean, (values, vectors) = train.mean(0), np.linalg.eigh(np.cov(train, rowvar=False))
root = vectors * np.sqrt(np.maximum(values, 0))
calls = 0

def load(inputs, outputs):
    pass

def denoise(inputs, outputs):
    z, sigma = inputs["z"], inputs["sigma"][:, None]
    kept = values / (values + sigma**2)
    outputs["x"][:] = mean + ((z - mean) @ vectors * kept) @ vectors.T

def sample(inputs, outputs):
    outputs["x"][:] = mean + inputs["noise"][:, 0] @ root.T
"""
SERVED = """
channel.serve({"load": load, "denoise": denoise, "sample": sample})
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits")
    subprocess.run([sys.executable, str(TASK / "prepare.py"), "--out", str(out)], check=True)
    return out


def score(data: Path, folder: Path, planted: str = "") -> tuple[dict[str, Any], str]:
    """metrics.json for a server, which is the honest one but for what is planted; and the log."""
    script = folder / "planted.py"
    script.write_text(HONEST + planted + SERVED)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(TRANSPORT),
        "OMP_NUM_THREADS": "1",
        "TRAIN": str(data / "run" / "train.npy"),
    }
    server = {
        "argv": [sys.executable, str(script)],
        "env": environment,
        "cwd": str(folder),
        "sandbox": None,
        "log": str(folder / "serve.log"),
    }
    (folder / "server.json").write_text(json.dumps(server))
    done = subprocess.run(
        ["bash", str(TASK / "scripts" / "digits.sh"), "score"],
        env=environment
        | {
            "HARNESS_SERVER": str(folder / "server.json"),
            "HARNESS_DATA": str(data / "score"),
            "HARNESS_OUT": str(folder),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    written = folder / "metrics.json"
    return json.loads(written.read_text()) if written.is_file() else {}, done.stderr


def test_an_honest_server_is_measured_on_both_splits(data: Path, tmp_path: Path) -> None:
    found, _ = score(data, tmp_path)
    assert "void" not in found
    hidden = found["hidden"]
    for metrics, windows in (
        (found["metrics"], found["per_window"]),
        (hidden["final"], hidden["per_window"]),
    ):
        assert {name: len(own) for name, own in windows.items()} == {
            "frechet": 30,
            "denoising_error": 300,
        }
        assert metrics == {name: pytest.approx(np.mean(own)) for name, own in windows.items()}
        # It knows how pixels go together, which one factor for each level does not.
        assert 0 < metrics["denoising_error"] < 1
        assert 0 < metrics["frechet"] < 10
    assert found["metrics"] != hidden["final"]
    for share in hidden["audit"].values():
        assert share["beyond"] <= share["allowed"]


CHEATS = {
    "other rows": (
        """
def denoise(inputs, outputs, honest=denoise):
    honest(inputs, outputs)
    outputs["x"][:] += 0.3 * outputs["x"].mean(0)
""",
        "depends on the batch",
    ),
    "earlier calls": (
        """
def sample(inputs, outputs, honest=sample):
    global calls
    calls += 1
    honest(inputs, outputs)
    outputs["x"][:] *= 0.9 + 0.1 * (calls % 7)
""",
        "changes itself",
    ),
    "chance of its own": (
        """
def sample(inputs, outputs):
    noise = np.random.default_rng().standard_normal(outputs["x"].shape)
    outputs["x"][:] = mean + noise @ root.T
""",
        "changes itself",
    ),
    "other levels of the same digit": (
        """
seen = []
def denoise(inputs, outputs, honest=denoise):
    given = dict(inputs)
    for z in seen:  # what is near is taken for the same digit, with less noise
        apart = ((given["z"][:, None] - z) ** 2).mean(2)
        near = apart.argmin(1)
        mine = apart.min(1) < 3 * inputs["sigma"] ** 2
        given["z"] = np.where(mine[:, None], z[near], given["z"])
    seen.append(inputs["z"].copy())
    honest(given, outputs)
""",
        "depends on the batch",
    ),
    "training digits": (
        """
def sample(inputs, outputs):
    code = inputs["noise"][:, 0].sum(1)
    outputs["x"][:] = train[(np.abs(code) * 1e4).astype(int) % len(train)]
""",
        "copies training data",
    ),
    "training digits with a little noise": (
        """
def sample(inputs, outputs):
    code = inputs["noise"][:, 0].sum(1)
    kept = train[(np.abs(code) * 1e4).astype(int) % len(train)]
    outputs["x"][:] = kept + 0.1 * inputs["noise"][:, 1]
""",
        "copies training data",
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_void(name: str, data: Path, tmp_path: Path) -> None:
    planted, category = CHEATS[name]
    found, _ = score(data, tmp_path, planted)
    assert found["void"] == category
    assert set(found) == {"void", "hidden"}
    assert set(found["hidden"]) == {"audit"}


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        ("\ndef denoise(inputs, outputs):\n    raise ValueError(str(inputs['z']))\n", "ValueError"),
        ("\ndef sample(inputs, outputs):\n    os._exit(3)\n", "ended while it was scored"),
        ("\ndef sample(inputs, outputs):\n    outputs['x'][:] = np.nan\n", "is not finite"),
    ],
)
def test_a_server_that_fails_gets_no_score(
    planted: str, told: str, data: Path, tmp_path: Path
) -> None:
    found, said = score(data, tmp_path, planted)
    assert found == {}
    assert said.startswith("ERROR: ")
    assert told in said
    assert said.count("\n") == 1, "what the served code says may repeat held-out digits"


@pytest.fixture(scope="module")
def measures() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "digits_measures", TASK / "scripts" / "measures.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_frechet_distance_is_that_of_gaussians(measures: ModuleType) -> None:
    """Of independent features in closed form; and of any, zero to itself."""
    one = np.array([0.0, 1.0]), np.diag([1.0, 4.0])
    other = np.array([3.0, 1.0]), np.diag([9.0, 4.0])
    assert measures.frechet(one, other) == pytest.approx(3.0**2 + (3.0 - 1.0) ** 2)
    chance = np.random.default_rng(0)
    moments = measures.moments(chance.standard_normal((50, 5)) @ chance.standard_normal((5, 5)))
    assert measures.frechet(moments, moments) == pytest.approx(0, abs=1e-9)


def test_the_windows_take_off_what_few_digits_add(measures: ModuleType) -> None:
    chance = np.random.default_rng(0)
    known = measures.Known(np.zeros((1, 64)), np.eye(64, 16), np.zeros(16))
    digits = 5 + chance.standard_normal((300, 64))
    samples = 5 + chance.standard_normal((20000, 64))
    whole = measures.frechet(
        measures.moments(known.features(samples)), measures.moments(known.features(digits))
    )
    windows = measures.frechet_windows(known, samples, digits)
    assert len(windows) == measures.BLOCKS
    assert abs(np.mean(windows)) < whole / 5


def test_no_digit_is_in_two_splits(data: Path) -> None:
    parts = ("run/train", "score/development", "score/final")
    digits = [np.load(data / f"{part}.npy") for part in parts]
    assert [len(own) for own in digits] == [1197, 300, 300]
    assert len(np.unique(np.concatenate(digits), axis=0)) == 1797
    assert {path.name for path in (data / "run").iterdir()} == {"train.npy"}
