"""Every shipped task is sound, as `harness task check` says."""

from __future__ import annotations

from pathlib import Path

import pytest
from prepared import shakespeare_dir
from typer.testing import CliRunner

from harness.cli import app
from harness.task import find_tasks

TASKS = Path(__file__).parents[1] / "tasks"
QUICK = ("diffusion-digits",)
"""Checked each time. `test_adding_a_task.py` checks curve-fit; the others take minutes."""


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in find_tasks(TASKS)],
)
def test_it_is_sound(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(TASKS))
    monkeypatch.setenv("HARNESS_STATE_DIR", str(tmp_path))
    if name.startswith("llm-"):
        monkeypatch.setenv("HARNESS_DATA_DIR", str(shakespeare_dir().parent))
    else:
        monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    result = CliRunner().invoke(app, ["task", "check", name])
    assert result.exit_code == 0, result.output
