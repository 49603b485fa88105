"""The journal in SQL.

Guaranteed: `append` is one transaction, so an event is there whole or not at all; events of a
session are numbered without a gap, and a writer who did not see the last one is refused
(`StaleSession`), whatever process it lives in; an event with a `once` key is unique among its
session's. Not guaranteed: anything about a file that the events speak of.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    or_,
    select,
    update,
)
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import IntegrityError

from harness.events import AnyEvent, Header, canonical, parse_event

metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("task", String(200), nullable=False, index=True),
    Column("profile", String(40), nullable=False),
    Column("header", Text, nullable=False),
    Column("token_sha256", String(64), nullable=False),
    Column("closed_at", DateTime(timezone=True)),
)

events = Table(
    "events",
    metadata,
    Column("session_id", String(40), ForeignKey("sessions.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("type", String(40), nullable=False),
    Column("body", Text, nullable=False),
    Column("private", Text),
    Column("once", String(200)),
    UniqueConstraint("session_id", "once"),
)


class StaleSession(RuntimeError):
    """Another writer has added to the session since it was read, or did the same thing first."""


@dataclass(frozen=True)
class SessionRow:
    id: str
    created_at: datetime
    task: str
    profile: str
    closed: bool


class Store:
    """Sessions and their events in one database."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        _make_folder(parsed)
        self.engine = _engine(parsed)
        metadata.create_all(self.engine)

    def create(self, header: Header, token_sha256: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                sessions.insert().values(
                    id=header.session,
                    created_at=header.created_at,
                    task=header.task,
                    profile=header.profile,
                    header=canonical(header.model_dump(mode="json")),
                    token_sha256=token_sha256,
                )
            )

    def append(
        self, session_id: str, added: Sequence[tuple[AnyEvent, str | None]], *, closes: bool
    ) -> None:
        """Add events, each with its `once` key or None. Raises StaleSession; then none is added."""
        rows = [
            {
                "session_id": session_id,
                "seq": entry.seq,
                "type": entry.type,
                "body": canonical(entry.redacted()),
                "private": None if entry.private is None else json.dumps(entry.private),
                "once": once,
            }
            for entry, once in added
        ]
        try:
            with self.engine.begin() as connection:
                connection.execute(events.insert(), rows)
                if closes:
                    connection.execute(
                        update(sessions)
                        .where(sessions.c.id == session_id)
                        .values(closed_at=datetime.now(UTC))
                    )
        except IntegrityError as error:
            raise StaleSession(f"session {session_id} has moved on") from error

    def load(self, session_id: str) -> tuple[Header, list[AnyEvent]] | None:
        """A session's header and events with their private parts, or None if there is none."""
        with self.engine.connect() as connection:
            header = connection.execute(
                select(sessions.c.header).where(sessions.c.id == session_id)
            ).scalar_one_or_none()
            if header is None:
                return None
            rows = connection.execute(
                select(events.c.body, events.c.private)
                .where(events.c.session_id == session_id)
                .order_by(events.c.seq)
            ).all()
        return Header.model_validate_json(header), [_event(body, private) for body, private in rows]

    def token_sha256(self, session_id: str) -> str | None:
        with self.engine.connect() as connection:
            return connection.execute(
                select(sessions.c.token_sha256).where(sessions.c.id == session_id)
            ).scalar_one_or_none()

    def list_sessions(self, *, open_only: bool = False) -> list[SessionRow]:
        query = select(
            sessions.c.id,
            sessions.c.created_at,
            sessions.c.task,
            sessions.c.profile,
            sessions.c.closed_at,
        ).order_by(sessions.c.created_at, sessions.c.id)
        if open_only:
            query = query.where(sessions.c.closed_at.is_(None))
        with self.engine.connect() as connection:
            return [
                SessionRow(row.id, row.created_at, row.task, row.profile, row.closed_at is not None)
                for row in connection.execute(query)
            ]

    def finished_tests(
        self, task: str, profile: str, files_digests: Sequence[str]
    ) -> list[AnyEvent]:
        """Finished tests, in any session, that speak of one of these files; newest first.

        Without their private parts.
        """
        query = (
            select(events.c.body)
            .join(sessions, sessions.c.id == events.c.session_id)
            .where(sessions.c.task == task, sessions.c.profile == profile)
            .where(events.c.type == "test_finished")
            .where(or_(*(events.c.body.contains(digest) for digest in files_digests)))
        )
        with self.engine.connect() as connection:
            found = [_event(body, None) for body in connection.execute(query).scalars()]
        return sorted(found, key=lambda event: event.at or datetime.min, reverse=True)

    def check(self) -> None:
        """Raise SQLAlchemyError if the database does not answer."""
        with self.engine.connect() as connection:
            connection.execute(select(sessions.c.id).limit(1))

    def close(self) -> None:
        self.engine.dispose()


def _event(body: str, private: str | None) -> AnyEvent:
    value: dict[str, Any] = json.loads(body)
    if private is not None:
        value["private"] = json.loads(private)
    return parse_event(value)


def _make_folder(url: URL) -> None:
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)


def _engine(url: URL) -> Engine:
    engine = create_engine(url)
    if url.get_backend_name() == "sqlite":

        @event.listens_for(engine, "connect")
        def _set_up(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            # Readers go on while one writes; an answered event survives even a power cut.
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute("PRAGMA busy_timeout=10000")
            cursor.close()

    return engine
