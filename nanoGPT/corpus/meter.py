"""How far a long piece of work is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

EVERY_S = 10.0
"""Between two lines where there is no terminal."""


class Meter:
    """Counts bytes done, of `total`, and tokens made; `done` bytes were done before this start."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._done, self._before = what, max(total, 1), done, done
        self._tokens = 0
        self._began = self._said = time.monotonic()
        shown = sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
            console=Console(stderr=True),
            transient=True,
            disable=not shown,
        )
        self._task = self._bar.add_task(what, total=self._total, completed=done, pace="")
        self._plain = not shown

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if kind is None:
            self._say()

    def add(self, amount: int, tokens: int = 0) -> None:
        """So many more bytes are done."""
        self._done += amount
        self._tokens += tokens
        self._bar.update(self._task, completed=self._done, pace=self._pace())
        if self._plain and time.monotonic() - self._said >= EVERY_S:
            self._say()

    def _pace(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        own = self._done - self._before
        left = (self._total - self._done) * seconds / own if own else 0.0
        parts = [f"{self._tokens / seconds / 1e6:.2f}M tokens/s"] if self._tokens else []
        if left >= 1:
            parts.append(f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left")
        return ", ".join(parts)

    def _say(self) -> None:
        self._said = time.monotonic()
        share = f"{self._done / 1e6:,.1f} of {self._total / 1e6:,.1f} MB"
        pace = self._pace()
        print(f"{self._what}: {share}{', ' if pace else ''}{pace}", flush=True)
