"""Many sessions: ids, tokens, locks, waiting, and the watch over their tests.

Guaranteed: the events of a call are in the journal before its answer is given; a session is called
by one caller at a time; a test is started only after the journal says so, and is found again by its
run directory after a restart.

The journal is the truth, and what is in memory may be behind it: another server may have written,
or the connection broken while the database committed. Whoever then adds to the session is refused
by the journal (`StaleSession`), and goes on from what it says (`on_newest`); whoever only reads
asks it first (`refresh`). A test is followed by the server whose state folder has its run
directory, by that one alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import hashlib
import hmac
import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio

from harness import hardware, sandbox
from harness.answers import Progress
from harness.checks import pool
from harness.checks.findings import Report
from harness.checks.static import STRUCTURAL
from harness.claim import Claim
from harness.database import one_line, unavailable
from harness.datasets import datasets
from harness.ending import ending, idle_reason
from harness.errors import CheckLimit, TestRefused
from harness.events import (
    AnyEvent,
    FileRecord,
    Header,
    MessageKept,
    RegionRecord,
    Reviewed,
    TestCounted,
    TestReleased,
    TestResumed,
    canonical,
)
from harness.jobs import Executor, ExecutorAway
from harness.jobs.plan import (
    FINAL_STATES,
    PlanData,
    PlanError,
    RunStatus,
    Surroundings,
    data_of,
    make_plan,
    prepare_run_dir,
    read_plan,
    read_status,
    snapshot,
)
from harness.jobs.presence import RunLost, present_status
from harness.jobs.processes import is_held
from harness.jobs.starting import NotStarted, Starting
from harness.journal_size import require_room, weights
from harness.measured import measured
from harness.probes import Kind, check_report, report_of, submit_check
from harness.prompt import build_prompt, visible_decimals
from harness.regions import EditableFile
from harness.replicas import Replica
from harness.results import collect
from harness.session import (
    MAX_RELEASES,
    MAX_RESUMPTIONS,
    Attempt,
    Session,
    SessionState,
    TestRequest,
)
from harness.standings import Standings
from harness.store import StaleSession, Store
from harness.task import UNCOUNTED, Task
from harness.telemetry import Telemetry
from harness.troubles import Troubles
from harness.workspace import RunPaths, StatePaths, keep_files, read_regular, remove_tree

log = logging.getLogger("harness.service")

WATCH_SECONDS = 0.2
"""how often run directories are looked at; an answer is at most this late"""

ELSEWHERE_SECONDS = 1.0
"""how often the journal is asked for tests that another server follows"""

AWAY_SECONDS = 2.0
"""how long the watch rests while the database does not answer"""

UNREADABLE_TIMES = 12
"""how often a run directory that can't be read is looked at, in some four minutes, until its test
is given back"""

STALE_TRIES = 5
"""how often a call is worked out anew on what another server wrote meanwhile"""

THREADS = 40
"""calls that may be worked on at the same time; those that wait for a test are not among them"""

CHECK_LIMIT = 40
CHECK_SECONDS = 600
"""at most so many checks are started for a session in so many seconds"""

Result = TypeVar("Result")


class UnknownTask(LookupError):
    code = "unknown_task"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"There is no task {name}.")
        self.hint = f"The tasks are {', '.join(known)}."


class UnknownProfile(LookupError):
    code = "unknown_profile"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"There is no profile {name}.")
        self.hint = f"The profiles are {', '.join(known)}."


@dataclass
class LiveSession:
    """A session in memory, with what its callers share."""

    session: Session
    task: Task
    profile: str
    token_sha256: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    events: list[AnyEvent] = field(default_factory=list)
    journaled: int = 0
    """bytes, about (harness/journal_size.py)"""
    reports: dict[tuple[Kind, str], Report] = field(default_factory=dict)
    """what checks came to, by kind and digest of the files"""
    _checks_at: list[float] = field(default_factory=list)
    _pulse: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self) -> None:
        """Wake everybody who waits for this session."""
        pulse, self._pulse = self._pulse, asyncio.Event()
        pulse.set()

    async def wait_for_change(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._pulse.wait(), seconds)

    def count_check(self) -> None:
        """Note that a check is started. Raises CheckLimit if there were too many of late."""
        now = time.monotonic()
        self._checks_at = [at for at in self._checks_at if now - at < CHECK_SECONDS]
        if len(self._checks_at) >= CHECK_LIMIT:
            wait = math.ceil(CHECK_SECONDS - (now - self._checks_at[0]))
            raise CheckLimit(
                f"{CHECK_LIMIT} checks were started in the last {CHECK_SECONDS // 60} minutes. "
                f"Call check again in {wait} s; test() checks the files too."
            )
        self._checks_at.append(now)

    async def transcript_lines(self) -> list[str]:
        """The header and every event, redacted, each as a line of JSON."""
        async with self.lock:
            header = self.session.state.header.model_dump(mode="json")
            events = [event.redacted() for event in self.events]
        return [canonical(value) + "\n" for value in (header, *events)]


@dataclass(frozen=True)
class CreatedSession:
    live: LiveSession
    token: str
    prompt: str


class Service:
    """All sessions of one server."""

    def __init__(
        self,
        *,
        store: Store,
        executor: Executor,
        check_executor: Executor,
        tasks: Mapping[str, Task],
        state: StatePaths,
        claim: Claim,
        data_dir: Path,
        default_profile: str | None = None,
        sandboxed: bool = True,
        idle: timedelta | None = None,
        journal_bytes: int = 0,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.telemetry = telemetry or Telemetry()
        self.telemetry.watch_database(store.engine)
        self.store = store
        self.executor = executor
        self.check_executor = check_executor
        self._tests = Starting(executor)
        self._checks = Starting(check_executor)
        self.tasks = tasks
        self.standings = Standings(store, tasks)
        self.state = state
        self.claim = claim
        self.data_dir = data_dir
        self.default_profile = default_profile
        self.sandboxed = sandboxed
        """whether agents' code runs in a sandbox; without one no result is ranked"""
        self.idle = idle
        """after so long without a call, or a test, an open session is ended; None: never"""
        self.journal_bytes = journal_bytes
        """about what a session may journal; 0: no limit"""
        self._sessions: dict[str, LiveSession] = {}
        self._away: dict[str, str] = {}
        """by session: what the executor said when it did not take a test"""
        self._troubles = Troubles()
        self._loading = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._threads = ThreadPoolExecutor(THREADS, "harness")

    async def start(self) -> None:
        """Take up every open session's test and begin to watch."""
        waiting: list[tuple[datetime, LiveSession, Attempt]] = []
        unwanted: list[RunPaths] = []
        for row in await self.in_thread(lambda: self.store.list_sessions(open_only=True)):
            if (live := await self.get(row.id)) is None:
                continue
            for attempt in live.session.state.attempts:
                if attempt.active and self._is_here(live, attempt):
                    waiting.append((attempt.queued_at or row.created_at, live, attempt))
                elif attempt.is_lost and self._is_here(live, attempt):
                    unwanted.append(self.run_paths(live, attempt))
        # What is alive holds GPUs; the others wait in the order in which they came.
        await self.in_thread(self._take_up_living)
        for paths in unwanted:  # given back while we were taken for gone
            await self.in_thread(self._stop, paths)
        for _, live, active in sorted(waiting, key=lambda each: each[0]):
            try:
                await self.in_thread(self._take_up, live, active)
            except Exception as error:
                # One session's fault must not keep the server from the others.
                self._troubles.met(live.session.id, error)
        self._watcher = asyncio.create_task(self._watch())

    def _take_up(self, live: LiveSession, attempt: Attempt) -> None:
        """What a start of the server does with a test that was queued or running."""
        if self.executor.state(self.run_paths(live, attempt)).kind == "gone":
            # It has not begun, has finished meanwhile, or was interrupted: a machine that is
            # brought down gives no resumption for nothing.
            self._take_in_locked(live)
        else:
            self._advance(live, attempt)

    async def stop(self) -> None:
        """Stop watching; tests that run go on, and are found again at the next start."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self.in_thread(self.store.close)
        self._threads.shutdown(wait=False)
        self.claim.release()

    def _take_up_living(self) -> None:
        """Make known to the executors what runs from before, tests and checks."""
        for paths in self.state.all_runs():
            try:
                if not paths.plan.is_file() or not is_held(paths):
                    continue
                beside = paths.is_check and read_plan(paths).gpus == 0
                (self.check_executor if beside else self.executor).submit(paths)
            except (PlanError, ExecutorAway, ValueError, OSError) as error:
                # One run's fault must not keep the server from the others.
                log.warning("session %s: %s is not taken up: %s", paths.session, paths.name, error)

    async def in_thread(self, call: Callable[..., Result], *args: Any) -> Result:
        """Run what may block (SQL, files) without holding up the event loop."""
        # As anyio.to_thread does it, in a quarter of the time.
        work = partial(contextvars.copy_context().run, call, *args)
        with anyio.CancelScope(shield=True):
            result = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        return result

    # ── sessions ──────────────────────────────────────────────────────────────────────────────

    async def create(
        self,
        task_name: str,
        profile: str | None,
        agent: str | dict[str, Any] | None,
        *,
        opened_by: str | None = None,
        most: int = 0,
        replica: Replica | None = None,
    ) -> CreatedSession:
        """Start a session, of the house if `replica` is given. Raises UnknownTask or
        UnknownProfile, and TooManyOpen if the key `opened_by` has `most` open ones."""
        task = self.tasks.get(task_name)
        if task is None:
            raise UnknownTask(task_name, list(self.tasks))
        profile = profile or self.choose_profile(task)
        if profile not in task.profiles:
            raise UnknownProfile(profile, list(task.profiles))
        session_id = secrets.token_hex(8)
        # It says which session it is for, so that one needs no other address to be known by; and
        # logs know one by its second part.
        token = f"{session_id}.hs_{secrets.token_urlsafe(32)}"
        header = Header(
            session=session_id,
            created_at=datetime.now(UTC),
            task=task.name,
            task_version=task.version,
            profile=profile,
            agent={"name": agent} if isinstance(agent, str) else storable(agent),
            tests=task.tests if replica is None else len(replica.seeds),
            purpose="agent" if replica is None else replica.purpose,
            of=None if replica is None else replica.of,
            seeds=() if replica is None else replica.seeds,
            files=tuple(
                FileRecord(
                    name=file.name,
                    text=task.read_file(file.name),
                    regions=tuple(
                        RegionRecord(name=region.name, first=region.first, last=region.last)
                        for region in file.regions
                    ),
                )
                for file in task.files
            ),
            locked_digest=task.locked_digest(),
        )
        token_sha256 = _sha256(token)
        results = await self.in_thread(measured, self.store, task, profile, header.locked_digest)
        await self.in_thread(self.store.create, header, token_sha256, opened_by, most)
        live = self._live(header, [], token_sha256)
        self._sessions[header.session] = live
        prompt = build_prompt(
            task,
            profile,
            live.session.state.files,
            {name: mean.metrics for name, mean in results.items()},
            {name: mean.seeds for name, mean in results.items()},
        )
        log.info("session %s: created, task %s, profile %s", header.session, task.name, profile)
        return CreatedSession(live, token, prompt)

    def choose_profile(self, task: Task) -> str:
        """The default: the first of the task's profiles that there are GPUs for.

        Where tests run elsewhere, that is the first of all: nothing falls back by itself.
        """
        if self.default_profile is not None:
            return self.default_profile
        have = self.executor.gpus
        fitting = [n for n, p in task.profiles.items() if have is None or p.gpus <= have]
        return (fitting or list(task.profiles))[0]

    async def get(self, session_id: str) -> LiveSession | None:
        """A session by its id, from memory or the journal."""
        if (live := self._sessions.get(session_id)) is not None:
            return live
        async with self._loading:
            if (live := self._sessions.get(session_id)) is not None:
                return live
            loaded = await self.in_thread(self._load, session_id)
            if loaded is not None:
                self._sessions[session_id] = loaded
            return loaded

    def _load(self, session_id: str) -> LiveSession | None:
        found = self.store.load(session_id)
        token_sha256 = self.store.token_sha256(session_id)
        if found is None or token_sha256 is None:
            return None
        header, events = found
        if header.task not in self.tasks:
            log.warning("session %s: its task %s is gone", session_id, header.task)
            return None
        return self._live(header, events, token_sha256)

    def _live(self, header: Header, events: list[AnyEvent], token_sha256: str) -> LiveSession:
        task = self.tasks[header.task]
        kept = list(events)

        def append(added: Sequence[tuple[AnyEvent, str | None]], closes: bool) -> None:
            self.store.append(header.session, added, closes=closes)
            kept.extend(event for event, _ in added)
            live.journaled += weights(event for event, _ in added)
            self.telemetry.journaled(event for event, _ in added)

        pristine = task.shipped()
        constraints = task.constraints()
        session = Session(
            header,
            events,
            append=append,
            seed=task.profile(header.profile).seed,
            decimals=visible_decimals(task, header.profile),
            read_only={
                sibling.name: EditableFile.from_text(sibling.name, task.read_file(sibling.name), [])
                for sibling in task.siblings
                if sibling.show
            },
            static_check=lambda files: pool.find_all(files, pristine, constraints),
        )
        live = LiveSession(
            session, task, header.profile, token_sha256, events=kept, journaled=weights(kept)
        )
        return live

    def catch_up(self, live: LiveSession) -> bool:
        """Apply what the journal has and memory has not; whether there was anything.

        Only with the session's lock held. Raises StaleSession if the journal is another one.
        """
        session = live.session
        seq, last_hash = session.state.seq, session.state.last_hash
        active = session.state.active
        added = self.store.events_after(session.id, max(0, seq - 1))
        try:
            if seq and (not added or added.pop(0).hash != last_hash):
                raise ValueError(f"the journal has another event {seq}, or none")
            session.catch_up(added)
        except ValueError as error:
            # The database was put back to an earlier state, say: read everything again.
            log.error("session %s is read again: %s", session.id, error)
            self._sessions.pop(session.id, None)
            raise StaleSession(f"session {session.id}: {error}") from error
        live.events.extend(added)
        live.journaled += weights(added)
        if active is not None and active.is_lost and self._is_here(live, active):
            # Somebody took us for gone; what we would still find out nobody waits for.
            self._stop(self.run_paths(live, active))
        return bool(added)

    async def refresh(self, live: LiveSession) -> None:
        """Read what another server has added to the session."""
        async with live.lock:
            changed = await self.in_thread(self.catch_up, live)
        if changed:
            live.changed()

    async def on_newest(self, live: LiveSession, call: Callable[[], Result]) -> Result:
        """Run in a thread what adds to the session; again if another server was first.

        Only with the session's lock held. Raises StaleSession if others are always first; then
        nothing was done.
        """
        tries = STALE_TRIES
        while True:
            try:
                return await self.in_thread(call)
            except StaleSession:
                tries -= 1
                if await self.in_thread(self.catch_up, live):
                    live.changed()
                if not tries:
                    raise

    def live_sessions(self) -> list[LiveSession]:
        """Those that this server has in memory, every open one among them."""
        return list(self._sessions.values())

    @property
    def is_watching(self) -> bool:
        """Whether tests that run are followed."""
        return self._watcher is not None and not self._watcher.done()

    def token_fits(self, live: LiveSession, token: str) -> bool:
        return hmac.compare_digest(live.token_sha256, _sha256(token))

    async def keep_message(
        self, live: LiveSession, role: str, text: str, usage: dict[str, Any] | None
    ) -> None:
        """Journal what the model said. Raises JournalFull."""
        event = MessageKept(role=storable(role), text=storable(text), usage=storable(usage))
        require_room(None, event.model_dump(), live.journaled, self.journal_bytes)
        async with live.lock:
            await self.on_newest(live, lambda: live.session.record(event))
        live.changed()

    async def review(self, live: LiveSession, event: Reviewed) -> None:
        """Journal a person's verdict, whether the session is closed or not."""
        async with live.lock:
            await self.on_newest(live, lambda: live.session.record(event))
        live.changed()

    # ── tests ─────────────────────────────────────────────────────────────────────────────────

    def run_paths(self, live: LiveSession, attempt: Attempt | TestRequest) -> RunPaths:
        return self.state.session(live.session.id).run(attempt.number, attempt.attempt)

    def _is_here(self, live: LiveSession, attempt: Attempt) -> bool:
        """Whether the test's run directory is in this server's state folder."""
        if attempt.place is None:  # journaled before folders had names
            return self.run_paths(live, attempt).plan.exists()
        return attempt.place == self.claim.name

    async def begin_test(self, live: LiveSession) -> TestRequest:
        """Start a test of the files as they are, or find the one to join or to report."""

        def begin() -> TestRequest:
            # Asked first, since a run directory is made before the journal can refuse.
            self.catch_up(live)
            request = live.session.request_test()
            if request.queued is not None:
                self._start_test(live, request)
            return request

        async with live.lock:
            request = await self.on_newest(live, begin)
        if request.queued is not None:
            live.changed()
        return request

    def _start_test(self, live: LiveSession, request: TestRequest) -> None:
        task, profile = live.task, live.profile
        assert request.queued is not None
        if missing := self._missing_data(live):
            raise TestRefused(f"Test not started, and not counted: {missing}")
        self._require_same_task(live, "Test not started, and not counted")
        self._require_sandbox("Test not started, and not counted")
        known = self._known_report(live, "contract")
        if known is not None and not known.ok:
            raise TestRefused(live.session.refusal(known.findings))
        paths = self.run_paths(live, request)
        try:
            around = self._around(paths, self.executor, self._unedited(live))
            plan = make_plan(
                task,
                profile,
                request.number,
                request.attempt,
                around,
                seed=request.queued.seed,
            )
        except PlanError as error:
            raise TestRefused(f"Test not started, and not counted: {error}.") from error
        if paths.plan.exists():
            # The journal did not take the test that it was made for; the files may be others now.
            remove_tree(paths.root)
        edited = {name: file.text for name, file in live.session.state.files.items()}
        prepare_run_dir(paths, plan, snapshot(task, edited), snapshot(task, {}))
        live.session.record(request.queued.model_copy(update={"place": self.claim.name}))
        attempt = live.session.state.active
        assert attempt is not None
        log.info("session %s: test #%d queued", live.session.id, request.number)
        try:
            self._advance(live, attempt)
        except Exception as error:
            # It is in the journal, so that the watch goes on with it, whatever this was.
            self._troubles.met(live.session.id, error)

    def _around(
        self, paths: RunPaths, executor: Executor, unedited: Mapping[str, Path] | None = None
    ) -> Surroundings:
        self.state.cache.mkdir(parents=True, exist_ok=True)
        return Surroundings(
            paths,
            self.data_dir,
            self.state.cache,
            self.executor.gpus,
            executor.threads,
            sandbox=self.sandboxed,
            unedited=unedited or {},
        )

    def _missing_data(self, live: LiveSession) -> str:
        """That the session's data set is not prepared, and who prepares it; empty if it is."""
        found = datasets(live.task, self.data_dir)
        data = next(data for data in found if live.profile in data.profiles)
        if data.ready:
            return ""
        # Where it would lie is not the agent's to know.
        remedy = f"runs: {data.remedy}" if data.can_prepare else "has to put it there."
        return f"the data set {data.name} is not prepared on this server. Its operator {remedy}"

    def _require_same_task(self, live: LiveSession, what: str) -> None:
        """Raises TestRefused if locked text has changed since the session began: results would
        stand beside others that another text gave."""
        if live.task.locked_digest() != live.session.state.header.locked_digest:
            raise TestRefused(
                f"{what}: the task's locked files are others than when this session began, so that "
                "its results could be compared with no others. Submit a test that has a score, if "
                "there is one; the task as it is now needs a new session."
            )

    def _require_sandbox(self, what: str) -> None:
        """Raises TestRefused if agents' code shall run in a sandbox and there is none."""
        found = sandbox.find() if self.sandboxed else None
        if isinstance(found, sandbox.Problem):
            raise TestRefused(f"{what}: this server has no sandbox. Its operator: {found}.")

    def _unedited_key(self, live: LiveSession, label: str, data: PlanData) -> str:
        """What a score of the unedited files can be compared with."""
        parts = f"{data.name} {data.manifest_sha256} {live.session.state.header.locked_digest}"
        digest = hashlib.sha256(parts.encode())
        return f"{live.task.name}-{live.task.version}-{label}-{digest.hexdigest()[:16]}"

    def _unedited(self, live: LiveSession) -> dict[str, Path]:
        """By stage: what scoring the unedited files left, where that was done already."""
        data = data_of(live.task, live.profile, self.data_dir)
        labels = [stage.label for stage in live.task.profile(live.profile).stages]
        known = {n: self.state.unedited(self._unedited_key(live, n, data)) for n in labels}
        return {label: folder for label, folder in known.items() if folder.is_dir()}

    def _keep_unedited(self, live: LiveSession, active: Attempt, paths: RunPaths) -> None:
        """Keeps what scoring left, if the files were the unedited ones."""
        pristine = SessionState.start(live.session.state.header).files_digest
        data = read_plan(paths).data
        if active.files_digest != pristine or not self.sandboxed or data is None:
            return
        for stage in live.task.profile(live.profile).stages:
            left = paths.step(stage.label, "score").reference
            target = self.state.unedited(self._unedited_key(live, stage.label, data))
            if left.is_dir():
                keep_files(left, target)

    def _advance(self, live: LiveSession, attempt: Attempt) -> Report | None:
        """Take a test that has not begun one step on: to its check, or from that to the executor.

        Returns the check's report if that stands in the way.
        """
        paths = self.run_paths(live, attempt)
        status = read_status(paths)
        if live.task.contract is not None and (status is None or status.starts == 0):
            # The files of the run, not of the session: an agent may have edited them since.
            files = self._files_of(live, paths)
            report = self._run_check(live, "contract", files, attempt.files_digest)
            if report is None or not report.ok:
                return report
        self._hand_over(live, attempt, paths)
        return None

    def _hand_over(self, live: LiveSession, attempt: Attempt, paths: RunPaths) -> None:
        """Give a run to the executor; one that does not answer is asked again by the watch.

        Raises NotStarted as `Starting.hand_over`.
        """
        try:
            self._tests.hand_over(paths)
        except ExecutorAway as error:
            if self._away.get(live.session.id) != str(error):
                log.warning(
                    "session %s: test #%d waits: %s", live.session.id, attempt.number, error
                )
            self._away[live.session.id] = str(error)
        else:
            self._away.pop(live.session.id, None)

    def _files_of(self, live: LiveSession, paths: RunPaths) -> dict[str, EditableFile]:
        """The editable files of a run directory's snapshot, with the regions that they had."""
        found = {}
        for name, file in live.session.state.files.items():
            text = (paths.files / name).read_text(encoding="utf-8")
            found[name] = file if file.text == text else EditableFile.from_text(name, text, [])
        return found

    # ── checks ────────────────────────────────────────────────────────────────────────────────

    def _run_check(
        self, live: LiveSession, kind: Kind, files: Mapping[str, EditableFile], digest: str
    ) -> Report | None:
        """A check's report, or None while it goes on; started if it was not."""
        if (known := live.reports.get((kind, digest))) is not None:
            return known
        paths = self._check_paths(live, kind, digest)
        starting = self._check_starting(live, kind)
        if not paths.plan.exists():
            around = self._around(paths, starting.executor)
            submit_check(starting, live.task, live.profile, kind, files, around)
        report = check_report(starting, paths, files)
        if report is not None:
            live.reports[kind, digest] = report
        return report

    def _check_paths(self, live: LiveSession, kind: Kind, digest: str) -> RunPaths:
        return self.state.session(live.session.id).check(f"{kind}-{digest[:16]}")

    def _check_starting(self, live: LiveSession, kind: Kind) -> Starting:
        """Where a check runs: beside the tests, unless it needs their GPUs."""
        needs_gpu = kind == "preflight" and live.task.profile(live.profile).gpus > 0
        return self._tests if needs_gpu else self._checks

    def _known_report(self, live: LiveSession, kind: Kind) -> Report | None:
        return live.reports.get((kind, live.session.state.files_digest))

    def _check_kinds(self, live: LiveSession) -> list[Kind]:
        """The checks that the task has, contract first."""
        kinds: list[Kind] = ["contract"] if live.task.contract is not None else []
        stages = live.task.profile(live.profile).stages
        if any("preflight" in stage.roles for stage in stages):
            kinds.append("preflight")
        return kinds

    def check(self, live: LiveSession) -> tuple[Report | None, str]:
        """Everything that checks say of the files as they are, and a note on what is left out.

        None while they go on. Raises CheckLimit if this session has asked for too many.
        """
        session = live.session
        self._require_same_task(live, "Nothing was run")
        self._require_sandbox("Nothing was run")
        digest, files = session.state.files_digest, dict(session.state.files)
        static_findings = session.static_findings()
        report = Report(tuple(static_findings))
        if any(finding.rule in STRUCTURAL for finding in static_findings):
            return report, ""  # nothing can be run before these are mended
        for kind in self._check_kinds(live):
            begun = self._check_paths(live, kind, digest).plan.exists()
            if not begun:
                executor = self._check_starting(live, kind).executor
                gpus = live.task.profile(live.profile).gpus
                if executor is self.executor and not executor.idle(gpus):
                    return report, (
                        "The first steps at full size were not tried, since no GPU is free; "
                        "test() tries them first, uncounted."
                    )
                live.count_check()
            try:
                part = self._run_check(live, kind, files, digest)
            except NotStarted as error:
                log.error("session %s: a check was given up: %s", session.id, error)
                raise TestRefused(
                    "Nothing was checked, through no fault of yours: the check does not start on "
                    "this server, whose operator finds why in its log. Call check() to try again."
                ) from error
            if part is None:
                return None, ""
            report += part
            if not part.ok:
                break  # what does not run at a small size is not run at a large one
        missing = self._missing_data(live)
        return report, f"No test can be started as yet: {missing}" if missing else ""

    async def wait_for_check(self, live: LiveSession, seconds: float) -> tuple[Report | None, str]:
        """The checks' outcome once there is one, or None after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            async with live.lock:
                report, note = await self.in_thread(self.check, live)
            if report is not None or time.monotonic() >= deadline:
                return report, note
            await asyncio.sleep(min(WATCH_SECONDS, max(0.0, deadline - time.monotonic())))

    # ── watching ──────────────────────────────────────────────────────────────────────────────

    async def wait_for_test(
        self, live: LiveSession, number: int, attempt: int, seconds: float
    ) -> None:
        """Return when the test has finished, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            active = live.session.state.active
            left = deadline - time.monotonic()
            if active is None or (active.number, active.attempt) != (number, attempt) or left <= 0:
                return
            await live.wait_for_change(left)

    def progress(self, live: LiveSession) -> Progress | None:
        """How far the session's test is; None if none is queued or running."""
        active = live.session.state.active
        if active is None:
            return None
        if not self._is_here(live, active):
            return Progress("running")
        paths = self.run_paths(live, active)
        job = self.executor.state(paths)
        if job.kind == "queued":
            return Progress("queued", place=job.place, seconds_left=job.seconds)
        status = read_status(paths)
        if status is not None and job.kind == "gone" and self._tests.waits(paths, status):
            return Progress("queued")  # between two attempts to start it
        if status is not None and status.starts == 0 and job.kind == "gone":
            return Progress("checking")
        running = status.running if status else None
        if status is None or running is None:
            return Progress("running")
        told = status.progress
        return Progress(
            "running",
            stage=running.stage,
            role=running.role,
            step=told.step if told else None,
            steps=told.steps if told else None,
            seconds_left=told.seconds_left if told else None,
            loss=told.loss if told else None,
            tokens_per_s=told.tokens_per_s if told else None,
        )

    async def _watch(self) -> None:
        away = False
        asked_elsewhere = 0.0
        while True:
            await asyncio.sleep(AWAY_SECONDS if away else WATCH_SECONDS)
            elsewhere = time.monotonic() - asked_elsewhere >= ELSEWHERE_SECONDS
            try:
                await self._look(elsewhere)
            except Exception as error:
                if not unavailable(error):
                    log.exception("the watch over tests met with an error, and goes on")
                elif not away:
                    log.warning("the database does not answer: %s", one_line(error))
                away = unavailable(error)
                continue
            if elsewhere:
                asked_elsewhere = time.monotonic()
            if away:
                log.warning("the database answers again")
            away = False

    async def _look(self, elsewhere: bool) -> None:
        """Follow every test that runs here and, if `elsewhere`, those that another server has."""
        await self.in_thread(self.executor.poll)
        await self.in_thread(self.check_executor.poll)
        if elsewhere:
            await self._end_idle()
        for live in list(self._sessions.values()):
            active = live.session.state.active
            if active is None or self._troubles.rests(live.session.id):
                continue
            try:
                if self._is_here(live, active):
                    await self._take_in(live)
                elif elsewhere:
                    await self.refresh(live)
            except Exception as error:
                if unavailable(error):
                    raise
                # One session's fault must not end the watch over the others.
                self._troubles.met(live.session.id, error)
                if self._is_unreadable(live, error):
                    await self._give_up(live)
            else:
                self._troubles.over(live.session.id)

    def _is_unreadable(self, live: LiveSession, error: Exception) -> bool:
        """Whether a run directory has been out of reach for minutes, and it alone."""
        return (
            isinstance(error, OSError)
            and error.errno not in (errno.ENOSPC, errno.EDQUOT)
            and self._troubles.times(live.session.id) >= UNREADABLE_TIMES
            and self.claim.is_there
        )

    async def _give_up(self, live: LiveSession) -> None:
        """End a test whose run directory cannot be read."""
        async with live.lock:
            active = live.session.state.active
            if active is not None:
                paths = self.run_paths(live, active)
                what = "its run directory cannot be read"
                await self.in_thread(self._lost, live, active, paths, what)
        self._troubles.over(live.session.id)
        live.changed()

    async def _end_idle(self) -> None:
        """End every open session that nobody has called for too long."""
        for live in list(self._sessions.values()):
            if not self._is_idle(live):
                continue
            async with live.lock:
                # Another server may have been called meanwhile.
                await self.in_thread(self.catch_up, live)
                if not self._is_idle(live):
                    continue
                assert self.idle is not None
                event = ending(live.session.state, idle_reason(self.idle))
                await self.in_thread(live.session.record, event)
            log.info("session %s: ended, %s", live.session.id, idle_reason(self.idle))
            live.changed()

    def _is_idle(self, live: LiveSession) -> bool:
        state = live.session.state
        if self.idle is None or state.closed or state.active is not None or state.last_at is None:
            return False
        return datetime.now(UTC) - state.last_at > self.idle

    async def _take_in(self, live: LiveSession) -> None:
        """Take what a test's run directory says into the journal."""
        async with live.lock:
            try:
                changed = await self.in_thread(self._take_in_locked, live)
            except StaleSession:
                changed = await self.in_thread(self._take_up_again, live)
        if changed:
            live.changed()

    def _take_up_again(self, live: LiveSession) -> bool:
        """After the journal had more than memory: what it says has been queued is started."""
        changed = self.catch_up(live)
        active = live.session.state.active
        if active is not None and self._is_here(live, active):
            self._advance(live, active)
        return changed

    def _take_in_locked(self, live: LiveSession) -> bool:
        active = live.session.state.active
        if active is None:
            return False
        paths = self.run_paths(live, active)
        # The executor is asked first: a runner that ends in between has written its last status.
        job = self.executor.state(paths)
        try:
            status = present_status(paths)
        except RunLost as lost:
            if lost.rewritten and job.kind != "gone":
                return False
            return self._lost(live, active, paths, str(lost))
        ended = status.state in FINAL_STATES
        # A resumption that is journaled may not have reached the executor, or its runner not have
        # come up: that is no further interruption.
        comes_up = status.starts <= active.resumptions or self._tests.waits(paths, status)
        if job.kind == "gone" and not ended and comes_up:
            try:
                report = self._advance(live, active)
            except NotStarted as error:
                log.error(
                    "session %s: test #%d is given up: %s", live.session.id, active.number, error
                )
                live.session.record(self._not_started(live, active, paths))
                return True
            if report is None:
                return False
            live.session.record(self._refused(live, active, report))
            return True
        events: list[AnyEvent] = []
        begun = (
            status.state != "cancelled"  # which is given back
            and any(step.started_at for step in status.steps if step.role not in UNCOUNTED)
        )
        if begun and not active.counted:
            events.append(TestCounted(number=active.number, attempt=active.attempt))
        if ended:
            events.append(self._outcome(live, active, paths, status))
        elif job.kind == "gone":
            events.append(self._interrupted(live, active, paths))
        if not events:
            return False
        live.session.record(*events)
        if isinstance(events[-1], TestResumed):
            self._hand_over(live, active, paths)
        elif not active.active:
            self._tests.forget(paths)
        return True

    def _stop(self, paths: RunPaths) -> None:
        """End a run that nobody waits for, as far as that can be done."""
        try:
            self.executor.cancel(paths)
        except (OSError, ValueError, ExecutorAway) as error:
            log.warning("session %s: %s could not be ended: %s", paths.session, paths.name, error)

    def _lost(self, live: LiveSession, active: Attempt, paths: RunPaths, what: str) -> bool:
        """Give a test back whose run directory is gone; agents' code cannot have done that."""
        if not self.claim.is_there:
            raise OSError("the state folder is away")  # and comes back with everything in it
        log.error("session %s: test #%d is lost: %s", live.session.id, active.number, what)
        self._stop(paths)
        self._tests.forget(paths)
        live.session.record(
            TestReleased(
                number=active.number,
                attempt=active.attempt,
                kind="lost",
                reason=(
                    f"Test #{active.number} was lost on this server, since {what}, and is given "
                    "back, not counted. Call test() to run it again."
                ),
            )
        )
        return True

    def _outcome(
        self, live: LiveSession, active: Attempt, paths: RunPaths, status: RunStatus
    ) -> AnyEvent:
        if status.state == "cancelled":
            reason = (
                f"Test #{active.number} was cancelled by this server's operator, and is given "
                "back, not counted. Call test() to run it again."
            )
            return TestReleased(
                number=active.number, attempt=active.attempt, kind="cancelled", reason=reason
            )
        if status.state == "refused":
            return self._refused(
                live, active, report_of(paths, status, self._files_of(live, paths))
            )
        log.info("session %s: test #%d finished", live.session.id, active.number)
        if status.state == "finished":
            self._keep_unedited(live, active, paths)
        plan = read_plan(paths)
        data = plan.data
        return collect(
            live.task,
            live.profile,
            paths,
            status,
            number=active.number,
            attempt=active.attempt,
            provenance={
                "task_version": plan.task_version or live.task.version,
                "profile": live.profile,
                "seed": plan.seed,
                "files_digest": active.files_digest,
                "locked_digest": live.session.state.header.locked_digest,
                "data": data.model_dump() if data is not None else None,
                "sandbox": self._sandbox_name(paths),
                **self._hardware(paths),
            },
        )

    def _hardware(self, paths: RunPaths) -> Mapping[str, object]:
        """Of the machine that carried the run out, as its runner found it."""
        content = read_regular(paths.hardware, 1 << 16)
        found = json.loads(content) if content is not None else hardware.description()
        return cast(Mapping[str, object], found)

    def _sandbox_name(self, paths: RunPaths) -> str:
        """What the run's confined steps ran in; the plan says whether they had to."""
        if not read_plan(paths).sandbox:
            return "none"
        found = sandbox.find()
        return sandbox.version(found) if isinstance(found, str) else "bubblewrap"

    def _refused(self, live: LiveSession, active: Attempt, report: Report) -> AnyEvent:
        log.info("session %s: test #%d refused", live.session.id, active.number)
        return TestReleased(
            number=active.number,
            attempt=active.attempt,
            kind="refused",
            reason=live.session.refusal(report.findings),
            findings=tuple(finding.as_json() for finding in report.findings),
        )

    def _interrupted(self, live: LiveSession, active: Attempt, paths: RunPaths) -> AnyEvent:
        """What becomes of a test whose runner is gone before its end."""
        if active.resumptions < MAX_RESUMPTIONS:
            log.warning("session %s: test #%d is resumed", live.session.id, active.number)
            return TestResumed(
                number=active.number, attempt=active.attempt, resumption=active.resumptions + 1
            )
        return self._given_back(
            live,
            active,
            paths,
            f"Test #{active.number} was interrupted too often and is given back, not counted. "
            "Call test() to run it again.",
        )

    def _not_started(self, live: LiveSession, active: Attempt, paths: RunPaths) -> AnyEvent:
        """What becomes of a test whose runner does not come up."""
        return self._given_back(
            live,
            active,
            paths,
            f"Test #{active.number} does not start on this server, through no fault of yours, and "
            "is given back, not counted. Its operator finds why in the server's log. Call test() "
            "to try again.",
        )

    def _given_back(
        self, live: LiveSession, active: Attempt, paths: RunPaths, reason: str
    ) -> AnyEvent:
        """The end of a test that was interrupted for good: uncounted, if that is left to it."""
        given_back = sum(
            1
            for attempt in live.session.state.attempts
            if attempt.released is not None
            and attempt.released.kind == "interrupted"
            and attempt.counted
        )
        # What was not counted costs no test, so that it can't be one that is given back either.
        if given_back < MAX_RELEASES or not active.counted:
            return TestReleased(
                number=active.number, attempt=active.attempt, kind="interrupted", reason=reason
            )
        status = read_status(paths)
        assert status is not None
        for step in status.steps:
            if step.state in ("waiting", "running"):
                step.state, step.reason = "failed", ["The test was interrupted too often."]
        return self._outcome(live, active, paths, status)


MAX_DEPTH = 32
"""levels of nesting that are kept of a call's arguments; honest ones have one"""


def storable(value: Any, depth: int = 0) -> Any:
    """JSON that any database and any reader takes.

    Lone surrogates are replaced, NaN and infinities become text, deep nesting is cut off.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping | list) and depth >= MAX_DEPTH:
        return "(nested too deeply to keep)"
    if isinstance(value, Mapping):
        return {storable(key): storable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item, depth + 1) for item in value]
    return value


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
