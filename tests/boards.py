"""Journals for leaderboards: whole sessions written into a store as the server writes them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from harness.edits import apply_edit
from harness.events import (
    AnyEvent,
    FileRecord,
    Header,
    RegionRecord,
    Reviewed,
    SessionEnded,
    StageResult,
    Submitted,
    TestCounted,
    TestFinished,
    TestQueued,
    ToolCalled,
    seal,
)
from harness.session import SessionState, journal_entries
from harness.store import Store
from harness.task import Task

RATE = {"op": "replace", "filename": "line_rate.py", "start_line": 3, "end_line": 3}
START = datetime(2026, 1, 2, tzinfo=UTC)
PROVENANCE: dict[str, Any] = {
    "sandbox": "bubblewrap 0.11.0",
    "data": {"name": "points", "manifest_sha256": "ab" * 32},
    "machine": "x86_64",
    "torch": "2.13.0+cpu",
    "gpus": [],
    "runs": {"fit-toy": {"tokens_per_s": 100.0, "peak_memory_bytes": None}},
}

Score = float | tuple[float, Sequence[float]] | None
"""a value on `final`, perhaps with windows; None for a test without a score"""


def rate(value: float | str) -> dict[str, Any]:
    """An edit that makes other code for each value."""
    return {**RATE, "content": f"FIRST_RATE = {value}"}


class Journal:
    """Writes sessions of one task into a store."""

    def __init__(self, store: Store, task: Task, profile: str = "toy") -> None:
        self.store, self.task, self.profile = store, task, profile
        self._ids = itertools.count(1)

    def play(
        self,
        agent: str | dict[str, Any] | None = "agent",
        edits: Sequence[dict[str, Any]] = (),
        tests: Sequence[tuple[int, Score]] = (),
        *,
        submit: int | None = 1,
        by: Any = "agent",
        ended: bool = False,
        purpose: Any = "agent",
        of: str | None = None,
        version: int | None = None,
        locked: str = "0" * 64,
        told: dict[str, Any] | None = None,
        curve: Sequence[dict[str, float]] = (),
        seconds: float = 36.0,
        audit: dict[str, Any] | None = None,
        planned: Sequence[int] = (),
    ) -> str:
        """A session whose tests, each a seed and a score, follow its edits; its id."""
        name = f"{next(self._ids):016x}"
        header = self.header(name, agent, purpose, of, version, locked, planned)
        state = SessionState.start(header)
        files = state.files
        found: list[AnyEvent] = []
        shown = dict(files)
        for args in edits:
            after = apply_edit(shown, args).after
            shown[after.name] = after
            found.append(
                ToolCalled(
                    tool="edit", args=args, ok=True, text="OK", seconds=0.01,
                    sha256={after.name: after.sha256},
                )
            )  # fmt: skip
        state.files = shown
        digest = state.files_digest
        for number, (seed, score) in enumerate(tests, start=1):
            found += [
                TestQueued(number=number, attempt=1, files_digest=digest, seed=seed),
                TestCounted(number=number, attempt=1),
                self.finished(number, seed, score, digest, header, told, curve, seconds, audit),
            ]
        if ended:
            found.append(SessionEnded(reason="it was idle for 48 h"))
        elif tests and submit is not None:
            found.append(Submitted(number=submit, by=by))
        self.store.create(header, "hash")
        self._append(SessionState.start(header), found)
        return name

    def header(
        self,
        name: str,
        agent: str | dict[str, Any] | None,
        purpose: Any,
        of: str | None,
        version: int | None,
        locked: str,
        planned: Sequence[int],
    ) -> Header:
        task = self.task
        return Header(
            session=name,
            created_at=START + timedelta(minutes=int(name, 16)),
            task=task.name,
            task_version=version or task.version,
            profile=self.profile,
            agent={"name": agent} if isinstance(agent, str) else agent,
            tests=task.tests,
            files=tuple(
                FileRecord(
                    name=file.name,
                    text=task.read_file(file.name),
                    regions=tuple(
                        RegionRecord(name=r.name, first=r.first, last=r.last) for r in file.regions
                    ),
                )
                for file in task.files
            ),
            locked_digest=locked,
            purpose=purpose,
            of=of,
            seeds=tuple(planned),
        )

    def finished(
        self,
        number: int,
        seed: int,
        score: Score,
        digest: str,
        header: Header,
        told: dict[str, Any] | None,
        curve: Sequence[dict[str, float]],
        seconds: float,
        audit: dict[str, Any] | None,
    ) -> TestFinished:
        primary = self.task.primary(self.profile)
        hidden: dict[str, Any] = {}
        metrics: dict[str, float] = {}
        if score is not None:
            value, windows = score if isinstance(score, tuple) else (score, ())
            hidden = {
                primary.stage: {
                    "metrics": {"worst": 2 * value},
                    "final": {primary.name: value},
                    "audit": audit or {},
                    "final_windows": {primary.name: list(windows)} if len(windows) else {},
                }
            }
            metrics = {primary.name: value + 0.001}
        private, private_digest = seal(hidden)
        return TestFinished(
            number=number,
            attempt=1,
            scored=score is not None,
            stages=(
                StageResult(
                    name="fit", label="fit-toy", script="scripts/fit.sh",
                    state="done" if score is not None else "failed", exit=0, seconds=seconds,
                    metrics=metrics,
                ),
            ),
            curve=tuple(curve),
            provenance={
                **PROVENANCE, "task_version": header.task_version, "profile": header.profile,
                "seed": seed, "files_digest": digest, "locked_digest": header.locked_digest,
                **(told or {}),
            },
            private=private,
            private_digest=private_digest,
        )  # fmt: skip

    def add(self, name: str, *events: AnyEvent) -> None:
        """Append to a session as any other writer does."""
        loaded = self.store.load(name)
        assert loaded is not None
        header, known = loaded
        state = SessionState.start(header)
        for event in known:
            state.apply(event)
        self._append(state, events)

    def _append(self, state: SessionState, events: Sequence[AnyEvent]) -> None:
        closes = any(isinstance(event, Submitted | SessionEnded) for event in events)
        if events:
            name, entries = state.header.session, journal_entries(state, events)
            self.store.append(name, entries, closes=closes)

    def baseline(self, name: str, tests: Sequence[tuple[int, Score]], **more: Any) -> str:
        """The house plays a baseline, or the unedited files for ""."""
        edits = self.task.baseline(name).edits if name else ()
        return self.play(
            "harness", edits, tests, submit=None, ended=True, purpose="baseline", of=name, **more
        )

    def confirm(
        self, of: str, edits: Sequence[dict[str, Any]], tests: Sequence[tuple[int, Score]],
        unplayed: Sequence[int] = (), **more: Any,
    ) -> str:  # fmt: skip
        """A confirmation; of the seeds `unplayed` it has no finished test."""
        return self.play(
            "harness", edits, tests, submit=None, ended=True, purpose="confirmation", of=of,
            planned=[*(seed for seed, _ in tests), *unplayed], **more,
        )  # fmt: skip

    def review(self, name: str, verdict: Any, category: str = "", note: str = "") -> None:
        private, digest = seal({"note": note})
        self.add(
            name,
            Reviewed(verdict=verdict, category=category, private=private, private_digest=digest),
        )


def windows(value: float, rng: np.random.Generator, base: Sequence[float] | None = None) -> Score:
    """A score with 32 windows around it, those of `base` moved if they are given."""
    own = np.asarray(base if base is not None else rng.normal(0, 0.1, 32))
    losses = value + own - own.mean() + rng.normal(0, 0.002, len(own))
    return float(losses.mean()), [round(float(loss), 6) for loss in losses]
