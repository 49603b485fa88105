"""The database's versions, and how it comes from one to the next (Alembic).

Guaranteed: an upgrade happens whole or not at all, in one transaction, and once, however many
servers start at the same time; a database that this code does not know is not touched. An SQLite
file is copied before it is upgraded. There is no way back but that copy, or the operator's own.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection, Engine

from harness.database import DatabaseRefused, is_file

FIRST = "0001"
BEFORE_VERSIONS = {
    "sessions": {
        "id", "created_at", "task", "profile", "header", "token_sha256", "closed_at",
    },
    "events": {"session_id", "seq", "type", "body", "private", "once"},
}  # fmt: skip
"""the tables of a database that has no version yet, which is `FIRST`, and their columns"""

LOCK = 0x6A6F75726E616C
"""PostgreSQL's advisory lock on an upgrade; any number that nobody else takes"""


def newest() -> str:
    """The version that this code needs."""
    [head] = _script().get_heads()
    return head


def current(connection: Connection) -> str | None:
    """The database's version; None if it has none, as a new one."""
    heads = MigrationContext.configure(connection).get_current_heads()
    return ", ".join(heads) if heads else None


def bring_up(engine: Engine, *, upgrade: bool) -> None:
    """Make a new database, or bring an older one to this code's version.

    Raises DatabaseRefused for one that is newer, that is not ours, or that is older if `upgrade`
    is False.
    """
    with engine.connect() as connection:
        if current(connection) == newest():
            return  # the common case takes no lock and needs no right to change anything
        connection.rollback()
        _lock(connection)
        found = current(connection) or _before_versions(connection)
        if found is not None and found not in _known():
            raise DatabaseRefused(
                f"its version is {found}, and this program knows up to {newest()}: run the newer "
                "program that upgraded it, or go back to a copy from before"
            )
        if found is not None and found != newest():
            if not upgrade:
                raise DatabaseRefused(
                    f"its version is {found} and this program needs {newest()}: "
                    "harness serve upgrades it"
                )
            _keep_copy(engine, found)
        config = _config()
        config.attributes["connection"] = connection
        if found is not None and current(connection) is None:
            command.stamp(config, found)
        command.upgrade(config, "head")
        connection.commit()


def copy_of(database: Path, version: str) -> Path:
    """Where an SQLite file of an older version is kept when it is upgraded."""
    return database.with_name(f"{database.name}.{version}")


def _config() -> Config:
    config = Config()
    # A percent sign would be read as the start of a substitution.
    here = str(Path(__file__).parent).replace("%", "%%")
    config.set_main_option("script_location", here)
    config.set_main_option("path_separator", "os")
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _known() -> set[str]:
    return {revision.revision for revision in _script().walk_revisions()}


def _lock(connection: Connection) -> None:
    """Begin the transaction that the upgrade happens in, alone."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        # Another server's upgrade may take longer than a call waits for a lock.
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": LOCK})


def _before_versions(connection: Connection) -> str | None:
    """`FIRST` for a database from before there were versions, None for an empty one."""
    inspector = inspect(connection)
    tables = set(inspector.get_table_names()) & BEFORE_VERSIONS.keys()
    if not tables:
        return None
    columns = {name: {column["name"] for column in inspector.get_columns(name)} for name in tables}
    if columns != BEFORE_VERSIONS:
        raise DatabaseRefused(
            f"it has tables of another program ({', '.join(sorted(tables))}): "
            "give the harness a database of its own"
        )
    return FIRST


def _keep_copy(engine: Engine, version: str) -> None:
    """Copy an SQLite file; the caller's transaction keeps writers out meanwhile."""
    if not is_file(engine.url):
        return
    database = Path(str(engine.url.database))
    target = copy_of(database, version)
    unfinished = target.with_name(f"{target.name}.part")
    unfinished.unlink(missing_ok=True)
    try:
        with (
            contextlib.closing(sqlite3.connect(database)) as source,
            contextlib.closing(sqlite3.connect(unfinished)) as copy,
        ):
            source.backup(copy)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.rename(target)
    except (sqlite3.Error, OSError) as error:
        unfinished.unlink(missing_ok=True)
        raise DatabaseRefused(
            f"it has to be upgraded, and could not be copied first: {error}"
        ) from error
