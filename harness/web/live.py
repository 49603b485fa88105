"""A server's own sessions as a source of pages. Hidden values are included: people only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.answers import progress_text
from harness.board import LeaderboardView
from harness.events import TestFinished
from harness.measured import UNEDITED as UNEDITED_FILES
from harness.measured import measured, tests_of
from harness.prompt import build_prompt
from harness.service import LiveSession, Service
from harness.story import Story, StoryTest, live_story, stages_of
from harness.task import Task
from harness.web.sources import (
    UNEDITED,
    Listed,
    LogName,
    Reference,
    listed,
    published,
)
from harness.workspace import SessionPaths, read_log

KEPT_STORIES = 50
LOG_SHOWN = 400_000
"""characters of a log's end that are shown"""


class LiveSource:
    live = True

    def __init__(self, service: Service) -> None:
        self.service = service
        self._stories: dict[str, tuple[int, Story]] = {}
        self._closed: dict[str, tuple[int, Listed]] = {}
        """rows of closed sessions, each with the number of the last event that it tells of"""

    def tasks(self) -> Mapping[str, Task]:
        return self.service.tasks

    async def sessions(self) -> Sequence[Listed]:
        store = self.service.store
        rows = await self.service.in_thread(store.list_sessions)
        newest = await self.service.in_thread(store.last_events)
        found = []
        for row in reversed(rows):
            kept = self._closed.get(row.id)
            if kept is None or kept[0] != newest.get(row.id):
                story = await self.story(row.id)
                if story is None:
                    continue
                last = len(story.recording.events)
                kept = (last, listed(row.id, story, self.tasks(), await self.references(story)))
                if row.closed:
                    self._closed[row.id] = kept
            found.append(kept[1])
        return found

    async def story(self, session_id: str) -> Story | None:
        kept = self._stories.get(session_id)
        live = await self._live(session_id)
        if live is not None:
            # A verdict, or another server's call, may have come into the journal.
            await self.service.refresh(live)
            async with live.lock:
                header, events = live.session.state.header, list(live.events)
        else:
            # Its task is gone, but its journal is not.
            loaded = await self.service.in_thread(self.service.store.load, session_id)
            if loaded is None:
                return None
            header, events = loaded
        if kept is not None and kept[0] == len(events):
            return kept[1]
        story = await self.service.in_thread(live_story, header, events)
        while len(self._stories) >= KEPT_STORIES:
            self._stories.pop(next(iter(self._stories)))
        self._stories.pop(session_id, None)
        self._stories[session_id] = (len(events), story)
        return story

    async def _live(self, session_id: str) -> LiveSession | None:
        return await self.service.get(session_id)

    async def progress(self, session_id: str) -> str | None:
        live = await self._live(session_id)
        if live is None or (active := live.session.state.active) is None:
            return None
        progress = await self.service.in_thread(self.service.progress, live)
        if progress is None:
            return None
        return progress_text(active.number, progress).split(". Nothing", 1)[0]

    async def prompt(self, task: Task, profile: str) -> str:
        digest = task.locked_digest()
        results = await self.service.in_thread(measured, self.service.store, task, profile, digest)
        return build_prompt(
            task,
            profile,
            task.shipped(),
            {name: mean.metrics for name, mean in results.items()},
            {name: mean.seeds for name, mean in results.items()},
        )

    async def references(self, story: Story) -> Sequence[Reference]:
        task = self.tasks().get(story.recording.task)
        if task is None or story.header is None:
            return published(story, self.tasks())
        measured = await self.service.in_thread(self._measured, task, story)
        return [*measured, *published(story, self.tasks())]

    def _measured(self, task: Task, story: Story) -> list[Reference]:
        """The unedited file and the baselines, as far as any session has tested them."""
        header = story.header
        assert header is not None
        found = tests_of(
            self.service.store,
            task,
            story.profile,
            header.task_version,
            header.locked_digest,
            hidden=True,
        )
        references = []
        for name, tests in found.items():
            test = _bare_test(tests[0], story)
            shown = UNEDITED if name == UNEDITED_FILES else name
            references.append(Reference(shown, test.metrics, "measured here", test))
        return references

    async def leaderboard(self, task: str) -> LeaderboardView | None:
        return await self.service.in_thread(self.service.standings.board, task)

    async def logs(self, session_id: str) -> Sequence[LogName]:
        return await self.service.in_thread(self._logs, session_id)

    def _paths(self, session_id: str) -> SessionPaths | None:
        try:
            return self.service.state.session(session_id)
        except ValueError:
            return None

    def _logs(self, session_id: str) -> list[LogName]:
        paths = self._paths(session_id)
        if paths is None:
            return []
        return [
            LogName(log.parents[2].name.removeprefix("test-"), log.parent.name)
            for log in sorted(paths.runs.glob("test-*/steps/*/log.txt"))
        ]

    async def log(self, session_id: str, name: LogName) -> str | None:
        paths = self._paths(session_id)
        # Only what the list names is opened: no part of an address becomes a path.
        if paths is None or name not in await self.logs(session_id):
            return None
        path = paths.runs / f"test-{name.test}" / "steps" / name.step / "log.txt"
        try:
            text = await self.service.in_thread(read_log, path)
        except ValueError as error:
            return f"({error})"
        return text[-LOG_SHOWN:]


def _bare_test(event: TestFinished, story: Story) -> StoryTest:
    """A test of another session: what it measured, without its place there."""
    return StoryTest(
        event.number,
        event.attempt,
        "finished",
        story.start,
        None,
        stages=stages_of(event),
        curve=event.curve,
        scored=event.scored,
        provenance=event.provenance,
        counted=True,
    )
