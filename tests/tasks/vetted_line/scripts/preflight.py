"""The toy's first steps: the rate may not be more than the limit that the task names."""

import json
import os
import sys

sys.path.insert(0, os.environ["HARNESS_FILES"])
from line_rate import rate


def main():
    limit = float(os.environ["HARNESS_MAX_STEP_RATIO"])
    found = []
    if rate(0) > limit:
        message = f"the first rate is {rate(0)}, more than {limit}"
        found.append({"rule": "too-fast", "file": "line_rate.py", "line": 3, "message": message})
    with open(os.path.join(os.environ["HARNESS_OUT"], "findings.json"), "w") as f:
        json.dump({"findings": found, "facts": {"rate": rate(0)}}, f)


if __name__ == "__main__":
    main()
