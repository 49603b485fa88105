"""A recorded session played again with the tools as they are now, and compared with its record.

A replay follows the record: an edit recorded as refused is not applied, whatever ours would do.
Compared is what was recorded and nothing else:

- an edit by its answer's first line and, where recorded, the file's length and its SHA-256;
- an undo by the files it put back and, where recorded, their SHA-256;
- a transcript of ours also by its hash chain.

Known faults are refusals that we do not repeat: of a path that names one editable file without
being its whole name, and of arguments that were not JSON. Tests, submits and all other calls are
steps, but there is nothing of them to run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.edits import EditResult, apply_edit, line_number, resolve_file
from harness.errors import AgentError, BadArguments, NothingToUndo
from harness.recorded import Recording, Step
from harness.regions import EditableFile

Verdict = Literal["matched", "known_fault", "diverged", "not_compared"]

NOT_JSON = "ERROR: the arguments are not JSON"


@dataclass(frozen=True)
class Change:
    """One version of a file replaced by another."""

    before: EditableFile
    after: EditableFile


@dataclass(frozen=True)
class Outcome:
    """What became of one step. `recorded` and `got` say what differs, if it diverged."""

    number: int
    """from 1; 0 is the record as a whole"""
    step: Step | None
    verdict: Verdict
    recorded: str = ""
    got: str = ""
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Replay:
    """A session played to its end."""

    recording: Recording
    outcomes: tuple[Outcome, ...]
    files: Mapping[str, EditableFile]
    """as they stand after the last step"""

    @property
    def diverged(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.verdict == "diverged")

    def count(self, verdict: Verdict) -> int:
        return sum(outcome.verdict == verdict for outcome in self.outcomes)

    @property
    def edits(self) -> int:
        return sum(step.tool == "edit" for step in self.recording.steps)

    def summary(self) -> dict[str, Any]:
        """The replay as `harness replay --json` prints it.

        `steps` counts every recorded call, `edits` those to edit, `matched` the edits and undos
        that were compared and equal. `step` counts from 1; step 0 is the record as a whole,
        which diverges where its hash chain is broken.
        """
        return {
            "steps": len(self.recording.steps),
            "edits": self.edits,
            "matched": self.count("matched"),
            "known_faults": self.count("known_fault"),
            "diverged": [
                {"step": outcome.number, "recorded": outcome.recorded, "got": outcome.got}
                for outcome in self.diverged
            ],
        }


def replay(recording: Recording) -> Replay:
    """Play `recording` from its start. Never raises for what it holds."""
    player = _Player({file.name: file for file in recording.files})
    outcomes = []
    if recording.chain_break is not None:
        outcomes.append(Outcome(0, None, "diverged", "a whole hash chain", recording.chain_break))
    for number, step in enumerate(recording.steps, start=1):
        outcomes.append(player.play(number, step))
    return Replay(recording, tuple(outcomes), player.files)


@dataclass
class _Comparison:
    """What was recorded of a step beside what came out, where the two differ."""

    compared: bool = False
    recorded: list[str] = field(default_factory=list)
    got: list[str] = field(default_factory=list)

    def add(self, recorded: str, got: str) -> None:
        self.compared = True
        if recorded != got:
            self.recorded.append(recorded)
            self.got.append(got)

    def outcome(self, number: int, step: Step, *changes: Change) -> Outcome:
        if not self.compared:
            return Outcome(number, step, "not_compared", changes=changes)
        if not self.recorded:
            return Outcome(number, step, "matched", changes=changes)
        recorded, got = "; ".join(self.recorded), "; ".join(self.got)
        return Outcome(number, step, "diverged", recorded, got, changes)


class _Player:
    def __init__(self, files: dict[str, EditableFile]) -> None:
        self.files = files
        self._undo: list[EditableFile] = []  # what each applied edit replaced

    def play(self, number: int, step: Step) -> Outcome:
        if step.tool not in ("edit", "undo"):
            return Outcome(number, step, "not_compared")
        if step.closed is not None and step.refused:
            found = _Comparison()
            if not (step.first_line or "").startswith(step.closed):
                found.add(step.first_line or "", step.closed)
            found.compared = True
            return found.outcome(number, step)
        return self._edit(number, step) if step.tool == "edit" else self._take_back(number, step)

    def _edit(self, number: int, step: Step) -> Outcome:
        if step.args is None:
            if step.refused:
                return Outcome(number, step, "known_fault")
            return Outcome(number, step, "diverged", step.first_line or "accepted", NOT_JSON)
        result: EditResult | None = None
        try:
            result = apply_edit(self.files, step.args)
            answer = result.summary
        except AgentError as error:
            answer = error.text.split("\n", 1)[0]
        found = _Comparison()
        if step.first_line is not None:
            found.add(step.first_line, answer)
        if step.refused:
            if result is not None and _refused_for_its_path(step, result.before.name):
                return Outcome(number, step, "known_fault")
            self._compare_state(found, step, _addressed(self.files, step.args))
            return found.outcome(number, step)
        if result is None:
            return found.outcome(number, step)
        self._undo.append(result.before)
        self.files[result.after.name] = result.after
        self._compare_state(found, step, result.after)
        return found.outcome(number, step, Change(result.before, result.after))

    def _take_back(self, number: int, step: Step) -> Outcome:
        found = _Comparison()
        try:
            count = _undo_count(step.args)
            if count > len(self._undo) and (step.refused or not self._undo):
                raise NothingToUndo("Nothing to undo.")
        except AgentError as error:
            # Its wording is not compared: a record may hold only that nothing was put back.
            if not step.refused:
                recorded = step.first_line or "accepted"
                if step.restored is not None:
                    recorded = _put_back(step.restored)
                found.add(recorded, error.text)
            else:
                found.compared = True
            return found.outcome(number, step)
        restored = self._undo[: -min(count, len(self._undo)) - 1 : -1]
        names = tuple(file.name for file in restored)
        if step.refused:
            found.add(step.first_line or _put_back(()), _put_back(names))
            return found.outcome(number, step)
        changes = []
        for file in restored:
            self._undo.pop()
            changes.append(Change(self.files[file.name], file))
            self.files[file.name] = file
        if step.restored is not None:
            found.add(_put_back(step.restored), _put_back(names))
        self._compare_state(found, step, restored[-1] if len(set(names)) == 1 else None)
        return found.outcome(number, step, *changes)

    def _compare_state(self, found: _Comparison, step: Step, file: EditableFile | None) -> None:
        if step.total_lines is not None and file is not None:
            found.add(f"{step.total_lines} lines", f"{len(file.lines)} lines")
        for name, recorded in (step.sha256 or {}).items():
            now = self.files.get(name)
            got = "no such file" if now is None else now.sha256
            found.add(f"sha256 of {name}: {recorded}", f"sha256 of {name}: {got}")


def _refused_for_its_path(step: Step, name: str) -> bool:
    """Whether the record refuses a path that is not a file's whole name, and says so."""
    filename = (step.args or {}).get("filename")
    if not isinstance(filename, str) or filename == name:
        return False
    said = step.first_line or ""
    package = filename.split("/", 1)[0]
    return filename in said or f"'{package}'" in said


def _put_back(names: tuple[str, ...]) -> str:
    return "restored " + (", ".join(names) or "nothing")


def _undo_count(args: Mapping[str, Any] | None) -> int:
    if not args or args.get("n") is None:
        return 1
    count = line_number(args, "n")
    if count < 1:
        raise BadArguments("'n' must be at least 1")
    return count


def _addressed(files: Mapping[str, EditableFile], args: Mapping[str, Any]) -> EditableFile | None:
    """The file that a refused edit meant, if it can be told."""
    try:
        return resolve_file(files, args.get("filename"))
    except AgentError:
        return None
