"""The journal in a real SQLite file, and in a real PostgreSQL."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from postgres import Cluster, programs
from sqlalchemy import event

from harness.events import AnyEvent, FileRecord, Header, RegionRecord, TestCounted, ToolCalled, seal
from harness.session import Session
from harness.store import StaleSession, Store


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


def make_header(session: str = "s1") -> Header:
    return Header(
        session=session,
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        task="t",
        task_version=1,
        profile="p",
        tests=3,
        files=(
            FileRecord(
                name="f.py", text="a\nb\nc\n", regions=(RegionRecord(name="r", first=2, last=2),)
            ),
        ),
        locked_digest="0" * 64,
    )


def call(seq: int, key: str | None = None, text: str = "…") -> AnyEvent:
    return ToolCalled(
        seq=seq,
        at=datetime(2026, 1, 2, tzinfo=UTC),
        previous="",
        tool="view",
        args={"x": [1, None, "é\u0000"]},
        ok=True,
        text=text,
        seconds=0.1,
        key=key,
    )


def test_what_is_appended_is_loaded(store: Store) -> None:
    header = make_header()
    store.create(header, "hash")
    private, digest = seal({"worst": 0.1})
    counted = TestCounted(seq=2, number=1, attempt=1, private=private, private_digest=digest)
    store.append("s1", [(call(1), None), (counted, "test_counted/1/1")], closes=False)
    loaded = store.load("s1")
    assert loaded == (header, [call(1), counted])
    assert loaded[1][1].private == private
    assert "worst" not in str(counted.redacted())
    assert store.token_sha256("s1") == "hash"
    assert store.load("s2") is None


def test_the_last_event_of_each_session_of_a_task(store: Store) -> None:
    for name in ("s1", "s2"):
        store.create(make_header(name), "hash")
    store.append("s2", [(call(1), None), (call(2), None)], closes=False)
    assert store.last_events("t") == {"s1": 0, "s2": 2}
    assert store.last_events("u") == {}


@pytest.mark.parametrize(
    "second",
    [
        [(call(1), None)],
        [(call(2, key="k"), "key/k")],
        [(call(2), None), (call(2), None)],
        [(call(3), None)],
        [(call(2), None), (call(4), None)],
    ],
)
def test_a_writer_who_is_behind_is_refused_whole(
    store: Store, second: list[tuple[AnyEvent, str | None]]
) -> None:
    store.create(make_header(), "hash")
    store.append("s1", [(call(1, key="k"), "key/k")], closes=False)
    with pytest.raises(StaleSession):
        store.append("s1", second, closes=False)
    loaded = store.load("s1")
    assert loaded is not None
    assert len(loaded[1]) == 1


def test_many_writers_share_transactions_and_not_each_others_faults(store: Store) -> None:
    names = [f"s{number}" for number in range(24)]
    for name in names:
        store.create(make_header(name), "hash")
    store.append("s3", [(call(1), None)], closes=False)
    commits: list[int] = []
    event.listen(store.engine, "commit", lambda connection: commits.append(1))
    failed: list[tuple[str, int]] = []
    together = threading.Barrier(len(names))

    def write(name: str) -> None:
        together.wait()
        for seq in (1, 2, 3):
            try:
                store.append(name, [(call(seq), None)], closes=seq == 3)
            except StaleSession:
                failed.append((name, seq))

    threads = [threading.Thread(target=write, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [("s3", 1)]
    for name in names:
        loaded = store.load(name)
        assert loaded is not None
        assert [entry.seq for entry in loaded[1]] == [1, 2, 3]
    assert all(row.closed for row in store.list_sessions())
    assert len(commits) < 3 * len(names) * 0.7


def test_open_sessions_are_those_not_closed(store: Store) -> None:
    for name in ("s1", "s2"):
        store.create(make_header(name), "hash")
    store.append("s2", [(call(1), None)], closes=True)
    assert [row.id for row in store.list_sessions(open_only=True)] == ["s1"]
    assert [row.closed for row in store.list_sessions()] == [False, True]


def test_a_backup_while_it_is_written_to_is_whole(
    store: Store, database_url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """With the commands of docs/operations.md."""
    store.create(make_header(), "hash")
    store.append("s1", [(call(1), None)], closes=False)
    copy = tmp_path / "copy"
    if database_url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite3")) as connection:
            connection.execute(f"VACUUM INTO '{copy}'")
        url = f"sqlite:///{copy}"
    else:
        cluster: Cluster = request.getfixturevalue("postgres")
        url = cluster.new_database()
        folder = programs()
        assert folder is not None
        subprocess.run([folder / "pg_dump", "-Fc", "-f", copy, database_url], check=True)
        subprocess.run([folder / "pg_restore", "-d", url, copy], check=True)
    store.append("s1", [(call(2), None)], closes=False)
    restored = Store(url, upgrade=False)
    assert restored.load("s1") == (make_header(), [call(1)])
    restored.append("s1", [(call(2), None)], closes=True)
    restored.close()


def test_a_session_is_the_fold_of_its_events(store: Store) -> None:
    store.create(make_header(), "hash")

    def session() -> Session:
        loaded = store.load("s1")
        assert loaded is not None
        header, events = loaded
        return Session(
            header,
            events,
            append=lambda added, closes: store.append("s1", added, closes=closes),
            seed=1,
            decimals={},
            read_only={},
            static_check=lambda files: [],
        )

    first = session()
    for text in ("x\ny", "z"):
        end = first.state.files["f.py"].regions[0].last
        args = {
            "op": "replace",
            "filename": "f.py",
            "start_line": 2,
            "end_line": end,
            "content": text,
        }
        answer = first.edit(args)
        first.record(
            ToolCalled(tool="edit", args=args, ok=answer.ok, text=answer.text, seconds=0.0)
        )
    first.record(ToolCalled(tool="undo", args={"n": "1"}, ok=True, text="", seconds=0.0))
    again = session()
    assert again.state.files["f.py"].text == "a\nx\ny\nc\n" == first.state.files["f.py"].text
    assert again.state.last_hash == first.state.last_hash
    assert len(again.state.undo_stack) == 1
    # What the first holds is old once the second has written.
    again.record(ToolCalled(tool="undo", args={}, ok=True, text="", seconds=0.0))
    with pytest.raises(StaleSession):
        first.record(ToolCalled(tool="undo", args={}, ok=True, text="", seconds=0.0))
    assert first.state.files["f.py"].text == "a\nx\ny\nc\n"
