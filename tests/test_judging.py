"""What people add to a session afterwards: verdicts, and numbers by another scoring rule."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import KEY, TOY_TASKS, Player, new_player, stored
from fastapi.testclient import TestClient
from test_pages import page, people, words
from typer.testing import CliRunner

from harness.cli import app
from harness.events import TestRegraded, chain_break
from harness.exports import EXPORTS
from harness.recordings import parse_recordings

FASTER = {
    "op": "replace",
    "filename": "line_rate.py",
    "start_line": 3,
    "end_line": 3,
    "content": "FIRST_RATE = 0.06",
}
SECRET = "its loss on final is 0.1234"


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """The terminal command, on this test's state folder and tasks: exit code and what it said."""
    monkeypatch.setenv("HARNESS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(tmp_path / "tasks"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, args)
        return result.exit_code, result.output

    return run


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Tasks that a test may change."""
    return Path(shutil.copytree(TOY_TASKS, tmp_path / "tasks"))


@pytest.fixture
def client(start_server: Callable[..., TestClient], tasks: Path) -> TestClient:
    return start_server(tasks_dir=tasks)


def rows(client: TestClient) -> list[dict[str, Any]]:
    groups = client.get("/v1/leaderboards/two-files").json()["groups"]
    return [row for group in groups for row in group["rows"]]


def whole(player: Player) -> list[dict[str, Any]]:
    """The transcript's events, of which the chain holds."""
    text = player.get("/transcript")
    [recording] = parse_recordings(text)
    assert recording.header is not None
    assert chain_break(recording.header, recording.events) is None
    return [json.loads(line) for line in text.splitlines()[1:]]


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────


def test_a_verdict_is_for_everybody_and_its_note_for_people(
    client: TestClient, harness: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    player = new_player(client, agent="ada")
    assert player.call("edit", **FASTER)["ok"]
    player.call("test", wait_s=50)
    player.call("submit", n=1)
    seen = len(whole(player))
    assert rows(client)[0]["standing"] == "unconfirmed"
    site = people(client)
    assert "Nobody has given a verdict" in words(page(site, f"/sessions/{player.id}/review"))
    path = f"/v1/sessions/{player.id}/review"
    disqualified = {"verdict": "disqualified", "category": "memorised data", "note": SECRET}
    refused = client.post(path, json=disqualified, headers=player.headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "key_needed")
    assert client.post(path, json={"verdict": "suspect", "note": SECRET}).status_code == 201
    assert rows(client)[0]["rank"] == 1
    # A server that runs takes up what the terminal writes.
    args = ("--verdict", "disqualified", "--category", "memorised data", "--note", SECRET)
    code, said = harness("review", player.id, *args)
    assert (code, said) == (0, f"{player.id}: disqualified (memorised data)\n")
    [row] = rows(client)
    assert (row["standing"], row["rank"]) == ("unranked", None)
    assert row["unranked"] == "disqualified: memorised data"
    assert (row["review"]["verdict"], row["review"]["note"]) == ("disqualified", SECRET)
    board = words(page(site, "/leaderboards/two-files"))
    assert board.index("Not ranked") < board.index("ada") < board.index(SECRET)
    shown = words(page(site, f"/sessions/{player.id}/review"))
    assert f"disqualified (memorised data) {SECRET}" in shown
    assert shown.index("disqualified (memorised data)") < shown.index(f": suspect {SECRET}")
    # The agent reads verdict and category, and nothing else of it.
    events = whole(player)[seen:]
    assert [(e["type"], e["verdict"], e["category"]) for e in events] == [
        ("reviewed", "suspect", ""), ("reviewed", "disqualified", "memorised data"),
    ]  # fmt: skip
    streamed = client.get(
        f"/v1/sessions/{player.id}/events", headers={**player.headers, "Last-Event-ID": str(seen)}
    )
    assert streamed.text.count("event: reviewed") == 2
    told = [json.dumps(player.get()), player.get("/transcript"), streamed.text]
    for form in EXPORTS:
        code, said = harness("export", player.id, "--format", form, "--out", "-")
        assert (code, "disqualified" in said) == (0, True), form
        told.append(said)
    assert not [text for text in told if SECRET in text]
    refused = player.client.post(
        f"/v1/sessions/{player.id}/tools/view", json={}, headers=player.headers
    ).json()
    assert refused["text"] == "ERROR: This session is closed: test #1 was submitted."
    # The latest counts.
    assert harness("review", player.id, "--verdict", "clean")[0] == 0
    assert rows(client)[0]["rank"] == 1
    assert "clean" in words(page(site, f"/sessions/{player.id}"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nobody", "clean", ""), "there is no session nobody in the database"),
        (("{id}", "guilty", ""), "no verdict 'guilty'; it is clean, suspect, disqualified"),
        (("{id}", "disqualified", ""), "disqualified needs a category: uses labels, not causal, "),
        (("{id}", "suspect", "odd"), "no category 'odd'; there are uses labels, "),
        (("{id}", "clean", "other"), "clean has no category: that says what is wrong"),
        (("{id}", "suspect", "other"), "the category other needs a note that says what"),
    ],
)
def test_a_verdict_that_cannot_be_is_one_line(
    client: TestClient,
    harness: Callable[..., tuple[int, str]],
    args: tuple[str, str, str],
    said: str,
) -> None:
    session, verdict, category = args
    session = session.format(id=new_player(client).id)
    code, output = harness("review", session, "--verdict", verdict, "--category", category)
    assert code == 2
    assert output.startswith(f"ERROR: {said}")
    assert output.count("\n") == 1
    body = {"verdict": verdict, "category": category}
    answer = client.post(f"/v1/sessions/{session}/review", json=body)
    assert answer.status_code == (404 if session == "nobody" else 422)
    if answer.status_code == 422 and verdict != "guilty":
        assert answer.json()["error"]["code"] == "bad_verdict"
        assert said in answer.json()["error"]["message"]


# ── regrades ──────────────────────────────────────────────────────────────────────────────────


def change(tasks: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = tasks / "two_files" / "task.yaml"
    document = yaml.safe_load(path.read_text())
    edit(document)
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def test_a_changed_rule_is_applied_to_stored_results(
    start_server: Callable[..., TestClient],
    client: TestClient,
    tasks: Path,
    harness: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    plain, player, gone = (new_player(client) for _ in range(3))
    player.call("edit", **FASTER)
    for each in (plain, player, gone):
        assert each.call("test", wait_s=50)["data"]["scored"]
    player.call("submit", n=1)
    shutil.rmtree(tmp_path / "state/sessions" / gone.id / "runs")
    before = player.get()["results"][0]["metrics"]
    assert set(before) == {"error", "near"}
    code, said = harness("regrade", "two-files")
    assert code == 0
    assert "0 tests would change, 2 stay as they are, 1 are left alone" in said

    def hide(document: dict[str, Any]) -> None:
        document["version"] += 1
        for metric in document["metrics"]:
            if metric["name"] == "near":
                metric["hidden"] = True
            if metric["name"] == "worst":
                del metric["hidden"]

    change(tasks, hide)
    code, said = harness("regrade", "two-files")
    assert code == 0
    assert "2 tests would change, 0 stay as they are, 1 are left alone" in said
    assert f"{gone.id} test #1 is left alone: its run directory is gone" in said
    assert "near hidden" in said
    assert "version of the task" in said
    assert len([e for e in whole(player) if e["type"] == "test_regraded"]) == 0
    code, said = harness("regrade", "two-files", "--apply")
    assert (code, "2 tests were changed" in said) == (0, True)
    assert "0 tests were changed, 2 stay" in harness("regrade", "two-files", "--apply")[1]

    # The server that runs is told by the journal; its agents see what the rule shows them.
    after = player.get()["results"][0]["metrics"]
    assert set(after) == {"error", "worst"}
    assert after["error"] == before["error"]
    [regraded] = [e for e in whole(player) if e["type"] == "test_regraded"]
    _, events = stored(tmp_path, player.id)
    event = events[-1]
    assert isinstance(event, TestRegraded)
    assert event.private is not None
    hidden = event.private["values"]
    assert hidden["near"]["metrics"] == {"near": before["near"]}
    final = hidden["fit"]["final"]["error"]
    assert len(hidden["fit"]["final_windows"].get("error", [])) >= 0
    for told in (json.dumps(regraded), json.dumps(player.get()), player.get("/transcript")):
        assert str(final) not in told
    assert "near" not in json.dumps(regraded["metrics"].get("near"))
    for form in EXPORTS:
        assert str(final) not in harness("export", player.id, "--format", form, "--out", "-")[1]
    assert "was graded by the rule of the task's version 2" in words(
        page(people(client), f"/sessions/{player.id}/steps/2")
    ) + words(page(people(client), f"/sessions/{player.id}"))

    # A server that starts with the new rule: pages, boards and prompts go by it.
    restarted = start_server(tasks_dir=tasks, state_dir=tmp_path / "state") if False else None
    assert restarted is None
