"""The static check in worker processes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from runs import wait_for

from harness.checks import pool, static
from harness.constraints import Constraints
from harness.regions import EditableFile

ROOT = Path(__file__).resolve().parents[1]
TEXT = "A = 1\nB = 2\nC = 3\n"
RULES = {"f.py": Constraints(forbidden_names=("os",))}


def edited(line: str) -> tuple[EditableFile, dict[str, EditableFile]]:
    pristine = EditableFile.from_text("f.py", TEXT, [("b", 2, 2)])
    text = TEXT.replace("B = 2", line)
    return EditableFile.from_text("f.py", text, [("b", 2, 2)]), {"f.py": pristine}


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        # Other tests leave children that have ended.
        with contextlib.suppress(psutil.Error):
            if "harness.checks.pool" in child.cmdline():
                found.append(child)
    return found


def test_findings_are_those_of_the_check_itself() -> None:
    for line in ("B = 3", "B = os.getpid()", "B = (", "B = 2"):
        file, pristine = edited(line)
        assert pool.find_all([file], pristine, RULES) == static.find_all([file], pristine, RULES)
    assert workers()


def test_a_worker_that_dies_changes_nothing() -> None:
    file, pristine = edited("B = 41")
    assert pool.find_all([file], pristine, RULES) == []
    for worker in workers():
        worker.kill()
        worker.wait()
    for line in ("B = os.getppid()", "B = os.name", "B = 42"):
        file, pristine = edited(line)
        assert pool.find_all([file], pristine, RULES) == static.find_all([file], pristine, RULES)
    assert [worker for worker in workers() if worker.status() != psutil.STATUS_ZOMBIE]


def test_workers_end_with_a_process_that_is_killed() -> None:
    program = (
        "import sys, time; sys.path[:0] = ['.', 'tests']\n"
        "from test_check_pool import RULES, edited, pool, workers\n"
        "file, pristine = edited('B = 7')\n"
        "pool.find_all([file], pristine, RULES)\n"
        "print(*[worker.pid for worker in workers()], flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 1
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(map(psutil.pid_exists, pids)))
