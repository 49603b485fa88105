"""The prepared data that tests share, made once in the folder where the harness keeps its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PREPARE = REPOSITORY / "nanoGPT" / "prepare_data.py"


def shakespeare_dir() -> Path:
    """The prepared `shakespeare` folder, made now if it is missing or of an older version.

    It lies in HARNESS_DATA_DIR, by default .harness/data. A lock lets test processes that start
    together wait for the one that makes it.
    """
    data = Path(os.environ.get("HARNESS_DATA_DIR") or REPOSITORY / ".harness" / "data").absolute()
    data.mkdir(parents=True, exist_ok=True)
    folder = data / "shakespeare"
    with (data / "shakespeare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(
            [sys.executable, str(PREPARE), "shakespeare", "--out", str(folder)], check=True
        )
    return folder
