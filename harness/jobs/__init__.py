"""Where a run directory is carried out: the executors' protocol and the table of choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol, cast

from harness.workspace import RunPaths

JobKind = Literal["queued", "running", "gone"]


@dataclass(frozen=True)
class JobState:
    """What an executor knows of a run; what the run itself reached stands in its status.json."""

    kind: JobKind
    """`gone`: no process works on it and none will, unless it is submitted (again)."""
    place: int | None = None
    """In the queue, from 1; only while queued."""
    seconds: float | None = None
    """Until it starts, about; only while queued."""


class UnknownExecutor(ValueError):
    """A name that is not in EXECUTORS."""


class ExecutorAway(RuntimeError):
    """What runs tests does not answer now; nothing is lost, and it is asked again. One line."""


class Executor(Protocol):
    """Decides where ``python -m harness.jobs.runner RUN_DIR`` runs. Safe to call from threads."""

    @property
    def gpus(self) -> int | None:
        """How many GPUs a run can get at most; None if that is not known here."""

    @property
    def threads(self) -> int | None:
        """Cores that a stage on the CPU may use; None for all of this machine's."""

    def submit(self, run: RunPaths) -> None:
        """Queues a prepared run directory, or takes up one whose runner is alive. A run that is
        queued or running already, or is finished, is left alone. One that was begun before had its
        turn, and goes before those that were not."""

    def cancel(self, run: RunPaths) -> None:
        """Ends a run for good; its status becomes `cancelled`, at once if it was not begun and
        else within seconds. Of one whose directory is out of reach the processes end."""

    def state(self, run: RunPaths) -> JobState:
        """Where the run stands now."""

    def idle(self, gpus: int = 0) -> bool:
        """Whether a run that needs so many GPUs would start at once if it were submitted now."""

    def poll(self) -> None:
        """Starts what may be started now; to be called every now and then."""


EXECUTORS: Mapping[str, str] = {
    "local": "harness.jobs.local:LocalExecutor",
    "slurm": "harness.jobs.slurm:SlurmExecutor",
}
"""Choice -> ``module:class``; imported only when chosen, for some need optional packages."""


def make_executor(name: str, **options: Any) -> Executor:
    """The executor of that name. Raises UnknownExecutor, with the choices, if there is none."""
    if name not in EXECUTORS:
        known = ", ".join(sorted(EXECUTORS))
        raise UnknownExecutor(f"HARNESS_EXECUTOR is {name!r}; it may be one of: {known}")
    module, _, noun = EXECUTORS[name].partition(":")
    return cast(Executor, getattr(import_module(module), noun)(**options))
