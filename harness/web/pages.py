"""The pages over a source: routes, what each template gets, and what guards them.

Guaranteed: every text of a recording is escaped, and what turns text around or moves a cursor is
written out (`finalize`, on every expression of every template); no page runs a script or loads
anything but what this module serves (Content-Security-Policy); nothing here writes.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from harness.board import LeaderboardView
from harness.printable import visible
from harness.regions import EditableFile
from harness.render import duration
from harness.review import flattened, percent, review
from harness.story import Story, StoryTest, verdict_text
from harness.task import Task
from harness.web import boards, views
from harness.web.sources import UNEDITED, Listed, LogName, Reference, Source

HERE = Path(__file__).parent
PAGE_SESSIONS = 100

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{styles}; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Guard = Callable[[Request], Response | None]
"""Looks at a request before any page: a response instead of the page, or None to go on."""


class NoSuchPage(LookupError):
    """Becomes a page with status 404 and one line that says where to go."""


# ── templates ─────────────────────────────────────────────────────────────────────────────────


def _finalize(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value, lines=True)
    return value


def _when(at: datetime | None) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at else ""


def _age(at: datetime | None) -> str:
    return duration((datetime.now(UTC) - at).total_seconds()) if at else ""


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 60:
        return duration(value)
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"


@lru_cache(maxsize=1)
def environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(when=_when, age=_age, seconds=_seconds)
    env.globals.update(
        summary=views.summary,
        speech=views.speech,
        outcome=views.outcome,
        verdict_text=verdict_text,
        unified=views.unified,
        chunks=views.chunks,
        arguments=views.arguments,
        attempted=views.attempted,
        flattened=flattened,
        percent=percent,
    )
    return env


def static_files() -> dict[str, Path]:
    """What pages load beside themselves, by name. plotly's script comes from its package."""
    found = {path.name: path for path in (HERE / "static").iterdir()}
    spec = importlib.util.find_spec("plotly")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0])
        found["plotly.min.js"] = folder / "package_data/plotly.min.js"
    return found


_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


# ── routes ────────────────────────────────────────────────────────────────────────────────────


def pages(source: Source, guard: Guard | None = None) -> APIRouter:
    """The pages at `/`, `/sessions/…`, `/compare`, `/tasks/…`, `/leaderboards/…`, `/static/…`."""
    router = APIRouter(route_class=_guarded(guard, source), include_in_schema=False)
    site = _Site(source)
    router.add_api_route("/", site.home, methods=["GET"])
    router.add_api_route("/sessions/{session_id}", site.session, methods=["GET"])
    router.add_api_route("/sessions/{session_id}/steps/{index}", site.step, methods=["GET"])
    router.add_api_route("/sessions/{session_id}/live", site.live, methods=["GET"])
    router.add_api_route("/sessions/{session_id}/tests", site.tests, methods=["GET"])
    router.add_api_route("/sessions/{session_id}/logs/{test}/{step}", site.log, methods=["GET"])
    router.add_api_route("/sessions/{session_id}/review", site.review, methods=["GET"])
    router.add_api_route("/compare", site.compare, methods=["GET"])
    router.add_api_route("/tasks/{name}", site.task, methods=["GET"])
    router.add_api_route("/tasks/{name}/prompt", site.prompt, methods=["GET"])
    router.add_api_route("/leaderboards/{name}", site.leaderboard, methods=["GET"])
    router.add_api_route("/static/{name}", site.static, methods=["GET"])
    return router


def _guarded(guard: Guard | None, source: Source) -> type[APIRoute]:
    class Page(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handler(request: Request) -> Response:
                response = guard(request) if guard is not None else None
                if response is None:
                    try:
                        response = await handle(request)
                    except NoSuchPage as error:
                        response = _page("lost.html", source, status=404, message=str(error))
                    except RequestValidationError:
                        message = "This address is not one of a page."
                        response = _page("lost.html", source, status=404, message=message)
                for name, value in HEADERS.items():
                    response.headers.setdefault(name, value)
                response.headers.setdefault("Content-Security-Policy", POLICY.format(styles=""))
                return response

            return handler

    return Page


def _page(
    template: str, source: Source, *, status: int = 200, plots: bool = False, **values: Any
) -> HTMLResponse:
    values = {"live_source": source.live, "tasks": list(source.tasks()), "plots": plots} | values
    html = environment().get_template(template).render(**values)
    response = HTMLResponse(html, status)
    # plotly sets styles as attributes; only pages with curves allow that.
    styles = " 'unsafe-inline'" if plots else ""
    response.headers["Content-Security-Policy"] = POLICY.format(styles=styles)
    return response


class _Site:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.files = static_files()
        self.boards: dict[tuple[str, str], tuple[LeaderboardView, Response]] = {}
        """pages of leaderboards, as long as these have not changed"""

    async def _story(self, session_id: str) -> Story:
        story = await self.source.story(session_id)
        if story is None:
            raise NoSuchPage(f"There is no session {session_id[:60]}.")
        return story

    # ── sessions ──────────────────────────────────────────────────────────────────────────────

    async def home(
        self,
        sort: str = "started",
        order: str = "",
        task: str = "",
        state: str = "",
        agent: str = "",
        page: int = 1,
        part: str = "",
    ) -> Response:
        everything = await self.source.sessions()
        rows = [
            row
            for row in everything
            if (not task or row.task == task)
            and (not state or row.state == state)
            and agent.lower() in row.agent.lower()
        ]
        key = _SORTS.get(sort, _SORTS["started"])
        down = order == "down" if order else sort == "started"
        rows.sort(key=lambda row: row.id)
        rows.sort(key=key, reverse=down)
        last = max(1, -(-len(rows) // PAGE_SESSIONS))
        page = min(max(1, page), last)
        asked = {"sort": sort, "order": order, "task": task, "state": state, "agent": agent}
        return _page(
            "sessions.html",
            self.source,
            rows=rows[(page - 1) * PAGE_SESSIONS : page * PAGE_SESSIONS],
            total=len(rows),
            everything=len(everything),
            asked=asked,
            down=down,
            page=page,
            last=last,
            task_names=sorted({row.task for row in everything}),
            states=sorted({row.state for row in everything}),
            columns=_TITLES,
        )

    # ── one session ───────────────────────────────────────────────────────────────────────────

    async def session(self, session_id: str, part: str = "") -> Response:
        story = await self._story(session_id)
        if part == "timeline":
            return await self._render_session("_timeline.html", session_id, story, -1)
        return await self._render_session("session.html", session_id, story, 0)

    async def step(
        self,
        session_id: str,
        index: int,
        view: str = "file",
        against: str = "previous",
        file: str = "",
        part: str = "",
    ) -> Response:
        story = await self._story(session_id)
        if not 0 <= index <= len(story.steps):
            raise NoSuchPage(f"This session has steps 0 to {len(story.steps)}, not {index}.")
        template = "_step.html" if part == "step" else "session.html"
        return await self._render_session(
            template, session_id, story, index, view=view, against=against, file=file
        )

    async def _render_session(
        self,
        template: str,
        session_id: str,
        story: Story,
        index: int,
        *,
        view: str = "file",
        against: str = "previous",
        file: str = "",
    ) -> Response:
        values = session_values(story, max(0, index), view=view, against=against, file=file)
        return _page(
            template,
            self.source,
            **values | {"index": index},
            id=session_id,
            base=f"/sessions/{session_id}",
            progress=await self.source.progress(session_id),
            last=len(story.steps),
            version=_version(story),
        )

    async def live(self, session_id: str) -> Response:
        story = await self._story(session_id)
        return JSONResponse(
            {
                "version": _version(story),
                "steps": len(story.steps),
                "state": story.state,
                "progress": visible(await self.source.progress(session_id) or ""),
            }
        )

    # ── tests, review, compare ────────────────────────────────────────────────────────────────

    async def tests(self, session_id: str, base: str = "") -> Response:
        story = await self._story(session_id)
        references = await self.source.references(story)
        shown = [(f"test #{test.number}", test) for test in story.results]
        unedited = _unedited(references)
        lines = ([(UNEDITED, unedited)] if unedited else []) + shown
        return _page(
            "tests.html",
            self.source,
            plots=True,
            id=session_id,
            base=f"/sessions/{session_id}",
            story=story,
            table=views.metric_table(
                shown,
                references,
                base or None,
                self.source.tasks().get(story.recording.task),
                story.profile,
            ),
            references=references,
            curves=views.curves(lines),
            logs=await self.source.logs(session_id),
            progress=await self.source.progress(session_id),
            version=_version(story),
        )

    async def log(self, session_id: str, test: str, step: str) -> Response:
        name = LogName(test, step)
        text = await self.source.log(session_id, name)
        if text is None:
            raise NoSuchPage(f"There is no log {test[:20]} {step[:60]} of this session.")
        return _page(
            "log.html",
            self.source,
            id=session_id,
            base=f"/sessions/{session_id}",
            story=await self._story(session_id),
            name=name,
            text=text,
        )

    async def review(self, session_id: str) -> Response:
        story = await self._story(session_id)
        unedited = _unedited(await self.source.references(story))
        return _page(
            "review.html",
            self.source,
            id=session_id,
            base=f"/sessions/{session_id}",
            story=story,
            sections=review(story, unedited),
        )

    async def compare(self, a: str = "", b: str = "", view: str = "unified") -> Response:
        rows = await self.source.sessions()
        choices: list[tuple[str, str]] = []
        for row in rows:
            name = f"{row.agent}, {row.title or row.id}"
            choices.append((row.id, f"{name}: final files"))
            story = await self.source.story(row.id)
            for test in story.results if story else ():
                choices.append((f"{row.id}/{test.number}", f"{name}: test #{test.number}"))
        left, right = await self._side(a), await self._side(b)
        found: dict[str, Any] = {}
        if left is not None and right is not None:
            found = await self._compared(left, right)
        return _page(
            "compare.html",
            self.source,
            plots=bool(found.get("curves")),
            choices=choices,
            a=a,
            b=b,
            view="split" if view == "split" else "unified",
            left=left,
            right=right,
            compared=found,
        )

    async def _side(self, asked: str) -> tuple[str, Story, StoryTest | None] | None:
        if not asked:
            return None
        session_id, _, number = asked.partition("/")
        story = await self._story(session_id)
        test = story.test(int(number)) if number.isdecimal() else None
        if number and test is None:
            raise NoSuchPage(f"This session has no test {number[:20]}.")
        return session_id, story, test

    async def _compared(
        self,
        left: tuple[str, Story, StoryTest | None],
        right: tuple[str, Story, StoryTest | None],
    ) -> dict[str, Any]:
        sides = []
        for _, story, test in (left, right):
            files = test.files if test else story.files_at(len(story.steps))
            sides.append(files)
        diffs = []
        for name in dict.fromkeys((*sides[0], *sides[1])):
            old = sides[0].get(name) or EditableFile.from_text(name, "", [])
            new = sides[1].get(name) or EditableFile.from_text(name, "", [])
            diffs.append((name, views.diff_hunks(old, new)))
        tests: list[tuple[str, StoryTest]] = []
        for title, (_, story, test) in zip(("A", "B"), (left, right), strict=True):
            own = [test] if test else story.results
            tests += [(f"{title}, test #{t.number}", t) for t in own]
        story = left[1]
        same_task = story.recording.task == right[1].recording.task
        references: list[Reference] = []
        if same_task and story.profile == right[1].profile:
            references = list(await self.source.references(story))
        unedited = _unedited(references)
        return {
            "diffs": diffs,
            "curves": views.curves(([(UNEDITED, unedited)] if unedited else []) + tests),
            "table": views.metric_table(
                tests,
                references,
                None,
                self.source.tasks().get(story.recording.task) if same_task else None,
                story.profile,
            ),
        }

    # ── tasks and files ───────────────────────────────────────────────────────────────────────

    def _task(self, name: str) -> Task:
        task = self.source.tasks().get(name)
        if task is None:
            raise NoSuchPage(f"There is no task {name[:60]}.")
        return task

    async def task(self, name: str) -> Response:
        task = self._task(name)
        # Raw HTML in an instruction is shown as text.
        instruction = Markup(
            MarkdownIt("commonmark", {"html": False}).render(
                visible(task.read_instruction(), lines=True)
            )
        )
        return _page(
            "task.html",
            self.source,
            task=task,
            instruction=instruction,
            files=[(file, views.file_lines(file, None)) for file in task.shipped().values()],
            titles={r.name: r.title for f in task.files for r in f.regions},
        )

    async def prompt(self, name: str, profile: str = "") -> Response:
        task = self._task(name)
        profile = profile or next(iter(task.profiles))
        if profile not in task.profiles:
            raise NoSuchPage(f"This task has no profile {profile[:60]}.")
        text = await self.source.prompt(task, profile)
        return _page("prompt.html", self.source, task=task, profile=profile, text=text)

    async def leaderboard(self, name: str, profile: str = "") -> Response:
        task = self.source.tasks().get(name)
        if task is None:
            raise NoSuchPage(f"There is no task {name[:60]}.")
        board = await self.source.leaderboard(name)
        if board is None:
            raise NoSuchPage("Recordings hold nothing of the split that ranks: ask a server.")
        profile = profile if profile in task.profiles else ""
        kept = self.boards.get((name, profile))
        if kept is None or kept[0] is not board:
            # Hundreds of rows take a while to write: not in the way of calls.
            values = boards.values(board, task, profile)
            made = partial(_page, "leaderboard.html", self.source, **values)
            kept = self.boards[name, profile] = (board, await run_in_threadpool(made))
        return kept[1]

    async def static(self, name: str) -> Response:
        path = self.files.get(name)
        if path is None:
            raise NoSuchPage(f"There is no file {name[:60]}.")
        content = path.read_bytes()
        response = Response(content, media_type=_TYPES.get(path.suffix, "text/plain"))
        response.headers["Cache-Control"] = "private, max-age=3600"
        return response


def session_values(
    story: Story, index: int, *, view: str = "file", against: str = "previous", file: str = ""
) -> dict[str, Any]:
    """What the template of a step needs, of which only what `view` asks for is worked out."""
    view = view if view in ("file", "unified", "split") else "file"
    against = against if against in ("previous", "start") else "previous"
    step = story.steps[index - 1] if index else None
    files = story.files_at(index)
    name = file if file in files else step.file if step else next(iter(files))
    now = files[name]
    old = views.previous(story, index, name, "start" if against == "start" else "previous")
    return {
        "story": story,
        "index": index,
        "step": step,
        "view": view,
        "against": against,
        "file": now,
        "file_names": list(files),
        "lines": views.file_lines(now, old) if view == "file" else [],
        "hunks": views.diff_hunks(old or now, now) if view != "file" else [],
    }


def _version(story: Story) -> str:
    """Changes whenever anything of the story does."""
    header = story.header
    return f"{len(story.recording.events)}" if header else "0"


def _unedited(references: list[Reference] | Any) -> StoryTest | None:
    found = next((r.test for r in references if r.name == UNEDITED and r.test is not None), None)
    return replace(found) if found else None


_TITLES = {
    "started": "Session",
    "task": "Task",
    "profile": "Profile",
    "agent": "Agent",
    "state": "State",
    "used": "Tests",
    "best": "Best",
}
_SORTS: dict[str, Callable[[Listed], Any]] = {
    "started": lambda row: row.started_at.timestamp() if row.started_at else 0.0,
    "task": lambda row: row.task,
    "profile": lambda row: row.profile,
    "agent": lambda row: row.agent.lower(),
    "state": lambda row: row.state,
    "used": lambda row: row.used,
    "best": lambda row: (row.best is None, row.best or 0.0),
}


def as_json(value: Any) -> str:
    """JSON that may stand in a page's script element of type application/json."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")
