"""lm-eval's log-likelihoods through the stage's own path beside stock lm-eval, on one GPU.

    python benchmarks/lm_eval_speed.py --bpe FOLDER --gpus 0

Needs transformers and accelerate besides the project's packages: stock lm-eval runs its `HFLM` with
batch size `auto` in bfloat16 on a GPT-2 of transformers with the same weights. FOLDER holds the
two files of GPT-2's encoding as prepared data has them (score/bpe). The model is that of the
profile with random weights, or of a checkpoint: --checkpoint FOLDER --label gpt-345m.

Requests are shaped as HellaSwag's: items of one context and four continuations, of random words.
Timed on both sides from built requests to a result for each, tokenisation included, warm; the stage
asks a model server in the sandbox if this machine has one. Prints Markdown tables: seconds and
their ratio; how far results are from each other and from fp32; accuracies for random right choices.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serving import server_plan, settings_of  # puts the packages below on the path

import channel  # isort: split

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import checkpoint
import custom_pretrain
from scoring.lm_eval_stage import CheckpointLM
from scoring.served import Checkpoint, ServedModel, Sizes, ready
from tokenizer import GPT2_FILES, Vocabulary, load_gpt2

CHOICES = 4
WORDS, SPREAD = (45, 24), (12, 8)
"""Of a context and of a continuation: the mean, and the deviation."""
WARM_UP = 512

Results = np.ndarray[Any, np.dtype[np.float64]]
"""(requests,) log-likelihoods, nats"""


def build_requests(items: int, vocabulary: Vocabulary, rng: random.Random) -> list[Instance]:
    """`items` contexts of random words with their continuations, as lm-eval hands them on."""
    words = [
        text[1:]
        for text in (vocabulary.decode([i]) for i in range(vocabulary.size))
        if len(text) > 2 and text[0] == " " and text[1:].isascii() and text[1:].islower()
    ]

    def text(kind: int) -> str:
        return " ".join(rng.choices(words, k=max(3, round(rng.gauss(WORDS[kind], SPREAD[kind])))))

    requests = []
    for item in range(items):
        context = text(0)
        for choice in range(CHOICES):
            arguments = (context, " " + text(1))
            requests.append(Instance("loglikelihood", {"item": item}, arguments, choice))
    return requests


def stock_model(
    model: custom_pretrain.GPT, vocabulary: Path, dtype: torch.dtype, device: str
) -> HFLM:
    """lm-eval's own model class around transformers' GPT-2 with the weights of `model`."""
    c = model.config
    config = GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.block_size, n_embd=c.n_embd, n_layer=c.n_layer,
        n_head=c.n_head, activation_function="gelu", resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=50256, eos_token_id=50256,
    )  # fmt: skip
    twin = GPT2LMHeadModel(config)
    state = twin.state_dict()
    for name, tensor in state.items():
        own = name.replace("lm_head.weight", "transformer.wte.weight")
        if own in model.state_dict():
            value = model.state_dict()[own]
            # Its projections are stored the other way round.
            tensor.copy_(value.T if value.shape != tensor.shape or ".c_" in own else value)
        else:
            assert name.endswith("bias"), name
            tensor.zero_()
    twin.load_state_dict(state)
    files = {name: str(vocabulary / cached) for name, (cached, _) in GPT2_FILES.items()}
    bpe = ByteLevelBPETokenizer.from_file(files["encoder.json"], files["vocab.bpe"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>", model_max_length=c.block_size
    )
    return HFLM(
        pretrained=twin.to(device, dtype).eval(), tokenizer=tokenizer, batch_size="auto",
        max_length=c.block_size, backend="causal",
    )  # fmt: skip


def timed(
    answer: Callable[[list[Instance]], list[tuple[float, bool]]], requests: list[Instance]
) -> tuple[float, Results]:
    """Seconds, and the log-likelihoods, after a warm-up on some of the requests."""
    answer(requests[:WARM_UP])
    began = time.perf_counter()
    results = answer(requests)
    seconds = time.perf_counter() - began
    return seconds, np.array([likelihood for likelihood, _ in results])


def accuracy(results: Results, right: Sequence[int]) -> float:
    """Percent of the items whose right choice is the likeliest."""
    best = results.reshape(-1, CHOICES).argmax(1)
    return float(100 * (best == np.array(right)).mean())


def distance(a: Results, b: Results) -> str:
    apart = np.abs(a - b)
    return f"{apart.mean():.4f} | {np.quantile(apart, 0.99):.4f} | {apart.max():.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--bpe", type=Path, required=True, help="the files of GPT-2's encoding")
    parser.add_argument("--profile", default="345m")
    parser.add_argument("--items", type=int, default=10_042)
    parser.add_argument("--exact-items", type=int, default=125, help="compared in fp32 as well")
    parser.add_argument("--gpus", default="0", help="ids for the stage; empty for a CPU")
    parser.add_argument("--checkpoint", type=Path, help="folder of trained weights")
    parser.add_argument("--label", default="gpt", help="the stage that trained them")
    parser.add_argument("--without-stock", action="store_true", help="time the stage alone")
    options = parser.parse_args()
    os.environ["HARNESS_GPUS"] = options.gpus
    device = "cuda:0" if options.gpus else "cpu"
    settings = settings_of(options.profile)
    if options.profile in ("tiny", "smoke"):
        settings.append("--vocab_size=50304")
    config = custom_pretrain.read_settings(settings, {}).model()
    vocabulary = Vocabulary.full(load_gpt2(options.bpe))
    rng = random.Random(1)
    requests = build_requests(options.items, vocabulary, rng)
    right = [rng.randrange(CHOICES) for _ in range(options.items)]
    exact = requests[: options.exact_items * CHOICES]
    gc.freeze()  # as the stage does; for both sides
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(1)
        model = custom_pretrain.GPT(config)
        if options.checkpoint:
            checkpoint.load_weights(options.checkpoint, options.label, model)
        checkpoint.save_weights(folder, options.label, model, {})
        plan = server_plan(folder, settings, options.gpus) | {"log": str(folder / "serve.log")}
        (folder / "serve.json").write_text(json.dumps(plan))
        os.environ[channel.SERVER] = str(folder / "serve.json")
        sizes = Sizes.of(settings)
        tokens_of: dict[bool, dict[tuple[bytes, bytes], Results]] = {}

        def ours(bfloat16: bool, some: list[Instance]) -> tuple[float, Results]:
            with ServedModel(options.label, sizes, bfloat16=bfloat16) as server:
                scored = ready(server, Checkpoint(folder, options.label), sizes, 0.0)
                result = timed(CheckpointLM(scored, vocabulary).loglikelihood, some)
                tokens_of[bfloat16] = {
                    (np.array(span.inputs).tobytes(), np.array(span.targets).tobytes()): one.losses
                    for span, one in scored.scored
                }
                return result

        def stock(dtype: torch.dtype, some: list[Instance]) -> tuple[float, Results]:
            twin = stock_model(model, options.bpe, dtype, device)
            return timed(lambda rs: twin.loglikelihood(rs, disable_tqdm=True), some)

        own_s, own = ours(True, requests)
        print(f"the stage: {own_s:.2f} s", file=sys.stderr, flush=True)
        if options.without_stock:
            return
        _, own_exact = ours(False, exact)
        stock_s, other = stock(torch.bfloat16, requests)
        print(f"stock: {stock_s:.1f} s", file=sys.stderr, flush=True)
        _, other_exact = stock(torch.float32, exact)

    tokens = sum(len(ids) for ids in vocabulary.encode_all([a + b for a, b in args(requests)]))
    where = torch.cuda.get_device_name() if options.gpus else f"{os.cpu_count()} CPU cores"
    print(f"\n{where}, torch {torch.__version__}, lm-eval {lm_eval.__version__}, "
          f"{len(requests):,} requests, {tokens:,} tokens")  # fmt: skip
    print("\n| bfloat16 | seconds | tokens/s | times as fast | accuracy |\n|---|---|---|---|---|")
    for what, seconds, results in (("stock, auto", stock_s, other), ("the stage", own_s, own)):
        print(f"| {what} | {seconds:.1f} | {tokens / seconds:,.0f} | {stock_s / seconds:.2f} "
              f"| {accuracy(results, right):.2f} |")  # fmt: skip
    print(f"\nOf {len(exact)} requests:\n")
    print("| log-likelihoods apart, nats | mean | 99% below | largest |\n|---|---|---|---|")
    print(f"| the stage in fp32, stock in fp32 | {distance(own_exact, other_exact)} |")
    print(f"| stock in bfloat16, stock in fp32 | {distance(other[: len(exact)], other_exact)} |")
    print(f"| the stage in bfloat16, stock in fp32 | {distance(own[: len(exact)], other_exact)} |")
    both = [(tokens_of[True][text], losses) for text, losses in tokens_of[False].items()]
    rounded, single = (np.concatenate(losses) for losses in zip(*both, strict=True))
    print(f"| one token, the stage in bfloat16 and in fp32 | {distance(rounded, single)} |")


def args(requests: Sequence[Instance]) -> list[tuple[str, str]]:
    return [request.args for request in requests]


if __name__ == "__main__":
    main()
