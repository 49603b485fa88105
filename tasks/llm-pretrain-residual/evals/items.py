"""Reads multiple-choice items for lm-eval; the task files beside it name this function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets


def load(file: str, **_: Any) -> dict[str, datasets.Dataset]:
    """The items of `file`, a name in this folder, as the split `validation`.

    A line of the file is {"id", "context", "choices", "answer"}; `answer` is the index of the right
    choice. lm-eval passes a task's metadata too, which says nothing to us.
    """
    lines = Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines()
    # In memory: reading JSON through `datasets` writes a cache, and scoring may not write there.
    return {"validation": datasets.Dataset.from_list([json.loads(line) for line in lines])}
