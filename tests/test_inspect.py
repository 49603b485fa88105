"""Logs for Inspect, read by its own reader and shown by `inspect view` in a real browser."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from readers import ask, readers_python
from stories import edit, header, play, transcript
from test_browser import Tab, chromium, sync_api
from test_exports import export, exported
from test_pages import hostile_session, written
from test_story import one_session, transcripts

from harness.events import SessionEnded

NAMED = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d_[a-z-]+_[0-9a-f]{16}\.json")


def hostile() -> str:
    return hostile_session().replace("0123456789abcdef", "0000000000000bad")


def another_session() -> str:
    """A second one of the same task, given up."""
    head = header(name="other").model_copy(update={"session": "fedcba9876543210"})
    events = [*play(head, [edit(5, 5, "    return 3")]), SessionEnded(reason="idle for a day")]
    return transcript(head, events)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of logs, each under the name that the export gives it."""
    folder = tmp_path_factory.mktemp("logs")
    for number, text in enumerate((one_session(), another_session(), hostile())):
        path = tmp_path_factory.mktemp(f"from{number}")
        result = export(written(path, text), "inspect", "--out", str(folder))
        assert result.exit_code == 0, result.output
    return folder


def test_each_log_has_a_name_and_an_id_of_its_own(logs: Path) -> None:
    paths = sorted(logs.iterdir())
    assert len(paths) == 3
    for path in paths:
        assert NAMED.fullmatch(path.name)
        log = json.loads(path.read_text())
        assert path.stem.endswith(log["eval"]["task_id"])


def test_inspects_own_reader_reads_its_logs(logs: Path, tmp_path: Path) -> None:
    readers_python()
    paths = sorted(logs.iterdir())
    if os.environ.get("HARNESS_TRANSCRIPTS"):
        for number, path in enumerate(transcripts("*")):
            paths.append(tmp_path / f"{number}.json")
            paths[-1].write_text(exported(path, "inspect"))
    said = ask("inspect_log", [str(path) for path in paths])
    for path, one in zip(paths, said, strict=True):
        written_log = json.loads(path.read_text())
        # Nothing that we wrote is left out by a reader that knows no such key.
        assert missing(written_log, one["log"]) == [], path
    told = {path.name: one for path, one in zip(paths, said, strict=True)}
    one = next(one for name, one in told.items() if name.endswith("0123456789abcdef.json"))
    assert one["status"] == "success"
    assert one["scores"] == {"error": 0.1}
    assert one["roles"].count("tool") == 4
    assert "system" not in one["roles"]
    other = next(one for name, one in told.items() if name.endswith("fedcba9876543210.json"))
    assert other["status"] == "cancelled"


def missing(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """What of `ours` is not in `theirs`; times may be spelled otherwise, empties left out."""
    if isinstance(ours, dict):
        gone = [f"{where}.{key}" for key, value in ours.items() if key not in theirs and value]
        kept = [key for key in ours if key in theirs]
        return gone + [
            gap for key in kept for gap in missing(ours[key], theirs[key], f"{where}.{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [gap for n, pair in pairs for gap in missing(*pair, f"{where}[{n}]")]
    same = ours == theirs or (isinstance(ours, str) and ours[:19] == theirs[:19])
    return [] if same else [where]


@contextmanager
def viewing(logs: Path, state: Path) -> Iterator[str]:
    """`inspect view` on a free port, until it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = [readers_python(), "-m", "inspect_ai", "view", "start", "--log-dir", logs]
    with (state / "said").open("w") as said:
        started = subprocess.Popen(
            [*call, "--port", str(port)],
            cwd=state,
            env=os.environ | {"XDG_DATA_HOME": str(state), "HOME": str(state)},
            stdout=said,
            stderr=said,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert started.poll() is None, (state / "said").read_text()
                assert time.monotonic() < deadline, (state / "said").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        started.terminate()
        started.wait(20)


@pytest.mark.browser
def test_inspect_view_lists_our_logs_and_opens_them(logs: Path, tmp_path: Path) -> None:
    program = chromium()
    with viewing(logs, tmp_path) as address, sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = Tab(started, address)
        page = tab.page
        page.set_default_timeout(60_000)
        # The viewer looks for a file of its own that most folders lack.
        absent = re.compile("the server responded with a status of 404")
        # Each log is a line: none is taken for an earlier try of another.
        page.get_by_text("3 items", exact=True).wait_for()
        name = next(path.name for path in logs.iterdir() if "0123456789abcdef" in path.name)
        page.goto(f"{address}/#/logs/{name}/samples/sample/0123456789abcdef/1/messages")
        page.get_by_text("return 2 * x").first.wait_for()
        seen = page.inner_text("body")
        # What was said, called, answered and what happened stand in the order of the session.
        order = ["I double it.", "OK: Replaced lines 5..5", "Test #1 (attempt 2) was queued",
                 "[Test #1]", "ERROR: Lines 8..9 exceed", "Undo complete", "Done."]  # fmt: skip
        places = [seen.find(part) for part in order]
        assert -1 not in places, seen
        assert places == sorted(places), seen
        page.screenshot(path=os.environ.get("HARNESS_SCREENSHOT") or tmp_path / "view.png")
        bad = next(path.name for path in logs.iterdir() if "0000000000000bad" in path.name)
        page.goto(f"{address}/#/logs/{bad}/samples/sample/0000000000000bad/1/messages")
        page.get_by_text("<script>alert(1)</script>").first.wait_for()
        assert page.locator("img[src=x], script:text('alert(1)')").count() == 0
        assert not {"\u202e", "\u2066", "\x1b"} & set(page.inner_text("body"))
        assert [said for said in tab.complaints if not absent.search(said)] == []
