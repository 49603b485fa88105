"""Settings: `HARNESS_*` environment variables, or the flags of `harness serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """How one server, or one command, is set up. Every field is `HARNESS_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="HARNESS_", extra="ignore")

    state_dir: Path = Path(".harness")
    """Where the database, the runs and the data live; made when first needed."""

    tasks_dir: Path = Path("tasks")
    """The folder whose subfolders with a `task.yaml` are the tasks."""

    data_dir: Path | None = None
    """Prepared data sets, one folder each; `data` in the state folder if left out."""

    database_url: str | None = None
    """An SQLAlchemy URL; an SQLite file in the state folder if left out."""

    sandbox: Literal["bubblewrap", "none"] = "bubblewrap"
    """What agents' code runs in. `none`: with the rights of the server's user; results then say so
    and are never ranked."""

    executor: str = "local"
    """Where tests run: a name from `harness.jobs.EXECUTORS`."""

    slots: int = Field(default=1, ge=1)
    """How many tests may run at once on a machine without GPUs."""

    profile: str | None = None
    """The profile of sessions that name none; if left out, the first of the task's profiles that
    the GPUs of this machine can carry."""

    host: str = "127.0.0.1"
    """The address that the server listens on."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Its port; 0 takes a free one and prints it."""

    @property
    def resolved_data_dir(self) -> Path:
        return (self.data_dir or self.state_dir / "data").absolute()

    @property
    def resolved_database_url(self) -> str:
        if self.database_url:
            return self.database_url
        return f"sqlite:///{(self.state_dir / 'harness.sqlite3').absolute()}"
