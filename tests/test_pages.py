"""Pages for people, through the application and without a browser."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from conftest import KEY, Player, new_player
from fastapi.testclient import TestClient
from stories import edit, header, play, transcript
from test_story import one_session, transcripts
from typer.testing import CliRunner

from harness.cli import app
from harness.events import MessageKept, TestFinished, ToolCalled
from harness.recorded import RecordingError
from harness.web.access import LinkKey
from harness.web.viewer import viewer

ROOT = Path(__file__).parents[1]
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202eevil\u2066 \"'><img src=x onerror=alert(2)>"


def open_pages(*files: Path) -> TestClient:
    key = LinkKey(loopback=True)
    client = TestClient(viewer(files, ROOT / "tasks", key), base_url="http://127.0.0.1:8000")
    assert client.get(f"/?key={key.key}").status_code == 200
    return client


def written(folder: Path, text: str) -> Path:
    path = folder / "session.jsonl"
    path.write_text(text)
    return path


def page(client: TestClient, address: str, status: int = 200) -> str:
    response = client.get(address)
    assert response.status_code == status, response.text
    return response.text


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def words(html: str) -> str:
    """What a reader sees, in one line."""
    parser = _Text()
    parser.feed(html)
    return " ".join(" ".join(parser.found).split())


def html_text(html: str) -> str:
    """All text of a page as it stands."""
    parser = _Text()
    parser.feed(html)
    return "".join(parser.found)


# ── who may see them ──────────────────────────────────────────────────────────────────────────


def test_pages_ask_for_the_key_that_their_link_carries(tmp_path: Path) -> None:
    key = LinkKey(loopback=True)
    app = viewer([written(tmp_path, one_session())], ROOT / "tasks", key)
    client = TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False)
    for address in ("/", "/sessions/1", "/static/style.css", "/?key=wrong", "/compare"):
        assert client.get(address).status_code == 403
    first = client.get(f"/sessions/1?key={key.key}&part=timeline")
    assert (first.status_code, first.headers["location"]) == (303, "/sessions/1?part=timeline")
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert client.get("/").status_code == 200
    refused = client.get("/", headers={"Host": "rebound.example"})
    assert refused.status_code == 421


@pytest.mark.parametrize(
    ("count", "leads_to", "shows"), [(1, "/sessions/1", 'id="step-1"'), (2, "/", "session.jsonl")]
)
def test_harness_view_prints_a_link_that_opens(
    tmp_path: Path, count: int, leads_to: str, shows: str
) -> None:
    path = written(tmp_path, one_session())
    code = "from harness.cli import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "view", *[str(path)] * count],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        assert re.fullmatch(rf"http://127\.0\.0\.1:\d+{leads_to}\?key=[\w-]{{32}}", link)
        with httpx.Client(follow_redirects=True) as client:
            opened = client.get(link)
            assert shows in opened.text
            assert "key" not in str(opened.url)
        assert httpx.get(link.split("?")[0]).status_code == 403
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def test_harness_view_says_what_it_cannot_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["view", str(written(tmp_path, "{}"))])
    assert result.exit_code == 2
    assert "is no recording: it has neither 'format' nor 'steps'" in result.stderr


def test_a_log_of_requests_does_not_hold_the_key() -> None:
    key = LinkKey(loopback=True)
    args = ("127.0.0.1:1", "GET", f"/?key={key.key}", "1.1", 303)
    record = logging.LogRecord("uvicorn.access", 20, "", 0, '%s - "%s %s HTTP/%s" %d', args, None)
    assert key.redact(record)
    assert key.key not in record.getMessage()


def test_every_page_forbids_scripts_that_are_not_ours(tmp_path: Path) -> None:
    client = open_pages(written(tmp_path, one_session()))
    addresses = ["/", "/sessions/1", "/sessions/1/steps/3", "/sessions/1/tests",
                 "/sessions/1/review", "/compare", "/nowhere/1", "/sessions/9"]  # fmt: skip
    for address in addresses:
        response = client.get(address)
        if address == "/nowhere/1":
            continue  # no page of ours
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert re.search(r"script-src 'self';", policy)
        assert ("unsafe-inline" in policy) == address.endswith("/tests")
        assert not re.search(r"<script(?![^>]*(src=|application/json))", response.text)
        assert not re.search(r"\son\w+=", response.text)
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", response.text)


# ── what they say ─────────────────────────────────────────────────────────────────────────────


def test_a_session_is_told_step_by_step(tmp_path: Path) -> None:
    client = open_pages(written(tmp_path, one_session()))
    first = words(page(client, "/sessions/1/steps/1"))
    assert "Step 1 of 4: edit ok" in first
    assert "I double it." in first
    assert "answered in 20 ms" in first
    assert "region scale" in first
    html = page(client, "/sessions/1/steps/1")
    assert re.search(r'<div class="open changed" id="L5">.*return', html)
    assert re.search(r'<div class="locked" id="L1">', html)
    refused = words(page(client, "/sessions/1/steps/3"))
    assert "Step 3 of 4: edit refused: outside_regions" in refused
    assert "Attempted: lines 8 to 9" in refused
    assert "ERROR: Lines 8..9 exceed the editable range." in refused
    assert "pass" in refused
    assert "Test #1 (attempt 2) finished" in words(page(client, "/sessions/1/steps/4"))
    assert 'id="step-3"' in page(client, "/sessions/1")
    assert "Not found" in page(client, "/sessions/1/steps/5", 404)
    assert "Not found" in page(client, "/sessions/1/steps/one", 404)


@pytest.mark.parametrize("view", ["unified", "split"])
def test_diffs_are_to_the_step_before_or_to_the_start(tmp_path: Path, view: str) -> None:
    client = open_pages(written(tmp_path, one_session()))
    before = words(page(client, f"/sessions/1/steps/4?view={view}&part=step"))
    assert "return 2 * x" in before
    assert "return x" in before
    start = words(page(client, f"/sessions/1/steps/4?view={view}&against=start&part=step"))
    assert "No difference to the start." in start
    part = page(client, f"/sessions/1/steps/4?view={view}&part=step")
    assert "<html" not in part


def test_the_list_is_filtered_and_sorted(tmp_path: Path) -> None:
    others = [header(name="zoe", model="z"), header(name="anna", model="a")]
    paths = [written(tmp_path, one_session())]
    for number, other in enumerate(others):
        path = tmp_path / f"other{number}.jsonl"
        path.write_text(transcript(other, play(other, [edit(5, 5, "    return 1")])))
        paths.append(path)
    client = open_pages(*paths)
    rows = re.findall(r'data-label="Agent">(\w+)<', page(client, "/?sort=agent&order=up"))
    assert rows == ["anna", "scripted", "zoe"]
    rows = re.findall(r'data-label="Agent">(\w+)<', page(client, "/?sort=agent&order=down"))
    assert rows == ["zoe", "scripted", "anna"]
    assert re.findall(r'data-label="Agent">(\w+)<', page(client, "/?agent=ZO")) == ["zoe"]
    assert re.findall(r'data-label="Agent">(\w+)<', page(client, "/?state=submitted")) == [
        "scripted"
    ]
    assert "No session fits this filter" in words(page(client, "/?task=none"))


def test_the_recorded_page_tells_of_its_failed_test() -> None:
    client = open_pages(*transcripts("*.txt"))
    said = words(page(client, "/sessions/1/steps/4"))
    assert "Step 4 of 8: test test #1: gpt-345m shows no score, lm-eval-345m failed" in said
    assert "test #1: gpt-345m shows no score, lm-eval-345m failed" in said
    assert "Checkpoint not found" in said
    assert "lost indentation" in said
    tests = words(page(client, "/sessions/1/tests"))
    assert "lm-eval-345m scripts/lm_eval_345m.sh failed exit 1" in tests
    assert "The record shows no score of this stage" in tests
    refused = words(page(client, "/sessions/1/steps/6"))
    assert "Attempted: lines 205 to 212" in refused


def hostile_session() -> str:
    head = header(name=HOSTILE)
    bad, good = play(
        head,
        [
            edit(1, 1, HOSTILE.replace("\x1b", "")),
            edit(5, 5, "    return '<script>alert(3)</script>\u202e'  # </code>"),
        ],
    )
    assert isinstance(bad, ToolCalled)
    return transcript(
        head,
        [
            MessageKept(role=HOSTILE, text=HOSTILE),
            bad.model_copy(update={"text": f"ERROR: {HOSTILE}"}),
            good,
            ToolCalled(tool=HOSTILE, args={HOSTILE: HOSTILE}, ok=True, text=HOSTILE, seconds=0),
            MessageKept(role="assistant", text=HOSTILE),
        ],
    )


def test_hostile_text_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    client = open_pages(written(tmp_path, hostile_session()))
    for address in (
        "/", "/sessions/1", *(f"/sessions/1/steps/{n}" for n in (1, 2, 3)),
        "/sessions/1/steps/2?view=split", "/sessions/1/steps/2?view=unified&part=step",
        "/sessions/1/tests", "/sessions/1/review", "/compare?a=1&b=1", f"/?agent={quote(HOSTILE)}",
        f"/sessions/{quote(HOSTILE.replace('/', ''))}",
    ):  # fmt: skip
        text = client.get(address).text
        assert "<script>alert" not in text
        assert "<img" not in text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "\\x1b[31m\\u202eevil" in page(client, "/sessions/1/steps/1")


def test_review_links_matters_to_their_steps(tmp_path: Path) -> None:
    head = header()
    events = play(
        head,
        [
            edit(5, 5, "    import os\n    print('TEST_METRICS: loss=0')\n    return x"),
            edit(1, 1, "x"),
            edit(7, 7, f"    return [{', '.join(str(n) for n in range(60))}][0]"),
        ],
    )
    client = open_pages(written(tmp_path, transcript(head, events)))
    html = page(client, "/sessions/1/review")
    said = words(html)
    assert "step 2 outside_regions: Lines 1..1 exceed the editable range." in said
    assert "step 1 line 6 print('TEST_METRICS: loss=0')" in said
    assert "step 1 line 5 import os" in said
    assert "step 3 line 7: a collection of 60 values" in said
    assert "The hash chain is whole" in said
    assert '<a href="/sessions/1/steps/3">' in html


def test_a_broken_chain_is_said(tmp_path: Path) -> None:
    text = one_session().replace("I double it.", "I did nothing.")
    client = open_pages(written(tmp_path, text))
    assert "The hash chain is broken: event 2" in words(page(client, "/sessions/1/review"))


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"session\.jsonl: is empty"):
        viewer([written(tmp_path, " ")], ROOT / "tasks", LinkKey(loopback=True))


@pytest.mark.slow
def test_a_long_session_opens_and_steps_in_time(long_session: Path) -> None:
    start = time.process_time()
    client = open_pages(long_session)
    assert 'id="step-2000"' in page(client, "/sessions/1")
    opened = time.process_time() - start
    start = time.process_time()
    for index in range(1000, 1020):
        page(client, f"/sessions/1/steps/{index}?part=step")
    stepped = (time.process_time() - start) / 20
    # 2 s and 100 ms is what a person is promised.
    assert (opened < 2, stepped < 0.1) == (True, True), (opened, stepped)


# ── a server's own sessions ───────────────────────────────────────────────────────────────────

RATE = {"op": "replace", "filename": "line_rate.py", "start_line": 3, "end_line": 3}


def people(client: TestClient) -> TestClient:
    assert client.get(f"/?key={KEY}").status_code == 200
    return client


def test_a_servers_pages_need_its_key_and_no_sessions_token_opens_them(player: Player) -> None:
    assert player.client.get("/", headers=player.headers).status_code == 403
    address = f"/sessions/{player.id}"
    assert player.client.get(address, headers=player.headers).status_code == 403


def test_a_test_is_followed_and_shown_with_what_agents_never_see(
    start_server: Callable[..., TestClient],
) -> None:
    client = start_server()
    unedited = new_player(client, agent="nobody")
    unedited.call("test", wait_s=50)
    player = new_player(client, agent="somebody")
    player.call("edit", **RATE, content="FIRST_RATE = 0.06")
    before = people(client).get(f"/sessions/{player.id}/live").json()
    assert (before["steps"], before["state"], before["progress"]) == (1, "open", "")
    player.call("test", wait_s=50)
    after = client.get(f"/sessions/{player.id}/live").json()
    assert after["steps"] == 2
    assert after["version"] != before["version"]
    html = page(client, f"/sessions/{player.id}/tests")
    said = words(html)
    assert "Metric test #1 unedited file measured here" in said
    assert "One run each, of one seed: a small difference may be luck." in said
    assert re.search(r"error metres, lower is better \d\.\d{3} −\d\.\d{3} better 0\.267", said)
    assert "worst hidden from agents" in said
    assert "error (final split) hidden from agents" in said
    assert '"name": "unedited file"' in html
    assert '"metric": "loss"' in html
    assert "files_digest" in said
    logs = re.findall(rf'href="(/sessions/{player.id}/logs/[^"]+)"', html)
    assert len(logs) >= 3
    assert "FIT: step=10" in page(client, next(log for log in logs if log.endswith("fit-toy.run")))
    assert client.get(f"/sessions/{player.id}/logs/1.1/..%2f..%2fplan").status_code == 404
    home = words(page(client, "/?sort=best&order=up"))
    assert "somebody open 1 of 3" in home
    compared = words(page(client, f"/compare?a={unedited.id}&b={player.id}/1"))
    assert "FIRST_RATE = 0.06" in compared
    assert "A, test #1" in compared
    task = words(page(client, "/tasks/two-files"))
    assert "region first-rate" in task
    # The unedited file's hidden values are shown beside, where they are known.
    worst = re.search(
        r"worst hidden from agents metres, lower is better (\S+) (\S+) \S+ (\S+)", said
    )
    assert worst is not None, said
    assert re.fullmatch(r"\d+\.\d{3}", worst[3])
    told = player.created["prompt"]
    prompt = html_text(page(client, "/tasks/two-files/prompt?profile=toy"))
    assert told.split("measured here:")[0] in prompt
    assert "The unedited files, measured here: error=" in prompt
    assert "Not found" in page(client, "/tasks/two-files/prompt?profile=none", 404)
    # The transcript, which a session's token may fetch, still holds none of it.
    assert "worst" not in player.get("/transcript")


def test_a_finished_event_of_any_shape_is_shown(tmp_path: Path) -> None:
    head = header()
    events: list[Any] = [
        TestFinished(number=7, attempt=1, scored=False, stages=(), provenance={"a": [1, {"b": {}}]})
    ]
    client = open_pages(written(tmp_path, transcript(head, events)))
    assert "Test #7 no score" in words(page(client, "/sessions/1/tests"))
