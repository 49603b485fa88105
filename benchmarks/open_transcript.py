"""How soon a long transcript is on the screen: `python benchmarks/open_transcript.py`.

Writes a transcript of 2,000 steps and 20 MB. Each round starts `harness view` on it, opens the
session's page in Chromium and waits for its step; beside that, what the same browser takes for the
same file as plain text, from Python's http.server, started alike. Then steps by keyboard. Needs
playwright and Chromium.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import stories  # noqa: E402
from test_browser import STOPWATCH, chromium  # noqa: E402

ROUNDS = 7
STEP = 1000


@contextmanager
def started(command: Sequence[str]) -> Iterator[str]:
    """A program that serves; the first line that it prints."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def opened(page: Page, transcript: Path) -> tuple[float, float]:
    """Seconds until the link is there, and until the step is on the screen."""
    began = time.perf_counter()
    command = [sys.executable, "-c", "from harness.cli import app; app()", "view", str(transcript)]
    with started(command) as link:
        ready = time.perf_counter() - began
        page.goto(link)
        page.goto(link.split("/?")[0] + f"/sessions/1/steps/{STEP}")
        page.wait_for_selector(f"article[data-step='{STEP}']")
        return ready, time.perf_counter() - began


def plain(page: Page, transcript: Path) -> float:
    """Seconds until the file is on the screen as text."""
    text = transcript.with_suffix(".txt")
    if not text.exists():
        text.symlink_to(transcript)
    began = time.perf_counter()
    command = ["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]
    with started([sys.executable, *command, str(text.parent)]) as said:
        page.goto(said.split("(")[1].split(")")[0] + text.name)
        return time.perf_counter() - began


def stepped(page: Page, transcript: Path) -> list[float]:
    """Seconds of each of twenty steps, from the key to the new step."""
    command = [sys.executable, "-c", "from harness.cli import app; app()", "view", str(transcript)]
    with started(command) as link:
        page.goto(link)
        page.goto(link.split("/?")[0] + f"/sessions/1/steps/{STEP}")
        page.evaluate(STOPWATCH)
        for number in range(STEP + 1, STEP + 21):
            page.wait_for_timeout(200)  # as a person reads: the next steps are fetched meanwhile
            page.keyboard.press("j")
            page.wait_for_selector(f"article[data-step='{number}']")
        took: Any = page.evaluate("window.took")
    return [milliseconds / 1000 for milliseconds in took]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        transcript = Path(folder) / "long.jsonl"
        transcript.write_text(stories.long_transcript(2000, 20_000_000))
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox"], env=dict(os.environ)
        )
        rounds = []
        for _ in range(ROUNDS):
            page = browser.new_page()
            ours = opened(page, transcript)
            page.close()
            page = browser.new_page()
            rounds.append((*ours, plain(page, transcript)))
            page.close()
        ready, shown, peer = (statistics.median(times) for times in zip(*rounds, strict=True))
        step = statistics.median(stepped(browser.new_page(), transcript))
        browser.close()
    print(f"harness view: its link after {ready:.2f} s, the step on the screen after {shown:.2f} s")
    print(f"the file as plain text: {peer:.2f} s; ratio {shown / peer:.2f}")
    print(f"a step by keyboard: {step * 1000:.0f} ms (medians of {ROUNDS} rounds and 20 steps)")


if __name__ == "__main__":
    main()
