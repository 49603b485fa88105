"""GPT-2's encoding without a download, and the smaller vocabulary made from it."""

from __future__ import annotations

import shutil
import socket
from collections import Counter
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from prepared import shakespeare_dir

from tokenizer import GPT2_EOT, GPT2_FILES, Vocabulary, load_gpt2


@pytest.fixture(scope="module")
def bpe_folder() -> Path:
    return shakespeare_dir() / "score" / "bpe"


@pytest.fixture(scope="module")
def bpe(bpe_folder: Path) -> tiktoken.Encoding:
    return load_gpt2(bpe_folder)


@pytest.fixture(scope="module")
def vocabulary(bpe_folder: Path) -> Vocabulary:
    return Vocabulary.load(bpe_folder.parent / "vocab.json", bpe_folder)


@given(text=st.text())
def test_any_text_comes_back(vocabulary: Vocabulary, text: str) -> None:
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert all(0 <= i < vocabulary.size and i != vocabulary.eot for i in ids)


@given(texts=st.lists(st.text()))
def test_many_texts_at_once_are_the_same(vocabulary: Vocabulary, texts: list[str]) -> None:
    for some in (vocabulary, Vocabulary.full(vocabulary.bpe)):
        together = [ids.tolist() for ids in some.encode_all(texts)]
        assert together == [some.encode(text) for text in texts]


@given(text=st.text())
def test_the_bytes_alone_are_a_vocabulary(bpe: tiktoken.Encoding, text: str) -> None:
    assert Vocabulary.of_most_frequent(bpe, {}, 257).encode(text) == list(text.encode())


@given(text=st.text())
def test_the_full_vocabulary_is_gpt2s(bpe: tiktoken.Encoding, text: str) -> None:
    assert Vocabulary.full(bpe).encode(text) == bpe.encode_ordinary(text)


@pytest.mark.parametrize(
    ("text", "gpt2_ids"),
    [
        ("Hello world", [15496, 995]),  # GPT-2's published numbers
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),  # plain text, not the special token
    ],
)
def test_known_tokens(bpe: tiktoken.Encoding, text: str, gpt2_ids: list[int]) -> None:
    assert Vocabulary.full(bpe).encode(text) == gpt2_ids


def test_end_of_text_is_the_only_token_that_no_text_gives(vocabulary: Vocabulary) -> None:
    assert vocabulary.eot == 256
    assert vocabulary.gpt2_ids[256] == GPT2_EOT
    assert vocabulary.decode([vocabulary.eot]) == "<|endoftext|>"


def test_the_most_frequent_tokens_are_kept_and_rare_ones_spelled(bpe: tiktoken.Encoding) -> None:
    often, rare = " king", " kingdom"
    counts = Counter(bpe.encode_ordinary(often * 3 + rare))
    vocabulary = Vocabulary.of_most_frequent(bpe, counts, 258)
    assert vocabulary.encode(often) == [257]
    assert vocabulary.encode(rare) == [257, *b"dom"]


def test_a_lone_surrogate_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(UnicodeEncodeError):
        vocabulary.encode_all(["whole", "\ud800"])
    with pytest.raises(UnicodeEncodeError):
        vocabulary.encode("\ud800")


def test_a_vocabulary_below_the_bytes_is_refused(bpe: tiktoken.Encoding) -> None:
    with pytest.raises(ValueError, match="too small"):
        Vocabulary.of_most_frequent(bpe, {}, 256)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_bad_files_are_an_error_and_no_download(
    bpe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    shutil.copytree(bpe_folder, tmp_path / "bpe")
    cached_name, _ = GPT2_FILES["encoder.json"]
    file = tmp_path / "bpe" / cached_name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"{}")

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises((FileNotFoundError, ValueError), match=r"encoder\.json"):
        load_gpt2(tmp_path / "bpe")
