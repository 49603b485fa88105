"""What counts: errors of the fitted line on points that the fit has not seen."""

import json
import os
import sys

sys.path.insert(0, os.environ["HARNESS_FILES"])
from line_model import predict


def read(folder, name):
    with open(os.path.join(os.environ[folder], name)) as f:
        return json.load(f)


def errors(slope, points):
    return [abs(predict(slope, x) - y) for x, y in points]


def main(what):
    slope = read("HARNESS_RUN_OUT", "fit.json")["slope"]
    development = errors(slope, read("HARNESS_DATA", "development.json"))
    final = errors(slope, read("HARNESS_DATA", "final.json"))
    if what == "fit":
        mean = sum(development) / len(development)
        metrics = {
            "metrics": {"error": mean},
            "per_window": {"error": development},
            "hidden": {
                "metrics": {"worst": max(development)},
                "final": {"error": sum(final) / len(final)},
            },
        }
    else:
        near = [{"id": f"point-{i}", "correct": e < 0.5} for i, e in enumerate(development)]
        share = 100 * sum(item["correct"] for item in near) / len(near)
        metrics = {"metrics": {"near": share}, "per_item": {"near": near}}
    with open(os.path.join(os.environ["HARNESS_OUT"], "metrics.json"), "w") as f:
        json.dump(metrics, f)


if __name__ == "__main__":
    main(sys.argv[1])
