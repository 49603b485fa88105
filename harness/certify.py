"""What can be proved of a transcript from hashes alone, without a GPU, and what cannot.

Proved, where every claim holds: the events stand in one unbroken chain that begins at the header;
each recorded version of a file is what the recorded edits and undos make of the version before;
every version has the locked bytes of the first, in the same order; each test was queued with
exactly the files that stood there.

Not proved is listed in NOT_PROVED and printed with every certificate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.events import Header, Submitted, TestFinished, TestQueued, ToolCalled, digest_of
from harness.recorded import Recording
from harness.regions import EditableFile
from harness.replay import Replay, replay

NOT_PROVED = (
    "that the record is the one which the server kept: whoever holds a whole record can write "
    "another with a chain of its own. Compare the last hash with the server's.",
    "that nothing was left off the end of the record.",
    "that times, metrics and curves are true: they are what the record says. Hidden values are "
    "committed to by salted digests, which only the server can open.",
    "the read-only siblings of the edited files: the record names only one digest over them and "
    "the locked text, and holds no copy.",
    "who the agent was, and what it used beside the harness.",
)


@dataclass(frozen=True)
class Claim:
    text: str
    holds: bool
    detail: str = ""


@dataclass(frozen=True)
class Certificate:
    session: str
    claims: tuple[Claim, ...]
    last_hash: str

    @property
    def holds(self) -> bool:
        return all(claim.holds for claim in self.claims)


def certify(recording: Recording) -> Certificate:
    """The certificate of a recording; of a foreign format it holds nothing."""
    header = recording.header
    if header is None:
        text = f"the format {recording.format!r} has no hash chain, so nothing can be proved of it"
        return Certificate("", (Claim(text, False),), "")
    played = replay(recording)
    last = recording.events[-1].hash if recording.events else header.hash
    claims = (_chain(recording), _versions(played), _locked(played), *_tests(played, header))
    return Certificate(header.session, claims, last)


def _chain(recording: Recording) -> Claim:
    count = len(recording.events)
    return Claim(
        f"the chain of {count} events is whole, from the header on",
        recording.chain_break is None,
        recording.chain_break or "",
    )


def _versions(played: Replay) -> Claim:
    """Each accepted change must carry a hash, and the replay must come to the same one."""
    text = "each recorded version follows from the recorded edits"
    changes = 0
    for outcome in played.outcomes:
        step = outcome.step
        if step is None:
            continue
        if outcome.verdict == "diverged":
            detail = f"step {outcome.number}: recorded {outcome.recorded}, played {outcome.got}"
            return Claim(text, False, detail)
        if step.tool in ("edit", "undo") and not step.refused:
            changes += 1
            changed = {change.after.name for change in outcome.changes}
            if not changed or changed - set(step.sha256 or {}):
                return Claim(text, False, f"step {outcome.number} carries no hash of its version")
    return Claim(f"{text} ({changes} versions, by SHA-256)", True)


def _locked(played: Replay) -> Claim:
    """Told from the text alone: the start's locked runs of lines, in order, in every version."""
    start = {file.name: file for file in played.recording.files}
    text = "no locked byte changed"
    count = 0
    for outcome in played.outcomes:
        for change in outcome.changes:
            count += 1
            if not _same_locked(start[change.after.name], change.after):
                detail = f"step {outcome.number} changed locked text of {change.after.name}"
                return Claim(text, False, detail)
    locked = sum(len(s.lines) for file in start.values() for s in file.segments if not s.region)
    return Claim(f"{text} ({locked} locked lines in {count} versions)", True)


def _same_locked(start: EditableFile, version: EditableFile) -> bool:
    return start.locked_digest == version.locked_digest and [
        segment.lines for segment in start.segments if segment.region is None
    ] == [segment.lines for segment in version.segments if segment.region is None]


def _tests(played: Replay, header: Header) -> Iterator[Claim]:
    """Tests were queued with the files as they stood, and the submitted one was finished."""
    recording = played.recording
    outcomes = iter(o for o in played.outcomes if o.step is not None)
    hashes = {file.name: file.sha256 for file in recording.files}
    queued, wrong = 0, ""
    finished: set[int] = set()
    submitted: int | None = None
    for event in recording.events:
        if isinstance(event, ToolCalled):
            for change in next(outcomes).changes:
                hashes[change.after.name] = change.after.sha256
        elif isinstance(event, TestQueued):
            queued += 1
            if event.files_digest != digest_of(hashes) and not wrong:
                wrong = f"test #{event.number}, attempt {event.attempt}, had other files"
        elif isinstance(event, TestFinished):
            finished.add(event.number)
        elif isinstance(event, Submitted):
            submitted = event.number
    yield Claim(
        f"each test was queued with the files as they stood ({queued} tests)", not wrong, wrong
    )
    counted = len(finished)
    text = f"no more tests finished than the session had ({counted} of {header.tests})"
    yield Claim(text, counted <= header.tests)
    if submitted is not None:
        yield Claim(f"the submitted test #{submitted} is one that finished", submitted in finished)
