"""One session: the fold of its events, and the calls that add to them.

Nothing here knows where events are kept or where a test runs. A call works out what would happen,
adds the events that say so (the journal first), and only then is the state moved on, by the same
`SessionState.apply` that rebuilds a session from its journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from harness import render
from harness.answers import (
    Answer,
    Progress,
    check_text,
    idle_text,
    progress_text,
    result_text,
)
from harness.budget import Budget
from harness.checks.findings import Finding, Report
from harness.edits import EditResult, apply_edit, line_number, require_size, resolve_file
from harness.errors import (
    AgentError,
    BadArguments,
    EditRefused,
    NoTestsRemaining,
    NothingToSubmit,
    NothingToUndo,
    SessionClosed,
    TestRefused,
)
from harness.events import (
    AnyEvent,
    Header,
    Reviewed,
    SessionEnded,
    Submitted,
    TestCounted,
    TestFinished,
    TestQueued,
    TestRegraded,
    TestReleased,
    TestResumed,
    ToolCalled,
    digest_of,
)
from harness.grades import graded
from harness.regions import EditableFile

Files = Mapping[str, EditableFile]

MAX_RESUMPTIONS = 3
MAX_RELEASES = 2


@dataclass
class Attempt:
    """A test as the journal knows it."""

    number: int
    attempt: int
    files_digest: str
    seed: int
    files: Files
    """the editable ones, as they were when it was queued"""
    place: str | None = None
    queued_at: datetime | None = None
    counted: bool = False
    resumptions: int = 0
    result: TestFinished | None = None
    """as the latest scoring rule has it (`grades.graded`)"""
    released: TestReleased | None = None

    @property
    def active(self) -> bool:
        return self.result is None and self.released is None

    @property
    def is_lost(self) -> bool:
        return self.released is not None and self.released.kind == "lost"


@dataclass
class SessionState:
    """What the events so far amount to."""

    header: Header
    files: dict[str, EditableFile]
    last_hash: str
    seq: int = 0
    last_at: datetime | None = None
    """UTC; of the last event, or of the start"""
    undo_stack: list[EditableFile] = field(default_factory=list)
    """the file that each accepted edit replaced, latest last"""
    attempts: list[Attempt] = field(default_factory=list)
    submitted: Submitted | None = None
    ended: SessionEnded | None = None
    review: Reviewed | None = None
    """the latest"""
    answers: dict[str, ToolCalled] = field(default_factory=dict)
    """answered calls by their Idempotency-Key"""
    tried: tuple[Mapping[str, Any], EditResult] | None = None
    """the latest edit that was worked out, which most often is the next to be applied"""

    @classmethod
    def start(cls, header: Header) -> SessionState:
        files = {
            record.name: EditableFile.from_text(
                record.name,
                record.text,
                [(region.name, region.first, region.last) for region in record.regions],
            )
            for record in header.files
        }
        return cls(header, files, header.hash, last_at=header.created_at)

    def apply(self, event: AnyEvent) -> None:
        match event:
            case ToolCalled(tool="edit", ok=True):
                result = self.edit(event.args)
                self.undo_stack.append(result.before)
                self.files[result.after.name] = result.after
            case ToolCalled(tool="undo", ok=True):
                for _ in range(_count(event.args)):
                    before = self.undo_stack.pop()
                    self.files[before.name] = before
            case TestQueued():
                self.attempts.append(
                    Attempt(
                        event.number,
                        event.attempt,
                        event.files_digest,
                        event.seed,
                        dict(self.files),
                        event.place,
                        event.at,
                    )
                )
            case TestCounted():
                self._attempt(event).counted = True
            case TestResumed():
                self._attempt(event).resumptions = event.resumption
            case TestFinished():
                self._attempt(event).result = event
            case TestRegraded():
                attempt = self._attempt(event)
                if attempt.result is None:
                    raise ValueError(
                        f"event {event.seq} regrades test #{event.number}, which has not finished"
                    )
                attempt.result = graded(attempt.result, event)
            case TestReleased():
                self._attempt(event).released = event
            case Reviewed():
                self.review = event
            case Submitted():
                self.submitted = event
            case SessionEnded():
                self.ended = event
            case _:
                pass
        if isinstance(event, ToolCalled) and event.key is not None:
            self.answers[event.key] = event
        self.seq, self.last_hash, self.last_at = event.seq, event.hash, event.at or self.last_at

    def edit(self, args: Mapping[str, Any]) -> EditResult:
        """What an edit makes of the files as they are. Raises as `apply_edit` does."""
        if self.tried is not None:
            tried, result = self.tried
            if self.files.get(result.before.name) is result.before and tried == args:
                return result
        result = apply_edit(self.files, args)
        self.tried = (dict(args), result)
        return result

    def _attempt(
        self, event: TestCounted | TestResumed | TestFinished | TestRegraded | TestReleased
    ) -> Attempt:
        for attempt in reversed(self.attempts):
            if (attempt.number, attempt.attempt) == (event.number, event.attempt):
                return attempt
        raise ValueError(f"event {event.seq} speaks of test #{event.number}, which never started")

    @property
    def closed(self) -> bool:
        return self.submitted is not None or self.ended is not None

    @property
    def active(self) -> Attempt | None:
        """The test that is queued or running."""
        return next((attempt for attempt in reversed(self.attempts) if attempt.active), None)

    @property
    def results(self) -> dict[int, TestFinished]:
        """Finished tests by number."""
        return {a.number: a.result for a in self.attempts if a.result is not None}

    @property
    def budget(self) -> Budget:
        used = sum(1 for a in self.attempts if a.counted and a.released is None)
        active = self.active
        return Budget(self.header.tests, used, active.number if active else None)

    @property
    def files_digest(self) -> str:
        return digest_of({name: file.sha256 for name, file in self.files.items()})


@dataclass(frozen=True)
class TestRequest:
    """What a call of `test` comes to: a test that is started, joined, or answered from before."""

    __test__ = False
    number: int
    attempt: int
    queued: TestQueued | None = None
    """set if a new test has to be started"""
    reused: TestFinished | None = None
    """set if the files are those of a test that has finished"""


class Session:
    """A session that can be called. Not safe for two callers at once: the service locks it."""

    def __init__(
        self,
        header: Header,
        events: Iterable[AnyEvent],
        *,
        append: Callable[[Sequence[tuple[AnyEvent, str | None]], bool], None],
        seed: int,
        decimals: Mapping[str, int],
        read_only: Files,
        static_check: Callable[[Iterable[EditableFile]], list[Finding]],
    ) -> None:
        """`append` writes events with their `once` keys, and whether they close the session.

        `decimals` gives each visible metric's digits, `read_only` the files that may be viewed,
        and `static_check` tells what stands in the way of a test of edited files.
        """
        self.state = SessionState.start(header)
        self.decimals = decimals
        self._append = append
        self._seed = seed
        self._read_only = read_only
        self._static_check = static_check
        for event in events:
            self.state.apply(event)

    @property
    def id(self) -> str:
        return self.state.header.session

    def record(self, *events: AnyEvent) -> list[AnyEvent]:
        """Seal, journal and apply events, in one transaction."""
        entries = journal_entries(self.state, events)
        sealed = [event for event, _ in entries]
        closes = any(isinstance(event, Submitted | SessionEnded) for event in sealed)
        self._append(entries, closes)
        for event in sealed:
            self.state.apply(event)
        return sealed

    def catch_up(self, events: Sequence[AnyEvent]) -> None:
        """Apply what another server has journaled. Raises ValueError if it does not follow."""
        for event in events:
            if (event.seq, event.previous) != (self.state.seq + 1, self.state.last_hash):
                raise ValueError(f"event {event.seq} does not follow event {self.state.seq}")
            self.state.apply(event)

    def require_open(self) -> None:
        if self.state.submitted is not None:
            raise SessionClosed(
                f"This session is closed: test #{self.state.submitted.number} was submitted."
            )
        if self.state.ended is not None:
            raise SessionClosed(f"This session is closed: {self.state.ended.reason}.")

    # ── files ─────────────────────────────────────────────────────────────────────────────────

    def view(self, args: Mapping[str, Any]) -> Answer:
        everything = {**self.state.files, **self._read_only}
        if args.get("filename") is None and len(self.state.files) == 1:
            [file] = self.state.files.values()
        else:
            try:
                file = resolve_file(everything, args.get("filename"))
            except EditRefused as error:
                names = ", ".join(everything)
                raise BadArguments(
                    f"No such file: {args.get('filename')}. Files that can be viewed: {names}."
                ) from error
        total = len(file.lines)
        start = 1 if args.get("start_line") is None else line_number(args, "start_line")
        end = total if args.get("end_line") is None else line_number(args, "end_line")
        if not 1 <= start <= total:
            raise BadArguments(f"'start_line' is {start}, but {file.name} has lines 1..{total}")
        if end < start:
            raise BadArguments(f"end_line ({end}) is before start_line ({start})")
        return Answer(
            True,
            render.file_page(file, start, end),
            data={
                "filename": file.name,
                "total_lines": total,
                "editable": [[region.first, region.last] for region in file.regions],
            },
        )

    def edit(self, args: Mapping[str, Any]) -> Answer:
        """Answer to an `edit`; the files change when the call's event is applied."""
        try:
            result = self.state.edit(args)
            require_size(result)
        except AgentError as error:
            return Answer.of_error(error, self._views_after_refusal(args))
        findings = self._static_check(
            {**self.state.files, result.after.name: result.after}.values()
        )
        several = len(self.state.files) > 1
        warnings = [
            f"WARNING: {finding.describe(several_files=several)}. "
            "test() is refused until this is mended."
            for finding in findings
        ]
        view = render.current_file_view(result.after, result.region)
        return Answer(
            True,
            "\n".join([result.summary, *warnings, "", view]),
            data={
                "filename": result.after.name,
                "total_lines": len(result.after.lines),
                "editable": [[region.first, region.last] for region in result.after.regions],
                "sha256": {result.after.name: result.after.sha256},
            },
        )

    def _views_after_refusal(self, args: Mapping[str, Any]) -> str:
        try:
            files = [resolve_file(self.state.files, args.get("filename"))]
        except AgentError:
            files = list(self.state.files.values())
        return "\n\n".join(render.current_file_view(file) for file in files)

    def undo(self, args: Mapping[str, Any]) -> Answer:
        """Answer to an `undo`; the files change when the call's event is applied."""
        count, made = _count(args), len(self.state.undo_stack)
        if count < 1:
            raise BadArguments(f"'n' must be at least 1, not {count}")
        if made == 0:
            raise NothingToUndo("Nothing to undo.")
        if count > made:
            word = "edit" if made == 1 else "edits"
            raise NothingToUndo(
                f"Nothing to undo past the first edit: n={count}, but only {made} {word} can be "
                f"taken back. Call undo(n={made}) to go back to the start."
            )
        taken_back = self.state.undo_stack[-count:][::-1]
        after = {file.name: file for file in taken_back}
        lines = ["Undo complete:", *(f"Restored: {file.name}" for file in taken_back)]
        return Answer(
            True,
            "\n".join(lines),
            data={
                "restored": [file.name for file in taken_back],
                "sha256": {name: file.sha256 for name, file in after.items()},
            },
        )

    # ── tests ─────────────────────────────────────────────────────────────────────────────────

    def request_test(self) -> TestRequest:
        """What `test` has to do now. Raises NoTestsRemaining or TestRefused; nothing is counted."""
        state = self.state
        if (active := state.active) is not None:
            return TestRequest(active.number, active.attempt)
        digest = state.files_digest
        for attempt in reversed(state.attempts if not state.header.seeds else ()):
            if attempt.result is not None and attempt.counted and attempt.files_digest == digest:
                return TestRequest(attempt.number, attempt.attempt, reused=attempt.result)
        budget = state.budget
        if budget.remaining <= 0:
            numbers = ", ".join(str(number) for number in sorted(state.results))
            raise NoTestsRemaining(
                f"No tests remaining ({budget.used} of {budget.total} used). "
                f"Call submit(n=N) with N in {numbers}."
            )
        if findings := self.static_findings():
            raise TestRefused(self.refusal(findings))
        number = budget.used + 1
        attempt_number = 1 + sum(1 for attempt in state.attempts if attempt.number == number)
        queued = TestQueued(
            number=number, attempt=attempt_number, files_digest=digest, seed=self._seed_of(number)
        )
        return TestRequest(number, attempt_number, queued=queued)

    def _seed_of(self, number: int) -> int:
        seeds = self.state.header.seeds
        return seeds[number - 1] if number <= len(seeds) else self._seed

    def static_findings(self) -> list[Finding]:
        return self._static_check(self.state.files.values())

    def refusal(self, findings: Sequence[Finding]) -> str:
        """Why a test is not started, with everything that was found."""
        several = len(self.state.files) > 1
        found = "\n".join(finding.describe(several_files=several) for finding in findings)
        return f"Test not started, and not counted: {found}"

    def check_answer(self, report: Report | None, note: str) -> Answer:
        several = len(self.state.files) > 1
        text = check_text(report, several_files=several, note=note)
        if report is None:
            return Answer(True, text, data={"state": "running"})
        return Answer(
            True,
            text,
            data={
                "state": "finished",
                "passed": report.ok,
                "findings": [finding.as_json() for finding in report.findings],
                "warnings": [warning.as_json() for warning in report.warnings],
                "facts": dict(report.facts or {}),
            },
        )

    def test_answer(self, number: int, attempt: int, progress: Progress | None) -> Answer:
        """The result of a test, or how far it is."""
        found = next(a for a in self.state.attempts if (a.number, a.attempt) == (number, attempt))
        if found.released is not None:
            released = found.released
            return Answer(
                False,
                f"ERROR: {released.reason}",
                "test_refused" if released.kind == "refused" else "test_released",
                {"test": number, "state": released.kind, "findings": list(released.findings)},
            )
        if found.result is None:
            progress = progress or Progress("queued")
            return Answer(
                True,
                progress_text(number, progress),
                data={"test": number, **progress.as_json()},
            )
        return self._result_answer(found.result)

    def _result_answer(self, result: TestFinished, prefix: str = "") -> Answer:
        text = prefix + result_text(result, self.state.budget, self.decimals)
        return Answer(True, text, data=result_data(result))

    def status_answer(self, progress: Progress | None) -> Answer:
        active = self.state.active
        if active is not None:
            return self.test_answer(active.number, active.attempt, progress)
        finished = [a for a in self.state.attempts if a.result is not None]
        last = finished[-1].result if finished else None
        data = result_data(last) if last else {"state": "idle"}
        return Answer(True, idle_text(self.state.budget, last, self.decimals), data=data)

    def choose_submission(self, args: Mapping[str, Any]) -> Submitted:
        """The event that a `submit` leads to. Raises NothingToSubmit or BadArguments."""
        active = self.state.active
        scored = sorted(n for n, result in self.state.results.items() if result.scored)
        choice = (
            f"Call submit(n=N) with N in {', '.join(map(str, scored))}."
            if scored
            else ("No test has a score yet. Call test() first.")
        )
        if args.get("n") is None:
            raise BadArguments(f"'n' is required: the number of the test to submit. {choice}")
        number = line_number(args, "n")
        if active is not None:
            raise NothingToSubmit(
                f"Test #{active.number} is not finished, and a submit closes the session. "
                "Call status(wait_s=50) until it is."
            )
        result = self.state.results.get(number)
        if result is None:
            raise NothingToSubmit(f"There is no test #{number}. {choice}")
        if not result.scored:
            why = "its audit failed" if result.void is not None else "a stage failed"
            raise NothingToSubmit(f"Test #{number} has no score, since {why}. {choice}")
        return Submitted(number=number, by="agent")

    def submission_answer(self, number: int) -> Answer:
        prefix = f"[submit] Submitting result from test #{number} as final.\n\n"
        return self._result_answer(self.state.results[number], prefix)


def result_data(result: TestFinished) -> dict[str, Any]:
    """A finished test for programs: what its text says, and the curve."""
    return {
        "test": result.number,
        "state": "finished",
        "scored": result.scored,
        "metrics": {k: v for stage in result.stages for k, v in stage.metrics.items()},
        "stages": [stage.model_dump(mode="json") for stage in result.stages],
        "curve": list(result.curve),
    }


def _count(args: Mapping[str, Any]) -> int:
    return 1 if args.get("n") is None else line_number(args, "n")


def journal_entries(
    state: SessionState, events: Sequence[AnyEvent]
) -> list[tuple[AnyEvent, str | None]]:
    """The events as they follow the journal that `state` is the fold of, with their once keys."""
    entries: list[tuple[AnyEvent, str | None]] = []
    seq, previous = state.seq, state.last_hash
    for event in events:
        seq += 1
        entry = event.model_copy(update={"seq": seq, "at": datetime.now(UTC), "previous": previous})
        previous = entry.hash
        entries.append((entry, _once_key(entry)))
    return entries


def _once_key(event: AnyEvent) -> str | None:
    """What may happen only once in a session, whoever writes it."""
    match event:
        case TestQueued() | TestCounted() | TestFinished() | TestReleased():
            return f"{event.type}/{event.number}/{event.attempt}"
        case TestResumed():
            return f"{event.type}/{event.number}/{event.attempt}/{event.resumption}"
        case Submitted() | SessionEnded():
            return "closed"
        case ToolCalled(key=str(key)):
            return f"key/{key}"
        case _:
            return None
