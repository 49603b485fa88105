"""`harness baseline run`: real tests with seeds of their own, and a leaderboard over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY, Harness, stored
from fastapi.testclient import TestClient

from harness.events import TestFinished
from harness.jobs.plan import read_plan
from harness.store import Store
from harness.workspace import RunPaths


def test_baselines_are_tested_with_each_seed_and_ranked(harness: Harness, tmp_path: Path) -> None:
    code, output = harness("baseline", "run", "two-files", "--all", "--seeds", "7,8")
    assert code == 0, output
    assert "harness leaderboard two-files --profile toy" in output
    store = Store(f"sqlite:///{tmp_path / 'state' / 'harness.sqlite3'}")
    rows = store.list_sessions()
    store.close()
    found = {}
    for row in rows:
        header, events = stored(tmp_path, row.id)
        tests = [event for event in events if isinstance(event, TestFinished)]
        found[header.of] = (header.purpose, header.seeds, [t.provenance["seed"] for t in tests])
        assert row.closed
        runs = [tmp_path / "state/sessions" / row.id / f"runs/test-{n}.1" for n in (1, 2)]
        assert [read_plan(RunPaths(run)).env["HARNESS_SEED"] for run in runs] == ["7", "8"]
    expected = ("baseline", (7, 8), [7, 8])
    assert found == {"": expected, "falling_rate": expected}
    code, output = harness("leaderboard", "two-files", "--json")
    [group] = json.loads(output)["groups"]
    assert {row["name"] for row in group["rows"]} == {"unedited files", "falling rate"}
    assert all(len(row["seeds"]) == 2 for row in group["rows"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name baselines, or --all; there are: unedited, falling_rate"),
        (("nothing",), "no baseline 'nothing'; there are: unedited, falling_rate"),
        (("unedited", "--all"), "name baselines, or --all"),
        (("unedited", "--seeds", "1,x"), "--seeds '1,x': give whole numbers as 42,43,44"),
        (("unedited", "--seeds", "1,1"), "--seeds '1,1': each seed once"),
        (("unedited", "--profile", "huge"), "no profile 'huge'; profiles: toy"),
    ],
)
def test_a_mistake_is_one_clear_line(
    harness: Harness, arguments: tuple[str, ...], said: str
) -> None:
    code, output = harness("baseline", "run", "two-files", *arguments)
    assert code == 2
    assert said in output
    assert len(output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        ({"name": "nothing", "seeds": [1]}, "two-files has no baseline 'nothing'"),
        ({"name": "", "seeds": []}, "give from 1 to 100 seeds, each once"),
        ({"name": "", "seeds": [-1]}, "a seed is from 0 to 4294967295"),
    ],
)
def test_a_session_that_plays_nothing_is_refused(
    client: TestClient, baseline: dict[str, Any], said: str
) -> None:
    response = client.post("/v1/sessions", json={"task": "two-files", "baseline": baseline})
    assert response.status_code == 422
    assert said in response.json()["error"]["message"]
    assert KEY not in response.text
