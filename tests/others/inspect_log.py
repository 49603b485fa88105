"""Logs read by Inspect's own reader. Standard input: a list of paths.

Standard output, for each: the messages' roles, the scores, and the whole log as Inspect would
write it again.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from inspect_ai.log import read_eval_log


def told(path: str) -> dict[str, Any]:
    log = read_eval_log(path)
    assert log.samples
    [sample] = log.samples
    scores = {name: score.value for name, score in (sample.scores or {}).items()}
    return {
        "status": log.status,
        "roles": [message.role for message in sample.messages],
        "scores": scores,
        "log": json.loads(log.model_dump_json(exclude_none=True)),
    }


json.dump([told(path) for path in json.load(sys.stdin)], sys.stdout)
