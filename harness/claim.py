"""One server at a time on a state folder, and the folder's name.

Guaranteed: while a server that holds the claim lives, no other process of any machine that sees
the folder, as far as its file system keeps locks, gets it; when it is gone, however it ended, the
next one does. Not guaranteed: two claims in one process keep each other out.

Servers on different state folders may share one database. The name tells which of them has a
test's run directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets

from harness.workspace import StatePaths, write_atomic

TAKEN = "is in use by another server"


class FolderTaken(RuntimeError):
    """Another server has the state folder; one line says which process."""


class Claim:
    def __init__(self, state: StatePaths) -> None:
        """Take the folder; it is made if it is not there. Raises FolderTaken."""
        state.root.mkdir(parents=True, exist_ok=True)
        self._file: int | None = os.open(state.claim, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Not flock, which worker processes would inherit, and hold on to when we are killed.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            who = os.read(self._file, 200).decode(errors="replace").strip()
            self.release()
            raise FolderTaken(
                f"{state.root} {TAKEN} ({who or 'unknown process'}); "
                "stop that one, or give this one a folder of its own"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        self._state = state
        self.name = _name(state)

    @property
    def is_there(self) -> bool:
        """Whether the folder is still where it was: a file system may have been unmounted."""
        try:
            return name_of(self._state) == self.name
        except OSError:
            return False

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def name_of(state: StatePaths) -> str | None:
    """The folder's name; None if it has none."""
    with contextlib.suppress(FileNotFoundError):
        found = state.name.read_text(encoding="ascii", errors="replace").strip()
        if re.fullmatch(r"[0-9a-f]{12}", found):
            return found
    return None


def _name(state: StatePaths) -> str:
    if (found := name_of(state)) is not None:
        return found
    made = secrets.token_hex(6)
    write_atomic(state.name, made + "\n")
    return made
