"""The evaluation sets of the full size: two texts for perplexity, four sets of lm-eval's tasks.

WikiText-2 (its test pages) becomes passages scored as a whole, LAMBADA (OpenAI's rendering of its
test passages, `lambada_openai` in lm-eval) passages of which the last word is scored. Requests and
metrics of the four sets are lm-eval's own (scoring/lm_eval_stage.py); their rows are kept as they
came, in `score/sets/<task>/<split>.parquet`.

How many rows each has is publicly known, and checked.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus.documents import read_table
from corpus.files import DataError, alternate, sha256_of, write_records
from corpus.hub import Fetched, Origin
from tokenizer import Vocabulary


@dataclass(frozen=True)
class EvaluationSet:
    """One split of one data set on the hub."""

    name: str
    """Of its metric without `_ppl`, or of lm-eval's task."""
    repository: str
    patterns: tuple[str, ...]
    """What its files may be named; the first pattern that fits any counts."""
    split: str
    rows: int
    columns: tuple[str, ...]
    """Those that it must have."""
    licence: str
    """As its authors or its card on the hub state it."""


WIKITEXT = EvaluationSet(
    name="wikitext2",
    repository="EleutherAI/wikitext_document_level",
    patterns=("wikitext-2-raw-v1/*test*.parquet", "*wikitext-2-raw-v1*test*"),
    split="test",
    rows=62,
    columns=("page",),
    licence="CC BY-SA 3.0",
)
LAMBADA = EvaluationSet(
    name="lambada",
    repository="EleutherAI/lambada_openai",
    patterns=("data/lambada_test.jsonl", "data/lambada_test_en.jsonl", "default/test*.parquet"),
    split="test",
    rows=5153,
    columns=("text",),
    licence="MIT (this rendering); CC BY 4.0 (LAMBADA)",
)
TASKS = (
    EvaluationSet(
        name="arc_easy",
        repository="allenai/ai2_arc",
        patterns=("ARC-Easy/test*.parquet",),
        split="test",
        rows=2376,
        columns=("id", "question", "choices", "answerKey"),
        licence="CC BY-SA 4.0",
    ),
    EvaluationSet(
        name="hellaswag",
        repository="Rowan/hellaswag",
        patterns=("data/validation*.parquet", "*validation*.parquet"),
        split="validation",
        rows=10042,
        columns=("activity_label", "ctx_a", "ctx_b", "endings", "label"),
        licence="MIT",
    ),
    EvaluationSet(
        name="piqa",
        repository="baber/piqa",
        patterns=("*validation*.parquet", "*valid*.jsonl"),
        split="validation",
        rows=1838,
        columns=("goal", "sol1", "sol2", "label"),
        licence="AFL 3.0",
    ),
    EvaluationSet(
        name="winogrande",
        repository="allenai/winogrande",
        patterns=("winogrande_xl/validation*.parquet",),
        split="validation",
        rows=1267,
        columns=("sentence", "option1", "option2", "answer"),
        licence="CC BY",
    ),
)


@dataclass(frozen=True)
class EvaluationSets:
    """What was prepared."""

    texts: list[dict[str, Any]]
    """Of score/meta.json: each names a file of passages and a metric."""
    sets: list[dict[str, Any]]
    """Of the manifest: each task's file, rows, sha256."""
    sources: list[dict[str, Any]]
    held_out: list[tuple[str, str]]
    """(name, text) of each passage, so that training documents can be compared with them."""


def prepare_sets(
    score: Path, vocabulary: Vocabulary, origin: Origin, *, any_size: bool = False
) -> EvaluationSets:
    """Fill `score` with the six sets.

    `any_size` accepts other numbers of rows than the published ones, for trying things out.
    Raises DataError if one cannot be had or is not what it should be.
    """
    done = EvaluationSets([], [], [], [])
    for own, passages in ((WIKITEXT, wikitext_passages), (LAMBADA, lambada_passages)):
        table = _take(own, origin, done, any_size)
        records, texts = passages(table.column(own.columns[0]).to_pylist(), vocabulary)
        file = f"{own.name}.jsonl"
        written = write_records(score / file, records)
        done.texts.append({"file": file, "metric": f"{own.name}_ppl", **written})
        done.held_out.extend((record["id"], t) for record, t in zip(records, texts, strict=True))
    for own in TASKS:
        table = _take(own, origin, done, any_size)
        path = score / "sets" / own.name / f"{own.split}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path, compression="zstd")
        file = path.relative_to(score).as_posix()
        done.sets.append(
            {"task": own.name, "file": file, "rows": table.num_rows, "sha256": sha256_of(path)}
        )
    return done


def _take(own: EvaluationSet, origin: Origin, done: EvaluationSets, any_size: bool) -> pa.Table:
    """The set's rows; its source is added to `done`."""
    print(f"taking {own.name} from {own.repository}", flush=True)
    fetched: Fetched = origin.fetch(own.repository, own.patterns)
    tables = [read_table(file.path) for file in fetched.files]
    for file, table in zip(fetched.files, tables, strict=True):
        if missing := set(own.columns) - set(table.column_names):
            raise DataError(
                f"{file.path} has no column {', '.join(sorted(missing))}: it is not the "
                f"{own.split} split of {own.repository}"
            )
    table = pa.concat_tables(tables)
    if table.num_rows != own.rows and not any_size:
        raise DataError(
            f"{own.repository} gave {table.num_rows} rows of {own.name}, its {own.split} split has "
            f"{own.rows}: fetch {', '.join(file.name for file in fetched.files)} again"
        )
    if table.num_rows == 0:
        raise DataError(f"{own.repository} gave no rows of {own.name}")
    done.sources.append(
        {
            "name": own.name,
            "repository": own.repository,
            "revision": fetched.revision,
            "licence": own.licence,
            "files": [file.as_json() for file in fetched.files],
        }
    )
    return table


Passages = tuple[list[dict[str, Any]], list[str]]
Maker = Callable[[Sequence[str], Vocabulary], Passages]


def wikitext_passages(pages: Iterable[str], vocabulary: Vocabulary) -> Passages:
    """A passage a page, and its text: detokenised as lm-eval does, scored as a whole.

    `words` are those that lm-eval divides by: of the page before it is detokenised.
    """
    rules = _lm_eval_wikitext()
    records, texts = [], []
    for i, page in enumerate(pages):
        text = rules.wikitext_detokenizer({"page": page})
        tokens = vocabulary.encode(text)
        if not tokens:
            raise DataError("a page of WikiText-2 is empty: fetch the set again")
        _, words = rules.process_results({"page": page}, (0.0,))["word_perplexity"]
        texts.append(text)
        records.append(
            {
                "id": f"wikitext2-{i + 1:03}",
                "split": alternate(i),
                "tokens": tokens,
                "scored": len(tokens),
                "words": words,
            }
        )
    return records, texts


def lambada_passages(passages: Iterable[str], vocabulary: Vocabulary) -> Passages:
    """A passage each, its last word (what follows the last blank, punctuation and all) scored.

    The word's tokens are those by which the whole passage is longer than its context, as lm-eval
    has them.
    """
    records, texts = [], []
    for i, text in enumerate(passages):
        context, blank, word = text.rpartition(" ")
        if not blank or not word or not context.strip():
            raise DataError(f"passage {i + 1} of LAMBADA has no last word: fetch the set again")
        tokens = vocabulary.encode(text)
        scored = len(tokens) - len(vocabulary.encode(context.rstrip()))
        texts.append(text)
        records.append(
            {
                "id": f"lambada-{i + 1:04}",
                "split": alternate(i),
                "tokens": tokens,
                "scored": scored,
                "words": 1,
            }
        )
    return records, texts


def _lm_eval_wikitext() -> ModuleType:
    """lm-eval's own rules for WikiText; importing them by name would load all of lm-eval."""
    package = importlib.util.find_spec("lm_eval")
    if package is None or not package.submodule_search_locations:
        raise DataError("lm-eval is not installed: make install")
    folder = Path(package.submodule_search_locations[0], "tasks", "wikitext")
    spec = importlib.util.spec_from_file_location(
        "lm_eval_wikitext", folder / "preprocess_wikitext.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
