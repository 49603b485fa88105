"""Text of agents as it may be shown: without what moves a cursor or turns text around."""

from __future__ import annotations

import re
import unicodedata

# Control characters of ASCII and Latin-1 with the sequences that ESC begins, line and paragraph
# separators, and the marks that change the direction of what follows; tab and newline stay.
_UNPRINTABLE = re.compile(
    r"\x1b\[[0-9;?]*[A-Za-z]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)


def printable(text: str, instead: str = "") -> str:
    """`text` with `instead` for each character, or sequence of one, that is not for reading."""
    return _UNPRINTABLE.sub(instead, text)


_LINES = str.maketrans("", "", "\n\t")


def visible(text: str, *, lines: bool = False) -> str:
    """`text` with everything that would be acted upon, or not shown, as an escape.

    With `lines`, line feeds and tabs stay as they are.
    """
    # What is printable in Python's sense is of none of the categories below: most text passes here.
    if (text.translate(_LINES) if lines else text).isprintable():
        return text
    return "".join(
        character if (lines and character in "\n\t") or _shows(character) else _escape(character)
        for character in text
    )


def _shows(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escape(character: str) -> str:
    if character == "\t":
        return "    "
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
