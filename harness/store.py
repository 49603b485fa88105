"""The journal in SQL.

Guaranteed: what one `append` adds is there whole or not at all, and there for good when it
returns; events of a session are numbered without a gap, and a writer who did not see the last one
is refused (`StaleSession`), whatever process it lives in; an event with a `once` key is unique
among its session's. If `append` raises anything else, its events may be there or not (the
connection may have broken while the database committed): `events_after` tells.
Not guaranteed: anything about a file that the events speak of.

The tables are made and changed by `harness.migrations`; `metadata` is what queries are built from,
and a test holds the two together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    exists,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from harness import migrations
from harness.database import (
    DatabaseRefused,
    duplicate,
    one_line,
    open_engine,
    parse_url,
    reading,
    unavailable,
)
from harness.events import (
    AnyEvent,
    Header,
    TestFinished,
    TestRegraded,
    canonical,
    parse_event,
)
from harness.grades import graded
from harness.group_commit import GroupCommit

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
    Column("opened_by", String(40)),
)

_open = text("closed_at IS NULL")
Index("ix_sessions_open", sessions.c.opened_by, sqlite_where=_open, postgresql_where=_open)

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

_finished = text("type = 'test_finished'")
Index(
    "ix_events_finished",
    events.c.session_id,
    sqlite_where=_finished,
    postgresql_where=_finished,
)

_regraded = text("type = 'test_regraded'")
Index(
    "ix_events_regraded",
    events.c.session_id,
    sqlite_where=_regraded,
    postgresql_where=_regraded,
)

_earlier = events.alias()
_new = {column.name: bindparam(column.name, type_=column.type) for column in events.c}
_insert_next = (
    events.insert()
    .from_select(
        list(_new),
        select(*_new.values()).where(
            or_(
                _new["seq"] == 1,
                exists().where(
                    _earlier.c.session_id == _new["session_id"], _earlier.c.seq == _new["seq"] - 1
                ),
            )
        ),
    )
    .execution_options(preserve_rowcount=True)
)
"""adds an event if the one before it is there: a database may have been put back"""

OPENING = 0x6F70656E
"""PostgreSQL's advisory locks on the opening of a session; any number that nobody else takes"""

_SESSION_ID = re.compile(r"[A-Za-z0-9._-]{1,40}")
"""what an id can be; anything else that a caller asks for is not there"""


class TooManyOpen(RuntimeError):
    """A key has as many open sessions as it may have."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} sessions are open")
        self.count = count


class StaleSession(RuntimeError):
    """Another writer has added to the session since it was read, or did the same thing first."""


@dataclass(frozen=True)
class SessionRow:
    id: str
    created_at: datetime
    task: str
    profile: str
    closed: bool


@dataclass(frozen=True)
class _Appended:
    """What one `append` writes."""

    session_id: str
    rows: list[dict[str, Any]]
    closes: bool


class Store:
    """Sessions and their events in one database. Safe for many threads."""

    def __init__(self, url: str, *, upgrade: bool = True) -> None:
        """Open the database; if `upgrade`, a new file is made and an older database upgraded.

        Raises DatabaseRefused, of it NoDatabase where no file is made.
        """
        try:
            self.engine = open_engine(parse_url(url), make=upgrade)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DatabaseRefused(f"{error.filename}: {reason}") from error
        try:
            migrations.bring_up(self.engine, upgrade=upgrade)
        except BaseException as error:
            self.engine.dispose()
            if isinstance(error, SQLAlchemyError | OSError):
                raise DatabaseRefused(one_line(error)) from error
            raise
        self._appending = GroupCommit(self._append_together)

    def create(
        self, header: Header, token_sha256: str, opened_by: str | None = None, most: int = 0
    ) -> None:
        """Add a session that the key of this name has opened.

        Raises TooManyOpen if it has `most` open ones, whichever server they were opened on; 0 is
        no limit. A session of which nobody knows who opened it counts for every key.
        """
        with self.engine.begin() as connection:
            if most:
                self._take_turn(connection, opened_by)
                mine = or_(sessions.c.opened_by == opened_by, sessions.c.opened_by.is_(None))
                count = connection.execute(
                    select(func.count()).where(sessions.c.closed_at.is_(None), mine)
                ).scalar_one()
                if count >= most:
                    raise TooManyOpen(count)
            connection.execute(
                sessions.insert().values(
                    id=header.session,
                    created_at=header.created_at,
                    task=header.task,
                    profile=header.profile,
                    header=canonical(header.model_dump(mode="json")),
                    token_sha256=token_sha256,
                    opened_by=opened_by,
                )
            )

    def _take_turn(self, connection: Connection, opened_by: str | None) -> None:
        """Until the transaction ends nobody else opens a session with the key."""
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            lock = func.pg_advisory_xact_lock(OPENING, func.hashtext(opened_by or ""))
            connection.execute(select(lock))

    def append(
        self, session_id: str, added: Sequence[tuple[AnyEvent, str | None]], *, closes: bool
    ) -> None:
        """Add events, each with its `once` key or None. Raises StaleSession; then none is added."""
        rows = [
            {
                "session_id": session_id,
                "seq": entry.seq,
                "type": entry.type,
                "body": entry.line(),
                "private": None if entry.private is None else json.dumps(entry.private),
                "once": once,
            }
            for entry, once in added
        ]
        self._appending.write(_Appended(session_id, rows, closes))

    def _append_together(self, batch: Sequence[_Appended]) -> Sequence[BaseException | None]:
        """Several sessions' events in one transaction, or each alone if one is in the way."""
        if len(batch) > 1:
            try:
                self._append_all(batch)
            except Exception as error:
                if unavailable(error):
                    raise
            else:
                return [None] * len(batch)
        return [self._append_alone(item) for item in batch]

    def _append_alone(self, item: _Appended) -> BaseException | None:
        try:
            self._append_all([item])
        except Exception as error:  # it is this caller's, whatever it is
            if isinstance(error, IntegrityError) and duplicate(error):
                stale = StaleSession(f"session {item.session_id} has moved on")
                stale.__cause__ = error
                return stale
            return error
        return None

    def _append_all(self, batch: Sequence[_Appended]) -> None:
        # In one order for every server, so that two of them never wait for each other.
        ordered = sorted(batch, key=lambda item: item.session_id)
        closed = [item.session_id for item in ordered if item.closes]
        with self.engine.begin() as connection:
            rows = [row for item in ordered for row in item.rows]
            if connection.execute(_insert_next, rows).rowcount != len(rows):
                raise StaleSession("the journal lacks an event that a writer has seen")
            if closed:
                connection.execute(
                    update(sessions)
                    .where(sessions.c.id.in_(closed))
                    .values(closed_at=datetime.now(UTC))
                )

    def load(self, session_id: str) -> tuple[Header, list[AnyEvent]] | None:
        """A session's header and events with their private parts, or None if there is none."""
        if _SESSION_ID.fullmatch(session_id) is None:
            return None
        with reading(self.engine) as connection:
            header = connection.execute(
                select(sessions.c.header).where(sessions.c.id == session_id)
            ).scalar_one_or_none()
            if header is None:
                return None
        return Header.model_validate_json(header), self.events_after(session_id, 0)

    def events_after(self, session_id: str, seq: int) -> list[AnyEvent]:
        """A session's events behind number `seq`, with their private parts."""
        query = (
            select(events.c.body, events.c.private)
            .where(events.c.session_id == session_id, events.c.seq > seq)
            .order_by(events.c.seq)
        )
        with reading(self.engine) as connection:
            return [_event(body, private) for body, private in connection.execute(query)]

    def token_sha256(self, session_id: str) -> str | None:
        if _SESSION_ID.fullmatch(session_id) is None:
            return None
        with reading(self.engine) as connection:
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
        with reading(self.engine) as connection:
            return [
                SessionRow(
                    row.id, _utc(row.created_at), row.task, row.profile, row.closed_at is not None
                )
                for row in connection.execute(query)
            ]

    def last_events(self, task: str | None = None) -> dict[str, int]:
        """The number of the last event of each session of a task, or of all tasks; 0 for none.

        Oldest first.
        """
        last = (
            select(func.max(events.c.seq))
            .where(events.c.session_id == sessions.c.id)
            .scalar_subquery()
        )
        query = select(sessions.c.id, func.coalesce(last, 0)).order_by(
            sessions.c.created_at, sessions.c.id
        )
        if task is not None:
            query = query.where(sessions.c.task == task)
        with reading(self.engine) as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def finished_tests(
        self, task: str, profile: str, files_digests: Sequence[str], *, hidden: bool = False
    ) -> list[TestFinished]:
        """Finished tests, in any session, that speak of one of these files; newest first.

        Each as the latest scoring rule has it (`grades.graded`). Without their private parts unless
        `hidden` is set, which is for people's pages.
        """
        query = (
            select(events.c.session_id, events.c.body, events.c.private)
            .join(sessions, sessions.c.id == events.c.session_id)
            .where(sessions.c.task == task, sessions.c.profile == profile)
            .order_by(events.c.session_id, events.c.seq)
        )
        speaking = or_(*(events.c.body.contains(digest) for digest in files_digests))
        found: dict[tuple[str, int, int], TestFinished] = {}
        with reading(self.engine) as connection:
            for chosen in (query.where(_finished, speaking), query.where(_regraded)):
                for session, body, private in connection.execute(chosen):
                    event = _event(body, private if hidden else None)
                    assert isinstance(event, TestFinished | TestRegraded)
                    key = (session, event.number, event.attempt)
                    if isinstance(event, TestFinished):
                        found[key] = event
                    elif key in found:
                        found[key] = graded(found[key], event)
        return sorted(found.values(), key=lambda event: event.at or datetime.min, reverse=True)

    def check(self) -> None:
        """Raise SQLAlchemyError if the database does not answer."""
        with reading(self.engine) as connection:
            connection.execute(select(sessions.c.id).limit(1))

    def close(self) -> None:
        self.engine.dispose()


def _event(body: str, private: str | None) -> AnyEvent:
    value: dict[str, Any] = json.loads(body)
    if private is not None:
        value["private"] = json.loads(private)
    return parse_event(value)


def _utc(moment: datetime) -> datetime:
    """SQLite keeps no time zone; what was put in was UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
