"""An SQL database: its URL, its connections, and what an error of it means.

SQLite and PostgreSQL. Guaranteed for both: a transaction that was committed survives a power cut,
as far as the disk does; a connection that died while it lay in the pool is replaced before it is
used; a database that is down, full, locked or out of reach is an error within some seconds
(`unavailable`). Not guaranteed: what became of a transaction whose commit raised such an error, it
may be there or not; an end of the wait for a server that keeps its connections and stands still.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import InterfaceError as SQLInterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

POSTGRESQL = "postgresql+psycopg"

WAIT_S = 10
"""seconds that a call waits for a connection or for another's lock"""

PATIENCE: dict[str, str] = {
    "connect_timeout": "5",
    # Without these a call would hang for a quarter of an hour on a host that is gone.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "options": f"-c lock_timeout={WAIT_S}s",
}
"""libpq's parameters that a PostgreSQL URL may set itself"""

SQLITE_AWAY = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    )
)
"""result codes that speak of the disk or of other users of the file, not of what was asked"""

READ_ONLY_TRANSACTION = "25006"
"""PostgreSQL's SQLSTATE while a standby takes over"""

UNIQUE_VIOLATION = "23505"


class DatabaseRefused(RuntimeError):
    """A URL that leads to no database that can be used; one line says why and what to do."""


class NoDatabase(DatabaseRefused):
    """There is no such file."""


def parse_url(text: str) -> URL:
    """An SQLAlchemy URL; PostgreSQL's own spellings get the driver that we have.

    Raises DatabaseRefused.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        # The text may hold a password.
        raise DatabaseRefused("it is not a URL, such as postgresql://user@host/name") from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername=POSTGRESQL)
    if url.drivername == POSTGRESQL:
        missing = {name: value for name, value in PATIENCE.items() if name not in url.query}
        url = url.update_query_dict(missing)
    elif url.get_backend_name() != "sqlite":
        raise DatabaseRefused(f"{url.get_backend_name()} is not sqlite or postgresql")
    return url


def is_file(url: URL) -> bool:
    """Whether the database is an SQLite file."""
    return url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")


def open_engine(url: URL, *, make: bool = True) -> Engine:
    """Connections to the database; none is made yet. An SQLite file may be made if `make`.

    Raises NoDatabase, or DatabaseRefused without a driver, or OSError.
    """
    if is_file(url):
        assert url.database is not None
        file = Path(url.database)
        if make:
            file.parent.mkdir(parents=True, exist_ok=True)
        elif not url.database.startswith("file:"):  # SQLite's own spelling
            try:
                file.stat()
            except FileNotFoundError:
                raise NoDatabase(f"there is no file {file}") from None
    if url.get_backend_name() == "sqlite":
        # As many as there are threads that may ask: opening one costs more than keeping it.
        pool = {"pool_size": 40, "pool_timeout": WAIT_S} if is_file(url) else {}
        engine = create_engine(url, **pool)
        event.listen(engine, "connect", _set_up_sqlite)
        return engine
    try:
        return create_engine(
            url, pool_pre_ping=True, pool_size=10, max_overflow=10, pool_timeout=WAIT_S
        )
    except ImportError:
        raise DatabaseRefused(
            "PostgreSQL's driver is not installed: pip install 'psycopg[binary]'"
        ) from None


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(WAIT_S * 1000)}")
    # Readers go on while one writes; an answered event survives even a power cut.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection for queries that need not agree with each other."""
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            # Saves two journeys to the server for each query.
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


def unavailable(error: BaseException | None) -> bool:
    """Whether an error says that the database does not answer now, and may later.

    False for what a mistake in a statement or in the data raises.
    """
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        return code in SQLITE_AWAY
    if error.connection_invalidated:
        return True
    if getattr(error.orig, "sqlstate", None) == READ_ONLY_TRANSACTION:
        return True
    return isinstance(error, OperationalError | SQLInterfaceError)


def duplicate(error: IntegrityError) -> bool:
    """Whether a row is there already; False for other constraints."""
    if isinstance(error.orig, sqlite3.Error):
        return error.orig.sqlite_errorcode in (
            sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
            sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        )
    return getattr(error.orig, "sqlstate", None) == UNIQUE_VIOLATION


def one_line(error: BaseException) -> str:
    """What an error says first, without SQLAlchemy's appendix."""
    said = str(getattr(error, "orig", None) or error).strip()
    return said.splitlines()[0] if said else type(error).__name__
