"""Files as every data set writes them: digests, JSON, and a folder that is put in place whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 3
"""Of what is written here: a change of text, split or layout raises it."""

OURS = {"manifest.json", "run", "score"}
"""All that a prepared folder holds."""


class DataError(Exception):
    """Something is missing or wrong; the message says what, and what to do."""


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_bytes(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def write_json(path: Path, content: Any) -> None:
    path.write_bytes(json_bytes(content))


def replace_json(path: Path, content: Any) -> None:
    """Write a record that is there whole or not at all, whenever the process is killed."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    write_json(temporary, content)
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """What `replace_json` wrote; None if it is not there or is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write the numbers alone, in C order; on a full disk `ndarray.tofile` does not say so."""
    with path.open("wb") as file:
        file.write(np.ascontiguousarray(array).data)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write a .npy file, as `write_array`: `np.save` calls `tofile` too."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Write JSON lines; returns what meta.json says of them."""
    lines = [json.dumps(record) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")
    return {"records": len(lines), "sha256": sha256_of(path)}


def alternate(index: int) -> str:
    """Neighbours go to different splits, so that both cover the whole text."""
    return "final" if index % 2 else "development"


def is_complete(out: Path, wanted: dict[str, Any]) -> bool:
    """Whether `out` was finished by this version with the same settings."""
    manifest = read_json(out / "manifest.json")
    if not isinstance(manifest, dict):
        return False
    return bool(manifest.get("version") == VERSION and manifest.get("settings") == wanted)


def refuse_foreign(out: Path) -> None:
    """Raises DataError if replacing `out` would lose what this program did not write."""
    if out.exists() and (not out.is_dir() or not all(path.name in OURS for path in out.iterdir())):
        raise DataError(f"{out} holds something else; choose another folder or remove it")


def prepare(out: Path, settings: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> None:
    """Make `out` with `build` in a temporary sibling, then put it in place; or leave it alone.

    `build` fills the folder and returns the manifest's content, whose digest goes into the two
    meta.json before it is written itself. Raises DataError, also where the disk is full.
    """
    if is_complete(out, settings):
        print(f"{out} is complete")
        return
    refuse_foreign(out)
    began = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        fresh = temporary / "fresh"
        fresh.mkdir()
        manifest = {"version": VERSION, "settings": settings, **build(fresh)}
        seal(fresh, manifest)
        if not is_complete(out, settings):  # another process may have been faster
            if out.exists():
                os.rename(out, temporary / "old")
            os.rename(fresh, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    counts = ", ".join(f"{k} {v['tokens']:,}" for k, v in manifest["splits"].items())
    print(
        f"{out}: {counts} tokens, vocabulary {manifest['vocab_size']:,}, "
        f"{time.monotonic() - began:.1f} s"
    )


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write both meta.json, then manifest.json, which means "complete".

    A meta.json holds what its role needs, as it cannot see the manifest: the vocabulary, the
    shards of its splits, and the manifest's digest, by which the two are known to belong together.
    The manifest lists size and sha256 of all other files, those of shards as they were written.
    """
    manifest["files"] = _files(folder, manifest["splits"])
    content = json_bytes(manifest)
    meta = {name: manifest[name] for name in ("vocab_size", "eot", "dataset")}
    meta["manifest"] = hashlib.sha256(content).hexdigest()
    for part, names in PARTS.items():
        own = {**meta, "splits": {name: _shards(manifest["splits"][name]) for name in names}}
        if part == "score":
            own["texts"] = manifest.get("texts", [])
        write_json(folder / part / "meta.json", own)
    (folder / "manifest.json").write_bytes(content)


def _files(folder: Path, splits: dict[str, Any]) -> dict[str, dict[str, Any]]:
    known: dict[str, str] = {}
    for name, split in splits.items():
        for shard in split["shards"]:
            file = f"{part_of(name)}/{shard['file']}"
            known[file] = shard["sha256"]
            known[file.removesuffix(".bin") + ".docs.npy"] = shard["docs_sha256"]
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("manifest.json", "meta.json"):
            file = path.relative_to(folder).as_posix()
            sha256 = known.get(file) or sha256_of(path)
            found[file] = {"bytes": path.stat().st_size, "sha256": sha256}
    return found


PARTS: dict[str, Sequence[str]] = {
    "run": ("train", "monitor"),
    "score": ("development", "final"),
}
"""What training may see, what only scoring may see; and the splits of each."""
SPLITS = tuple(name for names in PARTS.values() for name in names)


def part_of(split: str) -> str:
    return next(part for part, names in PARTS.items() if split in names)


def _shards(split: dict[str, Any]) -> dict[str, Any]:
    return {name: split[name] for name in ("tokens", "documents", "shards")}


def disk_error(error: OSError) -> str:
    """The error in one line, with the way out where there is one."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return f"the disk is full{where}. Make room and run this again: it goes on where it stopped"
    return str(error)
