"""How fast the journal takes events: many threads, each with a session of its own.

    python benchmarks/journal.py [--url URL] [--threads N ...] [--events N]

Without --url an SQLite file in a temporary folder, on whose disk it depends (`TMPDIR`). Each append
is one event of about 3.5 kB, as an edit's is, and has been synced to the disk when it returns.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.events import Header, ToolCalled  # noqa: E402
from harness.store import Store  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 40])
    parser.add_argument("--events", type=int, default=1200, help="in all, for each count")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(options.url or f"sqlite:///{folder}/journal.sqlite3")
        for threads in options.threads:
            measure(store, threads, options.events // threads)
        store.close()


def measure(store: Store, threads: int, each: int) -> None:
    names = [secrets.token_hex(8) for _ in range(threads)]
    for name in names:
        store.create(header(name), "")
    taken: list[float] = []

    def write(name: str) -> None:
        for number in range(1, each + 1):
            began = time.perf_counter()
            store.append(name, [(event(number), None)], closes=False)
            taken.append(time.perf_counter() - began)

    writers = [threading.Thread(target=write, args=(name,)) for name in names]
    began, used = time.perf_counter(), time.process_time()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    seconds, used = time.perf_counter() - began, time.process_time() - used
    slowest = statistics.quantiles(taken, n=100)[98]
    print(
        f"{threads} threads: {len(taken) / seconds:.0f} events/s, median "
        f"{statistics.median(taken) * 1000:.1f} ms, 99 of 100 within {slowest * 1000:.1f} ms, "
        f"{used / len(taken) * 1000:.2f} ms of processor time each"
    )


def header(name: str) -> Header:
    return Header(
        session=name,
        created_at=datetime.now(UTC),
        task="journal",
        task_version=1,
        profile="-",
        tests=0,
        files=(),
        locked_digest="",
    )


def event(number: int) -> ToolCalled:
    return ToolCalled(
        seq=number,
        at=datetime.now(UTC),
        previous="0" * 64,
        tool="edit",
        args={"content": "x" * 800},
        ok=True,
        text="x" * 2500,
        seconds=0.001,
    )


if __name__ == "__main__":
    main()
