"""The locked training file: its regions, its model, and its loop run for real at a tiny size."""

from __future__ import annotations

import ast
import math
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training import FILE, ROOT, Trainer, edited, load, losses, make_data, metrics

LINES = FILE.read_text().splitlines()
SCRIPTS = ROOT / "tasks/llm-pretrain-residual/scripts"

LOOP = "        for block in self.transformer.h:\n            x = block(x)\n"
SKIPPING = (
    "        for block in self.transformer.h:\n"
    "            if not self.training or torch.rand(()) < 0.4:\n"
    "                x = block(x)\n"
)
OVERRIDES = "CONFIG_OVERRIDES = {}"
OPTIMIZER = "optimizer = torch.optim.AdamW(optim_groups, lr=learning_rate, betas=betas, **fused)"


@pytest.fixture
def trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Trainer:
    make_data(tmp_path / "data")
    return Trainer(tmp_path, monkeypatch, capsys)


# -----------------------------------------------------------------------------
# the file


def region(first: int, last: int) -> str:
    return "\n".join(LINES[first - 1 : last])


def test_the_file_has_its_length_and_its_regions():
    assert len(LINES) == 441
    assert region(88, 99) == (
        "class Block(nn.Module):\n"
        "    def __init__(self, config):\n"
        "        super().__init__()\n"
        "        self.ln_1 = LayerNorm(config.n_embd, bias=config.bias)\n"
        "        self.attn = CausalSelfAttention(config)\n"
        "        self.ln_2 = LayerNorm(config.n_embd, bias=config.bias)\n"
        "        self.mlp = MLP(config)\n"
        "\n"
        "    def forward(self, x):\n"
        "        x = x + self.attn(self.ln_1(x))\n"
        "        x = x + self.mlp(self.ln_2(x))\n"
        "        return x"
    )
    assert LINES[125:127] == ["        self.apply(self._init_weights)", ""]
    assert all(line.startswith("        # ") for line in LINES[127:130])
    assert LINES[161].startswith("        # ")
    assert region(163, 164) + "\n" == LOOP
    assert LINES[250] == OVERRIDES


def test_the_locked_end_of_forward():
    assert region(165, 172) == (
        "        x = self.transformer.ln_f(x)\n"
        "        if targets is not None:\n"
        "            logits = self.lm_head(x)\n"
        "            loss = F.cross_entropy("
        "logits.flatten(0, 1), targets.flatten(), ignore_index=-1)\n"
        "        else:\n"
        "            logits = self.lm_head(x[:, [-1], :])\n"
        "            loss = None\n"
        "        return logits, loss"
    )


def test_configure_optimizers_is_its_whole_region():
    tree = ast.parse(FILE.read_text())
    (gpt,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "GPT"]
    method = gpt.body[-1]
    assert isinstance(method, ast.FunctionDef)
    assert (method.name, method.lineno, method.end_lineno) == ("configure_optimizers", 175, 192)
    names = [a.arg for a in method.args.args]
    assert names == ["self", "weight_decay", "learning_rate", "betas", "device_type"]


def test_defaults_are_the_full_size_profile():
    settings = load().read_settings([], {})
    assert (settings.n_layer, settings.n_head, settings.n_embd) == (24, 16, 1024)
    assert (settings.block_size, settings.vocab_size, settings.global_batch) == (1024, 50304, 512)
    assert settings.max_iters == 13535
    assert settings.warmup_iters == pytest.approx(541.4)
    assert settings.min_lr == pytest.approx(6e-5)


# -----------------------------------------------------------------------------
# the model


def small_model(**sizes: int):
    torch.manual_seed(0)
    module = load()
    default = {"block_size": 16, "vocab_size": 64, "n_layer": 2, "n_head": 2, "n_embd": 32}
    return module.GPT(module.GPTConfig(**(default | sizes)))


def test_forward_with_and_without_targets():
    model = small_model().eval()
    idx = torch.randint(0, 64, (3, 10))
    targets = torch.randint(0, 64, (3, 10))
    targets[0, :4] = -1
    logits, loss = model(idx, targets)
    assert logits.shape == (3, 10, 64)
    kept = targets != -1
    own = -logits.log_softmax(-1)[kept].gather(-1, targets[kept][:, None]).mean()
    torch.testing.assert_close(loss, own)
    last, none = model(idx)
    assert last.shape == (3, 1, 64)
    assert none is None
    torch.testing.assert_close(last[:, 0], logits[:, -1])


def test_initial_weights():
    model = small_model(n_layer=8, n_embd=128)
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            expected = 0.02 / math.sqrt(16)
        elif ".ln_" in name:
            assert torch.all(parameter == 1)
            continue
        else:
            expected = 0.02
        assert float(parameter.detach().std()) == pytest.approx(expected, rel=0.05), name
    assert model.lm_head.weight is model.transformer.wte.weight
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())


def test_full_size_has_354_million_parameters():
    with torch.device("meta"):
        module = load()
        model = module.GPT(module.GPTConfig())
    assert model.num_parameters() - model.transformer.wpe.weight.numel() == 353_551_360


# -----------------------------------------------------------------------------
# settings


def test_schedule_rises_then_falls_to_a_tenth():
    settings = load().read_settings(["--max_iters=1000", "--learning_rate=0.5"], {})
    rates = [settings.schedule(step) for step in range(1001)]
    assert rates[:40] == sorted(rates[:40])
    assert rates[40] == pytest.approx(0.5)
    assert rates[40:] == sorted(rates[40:], reverse=True)
    assert rates[1000] == pytest.approx(0.05)
    assert rates[520] == pytest.approx((0.5 + 0.05) / 2)


def test_overrides_win_over_the_command_line():
    overrides = {"learning_rate": 0.2, "warmup_iters": 3, "grad_clip": 0, "weight_decay": 0.0}
    settings = load().read_settings(["--learning_rate=0.1", "--grad_clip=5"], overrides)
    assert (settings.learning_rate, settings.grad_clip, settings.weight_decay) == (0.2, 0, 0)
    assert settings.warmup_iters == 3
    assert settings.min_lr == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{'max_iters': 10}", "CONFIG_OVERRIDES may not set 'max_iters', only learning_rate, "),
        ("{'learning_rate': float('nan')}", "CONFIG_OVERRIDES['learning_rate'] is nan."),
        ("{'learning_rate': float('inf')}", "CONFIG_OVERRIDES['learning_rate'] is inf."),
        ("{'learning_rate': -1e-3}", "CONFIG_OVERRIDES['learning_rate'] is -0.001."),
        ("{'learning_rate': 0}", "learning_rate is 0.0; give it above 0."),
        ("{'grad_clip': True}", "CONFIG_OVERRIDES['grad_clip'] is True."),
        ("{'min_lr': '1e-4'}", "CONFIG_OVERRIDES['min_lr'] is '1e-4'."),
        ("{3: 4}", "CONFIG_OVERRIDES may not set 3, "),
        ("['learning_rate']", "CONFIG_OVERRIDES is no dict."),
        ("type('D', (dict,), {})(grad_clip=1.0)", "CONFIG_OVERRIDES is no dict."),
    ],
)
def test_bad_overrides(trainer: Trainer, value: str, reason: str):
    file = edited(trainer.folder / "files", (OVERRIDES, f"CONFIG_OVERRIDES = {value}"))
    assert trainer.fail(file=file).startswith(f"ERROR: {reason}")


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("--layers=3", "unknown '--layers=3'. Give --key=value, key in: block_size, "),
        ("n_layer=3", "unknown 'n_layer=3'."),
        ("--n_layer=three", "--n_layer takes a int, not 'three'."),
        ("--compile=maybe", "--compile takes a bool, not 'maybe'."),
        ("--micro_batch=0", "micro_batch is 0; give it 1 or more."),
    ],
)
def test_bad_arguments(trainer: Trainer, argument: str, reason: str):
    assert trainer.fail(argument).startswith(f"ERROR: {reason}")


# -----------------------------------------------------------------------------
# the loop


def test_a_run_learns_prints_and_saves(trainer: Trainer):
    log = trainer.run("--max_iters=60", "--eval_interval=25")
    seen = metrics(log)
    assert list(seen) == [0, 25, 50, 60]
    assert seen[0] == pytest.approx((math.log(64), math.log(64)), abs=0.1)
    # Half of the tokens follow from the one before: ln(32) / 2 = 1.73 is the least.
    assert 1.7 < seen[60][1] < 2.9
    assert seen[60][0] == pytest.approx(losses(log)[-1], abs=1e-4)
    out = trainer.folder / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "ckpt_gpt-test.json",
        "ckpt_gpt-test.safetensors",
        "progress.json",
    ]
    tensors = load_file(out / "ckpt_gpt-test.safetensors")
    assert "lm_head.weight" not in tensors
    assert int(tensors["step"]) == 60


def test_evaluation_does_not_change_training(trainer: Trainer):
    often = losses(trainer.run("--eval_interval=1"))
    assert losses(trainer.run("--eval_interval=8")) == often


@pytest.mark.parametrize("micro_batch", [8, 3, 20])
def test_the_micro_batch_does_not_change_the_losses(trainer: Trainer, micro_batch: int):
    other = losses(trainer.run(f"--micro_batch={micro_batch}"))
    assert other == pytest.approx(losses(trainer.run()), abs=2e-4)


def test_seed_decides(trainer: Trainer):
    first = losses(trainer.run())
    assert losses(trainer.run()) == first
    trainer.seed = 7
    assert losses(trainer.run()) != first


@pytest.mark.parametrize(
    "changes",
    [pytest.param((), marks=pytest.mark.slow), ((LOOP, SKIPPING),)],
    ids=["unedited", "skips blocks"],
)
@pytest.mark.parametrize("ranks", [2, 4])
def test_several_ranks_and_one_give_the_same_losses(
    trainer: Trainer, ranks: int, changes: tuple[tuple[str, str], ...]
):
    file = edited(trainer.folder / "files", *changes)
    one = trainer.run(file=file, out="one")
    several = trainer.run_ranks(ranks, file=file, out="several")
    # Four decimals are printed; sums of fp32 in another order differ by less.
    assert losses(several) == pytest.approx(losses(one), abs=2e-4)
    assert list(metrics(several)) == list(metrics(one)) == [0, 2, 4, 6, 8]
    for step, pair in metrics(one).items():
        assert metrics(several)[step] == pytest.approx(pair, abs=2e-4)
    alone, shared = (
        load_file(trainer.folder / out / "ckpt_gpt-test.safetensors") for out in ("one", "several")
    )
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, atol=2e-3, rtol=0)


def test_a_gradient_that_no_rank_has_stays_missing(trainer: Trainer):
    """With weight decay, a zero gradient would shrink what no rank used; a missing one must not."""
    unused = "        for block in self.transformer.h[:1]:\n            x = block(x)\n"
    file = edited(trainer.folder / "files", (LOOP, unused))
    trainer.run_ranks(2, "--weight_decay=0.5", file=file, out="two")
    after = load_file(trainer.folder / "two/ckpt_gpt-test.safetensors")
    trainer.run("--weight_decay=0.5", file=file, out="one")
    alone = load_file(trainer.folder / "one/ckpt_gpt-test.safetensors")
    name = "transformer.h.2.mlp.c_fc.weight"
    torch.testing.assert_close(after[name], alone[name], atol=0, rtol=0)
    assert float(after[name].std()) == pytest.approx(0.02, rel=0.1)


def test_groups_keep_their_multiple_of_the_rate(trainer: Trainer):
    slow = (
        "optimizer = torch.optim.SGD([{'params': decay_params}, "
        "{'params': nodecay_params, 'lr': learning_rate * 0.1}], lr=learning_rate)"
    )
    tell = (
        "        optimizer.step()\n",
        "        optimizer.step()\n"
        "        print('RATES', *(g['lr'] for g in optimizer.param_groups), s.schedule(step))\n",
    )
    log = trainer.run(file=edited(trainer.folder / "files", (OPTIMIZER, slow), tell))
    rates = [[float(x) for x in line.split()[1:]] for line in log.splitlines() if "RATES" in line]
    assert len(rates) == 8
    for first, second, expected in rates:
        assert first == pytest.approx(expected)
        assert second == pytest.approx(expected * 0.1)


def test_forward_reads_the_step(trainer: Trainer):
    """The loop below prints the step at each forward; it holds during all micro-batches."""
    tell = "        print('STEP', int(self.step), self.training)\n" + LOOP
    file = edited(trainer.folder / "files", (LOOP, tell))
    said = [line.split() for line in trainer.run(file=file).splitlines() if "STEP" in line]
    assert [int(s) for _, s, training in said if training == "True"] == [
        step for step in range(8) for _ in range(4)
    ]
    assert [int(s) for _, s, training in said if training == "False"] == [
        step for step in (0, 2, 4, 6, 8) for _ in range(3)
    ]


STATEFUL = """class Odd(torch.optim.Optimizer):
            def __init__(self, params, lr):
                super().__init__(params, dict(lr=lr))

            @torch.no_grad()
            def step(self, closure=None):
                for group in self.param_groups:
                    for p in group["params"]:
                        state = self.state[p]
                        state["count"] = state.get("count", torch.zeros((), dtype=torch.int64)) + 1
                        state["low"] = p.grad.to(torch.bfloat16) + 0.9 * state.get("low", 0)
                        assert state["count"].dtype == torch.int64
                        assert state["low"].dtype == torch.bfloat16
                        p.add_(state["low"].float(), alpha=-group["lr"] / float(state["count"]))

        optimizer = Odd(params, learning_rate)"""


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ((OPTIMIZER, "optimizer = torch.optim.SGD(params, lr=learning_rate, momentum=0.9)"),),
        ((OPTIMIZER, STATEFUL),),
        ((LOOP, SKIPPING),),
    ],
    ids=["unedited", "SGD", "an optimizer with odd state", "skips blocks"],
)
def test_an_interrupted_run_goes_on_to_the_same_losses(
    trainer: Trainer, changes: tuple[tuple[str, str], ...]
):
    whole = trainer.run(file=edited(trainer.folder / "files", *changes), out="whole")
    # The same settings, but the machine is lost in step 5, after the file written at step 4.
    fill = "        model.step.fill_(step)\n"
    lost = (fill, fill + "        1 / int(step != 5)\n")
    broken = edited(trainer.folder / "broken", *changes, lost)
    with pytest.raises(ZeroDivisionError):
        trainer.run("--save_interval=2", file=broken)
    assert (trainer.folder / "out/resume.pt").is_file()
    rest = trainer.run("--save_interval=2", file=trainer.folder / "files" / FILE.name)
    assert losses(rest) == losses(whole)[4:]
    assert metrics(rest) == {k: v for k, v in metrics(whole).items() if k >= 4}
    assert not (trainer.folder / "out/resume.pt").exists()
    names = ["whole/ckpt_gpt-test.safetensors", "out/ckpt_gpt-test.safetensors"]
    one, other = (load_file(trainer.folder / name) for name in names)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


# -----------------------------------------------------------------------------
# what goes wrong


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ("x = block(x) * float('nan')", "the loss is nan at step 0. Lower the learning rate, or "),
        (
            "x = block(x) * (1.0 if self.step < 3 else float('nan'))",
            "the loss is nan at step 3. Lower the learning rate, or ",
        ),
        (
            "raise torch.OutOfMemoryError('CUDA out of memory')",
            "out of memory (line 164 of custom_pretrain.py). Keep fewer or smaller tensors ",
        ),
        (
            'raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory")',
            "out of memory (line 164 of custom_pretrain.py). Keep fewer or smaller tensors ",
        ),
    ],
)
def test_a_run_that_cannot_go_on(trainer: Trainer, edit: str, reason: str):
    assert not torch.cuda.is_available() or "memory" not in reason
    file = edited(trainer.folder / "files", ("            x = block(x)", f"            {edit}"))
    assert trainer.fail(file=file).startswith(f"ERROR: {reason}")
    assert not (trainer.folder / "out/ckpt_gpt-test.json").exists()


def test_exceptions_of_an_edit_keep_their_traceback(trainer: Trainer):
    file = edited(trainer.folder / "files", ("            x = block(x)", "            x = bloc(x)"))
    with pytest.raises(NameError, match="bloc"):
        trainer.run(file=file)


def test_missing_data(trainer: Trainer):
    (trainer.folder / "data/train-00000.bin").unlink()
    assert trainer.fail().startswith("ERROR: no data: train-00000.bin is missing from HARNESS_DA")


def test_no_data_folder_named(trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trainer, "environment", lambda out: {"HARNESS_OUT": str(trainer.folder)})
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    assert trainer.fail().startswith("ERROR: set HARNESS_DATA to the folder ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_no_gpu(trainer: Trainer):
    assert trainer.fail("--device=cuda").startswith("ERROR: no GPU that torch can use. Train on ")


# -----------------------------------------------------------------------------
# the task's scripts


@pytest.mark.parametrize("name", ["345m", "124m", "tiny", "smoke"])
@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ([], 2, "ERROR: unknown role ''. Use "),
        (["train"], 2, "ERROR: unknown role 'train'. Use "),
    ],
)
def test_scripts_know_their_roles(name: str, arguments: list[str], code: int, line: str):
    script = ["bash", str(SCRIPTS / f"gpt_{name}.sh"), *arguments]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.startswith(line)
    assert done.stderr.endswith("preflight, feed, run, serve or score.\n")


def test_full_size_script_starts_one_process_a_gpu(tmp_path: Path):
    """The programs on the path only say how they were called."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho python "$CUDA_VISIBLE_DEVICES" "$@"\n')
    program.chmod(0o755)

    def call(gpus: str) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(SCRIPTS / "gpt_345m.sh"), "run", "--max_iters=20"],
            env={**os.environ, "PATH": path, "HARNESS_GPUS": gpus},
            capture_output=True,
            text=True,
        )

    assert call("3").stdout == "python 3 nanoGPT/custom_pretrain.py --max_iters=20\n"
    assert call("1,4").stdout == (
        "python 1,4 -m torch.distributed.run --standalone --nproc_per_node=2 "
        "nanoGPT/custom_pretrain.py --max_iters=20\n"
    )
    none = call("")
    assert none.returncode == 1
    assert none.stderr.startswith("ERROR: this stage trains on GPUs and was given none.")
