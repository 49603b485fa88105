"""How soon a long transcript is on the screen: `python benchmarks/open_transcript.py`.

Writes a transcript of 2,000 steps and 20 MB. Each round starts `harness view` on it and opens its
link in Chromium, until the first contentful paint; beside that, the same of the same file as plain
text, from Python's http.server. Then steps by keyboard. Needs playwright and Chromium.
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
PAINTED = """() => new Promise((resolve) => new PerformanceObserver((list) => {
  const found = list.getEntriesByName("first-contentful-paint");
  if (found.length) resolve(performance.timeOrigin + found[0].startTime);
}).observe({type: "paint", buffered: true}))"""
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
    """Seconds until the link is there, and until the session is painted."""
    began = time.time()
    command = [sys.executable, "-c", "from harness.cli import app; app()", "view", str(transcript)]
    with started(command) as link:
        ready = time.time() - began
        page.goto(link)
        assert page.locator("article[data-step='0']").count() == 1
        return ready, painted(page) - began


def painted(page: Page) -> float:
    """When the page was first painted, as seconds since 1970."""
    milliseconds: float = page.evaluate(PAINTED)
    return milliseconds / 1000


def plain(page: Page, transcript: Path) -> float:
    """Seconds until the file is painted as text."""
    text = transcript.with_suffix(".txt")
    if not text.exists():
        text.symlink_to(transcript)
    began = time.time()
    command = ["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]
    with started([sys.executable, *command, str(text.parent)]) as said:
        page.goto(said.split("(")[1].split(")")[0] + text.name)
        return painted(page) - began


def stepped(page: Page, transcript: Path) -> list[float]:
    """Seconds of each of twenty steps, from the key to the new step."""
    command = [sys.executable, "-c", "from harness.cli import app; app()", "view", str(transcript)]
    with started(command) as link:
        page.goto(link)
        page.goto(link.split("?")[0] + f"/steps/{STEP}")
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
    print(f"harness view: its link after {ready:.2f} s, the session is painted after {shown:.2f} s")
    print(f"the file as plain text: {peer:.2f} s; ratio {shown / peer:.2f}")
    print(f"a step by keyboard: {step * 1000:.0f} ms (medians of {ROUNDS} rounds and 20 steps)")


if __name__ == "__main__":
    main()
