"""A baseline's files, for the benchmarks that train one."""

from __future__ import annotations

from harness.edits import apply_edit
from harness.task import Task


def baseline_files(task: Task, name: str) -> dict[str, str]:
    """The texts of the task's files with the edits of a baseline, by file name.

    Raises KeyError if the task has no such baseline.
    """
    files = task.shipped()
    for edit in task.baseline(name).edits:
        after = apply_edit(files, edit).after
        files[after.name] = after
    return {name: file.text for name, file in files.items()}
