"""Shards as they lie on the disk: written here, read by shards.py.

    train-00000.bin        uint16 token ids, little-endian; each document ends with end-of-text
    train-00000.docs.npy   int64: where in that file each document starts

A split is its shards one after the other. No document crosses from one shard to the next.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from corpus.files import save_array, sha256_of, write_array

MOST_TOKENS = 100_000_000
"""A shard is closed by the first document that would bring it over this."""


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05}.bin"


def docs_name(shard: str) -> str:
    """The file of document starts that belongs to a shard."""
    return shard.removesuffix(".bin") + ".docs.npy"


def write_shard(
    folder: Path, split: str, number: int, tokens: NDArray[np.uint16], starts: ArrayLike
) -> dict[str, Any]:
    """Write one shard; returns {"file", "tokens", "documents", "sha256", "docs_sha256"}."""
    path = folder / shard_name(split, number)
    write_array(path, tokens.astype("<u2", copy=False))
    save_array(folder / docs_name(path.name), np.asarray(starts, dtype="<i8"))
    return describe_shard(path)


def describe_shard(path: Path) -> dict[str, Any]:
    """What meta.json says of a shard that is on the disk."""
    docs = path.with_name(docs_name(path.name))
    return {
        "file": path.name,
        "tokens": path.stat().st_size // 2,
        "documents": len(np.load(docs, mmap_mode="r")),
        "sha256": sha256_of(path),
        "docs_sha256": sha256_of(docs),
    }


def describe_split(shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tokens": sum(shard["tokens"] for shard in shards),
        "documents": sum(shard["documents"] for shard in shards),
        "shards": list(shards),
    }


class ShardWriter:
    """Packs documents into the shards of one split, in the order in which they come."""

    def __init__(self, folder: Path, split: str, most_tokens: int = MOST_TOKENS) -> None:
        self._folder, self._split, self._most = folder, split, most_tokens
        self._shards: list[dict[str, Any]] = []
        self._documents: list[NDArray[np.uint16]] = []
        self._tokens = 0

    def add(self, document: ArrayLike) -> None:
        """Append one document's ids, its end-of-text included."""
        ids = np.asarray(document, dtype=np.uint16)
        if self._documents and self._tokens + len(ids) > self._most:
            self._write()
        self._documents.append(ids)
        self._tokens += len(ids)

    def finish(self) -> dict[str, Any]:
        """Write what is left; returns {"tokens", "documents", "shards"}."""
        if self._documents or not self._shards:
            self._write()
        return describe_split(self._shards)

    def _write(self) -> None:
        lengths = [len(document) for document in self._documents]
        starts = np.cumsum([0, *lengths])[:-1]
        tokens = np.concatenate(self._documents or [np.zeros(0, np.uint16)])
        shard = write_shard(self._folder, self._split, len(self._shards), tokens, starts)
        self._shards.append(shard)
        self._documents, self._tokens = [], 0


def move_shard(source: Path, folder: Path, split: str, number: int) -> Path:
    """Move a shard, and its document starts, to its final name; returns where it is."""
    target = folder / shard_name(split, number)
    os.replace(source.with_name(docs_name(source.name)), folder / docs_name(target.name))
    os.replace(source, target)
    return target
