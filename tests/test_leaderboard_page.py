"""The leaderboard's page: what it says, who may see it, and how it looks in Chromium."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import Journal, rate, windows
from conftest import KEY, TOY_TASKS, new_player
from fastapi.testclient import TestClient
from test_browser import UNLABELLED, Tab, browser, require_readable, served
from test_pages import HOSTILE, open_pages, page, people, words, written
from test_story import one_session

import server
from harness.settings import Settings
from harness.store import Store
from harness.task import load_task

__all__ = ["browser"]  # a fixture


def fill(state: Path) -> None:
    """Baselines, confirmed and other submissions, a hostile one, an older version."""
    state.mkdir(exist_ok=True)
    store = Store(f"sqlite:///{state / 'harness.sqlite3'}")
    task = load_task(TOY_TASKS / "two_files")
    journal = Journal(store, task)
    rng = np.random.default_rng(4)
    base = rng.normal(0, 0.1, 32)

    def tests(value: float, *seeds: int) -> list[Any]:
        return [(seed, windows(value + rng.normal(0, 0.003), rng, base)) for seed in seeds]

    audit = {"cost": {"numbers": 1_200_000, "unedited_numbers": 1_000_000}}
    curve = [{"step": n, "error": 1.0 - 0.1 * np.log(n)} for n in range(1, 9)]
    journal.baseline("", tests(0.30, 42, 7, 8), curve=curve)
    journal.baseline("falling_rate", tests(0.25, 42, 7, 8), audit=audit)
    mine = journal.play("ada", [rate(0.06)], tests(0.22, 42), audit=audit)
    journal.confirm(mine, [rate(0.06)], tests(0.22, 101, 102))
    worse = journal.play("bob", [rate(0.01)], tests(0.36, 42))
    journal.confirm(worse, [rate(0.01)], tests(0.36, 101, 102))
    journal.play("carol", [rate(0.07)], tests(0.24, 42))
    journal.play("dan", [], tests(0.31, 42))
    cheat = journal.play(HOSTILE, [rate(0.09)], tests(0.02, 42))
    journal.review(cheat, "disqualified", HOSTILE, HOSTILE)
    journal.play("erin", [rate(0.07)], tests(0.5, 42), version=2)
    store.close()


def test_the_page_says_what_its_numbers_mean_and_what_they_rest_on(
    start_server: Callable[..., TestClient], tmp_path: Path
) -> None:
    fill(tmp_path / "state")
    client = people(start_server())
    html = page(client, "/leaderboards/two-files")
    said = words(html)
    assert "Score : 0 is the mean of the unedited files, 1 that of the best baseline" in said
    assert (
        "With fewer than two seeds on either side it is one seed, never better; nor is a row"
        in said
    )
    lists = [
        said.index(f"{title} Rank Row") for title in ("Confirmed by fresh seeds", "Not ranked")
    ]
    assert lists[0] < said.index("Not confirmed Rank Row") < lists[1]
    assert re.search(
        r"1 ada 0\.2\d\d ± 0\.00\d 3 seeds −0\.0\d\d \[−0\.\d+, −0\.\d+\] better", said
    )
    assert re.search(r"\d falling rate baseline 0\.2\d\d .*?better \+1\.00", said)
    assert "carol" in said
    assert re.search(r"dan 0\.3\d\d 1 seed – unedited 0\.00 no edit", said)
    assert "95% interval from windows" in said
    assert "95% interval from seeds" in said
    assert "manifest_sha256" in said
    assert "+200,000 parameters" in said
    assert "Published elsewhere" in said
    assert "an older version or another locked text" in said
    assert "<script>alert" not in html
    assert "<img" not in html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert "worst (development, hidden from agents)" in said
    narrowed = words(page(client, "/leaderboards/two-files?profile=toy"))
    assert "Profile toy, version 1" in narrowed
    assert "There is no task nothing." in words(page(client, "/leaderboards/nothing", 404))
    assert 'href="/leaderboards/two-files"' in page(client, "/tasks/two-files")
    empty = words(page(client, "/leaderboards/vetted-line"))
    assert "harness baseline run vetted-line --all measures the unedited files" in empty


def test_no_sessions_token_and_no_recording_shows_it(
    start_server: Callable[..., TestClient], tmp_path: Path
) -> None:
    player = new_player(start_server())
    refused = player.client.get("/leaderboards/two-files", headers=player.headers)
    assert refused.status_code == 403
    recordings = open_pages(written(tmp_path, one_session()))
    assert "Leaderboard" not in page(recordings, "/")
    said = words(page(recordings, "/leaderboards/llm-pretrain-residual", 404))
    assert "Recordings hold nothing of the split that ranks" in said


@pytest.mark.browser
def test_it_is_whole_in_both_themes_and_sizes(browser: Any, tmp_path: Path, toy_data: Path) -> None:
    fill(tmp_path / "state")
    settings = Settings(
        state_dir=tmp_path / "state", tasks_dir=TOY_TASKS, data_dir=toy_data, api_key=KEY
    )
    with served(server.build(settings)) as address, Tab(browser, f"{address}/?key={KEY}") as tab:
        tab.page.get_by_role("link", name="Leaderboard").click()
        tab.page.goto(f"{address}/leaderboards/two-files")
        assert tab.page.evaluate(UNLABELLED) == 0
        assert tab.page.get_by_text("manifest_sha256").first.is_hidden()  # provenance is folded
        for opened in (False, True):
            if opened:
                tab.page.evaluate(
                    "document.querySelectorAll('details').forEach(d => d.open = true)"
                )
                assert tab.page.get_by_text("manifest_sha256").first.is_visible()
            require_readable(tab)
        assert tab.complaints == []
