"""Fixtures: the whole server in process over the toy task: real runners, a real database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stories
from fastapi.testclient import TestClient
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from live import served
from postgres import Cluster, cluster, why_not
from typer.testing import CliRunner

import server
from harness.cli import app
from harness.datasets import prepare
from harness.events import AnyEvent, Header, TestFinished
from harness.jobs.local import LocalExecutor
from harness.settings import Settings
from harness.store import Store
from harness.task import find_tasks
from harness.workspace import RunPaths

# A machine that stands still for a second is no fault of what is tested.
hypothesis_settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("suite")

KEY = "a-key-for-these-tests"
"""what a client of `start_server` sends unless it is told otherwise"""

Harness = Callable[..., tuple[int, str]]
"""the terminal command: its arguments to its exit code and output"""

TOY_TASKS = Path(__file__).parent / "tasks"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--short-attacks",
        action="store_true",
        help="honest edits: no checks, no second stage",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the whole attack suite out, an hour's work, unless `-m` speaks of it."""
    if "attacks" in config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("attacks")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("attacks")]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL server of this process's tests."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with cluster() as running:
        yield running


BOTH_DATABASES = ("sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql))


@pytest.fixture(params=BOTH_DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'journal.sqlite3'}"
        return
    running: Cluster = request.getfixturevalue("postgres")
    url = running.new_database()
    yield url
    running.drop(url)


@dataclass
class Player:
    """One session over the API, called as an agent calls it."""

    client: TestClient
    id: str
    token: str
    created: dict[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def call(self, tool: str, key: str | None = None, **args: Any) -> dict[str, Any]:
        headers = self.headers | ({"Idempotency-Key": key} if key else {})
        response = self.client.post(
            f"/v1/sessions/{self.id}/tools/{tool}", json=args, headers=headers
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def text(self, tool: str, **args: Any) -> str:
        return str(self.call(tool, **args)["text"])

    def get(self, path: str = "", **params: Any) -> Any:
        response = self.client.get(
            f"/v1/sessions/{self.id}{path}", params=params, headers=self.headers
        )
        assert response.status_code == 200, response.text
        return (
            response.json()
            if response.headers["content-type"] == "application/json"
            else response.text
        )


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy tasks' data sets, made once by the tasks' own commands."""
    folder = tmp_path_factory.mktemp("data")
    for task in find_tasks(TOY_TASKS).values():
        for profile in task.profiles:
            prepare(task, profile, folder)
    return folder


@pytest.fixture(scope="session")
def long_session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transcript of 2,000 steps and 20 MB."""
    path = tmp_path_factory.mktemp("long") / "long.jsonl"
    path.write_text(stories.long_transcript(2000, 20_000_000))
    assert path.stat().st_size > 19_000_000
    return path


@pytest.fixture
def start_server(tmp_path: Path, toy_data: Path) -> Iterator[Callable[..., TestClient]]:
    """Start a server on this test's own state folder; a second start is a restart."""
    with ExitStack() as stack:

        def start(**settings: Any) -> TestClient:
            chosen = {
                "state_dir": tmp_path / "state",
                "tasks_dir": TOY_TASKS,
                "data_dir": toy_data,
                "api_key": KEY,
            } | settings
            client = stack.enter_context(TestClient(server.build(Settings(**chosen))))
            client.headers["Authorization"] = f"Bearer {KEY}"
            return client

        yield start
    _end_runs(tmp_path / "state")


def _end_runs(state: Path) -> None:
    """End what a test left running, so that it does not slow down the next one."""
    executor = LocalExecutor()
    for plan in state.glob("sessions/*/runs/*/plan.json"):
        executor.cancel(RunPaths(plan.parent))


@pytest.fixture
def harness(tmp_path: Path, toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """Run a command on this test's state folder; its exit code and output."""
    monkeypatch.setenv("HARNESS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(TOY_TASKS))
    monkeypatch.setenv("HARNESS_DATA_DIR", str(toy_data))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, args)
        return result.exit_code, result.output

    return run


@pytest.fixture
def client(start_server: Callable[..., TestClient]) -> TestClient:
    return start_server()


@pytest.fixture
def player(client: TestClient) -> Player:
    return new_player(client)


@pytest.fixture
def either_player(start_server: Callable[..., TestClient], database_url: str) -> Player:
    """A session in SQLite, and one in PostgreSQL."""
    return new_player(start_server(database_url=database_url))


def new_player(client: TestClient, **body: Any) -> Player:
    response = client.post("/v1/sessions", json={"task": "two-files"} | body)
    assert response.status_code == 201, response.text
    created = response.json()
    return Player(client, created["id"], created["token"], created)


def stored(folder: Path, session_id: str) -> tuple[Header, list[AnyEvent]]:
    """A session as a test's own database has it, hidden values and all."""
    store = Store(f"sqlite:///{folder / 'state' / 'harness.sqlite3'}")
    loaded = store.load(session_id)
    store.close()
    assert loaded is not None
    return loaded


def finished_test(folder: Path, session_id: str) -> TestFinished:
    """The one finished test of a stored session."""
    events = stored(folder, session_id)[1]
    [finished] = [event for event in events if isinstance(event, TestFinished)]
    assert finished.private is not None
    return finished


@pytest.fixture
def own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of this test's servers is in the environment, where settings and clients find it."""
    monkeypatch.setenv("HARNESS_API_KEY", KEY)


@pytest.fixture
def live_url(tmp_path: Path, toy_data: Path, own_key: None) -> Iterator[str]:
    """The address of a server on a real socket, with this test's own state folder."""
    settings = Settings(state_dir=tmp_path / "state", tasks_dir=TOY_TASKS, data_dir=toy_data)
    with served(server.build(settings)) as url:
        yield url
