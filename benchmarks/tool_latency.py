"""How long a journaled edit takes with many sessions at once, beside an empty route.

    python benchmarks/tool_latency.py [--sessions 64] [--seconds 8]

A server process with the whole application and one route more, which does nothing; a second process
asks it over kept connections, one a session, each call as soon as the one before is answered. First
the empty route, then edits on a task without static rules, then edits on `llm-pretrain-residual`,
each of another text. Prints a Markdown table: calls a second, median and 99th percentile of their
time, the median as a ratio to the empty route's, and the processor time that a call took in the
server with its checking processes, and in the client. On a machine that has other work to do the
processor times are what can be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
KEY = "key-of-this-benchmark"
PLAIN, CHECKED = "two-files", "llm-pretrain-residual"

SERVER = """
import sys
import uvicorn
import server
from harness.settings import read_settings

server.take_short_turns()
app = server.build(read_settings())

@app.get("/v1/tools/nothing")
async def nothing() -> dict[str, str]:
    return {}

uvicorn.run(
    app, port=int(sys.argv[1]), log_level="warning", access_log=False, timeout_keep_alive=300
)
"""


@dataclass
class Line:
    """One kept connection: HTTP/1.1 by hand, so that the client takes little of the processor."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, port: int) -> Line:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def call(self, method: str, path: str, token: str, body: Any = None) -> Any:
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self.writer.write(head.encode() + content)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        status = int(answer.split(b" ", 2)[1])
        lengths = [x for x in answer.lower().split(b"\r\n") if x.startswith(b"content-length:")]
        text = await self.reader.readexactly(int(lengths[0].partition(b":")[2]))
        if status not in (200, 201):
            sys.exit(f"{method} {path}: {status} {text[:300]!r}")
        return json.loads(text)


@dataclass
class Row:
    """What came of one kind of call."""

    what: str
    rate: float
    """calls a second"""
    seconds: list[float]
    """of each call"""
    server: float
    """seconds of processor time a call, in the server"""
    checks: float
    """the same in the processes that it has started"""
    client: float


def processor_seconds(server: psutil.Process) -> tuple[float, float, float]:
    """Of the server, its children, and this process; so far."""
    own, client = server.cpu_times(), psutil.Process().cpu_times()
    children = [child.cpu_times() for child in server.children()]
    return (
        own.user + own.system,
        sum(times.user + times.system for times in children),
        client.user + client.system,
    )


async def measure(
    what: str,
    server: psutil.Process,
    seconds: float,
    calls: list[Callable[[int], Awaitable[Any]]],
) -> Row:
    """All of `calls` repeated side by side, once before it counts."""
    times: list[float] = []

    await asyncio.gather(*(call(0) for call in calls))

    async def repeat(call: Callable[[int], Awaitable[Any]]) -> None:
        number = 1
        while time.perf_counter() < end:
            began = time.perf_counter()
            await call(number)
            times.append(time.perf_counter() - began)
            number += 1

    before = processor_seconds(server)
    began = time.perf_counter()
    end = began + seconds
    await asyncio.gather(*map(repeat, calls))
    rate = len(times) / (time.perf_counter() - began)
    used = [now - then for now, then in zip(processor_seconds(server), before, strict=True)]
    return Row(what, rate, times, *(spent / len(times) for spent in used))


async def load(port: int, server: psutil.Process, sessions: int, seconds: float) -> list[Row]:
    lines = [await Line.to(port) for _ in range(sessions)]

    def empty(line: Line) -> Callable[[int], Awaitable[Any]]:
        return lambda _: line.call("GET", "/v1/tools/nothing", KEY)

    def edits(
        line: Line, session: dict[str, Any], edit: Callable[[int], dict[str, Any]]
    ) -> Callable[[int], Awaitable[Any]]:
        path = f"/v1/sessions/{session['id']}/tools/edit"

        async def call(number: int) -> None:
            answer = await line.call("POST", path, session["token"], edit(number))
            assert answer["ok"], answer["text"]

        return call

    def plain(who: int) -> Callable[[int], dict[str, Any]]:
        return lambda n: {
            "op": "replace", "filename": "line_rate.py", "start_line": 3, "end_line": 3,
            "content": f"FIRST_RATE = 0.0{who + 1}{n}",
        }  # fmt: skip

    def checked(who: int) -> Callable[[int], dict[str, Any]]:
        return lambda n: {
            "op": "replace", "filename": "custom_pretrain.py", "start_line": 128, "end_line": 128,
            "content": f"        self.own_scale = {who}.{n}",
        }  # fmt: skip

    rows = [await measure("an empty route", server, seconds, [empty(line) for line in lines])]
    for task, edit, what in (
        (PLAIN, plain, "an edit, no static rules"),
        (CHECKED, checked, "an edit, static check included"),
    ):
        opened = [
            await lines[0].call("POST", "/v1/sessions", KEY, {"task": task})
            for _ in range(sessions)
        ]
        calls = [
            edits(line, session, edit(who))
            for who, (line, session) in enumerate(zip(lines, opened, strict=True))
        ]
        rows.append(await measure(what, server, seconds, calls))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = folder / "tasks"
        tasks.mkdir()
        (tasks / "two_files").symlink_to(ROOT / "tests/tasks/two_files")
        (tasks / CHECKED).symlink_to(ROOT / "tasks" / CHECKED)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = {k: v for k, v in os.environ.items() if not k.startswith("HARNESS_")}
        environment = own | {
            "HARNESS_STATE_DIR": str(folder / "state"),
            "HARNESS_TASKS_DIR": str(tasks),
            "HARNESS_API_KEY": KEY,
            "HARNESS_LIMIT_KEY_REQUESTS": "0",
        }
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port)], cwd=ROOT, env=environment
        )
        try:
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None:
                    sys.exit("the server did not start")
                time.sleep(0.1)
            server = psutil.Process(process.pid)
            rows = asyncio.run(load(port, server, options.sessions, options.seconds))
        finally:
            process.terminate()
            process.wait()
    cores = len(os.sched_getaffinity(0))
    print(f"\n{options.sessions} sessions at once, {cores} cores\n")
    print("| | calls/s | median, ms | 99%, ms | ratio of medians | server, ms | checks, ms "
          "| client, ms |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    least = median(rows[0].seconds)
    for row in rows:
        middle, late = median(row.seconds), quantiles(row.seconds, n=100)[-1]
        spent = " | ".join(f"{1000 * each:.2f}" for each in (row.server, row.checks, row.client))
        print(f"| {row.what} | {row.rate:,.0f} | {1000 * middle:.1f} | {1000 * late:.1f} "
              f"| {middle / least:.1f} | {spent} |")  # fmt: skip


if __name__ == "__main__":
    main()
