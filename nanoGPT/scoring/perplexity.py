"""The `score` half of a training stage: val_loss and the perplexities of held-out texts.

`val_loss` is the mean cross-entropy, in nats a token, over windows of the model's block size that
follow each other through a split's tokens, all of them, in order.

A perplexity is exp(loss of all scored tokens / words): the loss is summed over a text's passages,
and divided by the number of words, not of tokens, so that it does not depend on the vocabulary.
Words are what blanks separate. Each passage is scored on its own after an end-of-text token, cut
into spans as `spans.document_spans` says. Where a passage is scored only in its last word (words =
1), this is the perplexity of that word given what comes before, as LAMBADA has it; where all of it
is scored, it is word perplexity as lm-eval's WikiText has it.

The texts are those that score/meta.json names: for each a metric and a file of passages.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scoring.examination import add_options, examine
from scoring.model import ScoredModel
from scoring.report import SPLITS, Report, ScoreError, Surroundings, carry_out, perplexity
from scoring.spans import Tokens, document_spans, evenly, fixed_windows
from shards import ShardError, Split

HOW_TO_PREPARE = "Prepare it with nanoGPT/prepare_data.py."


def read_meta(folder: Path) -> dict[str, Any]:
    """score/meta.json. Raises ScoreError if there is none."""
    path = folder / "meta.json"
    if not path.is_file():
        raise ScoreError(f"no held-out data: {path} is missing. {HOW_TO_PREPARE}")
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return meta


def score_split(model: ScoredModel, tokens: Tokens, limit: int | None) -> list[float]:
    """The loss of each window of a split, nats a token; at most `limit` windows, evenly spread."""
    windows = fixed_windows(tokens, model.block_size)
    if not windows:
        raise ScoreError(f"a held-out split has fewer than {model.block_size} tokens")
    chosen = [windows[i] for i in evenly(len(windows), limit)]
    return [result.loss / model.block_size for result in model.score(chosen)]


def score_passages(
    model: ScoredModel, passages: Sequence[dict[str, Any]], eot: int
) -> tuple[float, list[float]]:
    """Mean loss a word over all `passages`, and that of each passage (nats a word)."""
    cut = [document_spans(p["tokens"], p["scored"], eot, model.block_size) for p in passages]
    results = iter(model.score([span for spans in cut for span in spans]))
    losses = [sum(next(results).loss for _ in spans) for spans in cut]
    words = [p["words"] for p in passages]
    return sum(losses) / sum(words), [a / b for a, b in zip(losses, words, strict=True)]


def score_all(
    model: ScoredModel, folder: Path, max_windows: int | None, max_passages: int | None
) -> Report:
    """Every metric of this stage on both splits. Raises ScoreError for missing or unfit data."""
    meta = read_meta(folder)
    if meta["vocab_size"] > model.vocab_size:
        raise ScoreError(
            f"the data has {meta['vocab_size']} token ids, the model {model.vocab_size}. "
            f"Train with --vocab_size={meta['vocab_size']} or more."
        )
    report = Report()
    for split in SPLITS:
        try:
            held_out = Split(folder, split, meta)
        except ShardError as error:
            raise ScoreError(str(error)) from error
        tokens = held_out.read(0, len(held_out)).astype(np.int64)
        losses = score_split(model, tokens, max_windows)
        report.add_windows("val_loss", split, sum(losses) / len(losses), losses)
        print(f"val_loss: {len(losses)} windows of {model.block_size} tokens", flush=True)
    for text in meta.get("texts", []):
        lines = (folder / text["file"]).read_text(encoding="utf-8").splitlines()
        passages = [json.loads(line) for line in lines]
        for split in SPLITS:
            own = [p for p in passages if p["split"] == split]
            chosen = [own[i] for i in evenly(len(own), max_passages)]
            mean, losses = score_passages(model, chosen, meta["eot"])
            name = text["metric"]
            report.add_windows(name, split, perplexity(name, mean), losses)
            print(f"{name}: {len(chosen)} passages", flush=True)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Score a checkpoint on held-out text.")
    parser.add_argument("--checkpoint", help="label of the stage that trained; default: this one")
    parser.add_argument("--max-windows", type=int, help="of each split; default: all")
    parser.add_argument("--max-passages", type=int, help="of each text and split; default: all")
    add_options(parser)
    args = parser.parse_args(argv)

    def score() -> None:
        around = Surroundings.from_environment()
        read_meta(around.data)

        def measure(model: ScoredModel) -> Report:
            return score_all(model, around.data, args.max_windows, args.max_passages)

        examine(measure, around, args.checkpoint or around.stage, args)

    return carry_out(score)


if __name__ == "__main__":
    sys.exit(main())
