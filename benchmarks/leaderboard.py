"""How long a leaderboard takes: `python benchmarks/leaderboard.py [SESSIONS]`.

Writes so many sessions into a fresh SQLite file, each with ten edits, a test of 512 windows and a
submit, and times a board for the first time, again, and after one session was reviewed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from boards import Journal, rate, windows  # noqa: E402

from harness.standings import Standings  # noqa: E402
from harness.store import Store  # noqa: E402
from harness.task import load_task  # noqa: E402


@contextmanager
def timed(what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:<40}{wall * 1000:9.1f} ms, {cpu * 1000:9.1f} ms of processor time")


def main(count: int) -> None:
    task = load_task(REPOSITORY / "tests" / "tasks" / "two_files")
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.1, 512)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/journal.sqlite3")
        journal = Journal(store, task)
        for name, value in (("", 0.3), ("falling_rate", 0.25)):
            journal.baseline(name, [(s, windows(value, rng, base)) for s in (42, 7, 8)])
        for n in range(count):
            edits = [rate(f"{0.06 + n / 1000 + k / 10}") for k in range(10)]
            last = journal.play(f"agent {n % 40}", edits, [(42, windows(0.27, rng, base))])
        standings = Standings(store, {task.name: task})
        with timed(f"{count} sessions, first time"):
            standings.board(task.name)
        with timed("again, nothing new"):
            board = standings.board(task.name)
        journal.review(last, "suspect")
        with timed("again, one session reviewed"):
            standings.board(task.name)
        with timed("as JSON"):
            size = len(board.model_dump_json())
        print(f"{size / 1e6:.1f} MB of JSON")
        store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split(":", 1)[0])
    parser.add_argument("sessions", type=int, nargs="?", default=300, help="300 if left out")
    main(parser.parse_args().sessions)
