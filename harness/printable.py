"""Text of agents' code as it may be shown: without what moves a cursor or turns text around."""

from __future__ import annotations

import re

# Control characters of ASCII and Latin-1 with the sequences that ESC begins, line and paragraph
# separators, and the marks that change the direction of what follows; tab and newline stay.
_UNPRINTABLE = re.compile(
    r"\x1b\[[0-9;?]*[A-Za-z]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)


def printable(text: str, instead: str = "") -> str:
    """`text` with `instead` for each character, or sequence of one, that is not for reading."""
    return _UNPRINTABLE.sub(instead, text)
