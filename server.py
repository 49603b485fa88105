"""The composition root: settings -> store, executor, service, app -> uvicorn."""

from __future__ import annotations

import logging
import os
import sys
from datetime import timedelta

import uvicorn
from fastapi import FastAPI

from harness import hardware
from harness.api import create_app
from harness.claim import Claim, FolderTaken
from harness.database import DatabaseRefused
from harness.jobs import EXECUTORS, Executor, make_executor
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
    state = StatePaths(settings.state_dir.absolute())
    claim, store = _claim_and_store(state, settings)
    service = Service(
        store=store,
        executor=_executor(settings),
        # Checks are short and free: they do not queue behind tests, nor crowd them out.
        check_executor=make_executor("local", slots=max(1, (os.cpu_count() or 1) // 2)),
        tasks=tasks,
        state=state,
        claim=claim,
        data_dir=settings.resolved_data_dir,
        default_profile=settings.profile,
        sandboxed=settings.sandbox != "none",
        idle=timedelta(hours=settings.session_idle_h) if settings.session_idle_h else None,
    )
    app = create_app(service)
    key = LinkKey(loopback=False)
    app.state.page_key = key
    app.include_router(pages(LiveSource(service), key))
    return app


def _executor(settings: Settings) -> Executor:
    """Where tests run."""
    if settings.executor == "slurm":
        return make_executor(
            "slurm",
            partition=settings.slurm_partition,
            account=settings.slurm_account,
            time_min=settings.slurm_time_min,
            cpus=settings.slurm_cpus,
            extra=settings.slurm_extra,
        )
    gpus = [str(gpu.id) for gpu in hardware.gpus()]
    return make_executor(settings.executor, slots=settings.slots, gpus=gpus)


def _claim_and_store(state: StatePaths, settings: Settings) -> tuple[Claim, Store]:
    """The state folder for this server alone, then the database, upgraded if it is an older one."""
    try:
        claim = Claim(state)
    except (FolderTaken, OSError) as error:
        raise SettingsError(f"HARNESS_STATE_DIR can't be used: {error}") from error
    try:
        return claim, Store(settings.resolved_database_url)
    except DatabaseRefused as error:
        claim.release()
        raise SettingsError(f"HARNESS_DATABASE_URL leads to no database: {error}") from error


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
