"""A PostgreSQL server for tests: a temporary cluster that is stopped and removed with them."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg


def programs() -> Path | None:
    """The folder of initdb and pg_ctl; None where PostgreSQL's server is not installed."""
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in (*([Path(on_path).resolve().parent] if on_path else []), *debian):
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            return folder
    return None


def why_not() -> str | None:
    """Why no cluster can be started here; None if one can."""
    if programs() is None:
        return "PostgreSQL's server is not installed (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and _other_user() is None:
        return "PostgreSQL refuses to run as root, and there is no user postgres or setpriv"
    return None


def _other_user() -> pwd.struct_passwd | None:
    if shutil.which("setpriv") is None:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return None


class Cluster:
    """One running server on a port of its own, reached as user `postgres` without a password."""

    def __init__(self, root: Path) -> None:
        found = programs()
        assert found is not None
        self._programs = found
        self._root = root
        self._made = 0
        self._user = _other_user() if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(root, self._user.pw_uid, self._user.pw_gid)
        self._run(
            "initdb", "-D", str(root / "data"), "-A", "trust", "-U", "postgres",
            "--no-sync", "-E", "UTF8", "--locale", "C",
        )  # fmt: skip
        for attempt in range(5):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = int(free.getsockname()[1])
            try:
                self.start()
                break
            except RuntimeError:  # another process was quicker to take the port
                if attempt == 4:
                    raise

    def start(self) -> None:
        """Start it, on the port that it had."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        # A crash of the server loses nothing by that, only one of the machine does.
        options += " -c fsync=off -c shared_buffers=16MB -c max_connections=60"
        self._pg_ctl("start", "-o", options, "-l", str(self._root / "log"))

    def stop(self) -> None:
        """Stop at once, as a crash would: connections are cut, nothing is said to them."""
        self._pg_ctl("stop", "-m", "immediate")

    def new_database(self) -> str:
        """The SQLAlchemy URL of an empty database."""
        self._made += 1
        name = f"test_{os.getpid()}_{self._made}"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://{self._dsn(name).removeprefix('postgresql://')}"

    def drop(self, url: str) -> None:
        name = url.rsplit("/", 1)[-1]
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _dsn(self, name: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def _pg_ctl(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._root / "data"), "-w", "-t", "60", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        if self._user is not None:
            ids = [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}"]
            command = ["setpriv", *ids, "--clear-groups", *command]
        # A pipe would stay open in the server that pg_ctl leaves behind.
        with (self._root / "said").open("w+") as said:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=self._root
            )
            if done.returncode:
                said.seek(0)
                raise RuntimeError(f"{program} failed: {said.read()}")


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster below a new folder, which every user may enter."""
    with tempfile.TemporaryDirectory(prefix="harness-postgres-") as folder:
        Path(folder).chmod(0o755)
        made = Cluster(Path(folder))
        try:
            yield made
        finally:
            with contextlib.suppress(RuntimeError):  # a test may have stopped it
                made.stop()
