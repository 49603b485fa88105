"""The composition root: settings -> store, executor, service, app -> uvicorn."""

from __future__ import annotations

import errno
import gc
import logging
import os
import socket
import sys
from datetime import timedelta
from typing import Any

import uvicorn
from fastapi import FastAPI

from harness import hardware, logs
from harness.access import Access, BadKeys, Key, fresh_key, parse_keys
from harness.api import create_app
from harness.claim import Claim, FolderTaken
from harness.database import DatabaseRefused
from harness.hosts import Hosts
from harness.jobs import EXECUTORS, Executor, make_executor
from harness.limits import Allowance, Limits
from harness.service import Service
from harness.settings import Settings, SettingsError, bad_setting, no_task, one_of, read_settings
from harness.state_folder import UMASK, close_to_others, open_to_others
from harness.store import Store
from harness.task import TaskError, find_tasks
from harness.web.live import LiveSource
from harness.web.pages import pages
from harness.workspace import StatePaths

log = logging.getLogger("harness.server")

NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""why an address is none of this machine's"""

BACKLOG = 2048
"""connections that wait to be accepted: as many as uvicorn would let wait"""


def build(settings: Settings, fresh: str | None = None) -> FastAPI:
    """The application that these settings describe, with `fresh` as its key if they name none.

    Raises SettingsError or TaskError.
    """
    tasks = find_tasks(settings.tasks_dir)
    if not tasks:
        raise SettingsError(no_task(settings))
    if settings.executor not in EXECUTORS:
        raise SettingsError(bad_setting("executor", settings.executor, one_of(EXECUTORS)))
    profiles = list(dict.fromkeys(name for task in tasks.values() for name in task.profiles))
    if settings.profile is not None and settings.profile not in profiles:
        raise SettingsError(bad_setting("profile", settings.profile, one_of(profiles)))
    access = _access(settings, fresh)
    try:
        narrowed = close_to_others(settings.state_dir)
    except OSError as error:
        raise SettingsError(f"HARNESS_STATE_DIR cannot be used: {error}") from None
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
        journal_bytes=settings.limit_journal_bytes,
    )
    for told in narrowed:
        log.warning(told)
    if open_to_others(data := settings.resolved_data_dir):
        log.warning(f"other users can read {data}, which holds what tests are scored on: chmod 700")
    app = create_app(service, access)
    app.include_router(pages(LiveSource(service)))  # the gate asks for the key
    return app


def _access(settings: Settings, fresh: str | None) -> Access:
    try:
        if settings.api_key is not None:
            keys = parse_keys(settings.api_key.get_secret_value())
        else:
            keys = [Key.of("fresh", fresh or fresh_key())]
    except BadKeys as error:
        raise SettingsError(f"HARNESS_API_KEY is not {error}") from None
    return Access(
        keys,
        # What it is bound to; a wildcard stands for the address that a request came in at.
        Hosts(settings.allowed_hosts.split(","), settings.host),
        Limits(
            Allowance(
                session_requests=settings.limit_session_requests,
                session_calls=settings.limit_session_calls,
                key_requests=settings.limit_key_requests,
                open_sessions=settings.limit_open_sessions,
                body_bytes=settings.limit_body_bytes,
            )
        ),
    )


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
        raise SettingsError(f"{settings.database_setting} leads to no database: {error}") from error


class _Server(uvicorn.Server):
    """Says where its pages are once it listens."""

    def __init__(self, config: uvicorn.Config, key: str | None) -> None:
        super().__init__(config)
        self.key = key

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        log.info("running on http://%s", authority)
        query = f"?key={self.key}" if self.key else ""
        # Printed, not logged: logs are kept, and passed on.
        print(f"Pages: http://{authority}/{query}", flush=True)
        if self.key:
            print(f"Key for programs: {self.key}", flush=True)


class _Listeners:
    """Sockets on every address of the host. Raises SettingsError, as `listen`.

    Before the server runs: what it cannot have would be ten lines of a log.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.sockets: list[socket.socket] = []
        try:
            found = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            missing: OSError | None = None
            for family, _, _, _, address in found:
                try:
                    self._bind(family, address)
                except OSError as error:
                    if error.errno not in NOT_HERE:
                        raise
                    missing = error  # the name may have addresses that this machine has
            if missing is not None and not self.sockets:
                raise missing
        except (OSError, UnicodeError) as error:
            raise self._cannot(error) from error

    def _bind(self, family: socket.AddressFamily, address: tuple[Any, ...]) -> None:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        host, port, *more = address
        if self.sockets:  # a free one is the same one on each address
            port = self.sockets[0].getsockname()[1]
        listener.bind((host, port, *more))
        listener.setblocking(False)
        self.sockets.append(listener)

    def listen(self) -> list[socket.socket]:
        """From now on who connects waits for an answer."""
        try:
            for listener in self.sockets:
                listener.listen(BACKLOG)
        except OSError as error:
            raise self._cannot(error) from error
        return self.sockets

    def _cannot(self, error: OSError | UnicodeError) -> SettingsError:
        if isinstance(error, UnicodeError):
            reason, other = "no name of a host", "--host"
        else:
            reason = error.strerror or type(error).__name__
            no_host = isinstance(error, socket.gaierror) or error.errno in NOT_HERE
            other = "--host" if no_host else "--port"
        return SettingsError(
            f"cannot listen on {self.host}:{self.port}: {reason}; take another {other}"
        )


def _key_to_print(settings: Settings, fresh: str) -> str | None:
    """A fresh key always, since nobody could know it; a chosen one only to a person's terminal."""
    if settings.api_key is None:
        return fresh
    if not sys.stdout.isatty():
        return None
    return settings.api_key.get_secret_value().split(",")[0].strip().rpartition(":")[2]


def take_short_turns() -> None:
    """Calls are worked on in threads, and the loop that answers must not wait for a whole turn of
    each, which is 5 ms if nobody says otherwise (benchmarks/tool_latency.py). Nor for a search of
    all that was imported for garbage: that stays."""
    sys.setswitchinterval(0.0005)
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def main() -> None:
    """Serve until SIGINT or SIGTERM; tests that run go on without the server."""
    os.umask(UMASK)
    take_short_turns()
    try:
        settings = read_settings()
        logs.configure(settings.log_format)
        fresh = fresh_key()
        listeners = _Listeners(settings.host, settings.port)
        app = build(settings, fresh)
        listening = listeners.listen()
    except (SettingsError, TaskError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)
    # Nothing that is started from here on gets to know it.
    os.environ.pop("HARNESS_API_KEY", None)
    config = uvicorn.Config(
        app,
        log_config=None,  # ours
        access_log=False,  # harness.requests tells more, and no query string
        timeout_graceful_shutdown=5,
    )
    server = _Server(config, _key_to_print(settings, fresh))
    server.run(sockets=listening)
    if not server.started:
        sys.exit(3)  # what went wrong is in the log


if __name__ == "__main__":
    main()
