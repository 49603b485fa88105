"""The baselines of llm-pretrain-residual: accepted as an agent's edits would be, and what they do.

`make tasks` takes them through all checks; `test_residual_task.py` trains and scores them (slow).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from training import ROOT, load

from harness.checks import static
from harness.edits import apply_edit
from harness.regions import EditableFile
from harness.task import load_task

TASK = load_task(ROOT / "tasks/llm-pretrain-residual")
FILE = TASK.files[0]
UNEDITED = EditableFile.from_text(FILE.name, TASK.read_file(FILE.name), FILE.region_tuples())
LATE = 10**6
"""A step at which all schedules have come to their end."""


def edited(name: str) -> EditableFile:
    files = {FILE.name: UNEDITED}
    for edit in TASK.baseline(name).edits:
        files = {FILE.name: apply_edit(files, edit).after}
    return files[FILE.name]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A snapshot of each baseline; `""` is the unedited file's."""
    found = {}
    for name in ("", *TASK.baselines):
        path = found[name] = tmp_path_factory.mktemp("files") / FILE.name
        path.parent.mkdir()
        for sibling in TASK.siblings:
            shutil.copy(ROOT / sibling.name, path.parent)
        path.write_text(edited(name).text if name else UNEDITED.text)
    return found


@pytest.fixture(scope="module")
def modules(paths: dict[str, Path]) -> dict[str, ModuleType]:
    return {name: load(path) for name, path in paths.items()}


def build(module: ModuleType, layers: int = 5) -> Any:
    """A model from seed 0, at the end of training as far as schedules go, and in evaluation."""
    sizes = {"block_size": 16, "vocab_size": 64, "n_head": 2, "n_embd": 32}
    torch.manual_seed(0)
    model = module.GPT(module.GPTConfig(**sizes, n_layer=layers))
    model.step.fill_(LATE)
    return model.eval()


@pytest.fixture
def idx() -> torch.Tensor:
    return torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(1))


def own(model: Any, plain: Any) -> dict[str, torch.nn.Parameter]:
    known = dict(plain.named_parameters())
    return {name: p for name, p in model.named_parameters() if name not in known}


def embedded(model: Any, idx: torch.Tensor) -> torch.Tensor:
    x = model.transformer.wte(idx) + model.transformer.wpe(torch.arange(idx.shape[1]))
    assert isinstance(x, torch.Tensor)
    return x


def head(model: Any, x: torch.Tensor) -> torch.Tensor:
    logits = model.lm_head(model.transformer.ln_f(x))
    assert isinstance(logits, torch.Tensor)
    return logits


@pytest.mark.parametrize("name", TASK.baselines)
def test_no_rule_on_the_text_is_broken(name: str) -> None:
    assert static.check(UNEDITED, edited(name), FILE.constraints) == []


@pytest.mark.parametrize("name", ["prores", "learned_scaling", "hyper_connections"])
def test_it_starts_as_the_unedited_model(
    name: str, modules: dict[str, ModuleType], idx: torch.Tensor
) -> None:
    plain = build(modules[""])
    assert torch.equal(build(modules[name])(idx, idx)[0], plain(idx, idx)[0])


DECAYING = {"hyper_connections": "dynamic"}
"""Of the baselines' own parameters those whose names end so are matrices, and decay."""


@pytest.mark.parametrize("name", TASK.baselines)
def test_all_that_it_adds_learns_and_only_matrices_decay(
    name: str, modules: dict[str, ModuleType], idx: torch.Tensor
) -> None:
    model = build(modules[name])
    added = own(model, build(modules[""]))
    assert bool(added) == (name != "prores")
    groups = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu").param_groups
    decays = {p: group["weight_decay"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for key, parameter in added.items():
        expected = 0.1 if key.endswith(DECAYING.get(name, "-")) else 0.0
        assert decays[parameter] == expected, key
    # The scales of what starts at zero get their first gradient one step later.
    with torch.no_grad():
        for parameter in added.values():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model(idx, idx)[1].backward()
    assert all(p.grad is not None and p.grad.any() for p in added.values())


def test_prores_lets_layers_in_one_after_the_other(
    modules: dict[str, ModuleType], idx: torch.Tensor
) -> None:
    model = build(modules["prores"], layers=2)
    model.step.fill_(0)
    assert torch.equal(model(idx, idx)[0], head(model, embedded(model, idx)))
    model.step.fill_(12)  # T is 12 steps for two layers: the first is whole, the second half
    plain = build(modules[""], layers=2)
    x = plain.transformer.h[0](embedded(plain, idx))
    block = plain.transformer.h[1]
    x = x + 0.5 * block.attn(block.ln_1(x))
    x = x + 0.5 * block.mlp(block.ln_2(x))
    torch.testing.assert_close(model(idx, idx)[0], head(plain, x))


@pytest.mark.parametrize(
    ("name", "size"), [("attention_residuals", 1), ("block_attention_residuals", 3)]
)
def test_attention_residuals_weigh_sources_by_a_softmax(
    name: str, size: int, modules: dict[str, ModuleType], idx: torch.Tensor
) -> None:
    """Against a calculation with all sources in one tensor, for groups of `size` layers."""
    model = build(modules[name])
    queries = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for own_query, query in zip(model.queries, queries, strict=True):
            own_query.copy_(query)
    x = embedded(model, idx)
    outputs = [x]
    for i, block in enumerate(model.transformer.h):
        y = block.attn(block.ln_1(x))
        outputs.append(y + block.mlp(block.ln_2(x + y)))
        groups = [outputs[1:][at : at + size] for at in range(0, i + 1, size)]
        sources = torch.stack([outputs[0], *(torch.stack(group).sum(0) for group in groups)])
        keys = F.rms_norm(sources, (32,), eps=1e-6)
        weights = torch.einsum("nbtc,c->nbt", keys, queries[i]).softmax(0)
        x = torch.einsum("nbt,nbtc->btc", weights, sources)
    torch.testing.assert_close(model(idx, idx)[0], head(model, x))


def test_hyper_connections_mix_streams_by_matrices(
    modules: dict[str, ModuleType], idx: torch.Tensor
) -> None:
    """Against the matrices of a token: what reads, what mixes, what writes."""
    model = build(modules["hyper_connections"], layers=1)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.connections.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random))
    x = embedded(model, idx)
    streams = torch.stack((x, x), 2)
    block = model.transformer.h[0]
    for c, norm, part in zip(
        model.connections, (block.ln_1, block.ln_2), (block.attn, block.mlp), strict=True
    ):
        seen = F.layer_norm(streams, (32,))
        dynamic = torch.tanh(torch.einsum("btnc,kc->btnk", seen, c.dynamic))
        matrix = c.static.reshape(2, 4) + c.scale * dynamic
        read, mix, write = matrix[..., 0], matrix[..., 1:3], matrix[..., 3]
        y = part(norm(torch.einsum("btn,btnc->btc", read, streams)))
        mixed = torch.einsum("btnm,btnc->btmc", mix, streams)
        streams = mixed + torch.einsum("btm,btc->btmc", write, y)
    torch.testing.assert_close(model(idx, idx)[0], head(model, streams.mean(2)))
