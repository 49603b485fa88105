"""`harness replay` with `--step`, `--into`, `--certify` or `--run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.certify import NOT_PROVED, Certificate, certify
from harness.printable import visible
from harness.recorded import Recording, RecordingError
from harness.recordings import read_recordings
from harness.replay_files import IntoError, write_steps
from harness.replay_steps import browse
from harness.replay_view import task_files
from harness.rerun import Place, RerunError, choose, rerun, rows
from harness.settings import Settings
from harness.story import Story, story_of
from harness.task import TaskError, find_tasks


def run(
    file: Path,
    settings: Settings,
    step: bool,
    into: Path | None,
    certified: bool,
    profile: str | None,
    as_json: bool,
) -> int:
    """One of the modes; returns the exit code: 2 for what cannot be read or written."""
    console = Console()
    try:
        recordings = read_recordings(file, task_files(settings.tasks_dir))
        if certified:
            return _certify(recordings, console, as_json)
        stories = [story_of(recording) for recording in recordings]
        if step:
            browse(stories, console, _ask)
        elif into is not None:
            count = write_steps(stories, into)
            console.print(Text(f"{into}: start, {count} changed versions, final"))
        else:
            return _rerun(stories, settings, profile, console)
    except RecordingError as error:
        return _failed(f"{file}: {error}")
    except (IntoError, RerunError, TaskError) as error:
        return _failed(str(error))
    except BrokenPipeError:
        raise  # who read it has seen enough
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}")
    return 0


def _failed(message: str) -> int:
    print(f"ERROR: {visible(message)}", file=sys.stderr)
    return 2


def _ask(prompt: str) -> str:
    print(prompt, end="", flush=True)
    line = sys.stdin.readline()
    if not line:
        print()
        raise EOFError
    return line


def _certify(recordings: tuple[Recording, ...], console: Console, as_json: bool) -> int:
    certificates = [certify(recording) for recording in recordings]
    if as_json:
        print(json.dumps([_as_json(one) for one in certificates], indent=1))
    else:
        for one in certificates:
            _show(one, console)
        console.print(Text("Not proved by this:", "bold"))
        for text in NOT_PROVED:
            console.print(Text(f"  - {text}"), soft_wrap=True)
    return 0 if all(one.holds for one in certificates) else 1


def _as_json(certificate: Certificate) -> dict[str, object]:
    return {
        "session": certificate.session,
        "holds": certificate.holds,
        "claims": [vars(claim) for claim in certificate.claims],
        "last_hash": certificate.last_hash,
        "not_proved": list(NOT_PROVED),
    }


def _show(certificate: Certificate, console: Console) -> None:
    title = "CERTIFIED" if certificate.holds else "NOT CERTIFIED"
    style = "bold green" if certificate.holds else "bold red"
    named = f"session {visible(certificate.session)}" if certificate.session else ""
    console.print(Text(f"{title}  {named}".rstrip(), style))
    for claim in certificate.claims:
        mark = Text("  proved   ", "green") if claim.holds else Text("  NOT SO   ", "red")
        detail = f": {visible(claim.detail)}" if claim.detail else ""
        console.print(mark.append(f"{visible(claim.text)}{detail}", "default"), soft_wrap=True)
    if certificate.last_hash:
        console.print(Text(f"  last hash {certificate.last_hash}"), soft_wrap=True)


def _rerun(stories: list[Story], settings: Settings, profile: str | None, console: Console) -> int:
    tasks = find_tasks(settings.tasks_dir)
    failed = False
    for story in stories:
        task = tasks.get(story.recording.task)
        if task is None:
            raise RerunError(f"there is no task {story.recording.task!r} here")
        chosen = choose(story, task, profile)
        place = Place(
            settings.state_dir.absolute(), settings.resolved_data_dir, settings.sandbox != "none"
        )
        if story.profile and chosen != story.profile:
            said = f"recorded at profile {story.profile}, run at {chosen}: not to be compared"
            console.print(Text(said, "yellow"), soft_wrap=True)
        names = [metric.name for metric in task.metrics_of(chosen, kind="scored")]
        for one in rerun(story, task, chosen, place, lambda text: console.print(Text(text, "dim"))):
            table = Table(f"test #{one.recorded.number}", "recorded", "now", "difference")
            for row in rows(one, names):
                table.add_row(*row)
            if one.problem or any(not stage.endswith(": done") for stage in one.stages):
                failed = True
                console.print(Text(visible(one.problem or "; ".join(one.stages)), "yellow"))
            console.print(table)
    return 1 if failed else 0
