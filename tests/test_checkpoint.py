"""Weights that are left for scoring, and places to go on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training import load

training = load()
checkpoint = training.checkpoint


def model(**sizes: int):
    torch.manual_seed(0)
    default = {"block_size": 8, "vocab_size": 32, "n_layer": 2, "n_head": 2, "n_embd": 16}
    return training.GPT(training.GPTConfig(**(default | sizes)))


def place(folder: Path, own: Any, optimizer: Any, label: str = "a", **settings: Any):
    return checkpoint.Place(folder, label, {"seed": 1} | settings, own, optimizer)


def test_weights_come_back_without_the_tied_head(tmp_path: Path):
    saved = model()
    checkpoint.save_weights(tmp_path, "a", saved, {"step": 3})
    assert checkpoint.load_facts(tmp_path, "a") == {"step": 3}
    names = set(load_file(tmp_path / "ckpt_a.safetensors"))
    assert set(saved.state_dict()) - names == {"lm_head.weight"}
    fresh = model()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1)
    checkpoint.load_weights(tmp_path, "a", fresh)
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.parameters(), saved.parameters(), strict=True)
    )
    assert fresh.lm_head.weight is fresh.transformer.wte.weight


def test_a_head_of_its_own_is_kept(tmp_path: Path):
    own = model()
    own.lm_head.weight = torch.nn.Parameter(torch.ones(32, 16))
    checkpoint.save_weights(tmp_path, "a", own, {})
    assert torch.equal(
        load_file(tmp_path / "ckpt_a.safetensors")["lm_head.weight"], torch.ones(32, 16)
    )


def test_tensors_that_an_edit_ties_are_saved(tmp_path: Path):
    own = model()
    own.transformer.h[1].mlp = own.transformer.h[0].mlp
    own.extra = torch.nn.Parameter(torch.ones(4, 6).T)
    checkpoint.save_weights(tmp_path, "a", own, {})
    tensors = load_file(tmp_path / "ckpt_a.safetensors")
    name = "transformer.h.{}.mlp.c_fc.weight"
    assert torch.equal(tensors[name.format(0)], tensors[name.format(1)])
    assert tensors["extra"].shape == (6, 4)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [({"n_embd": 32}, "ckpt_a.safetensors does not fit the model: "), ({"n_layer": 3}, "ckpt_a.s")],
)
def test_weights_of_another_model(tmp_path: Path, sizes: dict[str, int], reason: str):
    checkpoint.save_weights(tmp_path, "a", model(), {})
    with pytest.raises(checkpoint.StageError, match=reason):
        checkpoint.load_weights(tmp_path, "a", model(**sizes))


@pytest.mark.parametrize("what", ["load_facts", "load_weights"])
def test_no_checkpoint(tmp_path: Path, what: str):
    arguments = (tmp_path, "a") if what == "load_facts" else (tmp_path, "a", model())
    with pytest.raises(checkpoint.StageError, match="no checkpoint: ckpt_a"):
        getattr(checkpoint, what)(*arguments)


def trained() -> tuple[Any, torch.optim.Optimizer]:
    own = model()
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-2)
    idx = torch.randint(0, 32, (2, 8))
    own(idx, idx)[1].backward()
    optimizer.step()
    return own, optimizer


def test_a_place_comes_back(tmp_path: Path):
    own, optimizer = trained()
    place(tmp_path, own, optimizer).save(5, 2.5)
    other = model()
    fresh = torch.optim.AdamW(other.parameters(), lr=1e-2)
    assert place(tmp_path, other, fresh).load(torch.device("cpu")) == (5, 2.5)
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), other.parameters(), strict=True))
    for a, b in zip(optimizer.state.values(), fresh.state.values(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_to_take_up(tmp_path: Path):
    own, optimizer = trained()
    assert place(tmp_path, own, optimizer).load(torch.device("cpu"))[0] == 0
    place(tmp_path, own, optimizer, label="b").save(5, 2.5)
    assert place(tmp_path, own, optimizer).load(torch.device("cpu"))[0] == 0


def test_a_place_of_other_settings(tmp_path: Path):
    own, optimizer = trained()
    place(tmp_path, own, optimizer).save(5, 2.5)
    with pytest.raises(checkpoint.StageError, match=r"from a run with another max_iters, seed\."):
        place(tmp_path, own, optimizer, seed=2, max_iters=3).load(torch.device("cpu"))


class Runs:
    """Unpickling one of these would call os.mkdir."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (str(self.folder / "called"),)


def test_a_place_runs_no_code(tmp_path: Path):
    torch.save({"label": Runs(tmp_path)}, tmp_path / "resume.pt")
    own, optimizer = trained()
    with pytest.raises(checkpoint.StageError, match=r"resume.pt cannot be read .* Delete it"):
        place(tmp_path, own, optimizer).load(torch.device("cpu"))
    assert not (tmp_path / "called").exists()


def test_an_optimizer_that_cannot_be_read_back_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    own, optimizer = trained()
    optimizer.state[next(own.parameters())]["odd"] = object()
    here = place(tmp_path, own, optimizer)
    here.save(1, 2.0)
    here.save(2, 2.0)
    said = capsys.readouterr().out
    assert said == "This run cannot be resumed: a object cannot be kept in resume.pt.\n"
    assert not (tmp_path / "resume.pt").exists()


def test_progress_file(tmp_path: Path):
    report = training.progress.Progress(tmp_path / "new", "a", 10, 512)
    report.start_clock(1)
    report.report(3, 2.5)
    kept = json.loads((tmp_path / "new/progress.json").read_text())
    assert {key: kept[key] for key in ("stage", "step", "steps", "loss")} == {
        "stage": "a",
        "step": 3,
        "steps": 10,
        "loss": 2.5,
    }
    assert kept["tokens_per_s"] > 0
