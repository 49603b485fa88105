"""The database, as commands open it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from harness.database import DatabaseRefused, NoDatabase, one_line
from harness.settings import Settings
from harness.store import Store
from harness.terminal import bad_input, fail

NOTHING_KEPT = "sqlite://"
"""an empty database in memory"""


@contextmanager
def journal(settings: Settings, *, may_be_empty: bool = False) -> Iterator[Store]:
    """The database that the settings lead to, as it is: one of an older version is refused.

    So is one that is not there; if `may_be_empty`, an empty one stands for that of a state folder
    which has none yet.
    """
    try:
        store = _opened(settings, may_be_empty)
        try:
            yield store
        finally:
            store.close()
    except DatabaseRefused as error:
        raise bad_input(f"{settings.database_setting} leads to no database: {error}") from error
    except SQLAlchemyError as error:
        raise fail(f"the database does not answer: {one_line(error)}") from error


def _opened(settings: Settings, may_be_empty: bool) -> Store:
    try:
        return Store(settings.resolved_database_url, upgrade=False)
    except NoDatabase:
        if may_be_empty and settings.database_url is None:
            return Store(NOTHING_KEPT)
        raise
