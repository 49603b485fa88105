"""The composition root: settings -> store, executor, service, app -> uvicorn."""

from __future__ import annotations

import logging
import os
import sys

import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from harness.api import create_app
from harness.jobs import EXECUTORS, make_executor
from harness.service import Service
from harness.settings import Settings, SettingsError, bad_setting, one_of, read_settings
from harness.store import Store
from harness.task import TaskError, find_tasks
from harness.web.access import LinkKey
from harness.web.live import LiveSource
from harness.web.pages import pages
from harness.workspace import StatePaths


def build(settings: Settings) -> FastAPI:
    """The application that these settings describe. Raises SettingsError or TaskError."""
    tasks = find_tasks(settings.tasks_dir)
    if settings.executor not in EXECUTORS:
        raise SettingsError(bad_setting("executor", settings.executor, one_of(EXECUTORS)))
    profiles = list(dict.fromkeys(name for task in tasks.values() for name in task.profiles))
    if settings.profile is not None and profiles and settings.profile not in profiles:
        raise SettingsError(bad_setting("profile", settings.profile, one_of(profiles)))
    service = Service(
        store=_store(settings),
        executor=make_executor(settings.executor, slots=settings.slots),
        # Checks are short and free: they do not queue behind tests, nor crowd them out.
        check_executor=make_executor("local", slots=max(1, (os.cpu_count() or 1) // 2)),
        tasks=tasks,
        state=StatePaths(settings.state_dir.absolute()),
        data_dir=settings.resolved_data_dir,
        default_profile=settings.profile,
        sandboxed=settings.sandbox != "none",
    )
    app = create_app(service)
    key = LinkKey(loopback=False)
    app.state.page_key = key
    app.include_router(pages(LiveSource(service), key))
    return app


def _store(settings: Settings) -> Store:
    """The database; a driver that is not installed is a setting that can't be, too."""
    try:
        return Store(settings.resolved_database_url)
    except (SQLAlchemyError, ImportError, OSError) as error:
        said = str(error).splitlines()[0]
        raise SettingsError(f"HARNESS_DATABASE_URL leads to no database: {said}") from error


def main() -> None:
    """Serve until SIGINT or SIGTERM; tests that run go on without the server."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings = read_settings()
        app = build(settings)
    except (SettingsError, TaskError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)
    # The access log holds addresses, and the first one of a visitor's holds the key.
    logging.getLogger("uvicorn.access").addFilter(app.state.page_key.redact)
    print(
        f"Pages: {app.state.page_key.link(f'http://{settings.host}:{settings.port}')}", flush=True
    )
    uvicorn.run(
        app, host=settings.host, port=settings.port, log_level="info", timeout_graceful_shutdown=5
    )


if __name__ == "__main__":
    main()
