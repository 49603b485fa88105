"""Makes the data set of this task: `prepare.py --out DIR`. No digit stands in two splits.

The digits are scikit-learn's, 1797 of 8 x 8 pixels. What scoring needs besides held-out digits is
in score/known.npz: the training digits once more, and a layer of features of digits.
"""

import argparse
import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

HELD_OUT = 300
FEATURES = 32


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    digits, labels = load_digits(return_X_y=True)
    digits = (digits / 8 - 1).astype(np.float32)
    order = np.random.default_rng(2026).permutation(len(digits))
    development, final, train = np.split(order, [HELD_OUT, 2 * HELD_OUT])
    # The hidden layer of a small classifier tells digits apart where pixels do not.
    classifier = MLPClassifier((FEATURES,), alpha=0.1, max_iter=60, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(digits[train], labels[train])
    for part in ("run", "score"):
        (out / part).mkdir(parents=True, exist_ok=True)
    np.save(out / "run" / "train.npy", digits[train])
    np.save(out / "score" / "development.npy", digits[development])
    np.save(out / "score" / "final.npy", digits[final])
    np.savez(
        out / "score" / "known.npz",
        train=digits[train],
        weights=classifier.coefs_[0].astype(np.float64),
        offsets=classifier.intercepts_[0].astype(np.float64),
    )
    files = {
        str(path.relative_to(out)): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for part in ("run", "score")
        for path in sorted((out / part).iterdir())
    }
    (out / "manifest.json").write_text(json.dumps({"files": files}, indent=1))  # last


if __name__ == "__main__":
    main()
