"""How long a journaled edit takes with many sessions at once, beside an empty route.

    python benchmarks/tool_latency.py [--sessions 64] [--seconds 8]

A server process with the whole application and one route more, which does nothing; a second process
asks it over kept connections, one a session, each call as soon as the one before is answered. First
the empty route, then edits on a task without static rules, then edits on `llm-pretrain-residual`,
each of another text. Prints a Markdown table: calls a second, median and 99th percentile of their
time, and the median as a ratio to the empty route's.
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

uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
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


async def measure(
    seconds: float, calls: list[Callable[[int], Awaitable[Any]]]
) -> tuple[float, list[float]]:
    """Calls a second, and each one's seconds, with all of `calls` repeated side by side."""
    times: list[float] = []

    async def repeat(call: Callable[[int], Awaitable[Any]]) -> None:
        number = 0
        while time.perf_counter() < end:
            began = time.perf_counter()
            await call(number)
            times.append(time.perf_counter() - began)
            number += 1

    began = time.perf_counter()
    end = began + seconds
    await asyncio.gather(*map(repeat, calls))
    return len(times) / (time.perf_counter() - began), times


async def load(port: int, sessions: int, seconds: float) -> list[list[Any]]:
    lines = [await Line.to(port) for _ in range(sessions)]
    rows: list[list[Any]] = []

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

    rows.append(["an empty route", *await measure(seconds, [empty(line) for line in lines])])
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
        rows.append([what, *await measure(seconds, calls)])
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
            rows = asyncio.run(load(port, options.sessions, options.seconds))
        finally:
            process.terminate()
            process.wait()
    cores = len(os.sched_getaffinity(0))
    print(f"\n{options.sessions} sessions at once, {cores} cores\n")
    print("| what | calls/s | median, ms | 99%, ms | ratio of medians |\n|---|---|---|---|---|")
    least = median(rows[0][2])
    for what, rate, times in rows:
        middle, late = median(times), quantiles(times, n=100)[-1]
        print(f"| {what} | {rate:,.0f} | {1000 * middle:.1f} | {1000 * late:.1f} "
              f"| {middle / least:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
