"""The database, as commands open it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from harness.database import DatabaseRefused, one_line
from harness.settings import Settings
from harness.store import Store
from harness.terminal import bad_input, fail


@contextmanager
def journal(settings: Settings) -> Iterator[Store]:
    """The database that the settings lead to, as it is: one of an older version is refused."""
    try:
        store = Store(settings.resolved_database_url, upgrade=False)
        try:
            yield store
        finally:
            store.close()
    except DatabaseRefused as error:
        raise bad_input(f"HARNESS_DATABASE_URL leads to no database: {error}") from error
    except SQLAlchemyError as error:
        raise fail(f"the database does not answer: {one_line(error)}") from error
