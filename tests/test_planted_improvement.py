"""A planted improvement: real tests of an edit that is known to be better are found better."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import Harness
from prepared import shakespeare_dir

ROOT = Path(__file__).parents[1]
TASK = "llm-pretrain-residual"

# In thirty steps the first moment of Adam mostly lags behind: without it training gets further.
PLANTED = """\
name: planted
title: Adam without a first moment
paper: none
edits:
  - op: str_replace
    filename: nanoGPT/custom_pretrain.py
    old_str: "lr=learning_rate, betas=betas, **fused)"
    new_str: "lr=learning_rate, betas=(0.0, betas[1]), **fused)"
"""


@pytest.fixture(scope="module")
def data() -> Path:
    return shakespeare_dir().parent


@pytest.mark.slow
def test_a_planted_improvement_is_found(
    data: Path, harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tmp_path / "planted" / "tasks"
    shutil.copytree(ROOT / "tasks" / TASK, tasks / TASK)
    shutil.copytree(ROOT / "nanoGPT", tasks.parent / "nanoGPT")
    (tasks / TASK / "baselines" / "planted.yaml").write_text(PLANTED)
    yaml = tasks / TASK / "task.yaml"
    yaml.write_text(re.sub(r"(?m)^baselines: .*$", "baselines: [planted]", yaml.read_text()))
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(tasks))
    monkeypatch.setenv("HARNESS_DATA_DIR", str(data))
    monkeypatch.setenv("HARNESS_SLOTS", "2")
    played = ("unedited", "planted", "--profile", "smoke", "--seeds", "1,2,3,4")
    code, output = harness("baseline", "run", TASK, *played)
    assert code == 0, output
    code, output = harness("leaderboard", TASK, "--json")
    [group] = [group for group in json.loads(output)["groups"] if group["rows"]]
    [row] = [row for row in group["rows"] if row["kind"] == "baseline"]
    assert (row["name"], row["verdict"]) == ("Adam without a first moment", "better"), row
