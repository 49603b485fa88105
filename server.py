"""The composition root: settings -> store, executor, service, app -> uvicorn."""

from __future__ import annotations

import logging
import os

import uvicorn
from fastapi import FastAPI

from harness.api import create_app
from harness.jobs import make_executor
from harness.service import Service
from harness.settings import Settings
from harness.store import Store
from harness.task import find_tasks
from harness.workspace import StatePaths


def build(settings: Settings) -> FastAPI:
    """The application that these settings describe."""
    service = Service(
        store=Store(settings.resolved_database_url),
        executor=make_executor(settings.executor, slots=settings.slots),
        # Checks are short and free: they do not queue behind tests, nor crowd them out.
        check_executor=make_executor("local", slots=max(1, (os.cpu_count() or 1) // 2)),
        tasks=find_tasks(settings.tasks_dir),
        state=StatePaths(settings.state_dir.absolute()),
        data_dir=settings.resolved_data_dir,
        default_profile=settings.profile,
        sandboxed=settings.sandbox != "none",
    )
    return create_app(service)


def main() -> None:
    """Serve until SIGINT or SIGTERM; tests that run go on without the server."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    settings = Settings()
    app = build(settings)
    uvicorn.run(
        app, host=settings.host, port=settings.port, log_level="info", timeout_graceful_shutdown=5
    )


if __name__ == "__main__":
    main()
