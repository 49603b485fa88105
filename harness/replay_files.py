"""`harness replay FILE --into DIR`: the files of a recorded session at every step, as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from harness.story import Files, Story


class IntoError(ValueError):
    """The files cannot be written; the message is one line."""


def write_steps(stories: Sequence[Story], folder: Path) -> int:
    """Write each session's files to `folder`, and how many steps changed any.

    `start/`, then `step-N/` for each step that changed a file, and `final/`; below `session-K/`
    where there are several. The folder must be empty or not exist yet. Raises IntoError; names
    that would leave the folder are refused before anything is written.
    """
    for story in stories:
        for name in story.start:
            _safe(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise IntoError(f"{folder} is not empty; name a folder that does not exist yet")
    count = 0
    for number, story in enumerate(stories, start=1):
        root = folder / f"session-{number}" if len(stories) > 1 else folder
        _write(root / "start", story.start)
        width = len(str(len(story.steps)))
        for step in story.steps:
            if step.changes:
                count += 1
                _write(root / f"step-{step.index:0{width}d}", step.files)
        _write(root / "final", story.files_at(len(story.steps)))
    return count


def _write(folder: Path, files: Files) -> None:
    for name, file in files.items():
        target = folder / _safe(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.text.encode())


def _safe(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    parts = path.parts
    if not parts or path.is_absolute() or ".." in parts or "\0" in name or "\\" in name:
        raise IntoError(f"the recording names a file {name!r}, which would lie outside the folder")
    return path
