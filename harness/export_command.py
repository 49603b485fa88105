"""`harness export`: a session, from a file or from the journal, in another form."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from harness.database import DatabaseRefused, one_line
from harness.events import AnyEvent
from harness.exports import EXPORTS, ExportError, file_name
from harness.recorded import RecordingError
from harness.recordings import of_journal, read_recordings
from harness.replay_view import task_files
from harness.settings import Settings, one_of
from harness.store import Store
from harness.story import Story, story_of
from harness.workspace import SAFE_NAME


def export_session(
    session: str, format: str, out: Path | None, settings: Settings, console: Console
) -> Path | None:
    """Write the session; the file written, or None if it was printed.

    Raises ExportError, RecordingError or OSError.
    """
    if format not in EXPORTS:
        raise ExportError(f"no format {format!r}; it may be {one_of(EXPORTS)}")
    path = Path(session)
    if path.is_file():
        try:
            recordings = read_recordings(path, task_files(settings.tasks_dir))
        except RecordingError as error:
            raise RecordingError(f"{path}: {error}") from error
        stories = [story_of(recording) for recording in recordings]
        name = path.name.split(".", 1)[0] or "session"
    else:
        stories, name = [_from_journal(session, settings)], session
    if len(stories) > 1:
        raise ExportError(f"{path} holds {len(stories)} sessions; export files with one")
    text = EXPORTS[format](stories[0])
    if out is not None and str(out) == "-":
        sys.stdout.write(text)
        return None
    target = out or Path()
    if target.is_dir():
        target /= file_name(format, stories[0], name)
    if target.exists():
        raise ExportError(f"{target} exists already; name another with --out")
    target.write_text(text, "utf-8")
    if stories[0].recording.chain_break is not None:
        console.print(Text("The chain of this record is broken; see --certify.", "yellow"))
    return target


def _from_journal(session: str, settings: Settings) -> Story:
    if SAFE_NAME.fullmatch(session) is None:
        raise ExportError(f"{session!r} is neither a file nor a session's id")
    try:
        store = Store(settings.resolved_database_url, upgrade=False)
        found = store.load(session)
        store.close()
    except (DatabaseRefused, SQLAlchemyError) as error:
        raise ExportError(
            f"there is no file {session}, and {settings.database_setting} leads to no database: "
            f"{one_line(error)}"
        ) from error
    if found is None:
        raise ExportError(f"there is no file and no session {session}")
    header, events = found
    return story_of(of_journal(header, [_without_hidden(event) for event in events]))


def _without_hidden(event: AnyEvent) -> AnyEvent:
    return event.model_copy(update={"private": None})
