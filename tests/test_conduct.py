"""What confined processes record of themselves, and what is made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY, TOY_TASKS, new_player
from fastapi.testclient import TestClient
from runs import around
from stories import edit, header, play, sealed
from test_pages import page, people, words

from harness.conduct import RECORD_BYTES, conduct
from harness.events import StageResult, TestFinished, TestQueued, seal
from harness.jobs.plan import Plan, make_plan
from harness.review import Section, review
from harness.story import Story, live_story
from harness.task import Task, find_tasks
from harness.workspace import RunPaths


class Step:
    """The step `run` of the toy task, without a sandbox and without its script."""

    def __init__(self, folder: Path) -> None:
        self.paths = RunPaths(folder / "run")
        self.task: Task = find_tasks(TOY_TASKS)["two-files"]
        self.plan: Plan = make_plan(
            self.task, "toy", 1, 1, around(self.paths, folder, sandbox=False)
        )
        for path in (self.paths.out, self.paths.tmp, self.paths.files):
            path.mkdir(parents=True)

    @property
    def record(self) -> Path:
        return self.paths.conduct("fit-toy", "run")

    def run(self, code: str) -> int:
        env = self.plan.env | self.plan.stages[0].steps[0].env
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=env, cwd=self.paths.files, check=False).returncode

    def found(self) -> dict[str, Any]:
        return conduct(self.task, self.plan, self.plan.stages[0], self.paths)["run"]


def said(found: dict[str, Any]) -> list[tuple[str, str, bool, int]]:
    return [(m["event"], m["what"], m["writes"], m["count"]) for m in found["matters"]]


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(tmp_path)


def test_what_a_process_does_is_known_though_it_is_killed(step: Step) -> None:
    code = """
import os, signal, socket, subprocess, sys
for name in ("/nowhere/a", "/nowhere/a", "/nowhere/b", "relative"):
    try: open(name)
    except OSError: pass
open(os.environ["HARNESS_OUT"] + "/model.bin", "wb").close()
open("left.txt", "w").close()
open("/dev/null").close()
import uuid, wave
subprocess.run([sys.executable, "-S", "-c", "pass"])
if (child := os.fork()) == 0:
    try: open("/nowhere/child")
    except OSError: pass
    os._exit(0)
os.waitpid(child, 0)
try: socket.create_connection(("203.0.113.1", 9), timeout=0.01)
except OSError: pass
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert step.run(code) == -9
    found = step.found()
    files = str(step.paths.files)
    assert said(found) == [
        ("os.fork", "", False, 1),
        ("subprocess.Popen", f"{sys.executable}: {sys.executable} -S -c pass", False, 1),
        ("socket.getaddrinfo", "203.0.113.1 9", False, 1),
        ("socket.connect", "203.0.113.1 9", False, 1),
        ("os.kill", "signal 9", False, 1),
        ("open", f"{files}/left.txt", True, 1),
        ("open", "/nowhere/a", False, 1),  # the second time was lost with the process
        ("open", "/nowhere/b", False, 1),
        ("open", "/nowhere/child", False, 1),
    ]
    assert found["expected"]["its output"] == 1
    assert found["expected"]["the files under test"] >= 1  # `relative`
    assert "interpreter and system libraries" in found["expected"]
    assert found["problem"] == ""


def test_a_record_is_small_and_its_counts_right_at_the_end(step: Step) -> None:
    code = """
import os
for n in range(3000):
    for name in ("/a-same", f"/nowhere/{n}", f"{os.environ['TMPDIR']}/{n}"):
        try: open(name)
        except OSError: pass
"""
    assert step.run(code) == 0
    found = step.found()
    assert ("open", "/a-same", False, 3000) in said(found)
    assert sum(count for _, what, _, count in said(found) if what == "") > 1900
    assert (len(found["matters"]), found["expected"]["temporary files"]) == (200, 3000)
    assert found["more"] > 700
    assert step.record.stat().st_size < 257 << 10


def test_no_code_is_ended_by_what_it_does_to_its_record(step: Step) -> None:
    code = """
import os, sys
open("/dev/null").close()
path = os.environ["HARNESS_OUT"] + "/conduct.fit-toy.jsonl"
os.remove(path)
os.mkdir(path)
open("/dev/null").close()
class Name(str):
    def __eq__(self, other): raise RuntimeError
    def __hash__(self): raise RuntimeError
open(Name("/dev/zero")).close()
sys.audit("open", object())
"""
    assert step.run(code) == 0
    assert step.found()["problem"].endswith("is not a regular file")


def line(**other: Any) -> str:
    whole = {"pid": 7, "event": "open", "what": "/x", "writes": False, "count": 1} | other
    return json.dumps(whole) + "\n"


@pytest.mark.parametrize(
    "content",
    [
        "no JSON\n", "[1]\n", '"text"\n', "[" * 5000 + "\n", line(event="exec"), line(what=1),
        line(what="x" * 300), line(count=-1), line(count=1e3), line(pid="7"), line(pid=True),
        line(writes=None), "\x00\n",
    ],
)  # fmt: skip
def test_lines_that_the_recorder_does_not_write_are_not_taken(step: Step, content: str) -> None:
    step.record.write_text(line() + content + line(pid=8, count=2))
    found = step.found()
    assert said(found) == [("open", "/x", False, 3)]
    assert found["problem"] == "1 of its lines are not as the recorder writes them"


@pytest.mark.parametrize("kind", ["link", "pipe", "large"])
def test_a_record_is_read_only_if_it_is_a_small_regular_file(step: Step, kind: str) -> None:
    if kind == "link":
        step.record.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(step.record)
    else:
        step.record.write_text(" " * (RECORD_BYTES + 1))
    assert step.found()["matters"] == []
    assert step.found()["problem"]


# ── on the page ───────────────────────────────────────────────────────────────────────────────

PEEK = {
    "op": "insert",
    "filename": "line_rate.py",
    "after_line": 5,
    "content": "try:\n    open('/etc/sha' + 'dow<b>')\nexcept OSError:\n    pass",
}


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
def test_people_see_what_a_test_opened_and_its_agent_does_not(
    start_server: Callable[..., TestClient], sandbox: str
) -> None:
    client = start_server(sandbox=sandbox)
    player = new_player(client)
    player.call("edit", **PEEK)
    answer = player.text("test", wait_s=50)
    assert "TEST_METRICS" in answer
    html = page(people(client), f"/sessions/{player.id}/review")
    assert "Test #1, fit-toy run opened /etc/shadow<b>" in words(html)
    assert "Test #1, fit-toy run: to be expected" in words(html)
    assert "dow<b>" not in html
    told = player.get("/transcript") + answer + player.text("status") + json.dumps(player.get())
    assert "/etc/shadow" not in told
    assert "to be expected" not in told
    owner = {"Authorization": f"Bearer {KEY}"}
    for address in ("transcript", "tests/1"):
        answer = client.get(f"/v1/sessions/{player.id}/{address}", headers=owner).text
        assert "/etc/shadow" not in answer


AUDIT = {
    "samples": {
        "uniform": {"mean": -1e-4, "mean_limit": 2e-4, "beyond": 0, "allowed": 2},
        "highest": {"beyond": 3, "allowed": 2, "largest": 0.5},
    },
    "seed": 5,
    "cost": {"numbers": 200, "unedited_numbers": 100},
}


def story_with(hidden: dict[str, Any]) -> Story:
    head = header()
    private, digest = seal({"fit": hidden})
    stage = StageResult(name="fit", label="fit-toy", script="fit.sh", state="done")
    events: list[Any] = [
        *play(head, [edit(5, 5, "    return 2 * x")]),
        TestQueued(number=1, attempt=1, files_digest="", seed=1),
        TestFinished(number=1, attempt=1, scored=True, stages=(stage,), private=private,
                     private_digest=digest),
    ]  # fmt: skip
    return live_story(head, sealed(head, events))


def section(sections: tuple[Section, ...], title: str) -> Section:
    return next(s for s in sections if s.title == title)


def test_audits_are_told_by_how_close_they_came_to_their_limits() -> None:
    sections = review(story_with({"audit": AUDIT}))
    audits = section(sections, "Audits")
    assert [(m.margin.measure, m.margin.share) for m in audits.measures] == [
        ("highest, beyond", 1.5), ("uniform, mean", 0.5), ("uniform, beyond", 0.0),
    ]  # fmt: skip
    assert audits.summary == (
        "3 measures of 1 audited stage have a limit; the closest used 150% of it."
    )
    assert ("samples.highest.largest", "0.5") in audits.facts[0].rows
    told = [matter.text for matter in section(sections, "Compute").matters]
    assert "Test #1, fit-toy: numbers 200, 2.00 times the unedited file's" in told


def test_what_the_unedited_files_do_too_is_folded() -> None:
    def doing(*what: str) -> dict[str, Any]:
        entries = [
            {"event": "subprocess.Popen", "what": w, "writes": False, "count": 2} for w in what
        ]
        return {"conduct": {"run": {"matters": entries, "expected": {"packages": 9}, "more": 0}}}

    unedited = story_with(doing("/bin/cc: cc a.c")).results[0]
    found = section(
        review(story_with(doing("/bin/cc: cc b.c", "/bin/ls: ls")), unedited), "Processes and paths"
    )
    assert [(m.text, m.detail) for m in found.matters] == [
        ("Test #1, fit-toy run", "started /bin/ls: ls (2 times)"),
    ]
    assert [(part.title, part.rows) for part in found.facts] == [
        (
            "Test #1, fit-toy run: what the unedited file's did too",
            (("started /bin/cc: cc b.c (2 times)", ""),),
        ),
        ("Test #1, fit-toy run: to be expected", (("packages", "9"),)),
    ]
