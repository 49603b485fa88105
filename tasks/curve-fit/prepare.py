"""Makes the data set of this task: `prepare.py --out DIR`. No example stands in two splits."""

import argparse
import json
import math
import random
from pathlib import Path

COUNTS = {"run/train.json": 200, "score/development.json": 100, "score/final.json": 100}


def point(chance):
    x = chance.random()
    return [x, math.sin(5 * x) + 0.5 * x + chance.gauss(0, 0.1)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    chance = random.Random(2026)
    for name, count in COUNTS.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([point(chance) for _ in range(count)]))
    (out / "manifest.json").write_text(json.dumps({"files": sorted(COUNTS)}))  # last


if __name__ == "__main__":
    main()
