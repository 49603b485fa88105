"""Where pages get their sessions from: transcript files, or a server's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from harness.board import LeaderboardView
from harness.events import Reviewed
from harness.prompt import build_prompt
from harness.recorded import RecordingError
from harness.recordings import read_recordings
from harness.replay_view import task_files
from harness.story import Story, StoryTest, story_of
from harness.task import Metric, Task, TaskError, find_tasks


@dataclass(frozen=True)
class Reference:
    """Results to compare a test with."""

    name: str
    metrics: Mapping[str, float]
    note: str = ""
    test: StoryTest | None = None
    """the test that measured them, if it was one of ours"""


@dataclass(frozen=True)
class Listed:
    """A session in the list."""

    id: str
    task: str
    profile: str
    agent: str
    state: str
    steps: int
    used: int
    """counted tests"""
    tests: int | None
    """how many it may run; None if the record does not say"""
    metric: Metric | None
    """the primary one"""
    best: float | None
    baseline: float | None
    """the same metric of the unedited file, measured here"""
    started_at: datetime | None
    review: Reviewed | None
    """a person's verdict, the latest"""
    title: str = ""
    """a file's name, for a session from a file"""


@dataclass(frozen=True)
class LogName:
    test: str
    """number and attempt, as in `2.1`"""
    step: str
    """stage and role, as in `fit.score`"""


class Source(Protocol):
    """What pages need to know; ids are as they stand in addresses."""

    live: bool
    """whether sessions may go on while they are looked at"""

    async def sessions(self) -> Sequence[Listed]: ...

    async def story(self, session_id: str) -> Story | None: ...

    async def progress(self, session_id: str) -> str | None:
        """What a running test is at, in a line."""
        ...

    async def references(self, story: Story) -> Sequence[Reference]:
        """Measured ones first; the unedited file, if it was tested, first of all."""
        ...

    async def logs(self, session_id: str) -> Sequence[LogName]: ...

    async def log(self, session_id: str, name: LogName) -> str | None: ...

    def tasks(self) -> Mapping[str, Task]: ...

    async def prompt(self, task: Task, profile: str) -> str:
        """What an agent that began a session now would be told, whole."""
        ...

    async def leaderboard(self, task: str) -> LeaderboardView | None:
        """Of a task that there is; None where nothing is known of the split that ranks."""
        ...


UNEDITED = "unedited file"


def listed(
    session_id: str, story: Story, tasks: Mapping[str, Task], references: Sequence[Reference]
) -> Listed:
    metric = primary_metric(story, tasks)
    values = [t.metrics[metric.name] for t in story.results if metric and metric.name in t.metrics]
    best = None
    if metric is not None and values:
        best = min(values) if metric.direction == "lower" else max(values)
    unedited = next((r for r in references if r.name == UNEDITED), None)
    counted = sum(test.counted and test.state != "released" for test in story.tests)
    return Listed(
        id=session_id,
        task=story.recording.task,
        profile=story.profile,
        agent=story.agent,
        state=story.state,
        steps=len(story.steps),
        used=counted,
        tests=story.header.tests if story.header else None,
        metric=metric,
        best=best,
        baseline=unedited.metrics.get(metric.name) if unedited and metric else None,
        started_at=story.started_at,
        review=story.review,
    )


def primary_metric(story: Story, tasks: Mapping[str, Task]) -> Metric | None:
    task = tasks.get(story.recording.task)
    if task is None:
        return None
    try:
        return task.primary(story.profile or next(iter(task.profiles)))
    except (KeyError, StopIteration, ValueError):
        return None


def published(story: Story, tasks: Mapping[str, Task]) -> list[Reference]:
    """What the task says that others published, for this profile or for none in particular."""
    task = tasks.get(story.recording.task)
    return [
        Reference(row.name, row.metrics, f"published. {row.note}".strip())
        for row in (task.published if task else ())
        if not story.profile or row.profile in (None, story.profile)
    ]


@dataclass
class FileSource:
    """Recordings from files, read when they are first asked for."""

    files: Sequence[Path]
    tasks_dir: Path
    live: bool = False
    _read: dict[str, Story] = field(default_factory=dict)
    _titles: dict[str, str] = field(default_factory=dict)
    _tasks: Mapping[str, Task] | None = None

    def read(self) -> None:
        """Read every file. Raises RecordingError, which then names the file."""
        candidates = task_files(self.tasks_dir)
        for path in self.files:
            try:
                recordings = read_recordings(path, candidates)
            except RecordingError as error:
                raise RecordingError(f"{path}: {error}") from None
            for recording in recordings:
                key = str(len(self._read) + 1)
                self._read[key] = story_of(recording)
                self._titles[key] = path.name

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._read)

    def tasks(self) -> Mapping[str, Task]:
        if self._tasks is None:
            try:
                self._tasks = find_tasks(self.tasks_dir)
            except TaskError:
                self._tasks = {}  # a recording can be shown without its task
        return self._tasks

    async def sessions(self) -> Sequence[Listed]:
        found = []
        for key, story in self._read.items():
            row = listed(key, story, self.tasks(), await self.references(story))
            found.append(Listed(**{**vars(row), "title": self._titles[key]}))
        return found

    async def story(self, session_id: str) -> Story | None:
        return self._read.get(session_id)

    async def progress(self, session_id: str) -> str | None:
        return None

    async def references(self, story: Story) -> Sequence[Reference]:
        """Tests of the unedited file in any of the files, and what was published."""
        found = []
        for other in self._read.values():
            if (other.recording.task, other.profile) != (story.recording.task, story.profile):
                continue
            if other.pristine_digest != story.pristine_digest:
                continue
            for test in other.results:
                if test.files_digest == story.pristine_digest and test.scored:
                    found.append(Reference(UNEDITED, test.metrics, "measured", test))
        return [*found[-1:], *published(story, self.tasks())]

    async def prompt(self, task: Task, profile: str) -> str:
        """Without results that a server has measured: files know of none."""
        return build_prompt(task, profile, task.shipped(), {})

    async def leaderboard(self, task: str) -> LeaderboardView | None:
        return None

    async def logs(self, session_id: str) -> Sequence[LogName]:
        return ()

    async def log(self, session_id: str, name: LogName) -> str | None:
        return None
