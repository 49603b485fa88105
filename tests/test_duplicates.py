"""Shingles equal those of a plain program that works on words; what counts as a near-duplicate."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus import duplicates
from corpus.duplicates import LEAST, SHARE, SHINGLE, HeldOut, shingles, without_copies

# Few letters, so that texts share shingles; what stands between words; parts of characters.
WRITTEN = st.text(st.sampled_from("aAbBz09 .,\n\u00e9\u4e2d"), max_size=60)


def plain_shingles(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9\x80-\U0010ffff]+", text.translate(LOWER))
    if 0 < len(words) < SHINGLE:
        return [tuple(words)]
    return [tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)]


LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@given(texts=st.lists(WRITTEN, max_size=8))
def test_hashes_are_equal_where_the_words_are(texts: list[str]) -> None:
    hashes, starts = shingles([text.encode() for text in texts])
    expected = [plain_shingles(text) for text in texts]
    assert np.diff(starts).tolist() == [len(own) for own in expected]
    named: dict[tuple[str, ...], int] = {}
    for words, value in zip(chain(*expected), hashes.tolist(), strict=True):
        assert named.setdefault(words, value) == value
    assert len(set(named.values())) == len(named)


@given(held=st.lists(WRITTEN, max_size=5), texts=st.lists(WRITTEN, max_size=5))
def test_matches_are_those_of_counting_sets(held: list[str], texts: list[str]) -> None:
    index = HeldOut.of([text.encode() for text in held])
    expected = []
    for i, text in enumerate(texts):
        for j, other in enumerate(held):
            one, two = set(plain_shingles(text)), set(plain_shingles(other))
            fewer = min(len(one), len(two))
            if one & two and len(one & two) >= max(SHARE * fewer, min(LEAST, fewer)):
                expected.append((i, j))
    assert index.matches([text.encode() for text in texts]) == expected


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {i} of some words that all have in common, {i * i}".encode() for i in range(50)]
    whole = shingles(texts)
    monkeypatch.setattr(duplicates, "CHUNK", 100)
    for one, other in zip(whole, shingles(texts), strict=True):
        assert np.array_equal(one, other)


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    index = HeldOut.of([b"a b c d e f g h i j", b"nothing alike", b""])
    index.save(tmp_path)
    again = HeldOut.load(tmp_path)
    for name, array in vars(index).items():
        assert np.array_equal(array, vars(again)[name])
    assert again.matches([b"a b c d e f g h i", b"Nothing, ALIKE!", b"", b"x"]) == [(0, 0), (1, 1)]


def test_a_chain_of_copies_keeps_what_is_no_copy_of_a_kept_one() -> None:
    words = [f"w{i}" for i in range(100)]

    def stretch(first: int) -> bytes:
        return " ".join(words[first : first + 40]).encode()

    # Neighbours share much, the first and the last nothing.
    texts = [stretch(0), stretch(20), stretch(40), b"", stretch(0)]
    assert HeldOut.of(texts).matches([texts[0]]) == [(0, 0), (0, 1), (0, 4)]
    assert without_copies(texts) == [0, 2, 3]


def test_no_held_out_text_matches_nothing() -> None:
    assert HeldOut.of([]).matches([b"some words"]) == []
    assert without_copies([]) == []
