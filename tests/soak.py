"""Agents at work on a server that is killed again and again; afterwards everything is compared.

    python tests/soak.py --rounds 200 --seed 1

A real server process over the toy task, on SQLite. Each round starts it, lets scripted agents work
for a while, and ends it with SIGKILL at a random instant; sometimes the runner of a test is killed
too. An agent repeats a call under its Idempotency-Key until it is answered. `faults` then lays
what agents were told, the journal and the run directories beside each other.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from harness.datasets import prepare
from harness.events import (
    AnyEvent,
    Header,
    Submitted,
    TestCounted,
    TestFinished,
    TestQueued,
    TestReleased,
    ToolCalled,
    chain_break,
    digest_of,
)
from harness.jobs.plan import read_status
from harness.jobs.processes import living_runner
from harness.session import SessionState
from harness.store import Store
from harness.task import UNCOUNTED, find_tasks
from harness.workspace import RunPaths, StatePaths

ROOT = Path(__file__).resolve().parents[1]
TASKS = ROOT / "tests/tasks"
TASK, FILE = "two-files", "line_rate.py"
KEY = "soak-key-of-this-run"
RATES = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06)
PATIENCE_S = 120.0
"""How long an agent repeats one call before that is a fault by itself."""


class ServerProcess:
    """`python -m server` on a port and a state folder of its own."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.state, self.log = folder / "state", folder / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("HARNESS_")} | {
            "HARNESS_STATE_DIR": str(self.state),
            "HARNESS_TASKS_DIR": str(TASKS),
            "HARNESS_DATA_DIR": str(data),
            "HARNESS_PORT": str(self.port),
            "HARNESS_API_KEY": KEY,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it takes calls."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server"], cwd=ROOT, env=self._env, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"the server did not start; see {self.log}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@dataclass
class Told:
    """An answer that an agent was given."""

    session: str
    key: str
    tool: str
    args: dict[str, Any]
    text: str
    sha256: dict[str, str] | None


@dataclass
class Agent:
    """Plays sessions one after the other until it is told to stop, and believes nobody."""

    name: str
    url: str
    rng: random.Random
    stopping: threading.Event
    told: list[Told] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    results: dict[tuple[str, int], str] = field(default_factory=dict)
    """the text of each finished test as it was first told"""

    def __post_init__(self) -> None:
        self._client = httpx.Client(base_url=self.url, timeout=30)
        self._calls = 0

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                self._session()
        except Exception as error:
            self.faults.append(f"{self.name}: {type(error).__name__}: {error}")
        finally:
            self._client.close()

    def _session(self) -> None:
        created = self._request(
            "POST", "/v1/sessions", KEY, json={"task": TASK, "agent": self.name}
        ).json()
        session, token = created["id"], created["token"]
        self.sessions.append(session)
        sha256: dict[str, str] = {}
        edits = used = 0
        while True:
            choice = "submit" if self.stopping.is_set() else self._choose(edits, used)
            if choice == "edit":
                line = f"FIRST_RATE = {self.rng.choice(RATES)}"
                args = {"op": "replace", "start_line": 3, "end_line": 3, "content": line}
                answer = self._call(session, token, "edit", filename=FILE, **args)
                edits += 1
            elif choice == "undo":
                answer = self._call(session, token, "undo")
                edits -= 1
            elif choice == "test":
                answer = self._test(session, token)
            elif choice == "submit":
                answer = self._test(session, token) if used == 0 else {}
                finished = sorted(n for s, n in self.results if s == session)
                if finished and self._call(session, token, "submit", n=finished[-1])["ok"]:
                    return
                self.faults.append(f"{session}: nothing to submit after {answer.get('text')}")
                return
            else:
                answer = self._call(session, token, "view", filename=FILE)
            sha256 |= answer["data"].get("sha256") or {}
            if answer["budget"]["used"] < used and "given back" not in answer["text"]:
                self.faults.append(f"{session}: {used} tests were used, now {answer['budget']}")
            used = answer["budget"]["used"]
            if sha256:
                self._compare(session, token, sha256)

    def _choose(self, edits: int, used: int) -> str:
        if used == 3:
            return "submit"
        return self.rng.choices(["edit", "undo", "view", "test"], [6, 2 if edits > 0 else 0, 2, 2])[
            0
        ]

    def _test(self, session: str, token: str) -> dict[str, Any]:
        """Start a test and follow it to its end, through whatever happens to the server."""
        answer = self._call(session, token, "test", wait_s=self.rng.choice([0, 1, 5]))
        deadline = time.monotonic() + PATIENCE_S
        while answer["ok"] and answer["data"].get("state") != "finished":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{session}: a test does not end: {answer['text']}")
            # What ends while it waits is told as a result or as given back.
            answer = self._call(session, token, "status", wait_s=self.rng.choice([0, 1, 5]))
        if answer["ok"]:
            self._remember(session, answer)
        return answer

    def _remember(self, session: str, answer: dict[str, Any]) -> None:
        number = answer["data"]["test"]
        stages = answer["text"].partition("### ")[2]
        if self.results.setdefault((session, number), stages) != stages:
            self.faults.append(f"{session}: test #{number} was told in two ways")

    def _compare(self, session: str, token: str, sha256: dict[str, str]) -> None:
        """The files are what the last answer said."""
        for name, expected in sha256.items():
            text = self._request("GET", f"/v1/sessions/{session}/files/{name}", token).text
            if hashlib.sha256(text.encode()).hexdigest() != expected:
                self.faults.append(f"{session}: {name} is not what the last answer said")

    def _call(self, session: str, token: str, tool: str, **args: Any) -> dict[str, Any]:
        self._calls += 1
        key = f"{self.name}-{self._calls}"
        path = f"/v1/sessions/{session}/tools/{tool}"
        answer = self._request("POST", path, token, json=args, key=key).json()
        sha256 = answer["data"].get("sha256")
        self.told.append(Told(session, key, tool, args, answer["text"], sha256))
        return dict(answer)

    def _request(
        self, method: str, path: str, token: str, *, json: Any = None, key: str | None = None
    ) -> httpx.Response:
        """The answer, however often the server is away meanwhile."""
        headers = {"Authorization": f"Bearer {token}"} | ({"Idempotency-Key": key} if key else {})
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                response = self._client.request(method, path, json=json, headers=headers)
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if response.status_code in (200, 201):
                return response
            if response.status_code not in (429, 503):
                raise RuntimeError(f"{path}: {response.status_code} {response.text[:300]}")
            time.sleep(0.05)
        raise TimeoutError(f"{path} was not answered for {PATIENCE_S:.0f} s")


def faults(state: StatePaths, store: Store, agents: list[Agent]) -> list[str]:
    """What does not agree between answers, journal and run directories, in sentences."""
    found = [fault for agent in agents for fault in agent.faults]
    told = [answer for agent in agents for answer in agent.told]
    for session in (session for agent in agents for session in agent.sessions):
        loaded = store.load(session)
        if loaded is None:
            found.append(f"{session}: created, and not in the journal")
            continue
        header, events = loaded
        own = [answer for answer in told if answer.session == session]
        found += [f"{session}: {fault}" for fault in _of_journal(header, events, own)]
        found += [f"{session}: {fault}" for fault in _of_runs(state, session, events)]
    return found


def _of_journal(header: Header, events: list[AnyEvent], told: list[Told]) -> Iterator[str]:
    if (broken := chain_break(header, events)) is not None:
        yield broken
    calls = [event for event in events if isinstance(event, ToolCalled)]
    for key, count in Counter(event.key for event in calls).items():
        if count > 1:
            yield f"the call {key} is there {count} times"
    by_key = {event.key: event for event in calls}
    if extra := set(by_key) - {answer.key for answer in told}:
        yield f"the journal has calls that were never answered: {sorted(map(str, extra))}"
    for answer in told:
        event = by_key.get(answer.key)
        if event is None:
            yield f"the answer to {answer.key} is lost: {answer.text[:80]!r}"
        elif (event.tool, event.args) != (answer.tool, answer.args):
            yield f"{answer.key} was {answer.tool}, and is {event.tool}"
        elif answer.tool in ("edit", "undo", "view", "submit") and event.text != answer.text:
            yield f"{answer.key} was told {answer.text[:80]!r}, the journal has {event.text[:80]!r}"
    state = SessionState.start(header)
    queued: dict[tuple[int, int], str] = {}
    for event in events:
        if isinstance(event, TestQueued):
            queued[event.number, event.attempt] = state.files_digest
            if event.files_digest != state.files_digest:
                yield f"test #{event.number} was queued with other files than the session had"
        state.apply(event)
    for kind in (TestQueued, TestCounted, TestFinished, TestReleased):
        ones = Counter((e.number, e.attempt) for e in events if isinstance(e, kind))
        yield from (f"{kind.__name__} of {one} {n} times" for one, n in ones.items() if n > 1)
    if state.budget.used > header.tests:
        yield f"{state.budget.used} of {header.tests} tests are used"
    if sum(isinstance(event, Submitted) for event in events) > 1:
        yield "submitted more than once"


def _of_runs(state: StatePaths, session: str, events: list[AnyEvent]) -> Iterator[str]:
    def those(kind: type) -> set[tuple[int, int]]:
        return {(e.number, e.attempt) for e in events if isinstance(e, kind)}

    queued = {(e.number, e.attempt): e for e in events if isinstance(e, TestQueued)}
    for (number, attempt), event in queued.items():
        paths = state.session(session).run(number, attempt)
        status = read_status(paths)
        if status is None:
            yield f"test #{number}.{attempt} has no run directory"
            continue
        names = ("line_model.py", FILE)
        text = {name: (paths.files / name).read_bytes() for name in names}
        digest = digest_of({n: hashlib.sha256(content).hexdigest() for n, content in text.items()})
        if digest != event.files_digest:
            yield f"test #{number}.{attempt} ran other files than the journal says"
        begun = any(step.started_at for step in status.steps if step.role not in UNCOUNTED)
        if begun != ((number, attempt) in those(TestCounted)):
            yield f"test #{number}.{attempt} begun: {begun}, but the journal counts otherwise"
        ended = (number, attempt) in those(TestFinished) | those(TestReleased)
        if (status.state == "finished") != ((number, attempt) in those(TestFinished)) or not ended:
            yield f"test #{number}.{attempt} is {status.state}, and the journal does not say so"


def soak(
    folder: Path, rounds: int, seed: int, *, agents: int = 3, longest_s: float = 1.5
) -> tuple[list[str], dict[str, int]]:
    """Plays it all. Returns what is wrong, and counts of what happened."""
    rng = random.Random(seed)
    data = folder / "data"
    prepare(find_tasks(TASKS)[TASK], "toy", data)
    server = ServerProcess(folder, data)
    state = StatePaths(server.state)
    stopping = threading.Event()
    players = [
        Agent(f"agent{i}", server.url, random.Random(rng.random()), stopping) for i in range(agents)
    ]
    threads = [threading.Thread(target=player.run, daemon=True) for player in players]
    counts = Counter(rounds=rounds)
    try:
        server.start()
        for thread in threads:
            thread.start()
        for _ in range(rounds):
            time.sleep(rng.uniform(0, longest_s))
            if rng.random() < 0.2:
                counts["runners killed"] += _kill_a_runner(state, rng)
            server.kill()
            if rng.random() < 0.3:
                time.sleep(rng.uniform(0, longest_s))  # tests end while nobody looks
            server.start()
        stopping.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    finally:
        stopping.set()
        server.kill()
        for runner in _runners(state):
            runner.send_signal(signal.SIGTERM)
    store = Store(f"sqlite:///{state.database.absolute()}")
    try:
        found = faults(state, store, players)
    finally:
        store.close()
    found += [
        f"{p.name} did not come to an end"
        for p, t in zip(players, threads, strict=True)
        if t.is_alive()
    ]
    counts["answers"] = sum(len(player.told) for player in players)
    counts["sessions"] = sum(len(player.sessions) for player in players)
    counts["tests finished"] = sum(len(player.results) for player in players)
    return found, dict(counts)


def _runners(state: StatePaths) -> list[psutil.Process]:
    plans = state.root.glob("sessions/*/runs/*/plan.json")
    found = (living_runner(RunPaths(plan.parent)) for plan in plans)
    return [runner for runner in found if runner is not None]


def _kill_a_runner(state: StatePaths, rng: random.Random) -> int:
    runners = _runners(state)
    if not runners:
        return 0
    with contextlib.suppress(psutil.NoSuchProcess):
        rng.choice(runners).kill()
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--agents", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        found, counts = soak(Path(folder), options.rounds, options.seed, agents=options.agents)
    print(", ".join(f"{count} {what}" for what, count in counts.items()), end="")
    print(f", {time.monotonic() - began:.0f} s")
    for fault in found:
        print(f"FAULT {fault}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
