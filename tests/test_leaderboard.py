"""Leaderboards out of a real journal, in the API, on the terminal."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import Journal, rate, windows
from conftest import TOY_TASKS, new_player
from fastapi.testclient import TestClient
from sqlalchemy import text
from typer.testing import CliRunner

from harness.board import GroupView, LeaderboardView, RowView
from harness.cli import app
from harness.entries import unplayed
from harness.events import TestRegraded, seal
from harness.leaderboard_forms import as_csv, markdown
from harness.measured import measured
from harness.standings import Standings
from harness.store import Store
from harness.task import Task, load_task

FASTER = [rate(0.07)]
HOSTILE = "=1+1|<b>\x1b[31m\u202e*x*"


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(TOY_TASKS / "two_files")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'journal.sqlite3'}")
    yield store
    store.close()


@pytest.fixture
def journal(store: Store, task: Task) -> Journal:
    return Journal(store, task)


def board_of(journal: Journal) -> LeaderboardView:
    return Standings(journal.store, {journal.task.name: journal.task}).board(journal.task.name)


def group_of(journal: Journal) -> GroupView:
    [group] = board_of(journal).groups
    return group


def row_of(journal: Journal, session: str | None = None, name: str = "") -> RowView:
    [row] = [
        row
        for row in group_of(journal).rows
        if (row.session == session if session else row.name == name)
    ]
    return row


def house(journal: Journal, unedited: float = 0.30, best: float = 0.20) -> None:
    """Three seeds each of the unedited files and of the one baseline, a little apart."""
    for name, value in (("", unedited), ("falling_rate", best)):
        journal.baseline(name, [(s, value + d) for s, d in ((42, 0.0), (7, 0.002), (8, -0.002))])


# ── what a row rests on ───────────────────────────────────────────────────────────────────────


def test_an_empty_journal_has_no_groups_but_what_others_published(journal: Journal) -> None:
    board = board_of(journal)
    assert board.groups == []
    assert [(row.name, row.metrics) for row in board.published] == [("by hand", {"error": 0.1})]


def test_a_baseline_and_the_unedited_files_have_means_over_seeds(journal: Journal) -> None:
    house(journal)
    group = group_of(journal)
    assert [(row.kind, row.name, row.rank) for row in group.rows] == [
        ("baseline", "falling rate", 1),
        ("unedited", "unedited files", 2),
    ]
    best, unedited = group.rows
    assert best.mean == pytest.approx(0.20)
    assert best.standard_error == pytest.approx(0.002 / 3**0.5)
    assert best.seeds == [7, 8, 42]
    assert (best.verdict, best.score, unedited.verdict, unedited.score) == (
        "better", 1.0, "unedited", 0.0,
    )  # fmt: skip
    assert (group.scale.baseline, group.scale.verdict, group.missing) == (
        "falling rate", "better", [],
    )  # fmt: skip
    assert group.current
    assert group.notes == []


def test_a_submission_takes_its_test_and_its_confirmations_alone(journal: Journal) -> None:
    house(journal)
    mine = journal.play("ada", FASTER, [(42, 0.25), (42, 0.99)], submit=1)
    other = journal.play("bob", FASTER, [(42, 0.26)])
    row = row_of(journal, mine)
    assert (row.mean, row.seeds, row.verdict, row.standing) == (
        0.25, [42], "one seed", "unconfirmed",
    )  # fmt: skip
    assert row.score == pytest.approx(0.5)
    journal.confirm(mine, FASTER, [(101, 0.252), (102, 0.251)])
    row = row_of(journal, mine)
    assert row.seeds == [42, 101, 102]
    assert row.mean == pytest.approx(0.251)
    assert (row.verdict, row.standing, row.fresh_seeds) == ("better", "confirmed", 2)
    assert {run.purpose for run in row.runs} == {"agent", "confirmation"}
    assert row_of(journal, other).standing == "unconfirmed"
    journal.confirm(mine, [rate(0.08)], [(103, 0.9)])  # other code: its seed was not played
    row = row_of(journal, mine)
    assert (row.seeds, row.missing, row.standing) == ([42, 101, 102], 1, "unconfirmed")


def test_a_confirmation_that_fails_confirms_nothing(journal: Journal) -> None:
    house(journal)
    mine = journal.play("ada", FASTER, [(42, 0.25)])
    journal.confirm(mine, FASTER, [(101, 0.252), (102, 0.251), (103, None)])
    row = row_of(journal, mine)
    assert (row.standing, row.failed, row.seeds) == ("unconfirmed", 1, [42, 101, 102])
    # Those that are left may be the lucky ones.
    assert row.verdict == "tests failed"
    assert row_of(journal, name="falling rate").verdict == "better"


def test_seeds_that_were_given_and_not_played_confirm_nothing(journal: Journal) -> None:
    house(journal)
    mine = journal.play("ada", FASTER, [(42, 0.25)])
    journal.confirm(mine, FASTER, [(101, 0.252), (102, 0.251)], unplayed=(103, 104))
    row = row_of(journal, mine)
    assert (row.standing, row.missing, row.failed) == ("unconfirmed", 2, 0)
    outcomes = Standings(journal.store, {journal.task.name: journal.task}).outcomes("two-files")
    assert unplayed(outcomes, mine) == {103, 104}
    journal.confirm(mine, FASTER, [(103, 0.25)], unplayed=(104,))
    assert row_of(journal, mine).missing == 1
    journal.confirm(mine, FASTER, [(104, 0.25)])
    row = row_of(journal, mine)
    assert (row.standing, row.missing, row.verdict) == ("confirmed", 0, "better")


def test_confirmations_of_what_was_disqualified_make_no_other_row(
    journal: Journal, task: Task
) -> None:
    house(journal)
    same = task.baseline("falling_rate").edits
    mine = journal.play("ada", same, [(42, 0.01)])
    journal.confirm(mine, same, [(1001, 0.01), (1002, 0.011)])
    assert 1001 in row_of(journal, name="falling rate").seeds
    journal.review(mine, "disqualified", "copied")
    assert row_of(journal, name="falling rate").seeds == [7, 8, 42]


def test_no_confirmation_ranks_what_was_submitted_without_a_sandbox(journal: Journal) -> None:
    house(journal)
    mine = journal.play("ada", FASTER, [(42, 0.01)], told={"sandbox": "none"})
    journal.confirm(mine, FASTER, [(1, 0.2), (2, 0.21)])
    journal.confirm(mine, FASTER, [(3, 0.2), (4, 0.21)], told={"gpus": ["NVIDIA H100"]})
    rows = [row for group in board_of(journal).groups for row in group.rows if row.session == mine]
    assert [(row.unranked, row.rank) for row in rows] == [("ran without a sandbox", None)] * 2
    assert [row.mean for row in rows] == [pytest.approx(0.205)] * 2


def test_the_unedited_code_has_no_rank_where_it_was_not_measured(journal: Journal) -> None:
    mine = journal.play("ada", [rate("0.05  # the same")], [(42, 0.01)])
    other = journal.play("bob", FASTER, [(42, 0.2)])
    row = row_of(journal, mine)
    assert (row.rank, row.score) == (None, 0.0)
    assert (
        row.unranked == "its code is that of the unedited files, which this group has no result of"
    )
    assert row_of(journal, other).rank == 1


def test_an_older_versions_rows_are_by_its_own_code(journal: Journal, task: Task) -> None:
    old: dict[str, Any] = {"version": 7}
    plain = [(42, 0.30), (7, 0.302), (8, 0.298)]
    journal.baseline("", plain, **old)
    journal.play(
        "harness", [rate(0.5)], [(42, 0.29), (7, 0.291)],
        submit=None, ended=True, purpose="baseline", of="falling_rate", **old,
    )  # fmt: skip
    # What a session says that it plays, and does not.
    for of in ("", "falling_rate"):
        journal.play(
            "x", [rate(5.0)] if of == "" else [], [(99, 0.9)],
            submit=None, ended=True, purpose="baseline", of=of, **old,
        )  # fmt: skip
    # Today's baseline was an idea of an agent then.
    mine = journal.play("ada", task.baseline("falling_rate").edits, [(42, 0.10)], **old)
    row = row_of(journal, mine)
    assert (row.same_as, row.nearest) == (None, "")
    assert row_of(journal, name="falling rate").mean == pytest.approx(0.2905)
    unedited = row_of(journal, name="unedited files")
    assert unedited.seeds == [7, 8, 42, 99]  # the last one is the unedited files by their hash
    assert unedited.mean == pytest.approx((0.30 + 0.302 + 0.298 + 0.9) / 4)


@pytest.mark.parametrize("value", [1e200, 1.7e308])
def test_a_value_that_nothing_can_be_reckoned_with_is_no_score(
    journal: Journal, value: float
) -> None:
    house(journal)
    mine = journal.play("ada", FASTER, [(42, value)])
    journal.confirm(mine, FASTER, [(1, value), (2, 0.3)])
    row = row_of(journal, mine)
    assert (row.failed, row.seeds, row.standing) == (2, [2], "unconfirmed")


@pytest.mark.parametrize(
    ("was", "now"), [('"start_line":3', '"start_line":1'), ('"submitted"', '"submitted_later"')]
)
def test_a_journal_that_cannot_be_read_keeps_nobody_from_the_others(
    journal: Journal, was: str, now: str
) -> None:
    house(journal)
    broken = journal.play("ada", FASTER, [(42, 0.2)])
    with journal.store.engine.begin() as connection:
        connection.execute(
            text("UPDATE events SET body = replace(body, :was, :now) WHERE session_id = :id"),
            {"was": was, "now": now, "id": broken},
        )
    assert [row.kind for row in group_of(journal).rows] == ["baseline", "unedited"]


def test_a_session_without_an_edit_scores_0_whatever_its_luck(journal: Journal) -> None:
    house(journal)
    lucky = journal.play("luck", [], [(43, 0.01)])
    worded = journal.play("words", [rate("0.05  # faster than light")], [(43, 0.01)])
    for session in (lucky, worded):
        row = row_of(journal, session)
        assert (row.score, row.verdict, row.same_as, row.difference) == (0.0, "unedited", "", None)
        assert row.mean == 0.01
    # It stands where the unedited files do, and has moved their mean as one seed of four.
    assert row_of(journal, lucky).rank == row_of(journal, worded).rank
    assert row_of(journal, name="unedited files").seeds == [7, 8, 42, 43]
    assert row_of(journal, name="falling rate").score == 1.0


def test_a_baseline_in_other_clothes_takes_its_score(journal: Journal, task: Task) -> None:
    house(journal)
    edits = [*task.baseline("falling_rate").edits, rate("(0.1)  # mine")]
    mine = journal.play("copy", edits, [(42, 0.05)])
    row, baseline = row_of(journal, mine), row_of(journal, name="falling rate")
    assert (row.same_as, row.distance, row.score, row.verdict) == ("falling_rate", 0, 1, "better")
    assert row.difference == baseline.difference
    better = journal.play("own", [rate(0.2)], [(42, 0.15)])
    assert row_of(journal, better).score == pytest.approx(1.5)
    assert row_of(journal, better).rank == 1
    assert row_of(journal, mine).rank == 2


def test_without_a_baseline_that_is_better_there_is_no_score(journal: Journal) -> None:
    house(journal, unedited=0.2, best=0.3)
    mine = journal.play("ada", FASTER, [(42, 0.1)])
    idle = journal.play("idle", [], [(42, 0.2)])
    assert row_of(journal, mine).score is None
    assert row_of(journal, idle).score == 0.0
    assert "No baseline is better than the unedited files here" in group_of(journal).notes[0]


def test_a_verdict_uses_windows_and_seeds(journal: Journal) -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(0, 0.1, 32)

    def tests(value: float, seeds: range) -> list[Any]:
        return [(seed, windows(value + rng.normal(0, 0.001), rng, base)) for seed in seeds]

    journal.baseline("", tests(0.300, range(3)))
    mine = journal.play("ada", FASTER, tests(0.280, range(42, 43)))
    journal.confirm(mine, FASTER, tests(0.280, range(101, 103)))
    row = row_of(journal, mine)
    assert row.verdict == "better"
    found = row.difference
    assert found is not None
    assert found.windows is not None
    assert found.seeds is not None
    assert found.both is not None
    assert found.both.standard_error**2 == pytest.approx(
        found.windows.standard_error**2 + found.seeds.standard_error**2
    )
    assert found.both.low < found.value < found.both.high < 0


def test_other_hardware_data_versions_and_locked_text_are_ranked_apart(journal: Journal) -> None:
    house(journal)
    elsewhere: list[dict[str, Any]] = [
        {"told": {"gpus": ["NVIDIA H100"]}},
        {"told": {"gpus": ["NVIDIA H100", "NVIDIA H100"]}},
        {"told": {"data": {"name": "points", "manifest_sha256": "cd" * 32}}},
        {"told": {"torch": "2.11.0"}},
        {"version": 2},
        {"locked": "1" * 64},
    ]
    for more in elsewhere:
        journal.play("ada", FASTER, [(42, 0.25)], **more)
    near = journal.play("bob", FASTER, [(42, 0.25)], told={"torch": "2.13.1", "cores": 64})
    groups = board_of(journal).groups
    assert len(groups) == len(elsewhere) + 1
    assert [len(g.rows) for g in groups if any(r.session == near for r in g.rows)] == [3]
    alone = [g for g in groups if len(g.rows) == 1]
    assert all(g.rows[0].verdict is None and g.rows[0].score is None for g in alone)
    assert {g.hardware for g in groups} == {"CPU x86_64", "1 x NVIDIA H100", "2 x NVIDIA H100"}
    assert all("were not measured in this group" in g.notes[0] for g in alone)


def test_a_disqualified_session_is_seen_and_not_ranked(journal: Journal) -> None:
    house(journal)
    mine = journal.play("ada", FASTER, [(42, 0.01)])
    journal.review(mine, "disqualified", "memorised data", "a table of the answers")
    row = row_of(journal, mine)
    assert (row.standing, row.rank, row.unranked) == (
        "unranked", None, "disqualified: memorised data",
    )  # fmt: skip
    assert row.review is not None
    assert row.review.note == "a table of the answers"
    journal.review(mine, "suspect", "odd")  # the latest counts
    assert (row_of(journal, mine).rank, row_of(journal, mine).standing) == (1, "unconfirmed")


def test_what_ran_without_a_sandbox_is_not_ranked(journal: Journal) -> None:
    house(journal)
    mine = journal.play("ada", FASTER, [(42, 0.01)], told={"sandbox": "none"})
    journal.baseline("", [(9, 0.01)], told={"sandbox": "none"})
    assert row_of(journal, mine).unranked == "ran without a sandbox"
    assert 9 not in row_of(journal, name="unedited files").seeds


def test_a_regrade_moves_a_result_to_its_new_version(journal: Journal, task: Task) -> None:
    house(journal)
    mine = journal.play("ada", FASTER, [(42, 0.25)], version=7)
    private, digest = seal({"fit": {"final": {"error": 0.125}, "metrics": {"worst": 1.0}}})
    regraded = TestRegraded(
        number=1, attempt=1, task_version=task.version, scored=True,
        metrics={"fit": {"error": 0.126}}, private=private, private_digest=digest,
    )  # fmt: skip
    assert len(board_of(journal).groups) == 2
    journal.add(mine, regraded)
    row = row_of(journal, mine)
    assert row.mean == 0.125
    assert {value.name: value.split for value in row.metrics} == {
        "error": "final", "worst": "development",
    }  # fmt: skip
    journal.add(mine, regraded.model_copy(update={"scored": False}))
    assert row_of(journal, mine).unranked == "no score on the final split"


def test_cost_stands_beside_the_result(journal: Journal) -> None:
    curve = [{"step": n, "error": 1.0 - 0.1 * np.log(n)} for n in range(1, 9)]
    gpus = {"gpus": ["NVIDIA H100"], "runs": {"fit-toy": {"tokens_per_s": 100.0}}}
    journal.baseline("", [(1, 0.3), (2, 0.31)], told=gpus, curve=curve, seconds=3600)
    slow = {"gpus": ["NVIDIA H100"], "runs": {"fit-toy": {"tokens_per_s": 50.0}}}
    audit = {"cost": {"numbers": 1100, "unedited_numbers": 1000, "flops_per_token": None}}
    tests: list[Any] = [(42, 0.25), (42, 0.26)]
    mine = journal.play("ada", FASTER, tests, told=slow, seconds=7200, audit=audit)
    journal.play("ada", FASTER, [], ended=True, told=slow)
    journal.play("ada", FASTER, [(42, 0.4)], by="end", told=slow)
    journal.play("ada", FASTER, [], told=slow)
    journal.play("bob", FASTER, [], told=slow)
    cost = row_of(journal, mine).cost
    assert (cost.hours, cost.spent_hours, cost.parameters_added) == (2.0, 4.0, 100)
    assert (cost.time_ratio, cost.step_time_ratio) == (2.0, 2.0)
    assert cost.unedited_at_equal_compute == pytest.approx(0.305 - 0.1 * np.log(2))
    assert (cost.tests_used, cost.tests_allowed) == (2, 3)
    assert (cost.sessions_started, cost.sessions_open, cost.sessions_abandoned) == (4, 1, 2)
    # The toy's stages hold no GPU, though the run was given one.
    assert (cost.gpu_hours, cost.spent_gpu_hours) == (0.0, 0.0)


def test_prompts_tell_means_over_seeds_of_the_newest_hardware(journal: Journal, task: Task) -> None:
    journal.baseline("", [(1, 0.9)], told={"gpus": ["NVIDIA H100"]})
    house(journal)
    journal.play("ada", FASTER, [(42, 0.1)])
    found = measured(journal.store, task, "toy", "0" * 64)
    assert {name: mean.seeds for name, mean in found.items()} == {"": 3, "falling_rate": 3}
    assert found[""].metrics == {"error": pytest.approx(0.301)}
    assert measured(journal.store, task, "toy", "1" * 64) == {}


# ── keeping up ────────────────────────────────────────────────────────────────────────────────


def test_what_has_not_changed_is_not_worked_out_again(journal: Journal, task: Task) -> None:
    house(journal)
    played = [journal.play(f"agent {n}", [rate(0.06 + n)], [(42, 0.3 - n)]) for n in range(20)]
    standings = Standings(journal.store, {task.name: task})
    board = standings.board(task.name)
    assert standings.board(task.name) is board
    journal.review(played[3], "suspect")
    again = standings.board(task.name)
    assert [row.session for row in again.groups[0].rows if row.review] == [played[3]]
    began = time.process_time()
    for _ in range(20):
        standings.board(task.name)
    assert time.process_time() - began < 0.5


def test_a_broken_journal_keeps_nobody_from_the_others(
    journal: Journal, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    house(journal)
    broken = journal.play("ada", FASTER, [(42, 0.2)])
    with journal.store.engine.begin() as connection:
        connection.exec_driver_sql(
            f"DELETE FROM events WHERE session_id = '{broken}' AND type = 'test_queued'"
        )
    assert len(group_of(journal).rows) == 2
    assert f"session {broken} is left out" in caplog.text


# ── where people get it ───────────────────────────────────────────────────────────────────────


def test_a_server_ranks_what_it_ran(start_server: Callable[..., TestClient]) -> None:
    client = start_server()
    player = new_player(client, agent="ada")
    player.call("test", wait_s=50)
    player.call("edit", **rate(0.06))
    player.call("test", wait_s=50)
    player.call("submit", n=2)
    response = client.get("/v1/leaderboards/two-files")
    assert response.status_code == 200
    board = LeaderboardView.model_validate(response.json())
    [group] = board.groups
    assert [(row.kind, row.verdict) for row in group.rows].count(("submission", "one seed")) == 1
    edited = next(row for row in group.rows if row.verdict == "one seed")
    assert edited.difference is not None
    assert edited.difference.value < 0
    assert edited.runs[0].provenance["sandbox"].startswith("bubblewrap")
    assert group.hardware
    refused = client.get("/v1/leaderboards/two-files", headers=player.headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "key_needed")
    missing = client.get("/v1/leaderboards/none")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_task")
    assert client.get("/v1/leaderboards/two-files?profile=x").status_code == 404
    shown = client.get("/v1/leaderboards/two-files?profile=toy").json()
    assert shown == response.json()


def test_the_terminal_has_a_table_json_csv_and_markdown(
    tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(TOY_TASKS))
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "state").mkdir()
    store = Store(f"sqlite:///{tmp_path / 'state' / 'harness.sqlite3'}")
    journal = Journal(store, task)
    house(journal)
    journal.play(HOSTILE, FASTER, [(42, 0.25)])
    store.close()

    def run(*args: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["leaderboard", *args])
        return result.exit_code, result.output

    code, table = run("two-files")
    assert code == 0
    assert "0.200 ± 0.001, 3 seeds" in table
    assert "one seed" in table
    assert "by hand" in table
    assert "\x1b" not in table
    board = LeaderboardView.model_validate_json(run("two-files", "--json")[1])
    assert len(board.groups[0].rows) == 3
    [_, *rows] = csv.reader(io.StringIO(run("two-files", "--csv")[1]))
    assert len(rows) == 3
    assert not [cell for row in rows for cell in row if cell[:1] in ("=", "@") or "\x1b" in cell]
    text = run("two-files", "--markdown")[1]
    assert text == markdown(board, task)
    assert "| 1 | falling rate |" in text
    assert r"=1+1\|\<b\>\\x1b\[31m\\u202e\*x\*" in text
    assert run("two-files", "--json", "--csv")[0] == 2
    assert run("none")[0] == 2
    assert run("two-files", "--profile", "none")[0] == 2


def test_numbers_in_csv_are_whole(journal: Journal) -> None:
    house(journal)
    [head, *rows] = csv.reader(io.StringIO(as_csv(board_of(journal))))
    best = dict(zip(head, rows[0], strict=True))
    assert float(best["mean"]) == pytest.approx(0.2)
    assert (best["seeds"], best["verdict"], best["score"]) == ("7 8 42", "better", "1.0")
    assert json.loads(best["rank"]) == 1
