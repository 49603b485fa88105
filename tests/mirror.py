"""A mirror of the hub's repositories, in their own schema, out of the prepared plays and poems."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from prepared import shakespeare_dir

from shards import Split, read_meta
from tokenizer import Vocabulary

EVERY_SET = ("wikitext2", "lambada", "arc_easy", "hellaswag", "piqa", "winogrande")


@cache
def documents() -> tuple[str, ...]:
    """Some 4,000 documents of about 1,400 characters each, no two of them alike."""
    folder = shakespeare_dir()
    vocabulary = Vocabulary.load(folder / "score" / "vocab.json", folder / "score" / "bpe")
    meta = read_meta(folder / "run")
    split = Split(folder / "run", "train", meta)
    text = vocabulary.decode(split.read(0, len(split)).tolist())
    found: list[str] = []
    size = 0
    lines: list[str] = []
    for line in text.replace("<|endoftext|>", "").split("\n"):
        lines.append(line)
        size += len(line)
        if size > 1400:
            found.append("\n".join(lines))
            lines, size = [], 0
    return tuple(found)


def fineweb(texts: list[str], folder: Path, files: int = 2, rows: int = 25) -> None:
    """`texts` as FineWeb's sample has them: parquet with row groups of `rows`."""
    sample = folder / "HuggingFaceFW" / "fineweb" / "sample" / "10BT"
    sample.mkdir(parents=True, exist_ok=True)
    each = -(-len(texts) // files)
    for number in range(files):
        own = texts[number * each : (number + 1) * each]
        table = pa.table(
            {
                "text": own,
                "id": [f"<urn:uuid:{number}-{i}>" for i in range(len(own))],
                "dump": ["CC-MAIN-2023-50"] * len(own),
                "url": [f"https://example.org/{number}/{i}" for i in range(len(own))],
                "date": ["2023-12-01T00:00:00Z"] * len(own),
                "file_path": ["s3://example/warc.gz"] * len(own),
                "language": ["en"] * len(own),
                "language_score": [0.9] * len(own),
                "token_count": [len(text) // 4 for text in own],
            }
        )
        pq.write_table(table, sample / f"{number:03}_00000.parquet", row_group_size=rows)


def evaluation_sets(folder: Path, seed: int = 0) -> dict[str, int]:
    """A few rows of each set, where its repository has them; returns how many of each."""
    rng = random.Random(seed)
    texts = rng.sample(documents()[-300:], 40)
    words = " ".join(texts).split()

    def phrase(count: int) -> str:
        at = rng.randrange(len(words) - count)
        return " ".join(words[at : at + count])

    def parquet(path: str, rows: list[dict[str, object]]) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / path)

    pages = [
        {"page": f" = Scene {i} = \n \n {' '.join(text.split())} , said @-@ he . \n"}
        for i, text in enumerate(texts[:4])
    ]
    parquet(
        "EleutherAI/wikitext_document_level/wikitext-2-raw-v1/test-00000-of-00001.parquet", pages
    )
    lambada = folder / "EleutherAI/lambada_openai/data/lambada_test.jsonl"
    lambada.parent.mkdir(parents=True, exist_ok=True)
    passages = [phrase(60) + rng.choice([" crown", " unkindliness", " day"]) for _ in range(10)]
    lambada.write_text("".join(json.dumps({"text": text}) + "\n" for text in passages))
    parquet(
        "allenai/ai2_arc/ARC-Easy/test-00000-of-00001.parquet",
        [
            {
                "id": f"Mercury_{i}",
                "question": phrase(12) + "?",
                "choices": {"text": [phrase(3) for _ in labels], "label": list(labels)},
                "answerKey": labels[i % len(labels)],
            }
            for i in range(6)
            for labels in [("ABCD", "1234", "ABC")[i % 3]]
        ],
    )
    parquet(
        "Rowan/hellaswag/data/validation-00000-of-00001.parquet",
        [
            {
                "ind": i,
                "activity_label": phrase(2),
                "ctx_a": phrase(10),
                "ctx_b": "they",
                "ctx": "",
                "endings": [phrase(8) for _ in range(4)],
                "source_id": f"activitynet~v_{i}",
                "split": "val",
                "split_type": "indomain",
                "label": str(i % 4),
            }
            for i in range(5)
        ],
    )
    parquet(
        "baber/piqa/data/validation-00000-of-00001.parquet",
        [
            {"goal": phrase(6), "sol1": phrase(7), "sol2": phrase(7), "label": i % 2}
            for i in range(7)
        ],
    )
    parquet(
        "allenai/winogrande/winogrande_xl/validation-00000-of-00001.parquet",
        [
            {
                "sentence": f"{phrase(5)} _ {phrase(5)}",
                "option1": "Anne",
                "option2": "Kate",
                "answer": str(1 + i % 2),
            }
            for i in range(8)
        ],
    )
    counts = (len(pages), len(passages), 6, 5, 7, 8)
    return dict(zip(EVERY_SET, counts, strict=True))
