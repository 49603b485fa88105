"""`llm-pretrain-mlp`: another region of the same file, with the scripts of `llm-pretrain-residual`.

`make tasks` plays a session of it, and takes its baselines through all checks.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from training import ROOT, load

import contract
from harness.checks import static
from harness.edits import apply_edit, split_lines
from harness.regions import EditableFile
from harness.task import load_task

TASK = load_task(ROOT / "tasks/llm-pretrain-mlp")
OTHER = load_task(ROOT / "tasks/llm-pretrain-residual")
FILE = TASK.files[0]
UNEDITED = EditableFile.from_text(FILE.name, TASK.read_file(FILE.name), FILE.region_tuples())


def edited(name: str) -> EditableFile:
    files = {FILE.name: UNEDITED}
    for edit in TASK.baseline(name).edits:
        files = {FILE.name: apply_edit(files, edit).after}
    return files[FILE.name]


def written(file: EditableFile, folder: Path) -> Path:
    path = folder / FILE.name
    path.parent.mkdir()
    for sibling in TASK.siblings:
        (folder / sibling.name).symlink_to(ROOT / sibling.name)
    path.write_text(file.text)
    return path


def test_what_is_not_its_own_is_that_of_the_other_task() -> None:
    own, other = TASK.model_dump(), OTHER.model_dump()
    assert own["files"][0]["name"] == other["files"][0]["name"]
    for part in ("siblings", "contract", "feedback", "metrics", "max_step_ratio", "tests"):
        assert own[part] == other[part]
    for profile in (*own["profiles"].values(), *other["profiles"].values()):
        for stage in profile["stages"]:
            del stage["script"]
    assert own["profiles"] == other["profiles"]
    rules, others = own["files"][0]["constraints"], other["files"][0]["constraints"]
    for part in rules.keys() - {"regions", "signatures"}:
        assert rules[part] == others[part], part
    scripts = "tasks/llm-pretrain-residual/scripts"
    assert set(own["sandbox"]["code"]) == {scripts, *other["sandbox"]["code"]}
    assert own["sandbox"]["packages"] == other["sandbox"]["packages"]


@pytest.mark.parametrize("profile", TASK.profiles)
def test_a_model_may_grow_as_far_as_the_instruction_says(profile: str) -> None:
    """The cap of a script goes before that of the settings; the scripts say 2%."""
    settings = OTHER.folder / "scripts" / f"settings_{profile}.sh"
    for own, expected in (("max_extra=0.02;", "0.02"), ("", None)):
        told = subprocess.run(
            ["bash", "-euc", f'root=; {own} source "{settings}"; echo $max_extra'],
            capture_output=True,
            text=True,
            check=True,
            env={},
        ).stdout.strip()
        assert told == expected or (expected is None and float(told) >= 0.25)
    assert "2% more numbers" in TASK.read_instruction()
    for stage in TASK.profiles[profile].stages:
        assert "\nmax_extra=0.02\n" in TASK.script_path(stage).read_text()


@pytest.mark.parametrize("name", TASK.baselines)
def test_no_rule_on_the_text_is_broken(name: str) -> None:
    assert static.check(UNEDITED, edited(name), FILE.constraints) == []


@pytest.mark.parametrize("name", TASK.baselines)
def test_a_baseline_has_at_most_as_many_parameters(name: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain, own = load(written(UNEDITED, tmp_path / "plain")), load(written(edited(name), tmp_path))
    for width in (32, 128, 768, 1024):
        sizes = [
            sum(p.numel() for p in module.MLP(module.GPTConfig(n_embd=width)).parameters())
            for module in (plain, own)
        ]
        assert 0.93 * sizes[0] <= sizes[1] <= sizes[0]


def test_squared_relu_and_swiglu_are_what_they_are_called(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1))
    made = {}
    for name in TASK.baselines:
        (tmp_path / name).mkdir()
        module = load(written(edited(name), tmp_path / name))
        made[name] = module.MLP(module.GPTConfig(n_embd=32))
    relu, glu = made["relu_squared"], made["swiglu"]
    hidden = relu.c_fc(x)
    torch.testing.assert_close(relu(x), relu.c_proj(hidden * hidden.clamp(min=0)))
    gate = glu.c_gate(x)
    torch.testing.assert_close(glu(x), glu.c_proj(gate * gate.sigmoid() * glu.c_fc(x)))


def test_a_gate_under_the_name_of_a_locked_parameter_is_found(tmp_path: Path) -> None:
    """What a rewritten class makes is the edit's own, whatever it is called."""
    leaking = UNEDITED.text.split("\n")[74:85]
    leaking[-1] = "        return self.c_proj(x + (self.c_fc.weight[0, 0] > 9) * x.roll(-1, 1))"
    file = UNEDITED.with_region(0, split_lines("\n".join(leaking) + "\n"))
    report = contract.examine(written(file, tmp_path), quick=True)
    assert {finding["rule"] for finding in report.findings} == {"causality"}
