"""`harness replay`: a recorded session in the terminal, step by step, or as JSON.

What a recording holds is shown and never obeyed: control characters, which could move the cursor
or hide text, and the invisible ones that reorder it are written out as escapes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness.diffs import diff_lines
from harness.printable import visible
from harness.recorded import RecordingError
from harness.recordings import read_recordings
from harness.regions import EditableFile
from harness.replay import Change, Outcome, Replay, Verdict, replay
from harness.task import File, Task, TaskError, load_task

# A longer diff is shown by its start: the whole of it is in the recording.
MAX_DIFF_LINES = 200

_VERDICTS: dict[Verdict, tuple[str, str]] = {
    "matched": ("as recorded", "green"),
    "known_fault": ("known fault of the recorded tool", "yellow"),
    "diverged": ("DIVERGED", "bold red"),
    "not_compared": ("nothing to compare", "dim"),
}


def run(file: Path, as_json: bool, console: Console, tasks_root: Path) -> int:
    """Replay every session in `file`; returns the exit code.

    0: nothing diverged; 1: something did; 2: no recording that can be read, with one line on
    stderr. The files of the tasks below `tasks_root` stand in for a start that was recorded only
    in outline.
    """
    try:
        recordings = read_recordings(file, task_files(tasks_root))
    except RecordingError as error:
        print(f"ERROR: {visible(str(file))}: {visible(str(error))}", file=sys.stderr)
        return 2
    replays = [replay(recording) for recording in recordings]
    if as_json:
        summaries = [played.summary() for played in replays]
        # Pure ASCII, so that nothing recorded reaches the terminal as it is.
        print(json.dumps(summaries[0] if len(summaries) == 1 else summaries), file=console.file)
    else:
        for number, played in enumerate(replays, start=1):
            for line in _session(played, number, len(replays)):
                console.print(line, soft_wrap=True, highlight=False)
    return 1 if any(played.diverged for played in replays) else 0


def task_files(tasks_root: Path) -> list[EditableFile]:
    """The editable files of every task below `tasks_root`, as shipped.

    A task that cannot be loaded is left out: a replay can do without it.
    """
    found: list[EditableFile] = []
    for path in sorted(tasks_root.glob("*/task.yaml")):
        try:
            task = load_task(path.parent)
        except TaskError:
            continue
        found.extend(_shipped(task, file) for file in task.files)
    return found


def _shipped(task: Task, file: File) -> EditableFile:
    return EditableFile.from_text(file.name, task.read_file(file.name), file.region_tuples())


def _session(played: Replay, number: int, count: int) -> Iterator[Text]:
    recording = played.recording
    title = f"Session {number} of {count}: {recording.task}" if count > 1 else recording.task
    yield Text(visible(title), "bold")
    if recording.agent is not None:
        yield Text(f"agent: {visible(recording.agent)}")
    for file in recording.files:
        ranges = ", ".join(str(region) for region in file.regions)
        yield Text(
            f"start: {visible(file.name)}, {len(file.lines)} lines, editable {ranges} "
            f"({recording.start})"
        )
    for outcome in played.outcomes:
        yield Text()
        yield from _step(outcome, len(recording.steps))
    yield Text()
    yield _closing(played)
    if number < count:
        yield Text()


def _step(outcome: Outcome, steps: int) -> Iterator[Text]:
    label, style = _VERDICTS[outcome.verdict]
    step = outcome.step
    place = f"step {outcome.number} of {steps}: " if step else "the whole record: "
    yield Text.assemble(
        (place, "bold"), (visible(step.tool) if step else "", "bold"), "  ", (label, style)
    )
    if step is not None and step.first_line:
        yield Text("  " + visible(step.first_line), "red" if step.refused else "")
    for name in (step.restored or ()) if step else ():
        yield Text(f"  Restored: {visible(name)}")
    if outcome.verdict == "diverged":
        yield Text(f"  recorded: {visible(outcome.recorded)}", "red")
        yield Text(f"  got:      {visible(outcome.got)}", "red")
    for change in outcome.changes:
        yield from _diff(change)
    if step is not None and step.aside:
        yield Text("  " + visible(step.aside), "dim")


def _diff(change: Change) -> Iterator[Text]:
    """The change as a diff: old line numbers for lines taken away, new ones for all others."""
    lines = list(diff_lines(change.before.lines, change.after.lines))
    for sign, number, text in lines[:MAX_DIFF_LINES]:
        style = {"+": "green", "-": "red", " ": "dim"}[sign]
        yield Text(f"  {number:6d} {sign} {visible(text)}", style)
    if len(lines) > MAX_DIFF_LINES:
        yield Text(f"         … {len(lines) - MAX_DIFF_LINES} more lines of this change", "dim")


def _closing(played: Replay) -> Text:
    diverged = len(played.diverged)
    faults = played.count("known_fault")
    return Text(
        f"{_counted(len(played.recording.steps), 'step')}, {_counted(played.edits, 'edit')}; "
        f"{played.count('matched')} compared and equal, "
        f"{_counted(faults, 'known fault')}, {diverged} diverged",
        "bold red" if diverged else "bold green",
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
