"""The attack suite: no edit spoils a score, no honest edit is refused.

A case that a check refuses is played through the whole path; any other one without the checks
(short.py), whose rules on the text mostly refuse it too, so that what stands behind them is tried.
`make test` plays the quickest cases, `make attacks` all of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from attacks import short
from attacks.cases import CASES, QUICK
from attacks.driver import Arena
from attacks.forms import Case, Edit, Refused
from attacks.honest import HONEST
from conftest import KEY
from fastapi.testclient import TestClient
from prepared import shakespeare_dir

import server
from harness.settings import Settings
from harness.task import Role, load_task

ROOT = Path(__file__).parents[1]
AHEAD = 2
"""So many cases are under way while one is waited for: their checks and stages overlap."""


@contextmanager
def opened(tmp: pytest.TempPathFactory, tasks: Path) -> Iterator[Arena]:
    state, out = tmp.mktemp("state"), tmp.mktemp("outside")
    data = shakespeare_dir().parent
    settings = Settings(state_dir=state, tasks_dir=tasks, data_dir=data, slots=2, api_key=KEY)
    task = load_task(tasks / "llm-pretrain-residual")
    with TestClient(server.build(settings)) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        arena = Arena(client, task, state, data, out)
        try:
            yield arena
        finally:
            arena.close()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with opened(tmp_path_factory, ROOT / "tasks") as arena:
        yield arena


@pytest.fixture(scope="module")
def shortened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with opened(tmp_path_factory, short.make(ROOT, tmp_path_factory.mktemp("task"))) as arena:
        yield arena


@pytest.fixture(scope="module")
def unread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    tasks = short.make(ROOT, tmp_path_factory.mktemp("task"), contract=True)
    with opened(tmp_path_factory, tasks) as arena:
        yield arena


@dataclass
class Table:
    """Where each case is played."""

    request: pytest.FixtureRequest

    def arena(self, item: pytest.Item, case: Case | str) -> Arena:
        """`shortened` if only what stands behind the checks is asked for."""
        short = not by_check(case) if isinstance(case, Case) else _short(item)
        name = "shortened" if short else "full"
        if isinstance(case, Case) and case.unread:
            name = "unread"
        found: Arena = self.request.getfixturevalue(name)
        return found

    def begin(self) -> None:
        """Begins this case and those that come next: both cores have work."""
        items = self.request.session.items
        for item in items[items.index(self.request.node) :][: 1 + AHEAD]:
            callspec = getattr(item, "callspec", None)
            params = callspec.params if callspec else {}
            if (case := params.get("case")) is not None:
                self.arena(item, case).begin(case.name, case.edit)
            elif (name := params.get("name")) is not None:
                self.arena(item, name).begin_twin(name)

    def judge(self, case: Case) -> str:
        self.begin()
        return self.arena(self.request.node, case).judge(case)


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    return Table(request)


def _short(item: pytest.Item) -> bool:
    return bool(item.config.getoption("--short-attacks"))


def by_check(case: Case) -> bool:
    """Whether a check may refuse it, which must then be the real one."""
    return any(isinstance(outcome, Refused) for outcome in case.expect)


def name_of(case: Case) -> str:
    return f"{case.row or 'new'}-{case.group}-{case.name}".replace(" ", "-")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", [c for c in CASES if c.name in QUICK], ids=name_of)
def test_the_quickest_attacks(case: Case, table: Table) -> None:
    assert table.judge(case) == ""


@pytest.mark.attacks
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_every_attack(case: Case, table: Table) -> None:
    assert table.judge(case) == ""


@pytest.mark.attacks
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("name", HONEST)
def test_honest_edits_are_scored(name: str, table: Table, request: pytest.FixtureRequest) -> None:
    table.begin()
    arena = table.arena(request.node, name)
    played = arena.twin(name)
    arena.note(name, None, played, played.kind if played.kind == "scored" else None)
    assert played.kind == "scored", f"{played.rules} {played.reason}"
    assert played.troubles == []


@pytest.mark.attacks
@pytest.mark.timeout(700)
def test_the_luckiest_of_three_is_ranked_on_what_nobody_saw(full: Arena) -> None:
    """Three tests that differ in chance: each has its number on `final`, and none is shown."""
    for seed in (1, 2, 3):
        edit: Edit = {
            "residual-parameters": f"        torch.manual_seed({seed})\n"
            "        self.apply(self._init_weights)\n"
        }
        played = full.play(f"luck {seed}", edit)
        assert played.kind == "scored"
        final = [name for name in played.numbers if ".final." in name]
        assert final
        assert played.troubles == []  # a hidden number in an answer would be one


# ---- From inside ---------------------------------------------------------------------------------

SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libexec", "/etc/ld.so.cache",
    "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/hosts", "/harness",
    sys.base_prefix,
)  # fmt: skip
"""What may be readable."""
DEVICES = {
    "core",
    "full",
    "null",
    "ptmx",
    "random",
    "stderr",
    "stdin",
    "stdout",
    "tty",
    "urandom",
    "zero",
}


@pytest.mark.parametrize("role", ["run", "serve"])
def test_probes_from_inside_reach_nothing(role: Role, full: Arena) -> None:
    """Network, files, processes, environment, devices, rights, as trained or scored code has it."""
    hidden = [
        str(full.canary),
        str(full.state),
        str(full.data),
        str(ROOT),
        "/root/.ssh",
        "/home",
        "/etc/passwd",
        "/sys",
    ]
    found = full.probe(
        role, "--port", full.words["@PORT@"], "--pid", full.words["@PID@"],
        "--allowed", *SYSTEM, "--hidden", *hidden,
    )  # fmt: skip
    network, files = found["network"], found["files"]
    assert network["interfaces"] == ["lo"]
    for name in ("connected", "routes", "resolved", "abstract"):
        assert network[name] == [], name
    assert "raw" not in network
    assert files["count"] > 1000
    assert files["outside"] == files["hidden"] == []
    assert full.heard == []
    assert found["processes"]["visible"] <= 4
    assert found["processes"]["killed"] is False
    assert full.process.poll() is None
    for word in (str(full.state), str(full.data), str(ROOT)):
        assert word not in str(found["environment"])
        assert word not in str(found["proc"])
    assert {name.rpartition("/")[2] for name in found["devices"]["names"]} <= DEVICES
    assert found["devices"]["made"] == found["namespaces"] == []
    rights = found["rights"]
    assert rights["no_new_privs"]
    assert rights["uid"] == rights["gid"] == 65534
    assert {int(rights[name], 16) for name in ("cap_eff", "cap_prm", "cap_bnd")} == {0}
    own = {"/harness/out", "/harness/cache"} if role == "run" else set()
    assert set(found["writable"]) == own | {"/tmp", "/dev/shm"}


@pytest.mark.attacks
@pytest.mark.parametrize("role", ["run", "serve"])
def test_no_mounted_file_holds_held_out_text(role: Role, full: Arena) -> None:
    """Every readable file, searched for tokens and items of every evaluation."""
    folder, hexes, texts = full.data / "shakespeare", [], []
    for name in ("score/development", "score/final", "run/train", "run/monitor"):
        content = (folder / f"{name}-00000.bin").read_bytes()
        hexes += [content[place : place + 48].hex() for place in (0, len(content) // 4 * 2)]
    for path in (folder / "score/verse.jsonl", folder / "score/lastword.jsonl"):
        lines = path.read_text().splitlines()
        for line in (lines[0], lines[-1]):
            tokens = json.loads(line)["tokens"][:24]
            texts.append(", ".join(map(str, tokens)))
            hexes.append(np.array(tokens, dtype=np.uint16).tobytes().hex())
    for path in sorted((ROOT / "tasks" / "llm-pretrain-residual" / "evals").glob("*.jsonl")):
        texts.append(path.read_text().splitlines()[3])
    found = full.probe(role, "--text", *texts, "--hex", *hexes)
    assert found["files"]["count"] > 1000
    # The probe's own list of what to look for: it is found where it is.
    assert found["files"]["text"] == ["/harness/files/asked"]


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
