"""The state folder, closed to other users of the machine.

Guaranteed after `close_to_others`: no other user but root reaches anything in the folder by its
path. Not guaranteed: anything against processes of the server's own user, or what another user has
open already.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

UMASK = 0o077


class StateFolderError(RuntimeError):
    """The state folder cannot be used; one line names the setting, the folder and the reason."""


def state_folder(folder: Path) -> Path:
    """The folder, made if it is not there, and closed to others. Raises StateFolderError."""
    try:
        close_to_others(folder)
    except OSError as error:
        raise StateFolderError(cannot_use("HARNESS_STATE_DIR", folder, error)) from error
    return folder


def cannot_use(variable: str, folder: Path, error: OSError) -> str:
    return f"{variable} cannot be used: {folder}: {error.strerror or type(error).__name__}"


def close_to_others(folder: Path) -> list[str]:
    """Make the folder with mode 0700, or take other users' rights from it and from what lies in it
    at the top; a sentence for each that had wider rights, or keeps them since it isn't ours."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = _narrow(folder)
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_symlink():
                told += _narrow(Path(entry.path))
    return told


def open_to_others(folder: Path) -> bool:
    """Whether other users may list or read the folder."""
    with contextlib.suppress(OSError):
        return bool(folder.stat().st_mode & (stat.S_IROTH | stat.S_IXOTH))
    return False


def unwritable(folder: Path) -> str | None:
    """Why no file can be written in the folder, or None."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(b"x")
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _narrow(path: Path) -> list[str]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & UMASK:
        return []
    try:
        path.chmod(mode & ~UMASK)
    except OSError as error:
        return [f"{path} can be read by other users (mode {mode:04o}): {error.strerror}"]
    return [f"{path} could be read by other users (mode {mode:04o}); now by its owner only"]
