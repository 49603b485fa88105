"""What this server has measured of the unedited files and of the baselines.

Any finished test counts whose files are exactly those, whoever called it: same profile, same
version of the task, same locked text. Only visible metrics are read, as every agent's answer has
them.
"""

from __future__ import annotations

from harness.edits import apply_edit
from harness.events import TestFinished, digest_of
from harness.regions import EditableFile
from harness.store import Store
from harness.task import Task

UNEDITED = ""
"""stands for the unedited files among the names of baselines"""


def measured(
    store: Store, task: Task, profile: str, locked_digest: str
) -> dict[str, dict[str, float]]:
    """Visible metrics on the development split, by baseline; those never tested are left out.

    Of several tests of the same files the newest speaks.
    """
    names = {files_digest(task, name): name for name in (*task.baselines, UNEDITED)}
    found: dict[str, dict[str, float]] = {}
    for event in store.finished_tests(task.name, profile, list(names)):
        assert isinstance(event, TestFinished)
        told = event.provenance
        name = names.get(str(told.get("files_digest")))
        same = (told.get("task_version"), told.get("locked_digest")) == (
            task.version,
            locked_digest,
        )
        if name is not None and name not in found and same and event.scored:
            found[name] = {k: v for stage in event.stages for k, v in stage.metrics.items()}
    return found


def files_digest(task: Task, baseline: str) -> str:
    """As a session's, of the files with a baseline's edits, or without any (`UNEDITED`)."""
    files = {
        file.name: EditableFile.from_text(
            file.name, task.read_file(file.name), file.region_tuples()
        )
        for file in task.files
    }
    for edit in task.baseline(baseline).edits if baseline else ():
        after = apply_edit(files, edit).after
        files[after.name] = after
    return digest_of({name: file.sha256 for name, file in files.items()})
