"""Train a GPT-2-style language model from scratch: one file, to be read from top to bottom.

The model, its optimizer, the schedule and the training loop are here. Reading tokens, checkpoints
and progress are in data.py, checkpoint.py and progress.py beside it. Importing does no work.

    python nanoGPT/custom_pretrain.py --key=value ...                     one process
    torchrun --standalone --nproc_per_node=2 nanoGPT/custom_pretrain.py   one process a GPU

The same sequences, random numbers and losses come of any number of processes.
The environment says the rest: HARNESS_CHANNEL names the feeder that sends the tokens, or else
HARNESS_DATA the folder to read them from; HARNESS_SEED is the seed. To HARNESS_OUT go
ckpt_<label>.safetensors and its JSON, with HARNESS_STAGE as label, and until then resume.pt.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F

import checkpoint
import data
import progress

# ---- Model: b sequences of t tokens, width c -----------------------------------------------------


@dataclasses.dataclass
class GPTConfig:
    """The sizes of a model; the defaults are the 345M profile's."""

    block_size: int = 1024  # longest sequence
    vocab_size: int = 50304  # 50257 ids of GPT-2's BPE, padded to a multiple of 64
    n_layer: int = 24
    n_head: int = 16
    n_embd: int = 1024
    dropout: float = 0.0
    bias: bool = False  # in every Linear and LayerNorm


class LayerNorm(nn.LayerNorm):
    # Normalises over the last axis, with learned gains and, if asked for, offsets.
    def __init__(self, ndim, bias):
        super().__init__(ndim, bias=bias)


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        b, t, c = x.size()
        qkv = self.c_attn(x).view(b, t, 3, self.n_head, c // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (b, heads, t, c / heads)
        dropout = self.dropout.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        y = y.transpose(1, 2).reshape(b, t, c)
        return self.dropout(self.c_proj(y))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.gelu = nn.GELU()
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        x = self.gelu(self.c_fc(x))  # (b, t, 4c)
        return self.dropout(self.c_proj(x))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """Decoder-only transformer with learned positions and an output head tied to the embedding."""

    step: torch.Tensor  # () int64, the optimizer step; the loop sets it and a forward may read it

    def __init__(self, config):
        super().__init__()
        if config.n_embd % config.n_head:
            raise ValueError(f"width {config.n_embd} is no multiple of {config.n_head} heads")
        self.config = config
        wte = nn.Embedding(config.vocab_size, config.n_embd)
        wpe = nn.Embedding(config.block_size, config.n_embd)
        drop = nn.Dropout(config.dropout)
        h = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        ln_f = LayerNorm(config.n_embd, bias=config.bias)
        parts = {"wte": wte, "wpe": wpe, "drop": drop, "h": h, "ln_f": ln_f}
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = wte.weight
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        # Two projections a layer add up in the residual stream: each starts that much smaller.
        for name, module in self.named_modules():
            fan = 2 * config.n_layer if name.endswith("c_proj") else 1
            module.init_std = 0.02 / math.sqrt(fan)
        self.apply(self._init_weights)

        # Parameters and buffers of the residual stream belong here. All weights above have their
        # initial values by now, and nothing later resets what is set here. Per layer, say:
        # self.residual_scale = nn.Parameter(torch.ones(config.n_layer))

    def _init_weights(self, module):
        """Gives Linear and Embedding their normal start; gains of LayerNorm stay at one."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, mean=0.0, std=module.init_std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    def num_parameters(self):
        """All trainable numbers, the tied head counted once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def forward(self, idx, targets=None):
        """Predicts the token after each of `idx`, (b, t) int64 ids.

        With `targets` (b, t; -1 is left out of the loss) returns logits (b, t, vocab_size) and
        the mean cross-entropy in nats/token. Without, the logits of the last position
        (b, 1, vocab_size) and None.

        Raises:
            ValueError: the sequences are longer than block_size.
        """
        device = idx.device
        b, t = idx.size()
        if t > self.config.block_size:
            raise ValueError(f"{b} sequences of {t} tokens, at most {self.config.block_size} fit")
        # Positions are learned: a shorter sequence uses the first of them.
        pos = torch.arange(t, device=device)
        x = self.transformer.wte(idx) + self.transformer.wpe(pos)
        x = self.transformer.drop(x)  # (b, t, c)

        # The residual stream: every block reads x and returns it with its own output added.
        for block in self.transformer.h:
            x = block(x)
        x = self.transformer.ln_f(x)
        if targets is not None:
            logits = self.lm_head(x)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        else:
            logits = self.lm_head(x[:, [-1], :])
            loss = None
        return logits, loss

    # The schedule multiplies the rate that each group starts with; any Optimizer will do.
    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        # Matrices and embeddings decay towards zero; gains and scalars do not.
        params = [p for p in self.parameters() if p.requires_grad]
        decay_params = [p for p in params if p.dim() >= 2]
        nodecay_params = [p for p in params if p.dim() < 2]
        optim_groups = [
            {"params": decay_params, "weight_decay": weight_decay},
            {"params": nodecay_params, "weight_decay": 0.0},
        ]
        num_decay = sum(p.numel() for p in decay_params)
        num_nodecay = sum(p.numel() for p in nodecay_params)
        print(f"with weight decay: {len(decay_params)} tensors, {num_decay:,} parameters")
        print(f"without: {len(nodecay_params)} tensors, {num_nodecay:,} parameters")
        # One kernel updates all tensors at once on a GPU.
        has_fused = "fused" in inspect.signature(torch.optim.AdamW).parameters
        fused = {"fused": True} if has_fused and device_type == "cuda" else {}
        optimizer = torch.optim.AdamW(optim_groups, lr=learning_rate, betas=betas, **fused)
        return optimizer


# ---- Settings ------------------------------------------------------------------------------------


@dataclasses.dataclass
class TrainConfig(GPTConfig):
    """What a run is made of, with the 345M profile's values; --key=value on the command line."""

    # Data: global_batch sequences a step for any number of ranks, micro_batch in one forward.
    global_batch: int = 512
    micro_batch: int = 32
    # Optimizer and schedule
    max_iters: int = 13535
    learning_rate: float = 6e-4
    min_lr: float = -1.0  # where the cosine ends; below zero: a tenth of learning_rate
    warmup_iters: float = -1.0  # linear warm-up; below zero: 4% of max_iters
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 1.0  # largest norm of all gradients together; 0 leaves them as they are
    # Every so many steps; with save_interval 0 an interrupted run starts over.
    eval_interval: int = 1000
    log_interval: int = 10
    save_interval: int = 1000
    eval_windows: int = 1024  # of block_size tokens each, from the start of the monitor split
    device: str = "cuda"
    bfloat16: bool = True  # matrix products under autocast; without it all is float32
    compile: bool = True

    def model(self) -> GPTConfig:
        """The part that shapes the model."""
        return GPTConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(GPTConfig)})

    def complete(self) -> None:
        """Fills in what follows from other settings; StageError where a value cannot work."""
        self.min_lr = self.min_lr if self.min_lr >= 0 else self.learning_rate / 10
        self.warmup_iters = self.warmup_iters if self.warmup_iters >= 0 else 0.04 * self.max_iters
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "save_interval" else 1
            if field.type == "int" and value < least:
                raise progress.StageError(f"{field.name} is {value}; give it {least} or more.")
        if self.learning_rate <= 0:  # the schedule divides by it
            raise progress.StageError(f"learning_rate is {self.learning_rate}; give it above 0.")

    def schedule(self, step: int) -> float:
        """The learning rate of `step`: linear warm-up, then a cosine from the peak to min_lr."""
        if step < self.warmup_iters:
            return self.learning_rate * (step + 1) / (self.warmup_iters + 1)
        way = min(1.0, (step - self.warmup_iters) / max(1.0, self.max_iters - self.warmup_iters))
        height = self.learning_rate - self.min_lr
        return self.min_lr + height * (1 + math.cos(math.pi * way)) / 2


# What an edit may set, as finite numbers by name; it wins over the command line.
OVERRIDABLE = ("learning_rate", "weight_decay", "warmup_iters", "min_lr", "grad_clip")
CONFIG_OVERRIDES: dict[str, float]
CONFIG_OVERRIDES = {}


def read_settings(argv: list[str], overrides: object) -> TrainConfig:
    """The defaults, then --key=value arguments, then the overrides of an edit.

    Raises:
        StageError: an unknown name, or a value of the wrong kind.
    """
    kinds = {field.name: str(field.type) for field in dataclasses.fields(TrainConfig)}
    truths = {"true": True, "1": True, "false": False, "0": False}
    settings = TrainConfig()
    for argument in argv:
        name, _, text = argument.removeprefix("--").partition("=")
        if name not in kinds or not argument.startswith("--"):
            known = ", ".join(kinds)
            raise progress.StageError(f"unknown {argument!r}. Give --key=value, key in: {known}.")
        read = {"int": int, "float": float, "bool": truths.__getitem__, "str": str}[kinds[name]]
        try:
            setattr(settings, name, read(text))  # type: ignore[operator]
        except (KeyError, ValueError):
            raise progress.StageError(f"--{name} takes a {kinds[name]}, not {text!r}.") from None
    if type(overrides) is not dict:
        raise progress.StageError("CONFIG_OVERRIDES is no dict. Make it a dict literal.")
    for name, value in overrides.items():
        if name not in OVERRIDABLE:
            allowed = ", ".join(OVERRIDABLE)
            raise progress.StageError(f"CONFIG_OVERRIDES may not set {name!r}, only {allowed}.")
        if type(value) not in (int, float) or not 0 <= value < 1e9:
            raise progress.StageError(
                f"CONFIG_OVERRIDES[{name!r}] is {value!r}. Give it a finite number, 0 or more."
            )
        setattr(settings, name, float(value))
    settings.complete()
    return settings


# ---- Training ------------------------------------------------------------------------------------

INIT, TRAIN, UPDATE, EVALUATE = range(4)  # what random numbers are for


def seed_random(seed: int, purpose: int, step: int = 0, index: int = 0) -> None:
    """Starts every generator afresh, so that chance depends on the micro-batch, not on the rank."""
    word = int(np.random.SeedSequence([seed, purpose, step, index]).generate_state(1)[0])
    random.seed(word)
    np.random.seed(word)
    torch.manual_seed(word)


def sum_over_ranks(params: list[nn.Parameter], loss: torch.Tensor, flat: torch.Tensor) -> None:
    """Adds up gradients and loss in one all-reduce of `flat`: (all of params + len(params) + 1,).

    A gradient that is missing on this rank counts as zero; it stays missing, so that the optimizer
    leaves its parameter alone, only where no rank has it. Changes `params` and `loss` in place.
    """
    *parts, present, total = flat.split([*(p.numel() for p in params), len(params), 1])
    for param, part, here in zip(params, parts, present, strict=True):
        here.fill_(param.grad is not None)
        if param.grad is None:
            part.zero_()
        else:
            part.view_as(param).copy_(param.grad)
    total.copy_(loss)
    dist.all_reduce(flat)
    # Only a rank that misses something has to wait for the answer.
    found = present.tolist() if any(p.grad is None for p in params) else [1.0] * len(params)
    for param, part, count in zip(params, parts, found, strict=True):
        if param.grad is not None:
            param.grad.copy_(part.view_as(param))
        elif count > 0:
            param.grad = part.view_as(param).to(param.dtype, copy=True)
    loss.copy_(total.squeeze())


@torch.no_grad()
def evaluate(model, batches, seed, step, amp, device, world) -> float:
    """Mean cross-entropy in nats/token over the monitor windows, which the ranks share out."""
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # of losses, of tokens
    for batch in batches:
        seed_random(seed, EVALUATE, step, batch.index)
        with amp:
            _, loss = model(batch.inputs, batch.targets)
        tokens = batch.targets.numel()
        sums += torch.stack((loss.double() * tokens, torch.full_like(sums[0], tokens)))
    if world > 1:
        dist.all_reduce(sums)
    model.train()
    return float(sums[0] / sums[1])


def train(s: TrainConfig, rank: int, world: int) -> None:
    """Trains, evaluates and saves, as one of `world` ranks."""
    if "HARNESS_OUT" not in os.environ:
        raise progress.StageError("set HARNESS_OUT to the folder that receives the checkpoint.")
    out, label = Path(os.environ["HARNESS_OUT"]), os.environ.get("HARNESS_STAGE", "gpt")
    seed = int(os.environ.get("HARNESS_SEED", "42"))
    if s.device == "cuda" and not torch.cuda.is_available():
        raise progress.StageError("no GPU that torch can use. Train on the CPU with --device=cpu.")
    device = torch.device(s.device)
    if device.type == "cuda":
        torch.cuda.set_device(device := torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))))
        torch.set_float32_matmul_precision("high")
    amp = torch.autocast(device.type, torch.bfloat16, enabled=s.bfloat16)
    feed: data.Feed = data.open_feed(s, seed, rank, world, device)

    seed_random(seed, INIT)
    model = GPT(s.model()).to(device)
    betas = (s.beta1, s.beta2)
    optimizer = model.configure_optimizers(s.weight_decay, s.learning_rate, betas, device.type)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    place = checkpoint.Place(out, label, {**dataclasses.asdict(s), "seed": seed}, model, optimizer)
    done, value = place.load(device)
    params = [p for p in model.parameters() if p.requires_grad]
    flat = torch.empty(0)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        flat = torch.empty(sum(p.numel() for p in params) + len(params) + 1, device=device)
    compiled = torch.compile(model) if s.compile else model
    report = progress.Progress(out, label, s.max_iters, s.global_batch * s.block_size, rank > 0)

    for step in range(done, s.max_iters + 1):  # the last round only evaluates
        model.step.fill_(step)
        measure = step % s.eval_interval == 0 or step == s.max_iters
        if measure:
            for buffer in model.buffers() if world > 1 else ():
                dist.broadcast(buffer, 0)  # what is measured is what rank 0 saves
            val_loss = evaluate(compiled, feed.monitor(step), seed, step, amp, device, world)
        if step == s.max_iters:
            break
        model.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=device)
        for batch in feed.train(step):
            seed_random(seed, TRAIN, step, batch.index)
            with amp:
                _, part = compiled(batch.inputs, batch.targets)
            part = part * (len(batch.inputs) / s.global_batch)
            part.backward()
            loss += part.detach()
        if world > 1:
            sum_over_ranks(params, loss, flat)
        if measure:
            value = progress.finite(float(loss), step)
            report.metrics(step, value, progress.finite(val_loss, step))
        if s.grad_clip > 0:
            nn.utils.clip_grad_norm_(params, s.grad_clip)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * s.schedule(step) / s.learning_rate
        seed_random(seed, UPDATE, step)
        optimizer.step()
        save = s.save_interval > 0 and (step + 1) % s.save_interval == 0
        if save or (step + 1) % s.log_interval == 0 or step + 1 == s.max_iters:
            value = progress.finite(float(loss), step)
            report.report(step + 1, value)
        if save and rank == 0:
            place.save(step + 1, value)
        if save or measure:
            report.start_clock(step + 1)

    report.metrics(s.max_iters, value, progress.finite(val_loss, s.max_iters))
    if rank == 0:
        facts = {"model": dataclasses.asdict(s.model()), "step": s.max_iters, "seed": seed}
        checkpoint.save_weights(out, label, model, facts)
        place.clear()
        if device.type == "cuda":
            print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    if world > 1:
        dist.destroy_process_group()


def main(argv: list[str] | None = None) -> None:
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    sys.stdout = sys.stdout if rank == 0 else open(os.devnull, "w")  # noqa: SIM115
    try:
        train(read_settings(sys.argv[1:] if argv is None else argv, CONFIG_OVERRIDES), rank, world)
        return
    except progress.StageError as error:
        reason, alone = str(error), isinstance(error, progress.RankError)
    except (RuntimeError, MemoryError) as error:
        if not progress.is_out_of_memory(error):
            raise
        reason, alone = progress.out_of_memory(error, Path(__file__).name), True
    # What every rank finds alike is said once.
    if rank == 0 or alone:
        print(f"ERROR: {reason}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
