"""Pages in a real browser: Chromium, driven by playwright; skipped where either is missing."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import stories
import uvicorn
from conftest import KEY, TOY_TASKS
from fastapi import FastAPI
from test_exports import exported
from test_pages import RATE, hostile_session
from test_story import one_session, transcripts

import server
from harness.settings import Settings
from harness.web.access import LinkKey
from harness.web.viewer import viewer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
SIZES = [(1280, 800), (390, 844)]


def chromium() -> str:
    named = os.environ.get("HARNESS_CHROMIUM")
    for name in (named, "chromium", "chromium-browser", "google-chrome"):
        if name and (found := shutil.which(name)):
            return found
    pytest.skip("there is no chromium here: apt-get install chromium, or set HARNESS_CHROMIUM")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = chromium()
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The application on a free port of loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        running = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join()


@contextmanager
def shown(*files: Path) -> Iterator[tuple[str, LinkKey]]:
    key = LinkKey(loopback=True)
    with served(viewer(files, ROOT / "tasks", key)) as address:
        yield address, key


class Tab:
    """A page that remembers every complaint of the browser."""

    def __init__(self, browser: Any, link: str = "", **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        if link:
            self.page.goto(link)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def title(self) -> str:
        return str(self.page.locator("#panel h2").inner_text())


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """A session with a curve, and one full of hostile text."""
    folder = tmp_path_factory.mktemp("stored")
    values = stories.lines_of(one_session())
    [finished] = [value for value in values if value.get("type") == "test_finished"]
    finished["curve"] = [{"step": n, "loss": 3.0 / (n + 1)} for n in range(10)]
    whole, hostile = folder / "whole.jsonl", folder / "hostile.jsonl"
    whole.write_text("".join(stories.canonical(value) + "\n" for value in values))
    hostile.write_text(hostile_session())
    return whole, hostile


@pytest.fixture(scope="module")
def shown_once(stored: tuple[Path, ...]) -> Iterator[tuple[str, LinkKey]]:
    with shown(*stored) as (address, key):
        yield address, key


PAGES = [
    "/", "/sessions/1", "/sessions/1/steps/1?view=split", "/sessions/1/steps/3",
    "/sessions/1/tests", "/sessions/1/review", "/compare?a=1&b=2",
    "/tasks/llm-pretrain-residual",
]  # fmt: skip

# The least contrast of text that is seen, and where; large text may have less.
CONTRAST = """() => {
  const rgb = (text) => text.match(/[0-9.]+/g).map(Number);
  const lum = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const found = rgb(getComputedStyle(e).backgroundColor);
      if (found.length < 4 || found[3] > 0.5) return found;
    }
    return [255, 255, 255];
  };
  let worst = [99, ""];
  const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg, script, .off")) continue;
    const [a, b] = [lum(rgb(getComputedStyle(element).color)), lum(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, texts.currentNode.textContent.trim().slice(0, 40)];
  }
  return worst;
}"""


# Milliseconds from each key to the frame after what it brought was painted.
STOPWATCH = """() => {
  window.took = [];
  let pressed = 0;
  addEventListener("keydown", () => { pressed = performance.now(); }, true);
  const painted = () => requestAnimationFrame(() => setTimeout(
    () => window.took.push(performance.now() - pressed)));
  const watched = { childList: true, subtree: true };
  new MutationObserver(painted).observe(document.getElementById("panel"), watched);
}"""
UNLABELLED = """[...document.querySelectorAll("input, select")]
  .filter((field) => field.labels && !field.labels.length).length"""
TOO_WIDE = "document.documentElement.scrollWidth - window.innerWidth"


def require_readable(tab: Tab) -> None:
    """Nothing wider than the screen, enough contrast: in both themes, on a laptop and a phone."""
    for width, height in SIZES:
        tab.page.set_viewport_size({"width": width, "height": height})
        for theme in ("light", "dark"):
            tab.page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            assert tab.page.evaluate(TOO_WIDE) <= 0, (width, theme)
            ratio, text = tab.page.evaluate(CONTRAST)
            assert ratio >= 4.5, (width, theme, text, ratio)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_whole_in_both_themes_and_sizes(
    browser: Any, shown_once: tuple[str, LinkKey], path: str
) -> None:
    address, key = shown_once
    with Tab(browser, key.link(address)) as tab:
        tab.page.goto(address + path)
        assert tab.page.evaluate("document.querySelectorAll('h1').length") >= 1
        assert tab.page.evaluate(UNLABELLED) == 0
        if path.endswith("/tests"):
            tab.page.wait_for_selector(".canvas svg .scatterlayer path")
        require_readable(tab)
        assert tab.complaints == []


def test_a_session_is_stepped_through_by_keyboard(
    browser: Any, shown_once: tuple[str, LinkKey]
) -> None:
    address, key = shown_once
    with Tab(browser, key.link(address)) as tab:
        tab.page.goto(address + "/sessions/1")
        assert tab.title().startswith("Start")
        for number, tool in enumerate(("edit", "test", "edit", "undo"), start=1):
            tab.page.keyboard.press("j")
            tab.page.wait_for_selector(f"article[data-step='{number}']")
            assert tab.title().startswith(f"Step {number} of 4: {tool}")
            assert tab.page.url == f"{address}/sessions/1/steps/{number}"
            current = tab.page.locator("#timeline [aria-current]")
            assert current.get_attribute("data-step") == str(number)
        tab.page.keyboard.press("j")  # there is no further one
        tab.page.keyboard.press("k")
        tab.page.wait_for_selector("article[data-step='3']")
        tab.page.keyboard.press("ArrowLeft")
        tab.page.wait_for_selector("article[data-step='2']")
        tab.page.go_back()
        tab.page.wait_for_selector("article[data-step='3']")
        tab.page.get_by_role("link", name="Unified diff").click()
        tab.page.wait_for_url("**view=unified**")
        tab.page.keyboard.press("j")
        tab.page.wait_for_selector("article[data-step='4'] table.diff .gone")
        assert "view=unified" in tab.page.url
        # An address of a step says the same in a fresh window, as does a mark in it.
        tab.page.goto(address + "/sessions/1#step-2")
        tab.page.wait_for_selector("article[data-step='2']")
        assert tab.complaints == []


def test_the_recorded_session_is_stepped_through(browser: Any) -> None:
    with shown(*transcripts("*.txt")) as (address, key), Tab(browser, key.link(address)) as tab:
        tab.page.goto(address + "/sessions/1")
        seen = []
        for number in range(1, 9):
            tab.page.keyboard.press("j")
            tab.page.wait_for_selector(f"article[data-step='{number}']")
            seen.append(tab.page.locator("#panel").inner_text())
        assert "Checkpoint not found" in seen[3]
        assert "exceed the editable range" in seen[5]
        assert tab.complaints == []


def test_pages_can_be_read_without_scripts(browser: Any, shown_once: tuple[str, LinkKey]) -> None:
    address, key = shown_once
    with Tab(browser, key.link(address), java_script_enabled=False) as tab:
        tab.page.get_by_role("link", name="whole.jsonl").click()
        for number in range(1, 5):
            tab.page.get_by_role("link", name="Next step").click()
            assert tab.title().startswith(f"Step {number} of 4")
        tab.page.get_by_role("link", name="Side by side").click()
        assert tab.page.locator("table.split").count() == 1
        tab.page.get_by_role("link", name="Tests", exact=True).click()
        tab.page.get_by_text("Values").first.click()
        assert tab.page.get_by_role("cell", name="0.333333").count() == 1


def test_hostile_text_does_nothing(browser: Any, shown_once: tuple[str, LinkKey]) -> None:
    address, key = shown_once
    with Tab(browser, key.link(address)) as tab:
        for path in ("/", "/sessions/2", "/sessions/2/tests", "/sessions/2/review"):
            tab.page.goto(address + path)
        tab.page.goto(address + "/sessions/2")
        for number in (1, 2, 3):
            tab.page.keyboard.press("j")
            tab.page.wait_for_selector(f"article[data-step='{number}']")
            assert tab.page.locator("img, iframe, main script").count() == 0
            assert "\u202e" not in tab.page.content()
        assert "<script>alert(1)</script>\\x1b[31m\\u202eevil" in tab.page.inner_text("#panel")
        assert tab.complaints == []


def test_an_exported_page_draws_its_curves(
    browser: Any, stored: tuple[Path, ...], tmp_path: Path
) -> None:
    page = tmp_path / "session.html"
    page.write_text(exported(stored[0], "html"), "utf-8")
    with Tab(browser, page.as_uri()) as tab:
        tab.page.wait_for_selector(".canvas svg .scatterlayer path")
        assert tab.complaints == []


def test_a_live_test_is_followed_to_its_end(
    browser: Any, tmp_path: Path, toy_data: Path, start_server: Callable[..., Any]
) -> None:
    settings = Settings(
        state_dir=tmp_path / "state", tasks_dir=TOY_TASKS, data_dir=toy_data, api_key=KEY
    )
    app = server.build(settings)
    with served(app) as address, Tab(browser, f"{address}/?key={KEY}") as tab:
        call = tab.context.request
        owner = {"Authorization": f"Bearer {KEY}"}
        task = {"task": "two-files"}
        created = call.post(f"{address}/v1/sessions", data=task, headers=owner).json()
        session = f"{address}/sessions/{created['id']}"
        headers = {"Authorization": f"Bearer {created['token']}"}

        def tool(name: str, **args: Any) -> Any:
            url = f"{address}/v1/sessions/{created['id']}/tools/{name}"
            return call.post(url, data=args, headers=headers, timeout=60_000).json()

        tab.page.goto(session)
        # The page asks every 1.5 seconds: the test is to be seen while it runs.
        slow = "import time\n\ntime.sleep(2.5)\nFIRST_RATE = 0.06"
        assert tool("edit", **RATE, content=slow)["ok"]
        tab.page.wait_for_selector("article[data-step='1']", timeout=10_000)
        tool("test", wait_s=0)
        tab.page.wait_for_selector("#progress:not([hidden])", timeout=10_000)
        assert "Test #1" in tab.page.inner_text("#progress")
        tab.page.wait_for_selector(
            "#timeline .between:has-text('Test #1 finished')", timeout=30_000
        )
        tab.page.wait_for_selector("#progress", state="hidden", timeout=10_000)
        tool("submit", n=1)
        tab.page.wait_for_selector(".state.submitted", timeout=10_000)
        assert tab.complaints == []


def test_a_long_session_opens_and_steps_at_once(browser: Any, long_session: Path) -> None:
    start = time.perf_counter()
    with shown(long_session) as (address, key), Tab(browser, key.link(address)) as tab:
        tab.page.goto(address + "/sessions/1/steps/1000")
        tab.page.wait_for_selector("article[data-step='1000']")
        opened = time.perf_counter() - start
        tab.page.evaluate(STOPWATCH)
        for number in range(1001, 1013):
            tab.page.wait_for_timeout(
                200
            )  # as a person reads: the next steps are fetched meanwhile
            tab.page.keyboard.press("j")
            tab.page.wait_for_selector(f"article[data-step='{number}']")
        stepped = statistics.median(tab.page.evaluate("window.took")) / 1000
        print(f"opened in {opened:.2f} s, stepped in {stepped * 1000:.0f} ms (median)")
        # 2 s and 0.1 s on a quiet machine (test_pages.py measures processor time); twice that and
        # more while other tests run beside.
        assert (opened < 8, stepped < 0.5) == (True, True), (opened, stepped)
