"""Models as scoring sees them, without a process of their own; and how to start one with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from model_server import ModelServer
from scoring.model import Batch, ScoredModel
from scoring.served import Checkpoint, Sizes

REPOSITORY = Path(__file__).resolve().parent.parent
UNEDITED = REPOSITORY / "nanoGPT" / "custom_pretrain.py"
TRANSPORT = REPOSITORY / "harness" / "transport"


def direct(
    file: Path, settings: Sequence[str], folder: Path, label: str, device: str = "cpu"
) -> ScoredModel:
    """The model of `file` with the checkpoint of `label`, in this process, unchecked."""
    sizes = Sizes.of(settings)
    server = ModelServer(file, settings, seed=42, device=device)
    server.load({}, {}, str(folder), label)

    def hidden_states(batches: Iterable[Batch]) -> Iterator[torch.Tensor]:
        for batch in batches:
            hidden = np.empty((len(batch.places), sizes.n_embd), dtype=np.float32)
            given = {"idx": batch.idx.numpy(), "places": batch.places.numpy()}
            if (later := server.hidden(given, {"hidden": hidden})) is not None:
                later()
            yield torch.from_numpy(hidden)

    where = torch.device(device)
    head = Checkpoint(folder, label).head(where)
    return ScoredModel(hidden_states, head, sizes.block_size, sizes.vocab_size, where)


def write_server(to: Path, settings: Sequence[str], files: Path, run_out: Path) -> Path:
    """How the role `serve` is started without a sandbox, as the harness would say it."""
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{REPOSITORY / 'nanoGPT'}:{TRANSPORT}",
        "HARNESS_FILES": str(files),
        "HARNESS_RUN_OUT": str(run_out),
        "HARNESS_SEED": "42",
    }
    plan = {
        "argv": [sys.executable, "-P", "-m", "model_server", "--", *settings],
        "env": env,
        "cwd": "/",
        "sandbox": None,
        "log": str(to.with_suffix(".log")),
    }
    to.write_text(json.dumps(plan))
    return to
