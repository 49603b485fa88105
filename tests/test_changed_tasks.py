"""A task that is changed under its sessions: what they may still do, and what their results say."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from boards import rate
from conftest import TOY_TASKS, finished_test, new_player
from fastapi.testclient import TestClient


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TOY_TASKS, tmp_path / "tasks"))


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_session_tests_nothing_once_locked_text_has_changed(
    start_server: Callable[..., TestClient], tasks: Path, tmp_path: Path
) -> None:
    client = start_server(tasks_dir=tasks)
    player = new_player(client, agent="ada")
    player.call("edit", **rate(0.06))
    player.call("test", wait_s=50)
    client.__exit__(None, None, None)
    change(tasks / "two_files" / "loop.py", "STEPS = 10", "STEPS = 60")
    player.client = start_server(tasks_dir=tasks)
    player.call("edit", **rate(0.07))
    answer = player.call("test", wait_s=50)
    assert (answer["ok"], answer["error"]) == (False, "test_refused")
    assert answer["text"].startswith(
        "ERROR: Test not started, and not counted: the task's locked files are others than when "
        "this session began"
    )
    assert answer["budget"]["used"] == 1
    assert "locked files are others" in player.call("check")["text"]
    assert player.call("submit", n=1)["ok"]
    new = new_player(player.client, agent="bob")
    new.call("edit", **rate(0.06))
    assert new.call("test", wait_s=50)["data"]["scored"]
    old, now = (finished_test(tmp_path, each.id).provenance for each in (player, new))
    assert old["locked_digest"] != now["locked_digest"]


def test_a_result_is_of_the_version_that_its_test_was_queued_with(
    start_server: Callable[..., TestClient], tasks: Path, tmp_path: Path
) -> None:
    client = start_server(tasks_dir=tasks)
    player = new_player(client, agent="ada")
    slow = "import time\n\ntime.sleep(3)\nFIRST_RATE = 0.06"
    player.call("edit", **rate(0.06) | {"content": slow})
    player.call("test", wait_s=0)
    client.__exit__(None, None, None)
    change(tasks / "two_files" / "task.yaml", "version: 1", "version: 2")
    player.client = start_server(tasks_dir=tasks)
    deadline = time.monotonic() + 60
    while player.call("status", wait_s=10)["data"].get("state") != "finished":
        assert time.monotonic() < deadline
    assert finished_test(tmp_path, player.id).provenance["task_version"] == 1
    player.call("submit", n=1)
    groups = player.client.get("/v1/leaderboards/two-files").json()["groups"]
    assert [(group["task_version"], group["current"]) for group in groups] == [(1, False)]


@pytest.mark.parametrize("edited", [False, True])
def test_what_scoring_the_unedited_files_left_is_kept_and_added_to(
    start_server: Callable[..., TestClient], tasks: Path, tmp_path: Path, edited: bool
) -> None:
    """Scoring that asks otherwise than before leaves other files, and finds what it left itself."""
    script = tasks / "two_files" / "scripts" / "fit.sh"
    scores = '  score) exec python "$here/scoring.py" fit ;;\n'
    found: list[list[str]] = []
    for name in ("first", "second", "second"):
        client = start_server(tasks_dir=tasks)
        change(
            script,
            scores,
            f"""  score)
    mkdir -p "$HARNESS_OUT/reference/below"
    echo {len(found)} > "$HARNESS_OUT/reference/below/{name}"
    ls "${{HARNESS_UNEDITED:-/nowhere}}/below" > "$HARNESS_OUT/seen" 2> "$HARNESS_OUT/none" || :
    exec python "$here/scoring.py" fit ;;
""",
        )
        player = new_player(client, agent="ada")
        if edited:
            player.call("edit", **rate(0.06))
        assert player.call("test", wait_s=50)["data"]["scored"]
        [seen] = (tmp_path / "state/sessions" / player.id).rglob("fit-toy.score/seen")
        found.append(seen.read_text().split())
        client.__exit__(None, None, None)
        script.write_text((TOY_TASKS / "two_files" / "scripts" / "fit.sh").read_text())
    if edited:
        assert found == [[], [], []]
        return
    assert found == [[], ["first"], ["first", "second"]]
    [folder] = (tmp_path / "state/cache/unedited").glob("*fit*")
    assert {file.name: file.read_text() for file in (folder / "below").iterdir()} == {
        "first": "0\n", "second": "1\n",
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir() if "fit" not in path.name] == []
