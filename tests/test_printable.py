"""What agents' code prints is shown without what moves a cursor or turns text around."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from harness.printable import printable


def test_known_tricks() -> None:
    assert printable("a\x1b[2J\x1b[1;31mb\x00\x07c\x9bd") == "abcd"
    assert printable("ac\u202edb\u2066x\u2069\ufeff") == "acdbx"
    assert printable("one\ttwo\nthree é 語 👩\u200d🔬") == "one\ttwo\nthree é 語 👩\u200d🔬"
    assert printable("a\rb", " ") == "a b"


@given(st.text())
def test_nothing_of_these_kinds_is_left(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown
    for character in shown:
        assert character in "\t\n" or unicodedata.category(character) not in ("Cc", "Zl", "Zp")
        assert unicodedata.bidirectional(character) not in (
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
        )  # fmt: skip
