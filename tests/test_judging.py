"""What people add to a session afterwards: verdicts, and numbers by another scoring rule."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TOY_TASKS, Player, finished_test, new_player, stored
from fastapi.testclient import TestClient
from test_pages import page, people, words

from harness.events import chain_break
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
def harness(
    harness: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """The terminal command, on this test's own tasks."""
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(tmp_path / "tasks"))
    return harness


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
    assert "disqualified" not in words(page(site, "/"))
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
    assert "disqualified" in words(page(site, "/"))
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
    recorded = tmp_path / "recorded.jsonl"
    recorded.write_text(told[1])
    code, said = harness("replay", str(recorded), "--certify")
    assert code == 0, said
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
    player, gone = new_player(client), new_player(client)
    assert gone.call("edit", **FASTER)["ok"]
    for each in (player, gone):
        assert each.call("test", wait_s=50)["data"]["scored"]
    gone.call("submit", n=1)
    shutil.rmtree(tmp_path / "state/sessions" / gone.id / "runs")
    shown = player.get()["results"][0]["metrics"]
    assert set(shown) == {"error", "near"}
    found = finished_test(tmp_path, player.id).private
    assert found is not None
    final = found["values"]["fit"]["final"]["error"]
    worst = found["values"]["fit"]["metrics"]["worst"]
    code, said = harness("regrade", "two-files")
    assert code == 0
    assert "0 tests would change, 1 stay as they are, 1 are left alone" in said

    # What the rule asks for and no file has, and what was trained otherwise, is left alone.
    def ask(document: dict[str, Any]) -> None:
        further = {"name": "spread", "kind": "scored", "stage": "fit", "direction": "lower"}
        document["metrics"].append(further)

    folder = tasks / "two_files"
    rule, loop = (folder / "task.yaml").read_text(), (folder / "loop.py").read_text()
    change(tasks, ask)
    said = harness("regrade", "two-files", "--apply")[1]
    assert f"{player.id} test #1 is left alone: fit-toy: metrics.json: metrics: spread is" in said
    (folder / "loop.py").write_text("# another loop\n")
    said = harness("regrade", "two-files", "--apply")[1]
    assert f"{player.id} test #1 is left alone: it was trained from another locked text" in said
    assert "0 tests were changed, 0 stay as they are, 2 are left alone" in said
    (folder / "task.yaml").write_text(rule)
    (folder / "loop.py").write_text(loop)

    # Another metric is hidden, another shown, another version said.
    def hide(document: dict[str, Any]) -> None:
        document["version"] = 2
        for metric in document["metrics"]:
            if metric["name"] in ("near", "worst"):
                metric["hidden"] = metric["name"] == "near"

    change(tasks, hide)
    seen = len(whole(player))
    code, said = harness("regrade", "two-files")
    assert code == 0
    assert "1 tests would change, 0 stay as they are, 1 are left alone" in said
    assert f"{gone.id} test #1 is left alone: its run directory is gone" in said
    assert re.search(rf"{player.id} │ #1 +│ version of the task │ 1 +│ 2 ", said)
    assert re.search(rf"{player.id} │ #1 +│ near hidden +│ – +│ {shown['near']:.8g} ", said)
    assert re.search(rf"{player.id} │ #1 +│ worst shown +│ – +│ {worst:.8g} ", said)
    assert len(whole(player)) == seen
    assert "1 tests were changed" in harness("regrade", "two-files", "--apply")[1]
    assert "0 tests were changed, 1 stay" in harness("regrade", "two-files", "--apply")[1]

    # A server that runs takes it up; an agent sees what the rule shows, and nothing else.
    now = player.get()["results"][0]["metrics"]
    assert now == {"error": shown["error"], "worst": worst}
    [event] = whole(player)[seen:]
    assert (event["type"], event["task_version"]) == ("test_regraded", 2)
    assert event["metrics"] == {"fit": now, "near": {}}
    told = [player.get("/transcript"), json.dumps(player.get())]
    told += [harness("export", player.id, "--format", f, "--out", "-")[1] for f in EXPORTS]
    assert not [text for text in told if f"{final}"[:10] in text]
    sealed = stored(tmp_path, player.id)[1][-1].private
    assert sealed is not None
    assert sealed["values"]["fit"]["final"] == {"error": final}
    assert sealed["values"]["near"]["metrics"] == {"near": shown["near"]}

    # With the new rule pages, boards and prompts go by it, and so does an open session.
    client.__exit__(None, None, None)
    again = start_server(tasks_dir=tasks)
    board = again.get("/v1/leaderboards/two-files").json()
    [group, older] = board["groups"]
    assert (group["task_version"], older["task_version"]) == (2, 1)
    assert [row["session"] for row in older["rows"]] == [gone.id]
    [row] = group["rows"]
    assert (row["kind"], row["mean"]) == ("unedited", final)
    assert {(v["name"], v["hidden"]) for v in row["metrics"]} == {
        ("error", False), ("worst", False), ("near", True),
    }  # fmt: skip
    said = words(page(people(again), f"/sessions/{player.id}"))
    assert "Test #1 was graded by the rule of the task's version 2" in said
    tests = words(page(people(again), f"/sessions/{player.id}/tests"))
    assert "task_version 2" in tests
    prompt = new_player(again).created["prompt"]
    assert re.search(r"The unedited files, measured here: .*worst=", prompt)
    assert "near=" not in prompt
    status = Player(again, player.id, player.token, {}).text("status")
    assert "worst=" in status
    assert "near=" not in status


def test_a_task_that_is_not_there_is_one_line(
    tasks: Path, harness: Callable[..., tuple[int, str]]
) -> None:
    code, said = harness("regrade", "nothing")
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("ERROR: no task 'nothing'; tasks: two-files")
