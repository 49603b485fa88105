"""Databases of every version: made, taken up, upgraded, refused; by several servers at once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect
from sqlalchemy import text as sql
from test_store import call, make_header
from typer.testing import CliRunner

import server
from harness import migrations
from harness.cli import app
from harness.database import DatabaseRefused, open_engine, parse_url
from harness.events import AnyEvent
from harness.settings import Settings, SettingsError
from harness.store import Store, metadata

BEFORE_VERSIONS = """
CREATE TABLE sessions (
    id VARCHAR(40) NOT NULL, created_at {time} NOT NULL, task VARCHAR(200) NOT NULL,
    profile VARCHAR(40) NOT NULL, header TEXT NOT NULL, token_sha256 VARCHAR(64) NOT NULL,
    closed_at {time}, PRIMARY KEY (id)
);
CREATE INDEX ix_sessions_task ON sessions (task);
CREATE TABLE events (
    session_id VARCHAR(40) NOT NULL, seq INTEGER NOT NULL, type VARCHAR(40) NOT NULL,
    body TEXT NOT NULL, private TEXT, once VARCHAR(200), PRIMARY KEY (session_id, seq),
    UNIQUE (session_id, once), FOREIGN KEY(session_id) REFERENCES sessions (id)
)
"""
"""what the program made before its databases had a version, word for word"""


def run(url: str, *statements: str) -> None:
    engine = open_engine(parse_url(url))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sql(statement))
    engine.dispose()


def make_old(url: str) -> None:
    """A database of the version before versions, with a session of one event."""
    store = Store(url)  # for the rows as this program writes them
    store.create(make_header(), "hash")
    store.append("s1", [(call(1), None)], closes=False)
    store.close()
    time = "TIMESTAMP WITH TIME ZONE" if url.startswith("postgresql") else "DATETIME"
    columns = "id, created_at, task, profile, header, token_sha256, closed_at"
    run(
        url,
        "DROP TABLE alembic_version",
        "DROP INDEX ix_events_finished",
        "DROP INDEX ix_sessions_task",
        "ALTER TABLE sessions RENAME TO s",
        "ALTER TABLE events RENAME TO e",
        *BEFORE_VERSIONS.format(time=time).split(";"),
        f"INSERT INTO sessions ({columns}) SELECT {columns} FROM s",
        "INSERT INTO events (session_id, seq, type, body, private, once) "
        "SELECT session_id, seq, type, body, private, once FROM e",
        "DROP TABLE e",
        "DROP TABLE s",
    )


def differences(url: str) -> list[object]:
    """Where a database is not what the store's queries are built from."""
    engine = open_engine(parse_url(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        found = list(compare_metadata(context, metadata))
    engine.dispose()
    return found


def version(url: str) -> str | None:
    engine = open_engine(parse_url(url))
    with engine.connect() as connection:
        found = migrations.current(connection)
    engine.dispose()
    return found


def holds(url: str) -> tuple[object, list[AnyEvent]] | None:
    store = Store(url, upgrade=False)
    loaded = store.load("s1")
    store.close()
    return loaded


def test_a_new_database_is_what_queries_are_built_from(database_url: str) -> None:
    Store(database_url).close()
    assert version(database_url) == migrations.newest()
    assert differences(database_url) == []
    engine = open_engine(parse_url(database_url))
    found = [
        index
        for table in ("events", "sessions")
        for index in inspect(engine).get_indexes(table)
        if not index["unique"] and index["name"] != "ix_sessions_task"
    ]
    engine.dispose()
    # Alembic does not compare which rows an index is of.
    conditions = {
        index["name"]: " ".join(
            str(v) for k, v in index["dialect_options"].items() if "_where" in k
        )
        for index in found
    }
    assert conditions.keys() == {
        "ix_events_finished",
        "ix_events_regraded",
        "ix_sessions_open",
    }
    assert "'test_finished'" in conditions["ix_events_finished"]
    assert "'test_regraded'" in conditions["ix_events_regraded"]
    assert "closed_at IS NULL" in conditions["ix_sessions_open"]


def test_a_database_from_before_versions_is_taken_up(database_url: str) -> None:
    make_old(database_url)
    assert version(database_url) is None
    with pytest.raises(DatabaseRefused, match=r"^its version is 0001 and this program needs 000"):
        Store(database_url, upgrade=False)
    assert version(database_url) is None
    store = Store(database_url)
    assert store.load("s1") == (make_header(), [call(1)])
    assert store.token_sha256("s1") == "hash"
    store.append("s1", [(call(2), None)], closes=True)
    [row] = store.list_sessions()
    assert (row.created_at, row.closed) == (datetime(2026, 1, 2, tzinfo=UTC), True)
    store.close()
    assert version(database_url) == migrations.newest()
    assert differences(database_url) == []


def test_an_sqlite_file_is_copied_before_it_is_upgraded(tmp_path: Path) -> None:
    database = tmp_path / "journal.sqlite3"
    url = f"sqlite:///{database}"
    make_old(url)
    store = Store(url)
    store.append("s1", [(call(2), None)], closes=False)
    store.close()
    copy = migrations.copy_of(database, "0001")
    assert copy.name == "journal.sqlite3.0001"
    # The copy is whole: the older program's tables, with what was in them.
    assert version(f"sqlite:///{copy}") is None
    assert holds(url) == (make_header(), [call(1), call(2)])
    Store(f"sqlite:///{copy}").close()
    assert holds(f"sqlite:///{copy}") == (make_header(), [call(1)])


def test_what_cannot_be_copied_is_not_upgraded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'journal.sqlite3'}"
    make_old(url)
    (tmp_path / "journal.sqlite3.0001").mkdir()
    with pytest.raises(DatabaseRefused, match=r"^it has to be upgraded, and could not be copied"):
        Store(url)
    assert version(url) is None
    assert not list(tmp_path.glob("*.part"))


def test_a_newer_database_is_left_alone(database_url: str) -> None:
    Store(database_url).close()
    run(database_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseRefused) as refused:
        Store(database_url)
    newest = migrations.newest()
    assert str(refused.value) == (
        f"its version is 9999, and this program knows up to {newest}: run the newer program that "
        "upgraded it, or go back to a copy from before"
    )
    assert version(database_url) == "9999"


def test_another_programs_tables_are_left_alone(database_url: str) -> None:
    run(database_url, "CREATE TABLE sessions (id INTEGER, cookie TEXT)")
    with pytest.raises(DatabaseRefused, match=r"^it has tables of another program \(sessions\)"):
        Store(database_url)
    assert version(database_url) is None


@pytest.mark.parametrize("old", [False, True])
def test_servers_that_start_together_make_one_database(database_url: str, old: bool) -> None:
    if old:
        make_old(database_url)
    errors: list[BaseException] = []
    together = threading.Barrier(6)

    def start() -> None:
        together.wait()
        try:
            Store(database_url).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert version(database_url) == migrations.newest()
    assert differences(database_url) == []
    if old:
        assert holds(database_url) == (make_header(), [call(1)])


def test_an_upgrade_that_fails_changes_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old(database_url)
    run(database_url, "CREATE INDEX ix_events_finished ON events (seq)")  # stands in the way
    with pytest.raises(DatabaseRefused):
        Store(database_url)
    assert version(database_url) is None
    run(database_url, "DROP INDEX ix_events_finished")
    Store(database_url).close()
    assert holds(database_url) == (make_header(), [call(1)])


def test_a_server_does_not_start_on_a_newer_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'journal.sqlite3'}"
    Store(url).close()
    run(url, "UPDATE alembic_version SET version_num = '9999'")
    settings = Settings(state_dir=tmp_path / "state", database_url=url)
    said = r"^HARNESS_DATABASE_URL leads to no database: its version is 9999, and this program"
    with pytest.raises(SettingsError, match=said):
        server.build(settings)


def test_harness_gc_does_not_upgrade_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'journal.sqlite3'}"
    make_old(url)
    (tmp_path / "state" / "sessions").mkdir(parents=True)
    monkeypatch.setenv("HARNESS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HARNESS_DATABASE_URL", url)
    result = CliRunner().invoke(app, ["gc"])
    assert result.exit_code == 2
    assert f"its version is 0001 and this program needs {migrations.newest()}" in result.output
    assert version(url) is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("no url", "it is not a URL, such as postgresql://user@host/name"),
        ("mysql://localhost/x", "mysql is not sqlite or postgresql"),
        ("sqlite:////dev/null/x", "/dev/null: File exists"),
    ],
)
def test_a_url_that_leads_nowhere_is_one_line(url: str, said: str) -> None:
    with pytest.raises(DatabaseRefused) as refused:
        Store(url)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_a_server_that_is_not_there_is_one_line() -> None:
    with pytest.raises(DatabaseRefused) as refused:
        Store("postgresql://me:secret@127.0.0.1:1/x")
    assert "refused" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite3").write_text("text" * 5000)
    with pytest.raises(DatabaseRefused, match=r"^file is not a database$"):
        Store(f"sqlite:///{tmp_path / 'journal.sqlite3'}")
