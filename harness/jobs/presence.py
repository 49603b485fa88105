"""Whether a run directory that a test was queued with is still there.

Guaranteed: a directory that was removed, or whose plan or status is gone or broken, is told from
one that cannot be read at the moment (OSError), which may pass.
"""

from __future__ import annotations

from harness.jobs.plan import RunStatus, read_status
from harness.workspace import RunPaths


class RunLost(RuntimeError):
    """What a run consists of is not there; nothing can go on with it. One line."""

    def __init__(self, what: str, *, rewritten: bool = False) -> None:
        super().__init__(what)
        self.rewritten = rewritten
        """whether a living runner will write what is missing anew"""


def present_status(run: RunPaths) -> RunStatus:
    """The status of a run that was prepared. Raises RunLost, or OSError if it can't be read now."""
    if not run.root.is_dir():
        raise RunLost("its run directory is gone")
    if not run.plan.is_file():
        raise RunLost("its plan.json is gone")
    try:
        status = read_status(run)
    except ValueError:
        raise RunLost("its status.json is broken", rewritten=True) from None
    if status is None:
        raise RunLost("its status.json is gone", rewritten=True)
    return status
