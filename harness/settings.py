"""Settings: `HARNESS_*` environment variables, or the flags of `harness serve`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as NoJson

FLAGS = ("host", "port", "profile")
"""settings that `harness serve` also takes as flags of the same name"""


A_JSON_OBJECT = "a JSON object"


class SettingsError(ValueError):
    """Settings that can't be; a line for each names the variable, its value, what it may be."""


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
    """`sqlite:///FILE` or `postgresql://USER@HOST/NAME`; an SQLite file in the state folder if left
    out."""

    sandbox: Literal["bubblewrap", "none"] = "bubblewrap"
    """What agents' code runs in. `none`: with the rights of the server's user; results then say so
    and are never ranked."""

    executor: str = "local"
    """Where tests run: a name from `harness.jobs.EXECUTORS`."""

    slots: int = Field(default=1, ge=1)
    """How many tests may run at once on a machine without GPUs."""

    slurm_partition: str | None = None
    """With `slurm`: the partition of its jobs; the cluster's default if left out."""

    slurm_account: str | None = None
    """With `slurm`: the account that they are charged to."""

    slurm_time_min: int = Field(default=1440, ge=5)
    """With `slurm`: wall-time limit of a job, in minutes; a test that needs longer goes on in a
    further one."""

    slurm_cpus: int = Field(default=8, ge=1)
    """With `slurm`: cores of a job."""

    slurm_extra: dict[str, Any] = {}
    """With `slurm`: further parameters of sbatch, as a JSON object."""

    session_idle_h: float = Field(default=48, ge=0)
    """Hours without a call or a test after which an open session is ended, its last test with a
    score submitted for it; 0: never."""

    profile: str | None = None
    """The profile of sessions that name none; if left out, the first of the task's profiles that
    the GPUs of this machine can carry."""

    host: str = "127.0.0.1"
    """The address that the server listens on."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Its port; 0 takes a free one and prints it."""

    api_key: SecretStr | None = None
    """Who has it may do everything: a key, or several with commas between, each with a name and a
    colon before it if it shall have one; a fresh one at each start if left out."""

    allowed_hosts: str = ""
    """Further names that the server answers to, with commas between; `*` is any."""

    log_format: Literal["text", "json"] | None = None
    """How logs are written; if left out, `text` on a terminal and `json` elsewhere."""

    limit_body_bytes: int = Field(default=2_000_000, ge=1000)
    """The largest request."""

    limit_session_requests: int = Field(default=100, ge=0)
    """Requests a second with one session's token; 0 is no limit, here and below."""

    limit_session_calls: int = Field(default=32, ge=0)
    """Requests at the same time with one session's token; a call that waits is one."""

    limit_key_requests: int = Field(default=500, ge=0)
    """Requests a second with one key."""

    limit_journal_bytes: int = Field(default=200_000_000, ge=0)
    """About what one session may put into its journal; `test`, `status` and `submit` have a tenth
    more."""

    limit_open_sessions: int = Field(default=1000, ge=0)
    """Sessions of one key that are open at the same time."""

    @property
    def resolved_data_dir(self) -> Path:
        return (self.data_dir or self.state_dir / "data").absolute()

    @property
    def database_setting(self) -> str:
        """The variable that a message about the database is to name."""
        return "HARNESS_DATABASE_URL" if self.database_url else "HARNESS_STATE_DIR"

    @property
    def resolved_database_url(self) -> str:
        if self.database_url:
            return self.database_url
        return f"sqlite:///{(self.state_dir / 'harness.sqlite3').absolute()}"


def read_settings() -> Settings:
    """The settings that the environment gives. Raises SettingsError."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            bad_setting(str(found["loc"][0]), found["input"], _may_be(str(found["loc"][0]), found))
            for found in error.errors()
        ]
        raise SettingsError("\n".join(lines)) from None
    except NoJson as error:
        raise SettingsError(_no_json(str(error))) from None


def bad_setting(name: str, value: object, may_be: str) -> str:
    """One line for a setting, by its field's name."""
    flag = f" (or --{name})" if name in FLAGS else ""
    return f"HARNESS_{name.upper()}{flag} is {str(value)!r}; it may be {may_be}"


def no_task(settings: Settings) -> str:
    """What is said where there is none."""
    return f"no task in {settings.tasks_dir}; set HARNESS_TASKS_DIR"


def one_of(choices: Iterable[str]) -> str:
    return f"one of: {', '.join(choices)}"


def _no_json(said: str) -> str:
    """The line for a variable that isn't the JSON that its field is read from."""
    named = re.search(r'field "(\w+)"', said)
    if named is None:
        return said
    name = named[1]
    value = next((v for k, v in os.environ.items() if k.upper() == f"HARNESS_{name.upper()}"), "")
    return bad_setting(name, value, A_JSON_OBJECT)


def _may_be(name: str, found: Any) -> str:
    """What values a field takes, as far as its type tells."""
    field = Settings.model_json_schema()["properties"].get(name, {})
    match field:
        case {"type": "integer", "minimum": least, "maximum": most}:
            return f"a whole number from {least} to {most}"
        case {"type": "integer", "minimum": least}:
            return f"a whole number, {least} or more"
        case {"enum": choices} | {"anyOf": [{"enum": choices}, *_]}:
            return one_of(choices)
        case {"type": "object"}:
            return A_JSON_OBJECT
    message = str(found["msg"])
    return f"what this asks for: {message[:1].lower()}{message[1:]}"
