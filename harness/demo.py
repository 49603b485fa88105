"""`harness demo`: a whole session over HTTP, as an agent plays one, beside the unedited file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from harness import sandbox
from harness.access import fresh_key
from harness.claim import TAKEN
from harness.client import Client, HarnessError, Patience
from harness.datasets import prepare
from harness.metrics import format_value
from harness.prompt import visible_metrics
from harness.settings import Settings
from harness.state_folder import StateFolderError, state_folder
from harness.task import Baseline, Task
from harness.wire import TestView, ToolAnswer

START_SECONDS = 60


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


class ServerThere(DemoError):
    """A server runs on the state folder already."""


def run(settings: Settings, task: Task, profile: str, baseline: Baseline, console: Console) -> None:
    """Play a session and beside it one without edits, print both. Raises DemoError or DataError.

    Their tests run at the same time, unless they would share GPUs.
    """
    began = time.monotonic()
    found = sandbox.find() if settings.sandbox != "none" else None
    if isinstance(found, sandbox.Problem):
        # All edits that are played are our own.
        console.print(Text(f"No sandbox here: {found.reason}.", style="yellow"))
        console.print("The demo goes on without one; for agents' sessions, see harness doctor.")
        settings = settings.model_copy(update={"sandbox": "none"})
    if not (settings.resolved_data_dir / task.profile(profile).data.name).is_dir():
        console.print("[bold]Preparing the data[/bold] (once)")
    prepare(task, profile, settings.resolved_data_dir, state_dir=settings.state_dir)
    at_once = not any(stage.gpus for stage in task.profile(profile).stages)
    settings = settings.model_copy(update={"slots": 2 if at_once else 1})
    key = fresh_key()
    settings = settings.model_copy(update={"api_key": SecretStr(key)})
    try:
        with (
            running_server(settings, console) as url,
            Client(url, api_key=key, patience=Patience(total_s=60)) as client,
        ):
            plain = _Player(client, task.name, profile, "demo (no edit)", console)
            if at_once:
                plain.begin_test()
            edited = _play(client, task, profile, baseline, console)
            console.rule("The unedited file, measured in the same way")
            if not at_once:
                plain.begin_test()
            unedited = plain.finish_test()
            plain.call("submit", n=1)
    except HarnessError as error:
        raise DemoError(f"the server: {error}") from error
    except ServerThere as error:
        raise DemoError(f"{error}; give the demo a HARNESS_STATE_DIR of its own") from error
    _closing_table(task, profile, baseline, unedited, edited, console)
    console.print(f"Done in {time.monotonic() - began:.0f} s. State: {settings.state_dir}")


def _play(
    client: Client, task: Task, profile: str, baseline: Baseline, console: Console
) -> dict[str, float]:
    console.rule(f"An agent's session: {task.name}, profile {profile}")
    agent = _Player(client, task.name, profile, f"demo ({baseline.name})", console)
    prompt = agent.session.prompt
    head = "\n".join(prompt.splitlines()[:12])
    console.print(
        Panel(Text(f"{head}\n…"), title=f"prompt, {len(prompt)} characters", title_align="left")
    )
    file = task.files[0]
    locked_line = file.regions[0].first - 1
    console.print("First an edit that is refused, since the line is locked:")
    refused = agent.call(
        "edit",
        op="replace",
        filename=file.name,
        start_line=locked_line,
        end_line=locked_line,
        content="# mine now",
    )
    if refused.ok:
        raise DemoError(f"line {locked_line} of {file.name} is locked, but could be edited")
    console.print(f"Then the edits of the baseline '{baseline.title}':")
    for edit in baseline.edits:
        answer = agent.call("edit", **edit)
        if not answer.ok:
            raise DemoError(f"the baseline's edit was refused: {answer.text.splitlines()[0]}")
    agent.begin_test()
    metrics = agent.finish_test()
    agent.call("submit", n=1)
    return metrics


class _Player:
    """One session over HTTP, with everything that is sent and answered on the console."""

    def __init__(
        self, client: Client, task: str, profile: str, name: str, console: Console
    ) -> None:
        self._console = console
        self.session = client.create_session(task, profile=profile, agent=name)

    def call(self, tool: str, **args: Any) -> ToolAnswer:
        """Call a tool and show the answer's first lines."""
        answer = self.session.call(tool, args)
        shown = ", ".join(f"{k}={_short(v)}" for k, v in args.items())
        self._console.print(Text(f"> {tool}({shown})", style="cyan"))
        limit = 40 if tool == "submit" else 2
        lines = answer.text.splitlines()[:limit]
        style = "" if answer.ok else "yellow"
        self._console.print(Text("\n".join(lines), style=style))
        return answer

    def begin_test(self) -> None:
        """Start the session's first test."""
        answer = self.session.test(wait_s=0)
        if not answer.ok:
            raise DemoError(answer.text)

    def finish_test(self) -> dict[str, float]:
        """Wait for the first test behind a progress bar; returns its visible metrics."""
        self._console.print(Text("> test()", style="cyan"))
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            row = bar.add_task("starting", total=None)

            def show(test: TestView) -> None:
                training = test.role == "run"
                bar.update(
                    row,
                    description=f"{test.stage or test.state} {test.role or ''}",
                    total=test.steps if training else None,
                    completed=(test.step or 0) if training else 0,
                )

            ended = self.session.wait(1, wait_s=1, on_progress=show)
        if ended.state != "finished":
            raise DemoError(ended.text or f"the test was {ended.state}")
        self._console.print(Text(ended.text or ""))
        if not ended.scored:
            raise DemoError("the test ended without a score; the reason is above")
        return ended.metrics or {}


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 50 else shown[:47] + "..."


def _closing_table(
    task: Task,
    profile: str,
    baseline: Baseline,
    unedited: Mapping[str, float],
    edited: Mapping[str, float],
    console: Console,
) -> None:
    table = Table(title=f"{task.name}, profile {profile}, one seed each")
    table.add_column("metric")
    for title in ("unedited", baseline.title, "difference"):
        table.add_column(title, justify="right")
    table.add_column("better is")
    for metric in visible_metrics(task, profile):
        if metric.name not in unedited or metric.name not in edited:
            continue
        before, after = unedited[metric.name], edited[metric.name]
        table.add_row(
            f"{metric.name} ({metric.unit})" if metric.unit else metric.name,
            format_value(before, metric.decimals),
            format_value(after, metric.decimals),
            f"{after - before:+.{metric.decimals}f}",
            metric.direction,
        )
    console.print(table)
    console.print("One seed tells little: a difference this small may be luck.")


@contextmanager
def running_server(settings: Settings, console: Console) -> Iterator[str]:
    """A server in a process of its own on a free port; yields its URL and stops it after."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        state = state_folder(settings.state_dir.absolute())
    except StateFolderError as error:
        raise DemoError(str(error)) from error
    log_path = state / "demo-server.log"
    environment = {
        **os.environ,
        "HARNESS_PORT": str(port),
        "HARNESS_HOST": "127.0.0.1",
        "HARNESS_SANDBOX": settings.sandbox,
        "HARNESS_SLOTS": str(settings.slots),
        "HARNESS_STATE_DIR": str(state),
        "HARNESS_DATA_DIR": str(settings.resolved_data_dir),
        "HARNESS_TASKS_DIR": str(settings.tasks_dir.absolute()),
    }
    if settings.api_key is not None:
        environment["HARNESS_API_KEY"] = settings.api_key.get_secret_value()
    with open(log_path, "wb", opener=_for_us_alone) as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "server"], env=environment, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(server, url, log_path)
            console.print(f"Server: {url} (its log: {_relative(log_path)})")
            yield url
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _for_us_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            said = log_path.read_text(errors="replace").strip().splitlines()
            why = said[-1] if said else "it said nothing"
            if TAKEN in why:
                raise ServerThere(f"a server runs on {log_path.parent} already")
            raise DemoError(f"the server stopped while starting: {why}; its log is {log_path}")
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise DemoError(f"the server did not answer within {START_SECONDS} s; its log is {log_path}")


def _relative(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
