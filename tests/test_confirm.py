"""`harness confirm`: submissions trained again, with seeds that the server draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Harness, new_player, stored
from fastapi.testclient import TestClient

from harness.client import Client
from harness.events import TestFinished


def edit(filename: str, first: int, last: int, content: str) -> dict[str, Any]:
    return {
        "op": "replace", "filename": filename, "start_line": first, "end_line": last,
        "content": content,
    }  # fmt: skip


def test_a_submission_is_trained_again_as_it_was_tested(
    harness: Harness, live_url: str, tmp_path: Path
) -> None:
    with Client(live_url) as client:
        session = client.create_session("two-files", agent="ada")
        # Several regions, one grown and with an empty line at its end; an edit after the test.
        for args in (
            edit("line_rate.py", 3, 3, "FIRST_RATE = 0.06\nUNUSED = 1"),
            edit("line_rate.py", 10, 11, "def rate(step):\n    return FIRST_RATE\n\n"),
        ):
            assert session.call("edit", args).ok, args
        assert session.test(wait_s=50).data["scored"]
        assert session.call("edit", edit("line_rate.py", 3, 4, "FIRST_RATE = 0.5")).ok
        still_open = f"ERROR: session {session.id} is open: nothing is submitted yet\n"
        assert harness("confirm", session.id) == (2, still_open)
        assert harness("confirm", session.id, "--url", live_url) == (2, still_open)
        session.submit(1)
    code, said = harness("confirm", session.id, "--url", live_url)
    assert code == 0, said
    code, shown = harness("leaderboard", "two-files", "--json")
    [group] = json.loads(shown)["groups"]
    [row] = group["rows"]
    assert (row["session"], row["standing"], row["fresh_seeds"]) == (session.id, "confirmed", 2)
    runs = {run["seed"]: run for run in row["runs"]}
    assert len(runs) == 3
    assert sorted(run["purpose"] for run in runs.values()) == ["agent", *["confirmation"] * 2]
    assert len({run["provenance"]["files_digest"] for run in runs.values()}) == 1
    [name] = {run["session"] for run in runs.values()} - {session.id}
    header, events = stored(tmp_path, name)
    assert (header.purpose, header.of) == ("confirmation", session.id)
    seeds = [e.provenance["seed"] for e in events if isinstance(e, TestFinished)]
    assert tuple(seeds) == header.seeds
    assert all(f"{seed}" in said for seed in seeds)
    own = f"ERROR: session {name} is the harness's own: a confirmation\n"
    assert harness("confirm", name) == (2, own)


@pytest.mark.parametrize(
    ("confirmation", "said"),
    [
        ({"session": "nobody"}, "there is no session nobody"),
        ({"session": "{id}"}, "is open: nothing is submitted yet"),
        ({"session": "{vetted}"}, "is of vetted-line, profile toy: name these"),
    ],
)
def test_what_cannot_be_confirmed_is_one_line(
    client: TestClient, confirmation: dict[str, str], said: str
) -> None:
    ids = {"id": new_player(client).id, "vetted": new_player(client, task="vetted-line").id}
    of = confirmation["session"].format(**ids)
    body = {"task": "two-files", "profile": "toy", "confirmation": {"session": of}}
    response = client.post("/v1/sessions", json=body)
    assert response.status_code == 422
    assert said in response.json()["error"]["message"]
    both = body | {"baseline": {"name": "", "seeds": [1]}}
    assert "not both" in client.post("/v1/sessions", json=both).json()["error"]["message"]


def test_nobody_has_no_submission(harness: Harness, client: TestClient) -> None:
    code, said = harness("confirm", "nobody")
    assert (code, said) == (2, "ERROR: there is no session nobody in the database\n")


def test_a_confirmation_plays_first_what_another_left(
    harness: Harness, client: TestClient, tmp_path: Path
) -> None:
    player = new_player(client)
    player.call("test", wait_s=50)
    player.call("submit", n=1)
    body = {"task": "two-files", "profile": "toy"}

    def confirmation(seeds: int) -> tuple[str, list[int]]:
        asked = body | {"confirmation": {"session": player.id, "seeds": seeds}}
        name = client.post("/v1/sessions", json=asked).json()["id"]
        return name, list(stored(tmp_path, name)[0].seeds)

    first, given = confirmation(3)
    assert harness("end", first)[0] == 0
    _, again = confirmation(2)
    assert again == sorted(given)[:2]
    _, more = confirmation(5)
    assert more[:3] == sorted(given)
    assert len({*more, *given}) == 5
