"""What happened in one session, step by step, for people: the same for every kind of record.

Pure. A story is made in one pass over a recording; each version of a file is kept once, and what
a person looks at (a diff, a highlighted page) is worked out when it is asked for. Steps are
numbered from 1; step 0 is the start.

Guaranteed: the files at a step are what the recorded edits lead to (`replay`), and where the
record says otherwise, the step says so. Not guaranteed: that a record tells the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from harness.events import (
    AnyEvent,
    Header,
    MessageKept,
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
from harness.recorded import Recording, Said, Step
from harness.recordings import of_journal
from harness.regions import EditableFile
from harness.replay import Change, Outcome, Replay, Verdict, replay
from harness.told_tests import ToldTest, in_lines, told_curve, told_test

Files = Mapping[str, EditableFile]

TestState = Literal["queued", "running", "finished", "released"]


@dataclass(frozen=True)
class Happening:
    """Something between two calls that nobody called for: a test was counted, say."""

    text: str
    at: datetime | None = None
    test: int | None = None


@dataclass(frozen=True)
class StoryStep:
    """One call with its answer, and what was said or happened before it."""

    index: int
    tool: str
    args: Mapping[str, Any] | None
    """None where the arguments were not JSON"""
    ok: bool
    error: str | None
    """the code of a refusal, where the record has one"""
    text: str
    """the answer, as far as it was kept"""
    seconds: float | None
    at: datetime | None
    before: tuple[Said | Happening, ...]
    changes: tuple[Change, ...]
    """versions of files replaced by others, in order"""
    files: Files
    """after the step"""
    file: str
    """the file to look at: the one that the step changed or spoke of, else the one before"""
    verdict: Verdict
    notes: tuple[str, ...] = ()
    """what the format cut short, and what differs from the record"""
    test: int | None = None
    """the number of the test that it started, joined or reported"""

    @property
    def first_line(self) -> str:
        return self.text.split("\n", 1)[0]

    @property
    def view_starts(self) -> int:
        """Where in the answer's text the view of the file begins."""
        found = self.text.find("[Current file: ")
        return len(self.text) if found < 0 else found


@dataclass(frozen=True)
class StoryStage:
    label: str
    script: str
    state: str
    name: str = ""
    exit: int | None = None
    reason: tuple[str, ...] = ()
    seconds: float | None = None
    feedback: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    hidden: Mapping[str, Any] = field(default_factory=dict)
    """`metrics`, `final`, `audit`: what no agent sees, where the reader may"""


@dataclass(frozen=True)
class StoryTest:
    """One attempt at a test."""

    number: int
    attempt: int
    state: TestState
    files: Files
    """the snapshot that was tested"""
    step: int | None
    """the step that started it, or told of it first"""
    stages: tuple[StoryStage, ...] = ()
    curve: tuple[Mapping[str, float], ...] = ()
    void: str | None = None
    scored: bool = False
    counted: bool = False
    resumptions: int = 0
    reason: str = ""
    """why it was given back"""
    findings: tuple[Mapping[str, Any], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files_digest: str = ""
    queued_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def metrics(self) -> dict[str, float]:
        return {name: value for stage in self.stages for name, value in stage.metrics.items()}

    @property
    def hidden_metrics(self) -> dict[str, float]:
        """What the task hides from agents, by name."""
        return self._hidden("metrics")

    @property
    def final_metrics(self) -> dict[str, float]:
        """Ranked metrics on the final split, by name."""
        return self._hidden("final")

    def _hidden(self, kind: str) -> dict[str, float]:
        return {
            name: value
            for stage in self.stages
            for name, value in dict(stage.hidden.get(kind) or {}).items()
        }


@dataclass(frozen=True)
class Story:
    """A whole session."""

    recording: Recording
    start: Files
    steps: tuple[StoryStep, ...]
    tests: tuple[StoryTest, ...]
    """every attempt, in the order of their queueing"""
    after: tuple[Said | Happening, ...]
    """what was said or happened after the last step"""
    submitted: int | None = None
    ended: str | None = None
    """why it ended with nothing submitted"""
    reviews: tuple[Reviewed, ...] = ()
    """people's verdicts, in order; with their notes where the reader may see them"""

    @property
    def review(self) -> Reviewed | None:
        """The verdict that counts: the latest."""
        return self.reviews[-1] if self.reviews else None

    @property
    def header(self) -> Header | None:
        return self.recording.header

    @property
    def state(self) -> str:
        """`submitted`, `ended`, or `open`; `recorded` where the format does not say."""
        if self.submitted is not None:
            return "submitted"
        if self.ended is not None:
            return "ended"
        return "open" if self.header is not None else "recorded"

    @property
    def notes(self) -> tuple[str, ...]:
        return self.recording.notes

    @property
    def agent(self) -> str:
        return self.recording.agent or "unknown agent"

    @property
    def profile(self) -> str:
        return self.header.profile if self.header else ""

    @property
    def started_at(self) -> datetime | None:
        if self.header is not None:
            return self.header.created_at
        return next((step.at for step in self.steps if step.at), None)

    @property
    def pristine_digest(self) -> str:
        """As a test's files_digest, of the unedited files."""
        return digest_of({name: file.sha256 for name, file in self.start.items()})

    def files_at(self, index: int) -> Files:
        """The files after step `index`; 0 is the start."""
        return self.steps[index - 1].files if index else self.start

    def test(self, number: int) -> StoryTest | None:
        """The test of that number; of several attempts the last."""
        return next((test for test in reversed(self.tests) if test.number == number), None)

    @property
    def results(self) -> list[StoryTest]:
        """Finished tests, in order."""
        return [test for test in self.tests if test.state == "finished"]


def story_of(recording: Recording) -> Story:
    """The story that a recording tells. Never raises for what it holds."""
    played = replay(recording)
    if recording.header is None:
        return _foreign_story(played)
    return _Teller(played).tell(recording.header, recording.events)


def live_story(header: Header, events: Sequence[AnyEvent]) -> Story:
    """The story so far of a session in a journal, hidden values included where events have them."""
    return story_of(of_journal(header, events))


# ── steps ─────────────────────────────────────────────────────────────────────────────────────


class _Steps:
    """Story steps from outcomes, with the files as they stand."""

    def __init__(self, played: Replay) -> None:
        self.recording = played.recording
        self.files: Files = {file.name: file for file in played.recording.files}
        self.shown = next(iter(self.files), "")
        self.found: list[StoryStep] = []

    def add(
        self,
        outcome: Outcome,
        before: Sequence[Said | Happening],
        text: str | None = None,
        test: int | None = None,
    ) -> StoryStep:
        step = outcome.step
        assert step is not None
        if outcome.changes:
            files = dict(self.files)
            for change in outcome.changes:
                files[change.after.name] = change.after
            self.files = files
            self.shown = outcome.changes[-1].after.name
        elif (name := _named(step, self.files)) is not None:
            self.shown = name
        notes = [step.cut] if step.cut else []
        if outcome.verdict == "diverged":
            notes.append(
                f"Played again, this step differs from its record. Recorded: {outcome.recorded} — "
                f"played: {outcome.got}"
            )
        if outcome.verdict == "known_fault":
            notes.append("The recorded tool refused what ours would accept.")
        story = StoryStep(
            index=len(self.found) + 1,
            tool=step.tool,
            args=step.args,
            ok=not step.refused,
            error=step.error,
            text=text if text is not None else step.text or step.first_line or "",
            seconds=step.seconds,
            at=step.at,
            before=tuple(before),
            changes=outcome.changes,
            files=self.files,
            file=self.shown,
            verdict=outcome.verdict,
            notes=tuple(notes),
            test=test,
        )
        self.found.append(story)
        return story


def _named(step: Step, files: Files) -> str | None:
    asked = (step.args or {}).get("filename")
    if not isinstance(asked, str):
        return None
    return next((n for n in files if n == asked or asked.endswith("/" + n.split("/")[-1])), None)


# ── our own journals ──────────────────────────────────────────────────────────────────────────


class _Teller:
    def __init__(self, played: Replay) -> None:
        self.steps = _Steps(played)
        self.outcomes = iter([o for o in played.outcomes if o.step is not None])
        self.before: list[Said | Happening] = []
        self.tests: dict[tuple[int, int], StoryTest] = {}
        self.finished: dict[tuple[int, int], TestFinished] = {}
        self.reviews: list[Reviewed] = []
        self.submitted: int | None = None
        self.ended: str | None = None

    def tell(self, header: Header, events: Sequence[AnyEvent]) -> Story:
        start = self.steps.files
        for event in events:
            self._take(event)
        return Story(
            recording=self.steps.recording,
            start=start,
            steps=tuple(self.steps.found),
            tests=tuple(self.tests.values()),
            after=tuple(self.before),
            submitted=self.submitted,
            ended=self.ended,
            reviews=tuple(self.reviews),
        )

    def _take(self, event: AnyEvent) -> None:
        match event:
            case MessageKept():
                self.before.append(Said(event.role, event.text, event.at))
            case ToolCalled():
                step = self.steps.add(next(self.outcomes), self.before, test=event.test)
                self.before = []
                for key, test in self.tests.items():
                    if test.step is None and test.number == event.test:
                        self.tests[key] = replace(test, step=step.index)
            case TestQueued():
                self.tests[event.number, event.attempt] = StoryTest(
                    event.number,
                    event.attempt,
                    "queued",
                    self.steps.files,
                    None,
                    files_digest=event.files_digest,
                    queued_at=event.at,
                )
                self._happened(event, "was queued")
            case TestCounted():
                self._update(event, state="running", counted=True)
                self._happened(event, "started, and is counted")
            case TestResumed():
                self._update(event, resumptions=event.resumption)
                self._happened(
                    event, f"was interrupted and goes on (resumption {event.resumption})"
                )
            case TestFinished():
                self._finish(event)
            case TestRegraded():
                self._regrade(event)
            case Reviewed():
                self.reviews.append(event)
                self.before.append(
                    Happening(f"A person's verdict: {verdict_text(event)}", event.at)
                )
            case TestReleased():
                self._update(
                    event,
                    state="released",
                    reason=event.reason,
                    findings=event.findings,
                    ended_at=event.at,
                )
                self._happened(event, f"was given back, not counted ({event.kind})")
            case Submitted():
                self.submitted = event.number
                by = "was submitted" if event.by == "agent" else "stands for the session: it ended"
                self.before.append(Happening(f"Test #{event.number} {by}", event.at, event.number))
            case SessionEnded():
                self.ended = event.reason
                self.before.append(Happening(f"The session ended: {event.reason}", event.at))

    def _finish(self, event: TestFinished) -> None:
        self._update(
            event,
            state="finished",
            stages=stages_of(event),
            curve=event.curve,
            void=event.void,
            scored=event.scored,
            provenance=event.provenance,
            ended_at=event.at,
        )
        self.finished[event.number, event.attempt] = event
        self._happened(event, "finished" if event.scored else "finished without a score")

    def _regrade(self, event: TestRegraded) -> None:
        key = (event.number, event.attempt)
        if (before := self.finished.get(key)) is not None:  # else a record that is not whole
            now = self.finished[key] = graded(before, event)
            self._update(event, stages=stages_of(now), scored=now.scored, provenance=now.provenance)
        self._happened(
            event,
            f"was graded by the rule of the task's version {event.task_version}"
            + ("" if event.scored else ", and has no score"),
        )

    def _update(
        self,
        event: TestCounted | TestResumed | TestFinished | TestRegraded | TestReleased,
        **values: Any,
    ) -> None:
        key = (event.number, event.attempt)
        known = self.tests.get(key)
        if known is None:  # a record that speaks of a test that it never queued
            known = StoryTest(*key, "running", self.steps.files, None)
        self.tests[key] = replace(known, **values)

    def _happened(self, event: AnyEvent, what: str) -> None:
        number = getattr(event, "number", 0)
        attempt = getattr(event, "attempt", 1)
        again = f" (attempt {attempt})" if attempt > 1 else ""
        self.before.append(Happening(f"Test #{number}{again} {what}", event.at, number))


def verdict_text(review: Reviewed) -> str:
    """Verdict and category, as everybody may read them."""
    return f"{review.verdict} ({review.category})" if review.category else review.verdict


def review_of(story: Story) -> dict[str, Any]:
    """The latest verdict for exports, without its note; empty without one."""
    found = story.review
    if found is None:
        return {}
    return {"review": {"verdict": found.verdict, "category": found.category}}


def stages_of(event: TestFinished) -> tuple[StoryStage, ...]:
    """A finished test's stages, with hidden values where the event has them."""
    values = (event.private or {}).get("values") or {}
    return tuple(
        StoryStage(
            label=stage.label,
            script=stage.script,
            state=stage.state,
            name=stage.name,
            exit=stage.exit,
            reason=stage.reason,
            seconds=stage.seconds,
            feedback=stage.feedback,
            metrics=stage.metrics,
            hidden=values.get(stage.name) or {},
        )
        for stage in event.stages
    )


# ── all other formats ─────────────────────────────────────────────────────────────────────────


def _foreign_story(played: Replay) -> Story:
    recording = played.recording
    steps = _Steps(played)
    start = steps.files
    tests: dict[int, StoryTest] = {}
    submitted = None

    def take(outcome: Outcome, before: Sequence[Said], text: str | None = None) -> None:
        assert outcome.step is not None
        shown = in_lines(text if text is not None else outcome.step.text or "")
        told = told_test(shown) if outcome.step.tool in ("test", "status", "submit") else None
        step = steps.add(outcome, before, shown or None, told.number if told else None)
        if told is not None and told.number not in tests:
            tests[told.number] = _told(told, step)

    for outcome in played.outcomes:
        if outcome.step is None:
            continue
        take(outcome, outcome.step.said)
        if outcome.step.tool == "submit" and not outcome.step.refused:
            submitted = steps.found[-1].test
        if outcome.step.aside:
            note = "The page shows this answer without its call; it stands here as a call of test."
            aside = Step("test", {}, outcome.step.aside, text=outcome.step.aside, cut=note)
            take(Outcome(0, aside, "not_compared"), (), outcome.step.aside)
    return Story(
        recording=recording,
        start=start,
        steps=tuple(steps.found),
        tests=tuple(tests.values()),
        after=recording.said,
        submitted=submitted,
    )


def _told(told: ToldTest, step: StoryStep) -> StoryTest:
    stages = tuple(
        StoryStage(
            label=stage.label,
            script=stage.script,
            state=stage.state,
            exit=stage.exit,
            reason=tuple(stage.reason),
            feedback=tuple(stage.feedback),
            metrics=stage.metrics,
        )
        for stage in told.stages
    )
    curve = next((c for stage in told.stages if (c := told_curve(stage.feedback))), [])
    return StoryTest(
        told.number,
        1,
        "finished",
        step.files,
        step.index,
        stages=stages,
        curve=tuple(curve),
        scored=any(stage.metrics for stage in stages),
        counted=True,
        files_digest=digest_of({name: file.sha256 for name, file in step.files.items()}),
        ended_at=step.at,
    )
