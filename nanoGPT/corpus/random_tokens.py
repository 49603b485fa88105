"""Uniformly random tokens in the layout of any data set, for measuring speed without a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from corpus.files import PARTS
from corpus.layout import MOST_TOKENS, describe_split, write_shard


def build_random(folder: Path, tokens: int, vocab_size: int, seed: int) -> dict[str, Any]:
    """Fill `folder` with random ids: `tokens` to train on, an eighth of that in other splits."""
    rng = np.random.default_rng(seed)
    splits: dict[str, dict[str, Any]] = {}
    for part, names in PARTS.items():
        (folder / part).mkdir()
        for name in names:
            count = tokens if name == "train" else tokens // 8
            shards = []
            for number, first in enumerate(range(0, count, MOST_TOKENS)):
                size = min(MOST_TOKENS, count - first)
                ids = rng.integers(0, vocab_size, size=size, dtype=np.uint16)
                shards.append(write_shard(folder / part, name, number, ids, [0]))
            splits[name] = describe_split(shards)
    return {
        "vocab_size": vocab_size,
        "eot": vocab_size - 1,
        "dataset": "random",
        "sources": [],
        "seed": seed,
        "splits": splits,
    }
