"""What the contract's probes found, one entry for each kind of trouble."""

from __future__ import annotations

import contextlib
import difflib
import re
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PATH = re.compile(r"(?<![\w.:/>-])(?:/[^\s/'\"`:,;()<>\[\]{}|=*]+){2,}/?")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class TimeUp(BaseException):
    """The probes' time is over; no `except Exception` of an edit can keep it.

    Args: what to say, and the line of the edited file that was at work.
    """

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line


@dataclass
class Entry:
    rule: str
    text: str
    where: str
    advice: str
    line: int | None
    figure: float
    warning: bool
    count: int = 1

    def message(self) -> str:
        more = f", and {self.count - 1} more times" if self.count > 1 else ""
        place = f" ({self.where}{more})" if self.where else ""
        return f"{self.text}{place}. {self.advice}".strip()


@dataclass
class Report:
    """Findings and warnings as they turn up; the same trouble twice is one entry, the worse one.

    Args:
        path: the edited file, whose lines are told.
        name: what a reader calls it.
        own: the lines that are the edit's own, from 1.
    """

    path: Path
    name: str
    own: frozenset[int] = frozenset()
    facts: dict[str, Any] = field(default_factory=dict)
    _entries: dict[tuple[str, str, bool], Entry] = field(default_factory=dict)

    def add(
        self,
        rule: str,
        text: str,
        *,
        where: str = "",
        advice: str = "",
        kind: str = "",
        line: int | None = None,
        figure: float = 0.0,
        warning: bool = False,
    ) -> None:
        """Notes trouble. Of those with the same rule and kind the one of the largest figure is
        told, and how often it was met."""
        entry = Entry(rule, text, where, advice, line, figure, warning)
        known = self._entries.setdefault((rule, kind, warning), entry)
        if known is not entry:
            entry.count = known.count + 1
            known.count += 1
            if figure > known.figure:
                self._entries[rule, kind, warning] = entry

    def merge(self, other: Report) -> None:
        """Adds what another process found; numbers among the facts add up."""
        for key, entry in other._entries.items():
            known = self._entries.setdefault(key, entry)
            if known is not entry:
                worse = max(known, entry, key=lambda e: e.figure)
                worse.count = known.count + entry.count
                self._entries[key] = worse
        for name, value in other.facts.items():
            self.facts[name] = self.facts.get(name, 0) + value

    def knows(self, rule: str, kind: str) -> bool:
        """Whether the test is refused by that rule already, for trouble of that kind."""
        return (rule, kind, False) in self._entries

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What refuses the test."""
        return self._told(False)

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """What is only shown."""
        return self._told(True)

    def _told(self, warning: bool) -> list[dict[str, Any]]:
        return [
            {"rule": e.rule, "file": self.name, "line": e.line, "message": e.message()}
            for e in self._entries.values()
            if e.warning is warning
        ]

    @contextlib.contextmanager
    def guard(
        self,
        rule: str,
        where: str,
        *,
        advice: str = "",
        lenient: bool = False,
        warning: bool = False,
    ) -> Iterator[None]:
        """Notes an exception of the edited code under `rule`, and goes on behind the block.

        `lenient`: the code was brought into a state that it need not survive; say nothing.
        """
        try:
            yield
        except TimeUp:
            raise
        except BaseException as error:  # an edit may raise SystemExit as well
            if not lenient:
                line = line_of(error, self.path, self.own)
                text = describe(error)
                self.add(
                    rule,
                    text,
                    where=where,
                    advice=advice,
                    kind=f"{type(error).__name__} {line}",
                    line=line,
                    warning=warning,
                )


def describe(error: BaseException) -> str:
    """Type and first lines of the message, without paths and addresses of this machine."""
    try:
        words = str(error)
    except Exception:  # the edited code's own class
        words = ""
    # Compilers append their own stack and the user's; the first paragraph is the reason.
    words = " ".join(words.split("\n\n")[0].split())
    words = _ADDRESS.sub("", _PATH.sub("<path>", words))
    words = words if len(words) <= 300 else words[:297] + "..."
    return f"{type(error).__name__}: {words}".rstrip(".: ")


def changed_lines(text: str, pristine: str) -> frozenset[int]:
    """The numbers of those lines of `text`, from 1, that are not in `pristine`."""
    matcher = difflib.SequenceMatcher(None, pristine.split("\n"), text.split("\n"), autojunk=False)
    steps = matcher.get_opcodes()
    return frozenset(n + 1 for tag, _, _, a, b in steps if tag != "equal" for n in range(a, b))


def choose_line(lines: Sequence[int], own: frozenset[int]) -> int | None:
    """Of the lines of a stack, outermost first, the innermost one that an author can mend."""
    return next((n for n in reversed(lines) if n in own), lines[-1] if lines else None)


def line_of(error: BaseException, path: Path, own: frozenset[int]) -> int | None:
    """The innermost line of the file at `path` that led to the error, its causes included; one
    of `own` if there is any."""
    seen: BaseException | None = error
    while seen is not None:
        try:
            frames = traceback.extract_tb(seen.__traceback__)
            lines = [f.lineno for f in frames if f.filename == str(path) and f.lineno]
            # A compiler tells the lines that it was reading in its message.
            told = re.findall(rf'File "{re.escape(str(path))}", line (\d+)', str(seen))
        except Exception:
            return None
        if told or lines:
            return choose_line([int(n) for n in told] or lines, own)
        if isinstance(seen, SyntaxError) and seen.filename == str(path):
            return seen.lineno
        seen = seen.__cause__ or seen.__context__
    return None
