"""The attack suite: no edit spoils a score, no honest edit is refused.

`make test` plays one case for each defence, `make attacks` all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks.cases import CASES, QUICK
from attacks.driver import Arena
from attacks.forms import Case, Edit, Refused
from attacks.honest import HONEST
from fastapi.testclient import TestClient
from prepared import shakespeare_dir

import server
from harness.settings import Settings
from harness.task import load_task

ROOT = Path(__file__).parents[1]
AHEAD = 2
"""So many cases are under way while one is waited for: their checks and stages overlap."""


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    state, out = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("outside")
    data = shakespeare_dir().parent
    settings = Settings(state_dir=state, tasks_dir=ROOT / "tasks", data_dir=data, slots=2)
    task = load_task(ROOT / "tasks" / "llm-pretrain-residual")
    with TestClient(server.build(settings)) as client:
        arena = Arena(client, task, state, data, out)
        try:
            yield arena
        finally:
            arena.close()


def play_ahead(request: pytest.FixtureRequest, arena: Arena) -> None:
    """Begins the cases that come next, so that both cores have work."""
    items = request.session.items
    behind = items[items.index(request.node) + 1 :]
    params = (getattr(item, "callspec", None) for item in behind)
    following = (p.params["case"] for p in params if p is not None and "case" in p.params)
    for case in itertools.islice(following, AHEAD):
        if isinstance(case, Case):
            arena.begin(case.name, case.edit)


def name_of(case: Case) -> str:
    return f"{case.row or 'new'}-{case.group}-{case.name}".replace(" ", "-")


@pytest.mark.parametrize("case", [c for c in CASES if c.name in QUICK], ids=name_of)
def test_one_attack_for_each_defence(
    case: Case, arena: Arena, request: pytest.FixtureRequest
) -> None:
    arena.begin(case.name, case.edit)
    play_ahead(request, arena)
    assert arena.judge(case) == ""


@pytest.mark.attacks
@pytest.mark.timeout(700)
@pytest.mark.parametrize("case", [c for c in CASES if c.name not in QUICK], ids=name_of)
def test_every_other_attack(case: Case, arena: Arena, request: pytest.FixtureRequest) -> None:
    arena.begin(case.name, case.edit)
    play_ahead(request, arena)
    assert arena.judge(case) == ""


@pytest.mark.attacks
@pytest.mark.parametrize("name", HONEST)
def test_honest_edits_are_scored(name: str, arena: Arena) -> None:
    played = arena.twin(name)
    assert played.kind == "scored", f"{played.rules} {played.reason}"
    assert played.troubles == []


@pytest.mark.attacks
@pytest.mark.timeout(700)
def test_the_luckiest_of_three_is_ranked_on_what_nobody_saw(arena: Arena) -> None:
    """Three tests that differ in chance: each has its number on `final`, and none is shown."""
    for seed in (1, 2, 3):
        edit: Edit = {
            "residual-parameters": f"        torch.manual_seed({seed})\n"
            "        self.apply(self._init_weights)\n"
        }
        played = arena.play(f"luck {seed}", edit)
        assert played.kind == "scored"
        final = [name for name in played.numbers if ".final." in name]
        assert final
        assert played.troubles == []  # a hidden number in an answer would be one


def test_the_suite_covers_every_row_and_more() -> None:
    assert {case.row for case in CASES} >= set(range(1, 26))
    assert sum(case.row is None for case in CASES) >= 20
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert set(names) >= QUICK
    assert len(HONEST) >= 16


def test_what_the_text_gives_away_is_refused_by_the_text() -> None:
    """Each refusal from the text is known without running anything."""
    texts = [c for c in CASES if any(isinstance(o, Refused) and o.at == "text" for o in c.expect)]
    assert len(texts) >= 25
