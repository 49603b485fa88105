"""The toy's check: the prediction is a number, and doubles where the slope doubles."""

import json
import os
import sys

sys.path.insert(0, os.environ["HARNESS_FILES"])


def findings():
    from line_model import predict

    try:
        one, two = predict(1.0, 3.0), predict(2.0, 3.0)
    except Exception as error:
        yield "exception", f"predict raises {type(error).__name__}: {error}"
        return
    if not isinstance(one, float):
        yield "number", f"predict gives {type(one).__name__}, not a number"
    elif two != 2 * one:
        yield "linear", f"predict(2, 3) is {two}, not twice predict(1, 3) = {one}"


def main():
    found = [
        {"rule": rule, "file": "line_model.py", "line": 8, "message": message}
        for rule, message in findings()
    ]
    with open(os.path.join(os.environ["HARNESS_OUT"], "findings.json"), "w") as f:
        json.dump({"findings": found, "warnings": [], "facts": {"probes": 2}}, f)


if __name__ == "__main__":
    main()
