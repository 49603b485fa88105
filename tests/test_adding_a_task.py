"""docs/adding-a-task.md, followed word by word: the task that comes out is the shipped one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from harness.commands.task import schema_text

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "tasks" / "curve-fit"

BLOCK = re.compile(
    r"(?:Write `(?P<path>[^`]+)`:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL
)


def files_below(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_tutorial_leads_to_the_shipped_task(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "harness"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from harness.cli import app; app()" "$@"\n'
    )
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
        "HARNESS_TASKS_DIR": "my-tasks",
        "HARNESS_STATE_DIR": "my-tasks/.harness",
    }
    environment.pop("HARNESS_DATA_DIR", None)
    said = ""
    for block in BLOCK.finditer((ROOT / "docs" / "adding-a-task.md").read_text()):
        path, kind, text = block["path"], block["kind"], block["text"]
        if path is not None:
            written = tmp_path / path
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(text)
        elif kind == "sh":
            done = subprocess.run(
                ["bash", "-eu", "-c", text],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            said = done.stdout
            assert done.returncode == 0, f"{text}{said}{done.stderr}"
        else:
            assert kind == "text", f"a block that nobody follows: {text}"
            for line in text.splitlines():
                assert line in said.splitlines(), f"{line!r} is not in:\n{said}"
    assert files_below(tmp_path / "my-tasks" / "curve-fit") == files_below(SHIPPED)


def test_the_schema_for_editors_is_that_of_the_loader() -> None:
    assert (ROOT / "tasks" / "task.schema.json").read_text() == schema_text()
    for task in (ROOT / "tasks").glob("*/task.yaml"):
        assert task.read_text().startswith("# yaml-language-server: $schema=../task.schema.json\n")
