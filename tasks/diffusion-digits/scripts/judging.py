"""What counts: how well noise is taken off held-out digits, and how much samples are like them.

Asks a server in the sandbox, and a fresh one again; imports no edited file.
"""

import json
import os
import sys
from pathlib import Path

import asking
import measures
import numpy as np

SEED = 2026
"""Of the questions, the same in every test."""
SPLITS = ("development", "final")


def judged(data):
    """metrics.json as a dict, from the folder of held-out digits."""
    with np.load(data / "known.npz") as file:
        known = measures.Known(file["train"], file["weights"], file["offsets"])
    held_out = [np.load(data / f"{split}.npy") for split in SPLITS]
    digits = np.concatenate(held_out)
    questions = asking.Questions(digits, SEED)
    chance = np.random.default_rng()
    with asking.Asker() as asker:
        every = np.arange(len(digits))
        levels = range(len(measures.LEVELS))
        estimates = np.stack([questions.estimates(asker, chance, n, every) for n in levels])
        samples = questions.samples(asker, chance, np.arange(asking.SAMPLES))
    found = asking.audit(questions, estimates, samples, chance)
    found |= asking.copies(known, samples, digits)
    if (category := asking.verdict(found)) is not None:
        return {"void": category, "hidden": {"audit": found}}
    windows = {}
    errors = np.split(measures.denoising_errors(known, digits, estimates), [len(held_out[0])])
    for split, own, error in zip(SPLITS, held_out, errors, strict=True):
        windows[split] = {
            "frechet": measures.frechet_windows(known, samples, own),
            "denoising_error": error.tolist(),
        }
    means = {s: {n: float(np.mean(w)) for n, w in by.items()} for s, by in windows.items()}
    return {
        "metrics": means["development"],
        "per_window": windows["development"],
        "hidden": {"final": means["final"], "per_window": windows["final"], "audit": found},
    }


def main():
    try:
        found = judged(Path(os.environ["HARNESS_DATA"]))
    except asking.ScoreError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(1)
    with open(Path(os.environ["HARNESS_OUT"], "metrics.json"), "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
