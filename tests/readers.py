"""Others' own code that reads what we write, run in a Python of its own (`make readers`).

It pins packages that ours has in other versions. What is asked of it stands in tests/others/, one
script a reader: JSON on standard input, JSON on standard output.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "tests/readers.lock"


def readers_python() -> Path:
    """The Python that has them; without it, the test is skipped."""
    named = os.environ.get("HARNESS_READERS_PYTHON")
    found = Path(named) if named else ROOT / ".readers-venv/bin/python"
    if not named and not found.exists():
        pytest.skip("others' readers are not here: `make readers`, or set HARNESS_READERS_PYTHON")
    return found


def ask(script: str, question: Any) -> Any:
    """What the script of tests/others/ answers."""
    done = subprocess.run(
        [readers_python(), ROOT / "tests/others" / f"{script}.py"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        env=os.environ | {"NO_PROXY": "127.0.0.1", "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pinned(package: str) -> str:
    """The version that the lock file names."""
    [version] = re.findall(rf"(?i)^{re.escape(package)}==(\S+)$", LOCK.read_text(), re.MULTILINE)
    return str(version)
