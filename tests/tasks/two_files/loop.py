"""The loop that fits the line: prints a feedback line every other step, leaves fit.json."""

import json
import os
import sys

from line_model import load, loss, predict
from line_rate import rate

STEPS = 10


def write(name, value):
    path = os.path.join(os.environ["HARNESS_OUT"], name)
    with open(path + ".tmp", "w") as f:
        json.dump(value, f)
    os.replace(path + ".tmp", path)


def main():
    data = os.environ["HARNESS_DATA"]
    try:
        points = load(os.path.join(data, "points.json"))
    except FileNotFoundError:
        sys.exit("ERROR: no points.json in the dataset. Run make_data.py first.")
    slope = 0.0
    for step in range(STEPS + 1):
        value = loss(slope, points)
        if step % 2 == 0:
            print(f"FIT: step={step}, loss={value:.4f}", flush=True)
        stage = os.environ["HARNESS_STAGE"]
        write("progress.json", {"stage": stage, "step": step, "steps": STEPS, "loss": value})
        gradient = sum(2 * x * (predict(slope, x) - y) for x, y in points) / len(points)
        slope -= rate(step) * gradient
    write("fit.json", {"slope": slope})


if __name__ == "__main__":
    main()
