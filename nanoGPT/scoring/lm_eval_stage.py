"""The `score` half of an lm-eval stage: accuracies of multiple-choice tasks, through lm-eval's API.

The tasks are lm-eval's own or local ones of the same kind; definitions, requests and metrics are
lm-eval's, zero-shot. Each task's items are halved by their ids into `development` and `final`. The
model class here turns texts into tokens and asks `ScoredModel` for their log-likelihoods.

Start it with HF_HUB_OFFLINE, HF_DATASETS_OFFLINE and HF_HOME set, as the task's scripts do: lm-eval
and datasets read them when they are imported.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import pyarrow.parquet
from datasets import Dataset
from datasets.exceptions import DatasetNotFoundError
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.tasks._yaml_loader import load_yaml

from scoring.examination import add_options, examine
from scoring.model import ScoredModel, SpanScore
from scoring.perplexity import HOW_TO_PREPARE, read_meta
from scoring.report import SPLITS, Report, ScoreError, Surroundings, carry_out
from scoring.spans import Span, Tokens, development_half, document_spans
from tokenizer import Vocabulary

HOW_TO_GET_SETS = (
    "They lie in sets/ of the data folder's score part, where nanoGPT/prepare_data.py puts them: "
    "nothing is downloaded here."
)

FIRST_PART, PART = 2048, 12288
"""Requests that are encoded at a time: the first ones, and then. A part is encoded while the model
works on the one before."""

METRIC = "acc"
"""Of lm-eval's metrics the one that is reported: the likeliest choice is the right one."""


class CheckpointLM(TemplateLM):  # type: ignore[misc]
    """A `ScoredModel` with its vocabulary, as lm-eval wants a model."""

    def __init__(self, model: ScoredModel, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._model = model
        self._vocabulary = vocabulary

    @property
    def eot_token_id(self) -> int:
        return self._vocabulary.eot

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        return self._vocabulary.encode(string)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """As `TemplateLM` has it, with many texts encoded at once instead of one by one."""
        pairs = [request.args for request in requests]
        # Longest first, so that the texts of a batch are of like length.
        order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
        bounds = [0, *range(FIRST_PART, len(pairs), PART), len(pairs)]
        parts = [[pairs[i] for i in order[a:b]] for a, b in itertools.pairwise(bounds)]
        with ThreadPoolExecutor(1) as beside:
            results = self._model.score_parts(beside.map(self._encoded, parts))
        found = dict(zip(order, _answers(results), strict=True))
        return [found[i] for i in range(len(pairs))]

    def _encoded(self, pairs: Sequence[tuple[str, str]]) -> list[Span]:
        return self._spans(pairs, encode_pairs(self._vocabulary, pairs))

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], Tokens, Tokens]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether it is the greedy one) of each continuation."""
        pairs = [pair for pair, _, _ in requests]
        return _answers(self._model.score(self._spans(pairs, [ids for _, *ids in requests])))

    def _spans(
        self, pairs: Sequence[tuple[str, str]], encoded: Sequence[Sequence[Tokens]]
    ) -> list[Span]:
        """Of each (context, continuation) the span whose targets are the continuation.

        A context that does not fit before its continuation loses its beginning. Raises ScoreError
        for a continuation that is longer than the model's block.
        """
        block_size = self._model.block_size
        # One array for all, of which the inputs are parts.
        parts = [part for context_and_continuation in encoded for part in context_and_continuation]
        lengths = np.array([len(part) for part in parts], dtype=np.int64).reshape(-1, 2)
        if (long := np.flatnonzero(lengths[:, 1] > block_size)).size:
            text = pairs[long[0]][1]
            raise ScoreError(f"{text[:40]!r}... has more than {block_size} tokens")
        tokens = (
            np.concatenate(parts, dtype=np.int64, casting="unsafe")
            if parts
            else np.zeros(0, np.int64)
        )
        # The last token is a target alone.
        ends = lengths.sum(1).cumsum() - 1
        starts = np.maximum(ends + 1 - lengths.sum(1), ends - block_size)
        return [
            Span(tokens[start:end], continuation)
            for start, end, (_, continuation) in zip(
                starts.tolist(), ends.tolist(), encoded, strict=True
            )
        ]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of each whole text, in nats, end-of-text standing before it."""
        likelihoods = []
        for request in requests:
            tokens = self._vocabulary.encode(request.args[0])
            spans = (
                document_spans(tokens, len(tokens), self.eot_token_id, self._model.block_size)
                if tokens
                else []
            )
            likelihoods.append(-sum(result.loss for result in self._model.score(spans)))
        return likelihoods

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError(
            "this model scores given texts and generates none: use tasks with the output type "
            "multiple_choice, loglikelihood or loglikelihood_rolling"
        )


def _answers(results: Sequence[SpanScore]) -> list[tuple[float, bool]]:
    """(log-likelihood, whether it is the greedy one), as lm-eval wants them."""
    return [(-result.loss, result.greedy) for result in results]


def encode_pairs(
    vocabulary: Vocabulary, pairs: Sequence[tuple[str, str]]
) -> list[tuple[Tokens, Tokens]]:
    """The ids of each (context, continuation), split as lm-eval splits them.

    Both are encoded as one text, and the continuation is what comes behind as many ids as the
    context has without its closing blanks. End-of-text stands for an empty context.
    """
    contexts = [context.rstrip() for context, _ in pairs]
    wholes = [context + continuation for context, continuation in pairs]
    empty = np.array([vocabulary.eot])
    # The choices of an item share its context.
    texts = list(dict.fromkeys([*contexts, *wholes]))
    ids = dict(zip(texts, vocabulary.encode_all(texts), strict=True))
    return [
        (ids[bare], ids[whole][len(ids[bare]) :]) if context else (empty, ids[whole])
        for (context, _), bare, whole in zip(pairs, contexts, wholes, strict=True)
    ]


def load_tasks(
    names: Sequence[str], folders: Sequence[Path], sets: Path | None = None
) -> dict[str, Any]:
    """lm-eval's task objects by name, zero-shot, from the task files in `folders`.

    Where `sets` is given, the tasks' data come from its `<task>/<split>.parquet` instead of the
    hub; all else stays as defined. Raises ScoreError for a name that is not there or data that is
    not prepared.
    """
    manager = lm_eval.tasks.TaskManager(
        include_path=[str(f) for f in folders], include_defaults=False
    )
    if unknown := set(names) - set(manager.all_tasks):
        raise ScoreError(f"no task {', '.join(sorted(unknown))} in {', '.join(map(str, folders))}")
    try:
        wanted = [on_prepared(manager, name, sets) for name in names] if sets else list(names)
        tasks: dict[str, Any] = manager.load(wanted)["tasks"]
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        reason = str(error).splitlines()[0]
        raise ScoreError(f"an evaluation set is missing: {reason}. {HOW_TO_GET_SETS}") from error
    for task in tasks.values():
        task.set_config(key="num_fewshot", value=0)
    return tasks


def item_outcomes(samples: Sequence[dict[str, Any]], task: Any) -> list[dict[str, Any]]:
    """What is kept of each item: its id, whether it was right, each choice's log-likelihood.

    The id is the item's own; where a data set has none, or not a unique one, it is the place.
    """
    ids = [str(sample["doc"].get("id", "")) for sample in samples]
    if len(set(ids)) < len(ids) or "" in ids:
        ids = [str(sample["doc_id"]) for sample in samples]
    return [
        {
            "id": item,
            "correct": bool(sample[METRIC]),
            "target": right_choice(sample, task),
            "loglikelihoods": [round(float(ll), 4) for ll, _ in sample["filtered_resps"]],
        }
        for item, sample in zip(ids, samples, strict=True)
    ]


def right_choice(sample: dict[str, Any], task: Any) -> int:
    """The index of an item's right choice.

    Where the choices are contexts of one continuation (WinoGrande), lm-eval keeps the continuation
    as the target, and has the index in place of the context.
    """
    return int(task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"])


def score_tasks(model: CheckpointLM, tasks: dict[str, Any], hidden: Sequence[str]) -> Report:
    """Accuracy of every task on both splits, in percent; those of `hidden` stay hidden."""
    results = evaluate(model, {"tasks": tasks, "groups": {}}, bootstrap_iters=0, log_samples=True)
    assert results is not None
    report = Report()
    for name in tasks:
        outcomes = item_outcomes(results["samples"][name], tasks[name])
        development = development_half([item["id"] for item in outcomes])
        for split in SPLITS:
            own = [o for o in outcomes if (o["id"] in development) == (split == "development")]
            report.add_items(name, split, own, hidden=name in hidden)
        print(f"{name}: {len(outcomes)} items", flush=True)
    return report


def vocabulary_of(folder: Path) -> Vocabulary:
    """The vocabulary of the prepared data. Raises ScoreError if it is not there or is damaged."""
    try:
        return Vocabulary.load(folder / "vocab.json", folder / "bpe")
    except (OSError, ValueError) as error:
        raise ScoreError(f"no usable vocabulary: {error}. {HOW_TO_PREPARE}") from error


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Score a checkpoint on lm-eval tasks.")
    parser.add_argument("--checkpoint", required=True, help="label of the stage that trained")
    parser.add_argument("--tasks", required=True, help="names, separated by commas")
    parser.add_argument("--hidden", default="", help="those of them that agents may not see")
    parser.add_argument(
        "--include", type=Path, help="folder of task files; default: lm-eval's own definitions"
    )
    add_options(parser)
    args = parser.parse_args(argv)
    names = [name for name in args.tasks.split(",") if name]
    hidden = [name for name in args.hidden.split(",") if name]

    def score() -> None:
        if unknown := set(hidden) - set(names):
            raise ScoreError(f"--hidden names {', '.join(sorted(unknown))}, which --tasks does not")
        around = Surroundings.from_environment()
        read_meta(around.data)
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        if args.include:
            tasks = load_tasks(names, [args.include])
        else:
            tasks = load_tasks(names, own_definitions(names), around.data / "sets")
        vocabulary = vocabulary_of(around.data)
        # The collector would look through all that is loaded again and again.
        gc.freeze()

        def measure(model: ScoredModel) -> Report:
            return score_tasks(CheckpointLM(model, vocabulary), tasks, hidden)

        examine(measure, around, args.checkpoint, args)

    return carry_out(score)


def own_definitions(names: Sequence[str]) -> list[Path]:
    """lm-eval's folders for `names`: looking through all of its tasks takes ten seconds."""
    root = Path(lm_eval.tasks.__file__).parent
    folders = [root / name.partition("_")[0] for name in names]
    if missing := [folder.name for folder in folders if not folder.is_dir()]:
        raise ScoreError(f"lm-eval has no folder of tasks named {', '.join(missing)}")
    return folders


def on_prepared(manager: lm_eval.tasks.TaskManager, name: str, sets: Path) -> dict[str, Any]:
    """lm-eval's definition of a task, on the rows in `sets`; a split that is not there is none.

    They are read into memory: lm-eval's own reading of local files writes a cache beside them.
    """
    files = sorted((sets / name).glob("*.parquet"))
    if not files:
        raise ScoreError(f"the evaluation sets are not prepared: no {name}. {HOW_TO_GET_SETS}")

    def rows(**_: Any) -> dict[str, Dataset]:
        return {file.stem: Dataset(pyarrow.parquet.read_table(file)) for file in files}

    defined: dict[str, Any] = load_yaml(manager.task_index[name].yaml_path, resolve_func=True)
    there = {file.stem for file in files}
    for split in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if defined.get(split) not in there:
            defined.pop(split, None)
    own = {"dataset_path": None, "dataset_name": None, "dataset_kwargs": None}
    return {**defined, **own, "custom_dataset": rows}


if __name__ == "__main__":
    sys.exit(main())
