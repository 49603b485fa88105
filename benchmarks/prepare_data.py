"""How fast a data set is prepared, beside plain tokenising of the same documents.

    python benchmarks/prepare_data.py [--megabytes 60] [--workers N] [--rounds 3]

Documents of the words of the prepared plays and poems, in random order, in a Parquet file. In turn:
`nanoGPT/prepare_data.py text` on it, a process of its own with N workers, from its start to the
finished folder (reading, hashing, held-out documents, near-duplicates, tokens, sha256, writing);
and tiktoken's `encode_ordinary_batch` on the same texts in memory, with N threads and nothing else.
Prints a Markdown table of medians, in tokens a second of wall clock and of processor time (what
other programs on the machine take away changes only the first), and the ratios.
`--phases` measures the other parts on one core, too, and what a feeder does to check shards.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "nanoGPT"), str(ROOT / "tests")]

import mirror  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from prepared import PREPARE, shakespeare_dir  # noqa: E402

from corpus import documents  # noqa: E402
from corpus.duplicates import HeldOut  # noqa: E402
from corpus.files import sha256_of  # noqa: E402
from shards import check_digest  # noqa: E402
from tokenizer import load_gpt2  # noqa: E402

WORDS = 430
"""Of a document: some 2,400 characters."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--megabytes", type=int, default=60, help="of text")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--phases", action="store_true")
    options = parser.parse_args()
    texts = make_documents(options.megabytes * 1_000_000)
    bpe = load_gpt2(shakespeare_dir() / "score" / "bpe")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mirror.evaluation_sets(folder / "mirror")
        file = folder / "texts.parquet"
        pq.write_table(pa.table({"text": texts}), file, row_group_size=1000)
        prepared, plain = [], []
        for number in range(options.rounds):
            clock = Clock()
            tokens = sum(map(len, bpe.encode_ordinary_batch(texts, num_threads=options.workers)))
            plain.append(clock.rates(tokens))
            prepared.append(prepare(folder, number, options.workers).rates(tokens))
        report(plain, prepared, tokens, options.workers)
        if options.phases:
            phases(texts, file)
            digests(folder / "data-0" / "out" / "run")


def make_documents(size: int) -> list[str]:
    """About `size` characters of documents."""
    words = [word for text in mirror.documents() for word in text.split()]
    rng = random.Random(0)
    found, made = [], 0
    while made < size:
        found.append(" ".join(rng.choices(words, k=WORDS)))
        made += len(found[-1])
    return found


class Clock:
    """Wall clock and processor time, children's included, since it was made."""

    def __init__(self) -> None:
        self._began = self._now()

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), sum(os.times()[:4])

    def stop(self) -> Clock:
        self._ended = self._now()
        return self

    def rates(self, tokens: int) -> tuple[float, float]:
        """(tokens a second of wall clock, of processor time) up to `stop`, or now."""
        ended = getattr(self, "_ended", None) or self._now()
        return tokens / (ended[0] - self._began[0]), tokens / (ended[1] - self._began[1])


def prepare(folder: Path, number: int, workers: int) -> Clock:
    """One preparation, timed."""
    data = folder / f"data-{number}"
    (data / "downloads").mkdir(parents=True)
    for wheel in (shakespeare_dir().parent / "downloads").glob("*.whl"):
        (data / "downloads" / wheel.name).symlink_to(wheel)
    command = [sys.executable, str(PREPARE), "text", str(folder / "texts.parquet")]
    command += ["--out", str(data / "out"), "--mirror", str(folder / "mirror"), "--any-size"]
    command += ["--workers", str(workers), "--held-out", "200000", "--piece-bytes", "5000000"]
    clock = Clock()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return clock.stop()


Rates = list[tuple[float, float]]


def report(plain: Rates, prepared: Rates, tokens: int, workers: int) -> None:
    print(f"{tokens:,} tokens, {workers} workers\n")
    print("| million tokens/s | wall clock | of processor time |")
    print("|---|---|---|")
    for what, rates in (("encode_ordinary_batch", plain), ("the whole preparation", prepared)):
        medians = [statistics.median(column) / 1e6 for column in zip(*rates, strict=True)]
        print(f"| {what} | {medians[0]:.2f} | {medians[1]:.2f} |")
    pairs = [(b[0] / a[0], b[1] / a[1]) for a, b in zip(plain, prepared, strict=True)]
    wall, processor = (
        f"{statistics.median(c):.2f} ({min(c):.2f} to {max(c):.2f})"
        for c in zip(*pairs, strict=True)
    )
    print(f"| ratio | {wall} | {processor} |")


def phases(texts: list[str], file: Path) -> None:
    """MB of text a second of processor time, of each part that is not tokenising."""
    raw = [text.encode() for text in texts]
    size = sum(map(len, raw)) / 1e6

    def measure(what: str, work: object) -> None:
        began = time.process_time()
        work()  # type: ignore[operator]
        print(f"| {what} | {size / (time.process_time() - began):.0f} |")

    held = HeldOut.of(raw[:2000])
    batches = [raw[i : i + 800] for i in range(2000, len(raw), 800)]
    print("\n| part, one core | MB/s |")
    print("|---|---|")
    [piece] = documents.cut([file], 1 << 40, "text")
    measure("reading parquet", lambda: list(documents.read(piece, "text")))
    measure("choosing the split", lambda: [hashlib.blake2b(r, digest_size=8).digest() for r in raw])
    measure("looking for near-duplicates", lambda: [held.matches(batch) for batch in batches])


def digests(run: Path) -> None:
    """MB/s at which a feeder compares shards with their sha256, in one thread."""
    own = [path for path in run.glob("*.bin") for _ in range(20)]
    said = {path: sha256_of(path) for path in set(own)}
    began = time.process_time()
    for path in own:
        check_digest(path, said[path])
    size = sum(path.stat().st_size for path in own) / 1e6
    print(f"| comparing shards with their sha256 | {size / (time.process_time() - began):.0f} |")


if __name__ == "__main__":
    main()
