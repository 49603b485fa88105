"""`harness task check` finds what is planted, with file and line, and says what to mend."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.jobs.plan import RunStatus
from harness.soundness import CHECKS, _leaks, cut_statement
from harness.task import load_task
from harness.trial import Trial

SHIPPED = Path(__file__).parents[1] / "tasks" / "curve-fit"


class Bench:
    """A copy of the example task that can be spoiled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def spoil(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{file} has no {old!r}"
        path.write_text(text.replace(old, new, 1))

    def line(self, file: str, text: str) -> int:
        """The number of the first line that has the text."""
        lines = (self.folder / file).read_text().splitlines()
        return next(n for n, line in enumerate(lines, start=1) if text in line)

    def check(self) -> tuple[int, dict[str, list[tuple[str, str]]]]:
        """The exit code, and (where, message) of each fault by check."""
        result = CliRunner().invoke(app, ["task", "check", "curve-fit", "--json"])
        outcomes = json.loads(result.stdout)
        assert [outcome["check"] for outcome in outcomes] == list(CHECKS)
        found = {
            o["check"]: [
                (fault["where"].removeprefix(f"{self.folder}/"), fault["message"])
                for fault in o["faults"]
            ]
            for o in outcomes
        }
        return result.exit_code, {check: faults for check, faults in found.items() if faults}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(tmp_path / "tasks"))
    monkeypatch.setenv("HARNESS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    ignored = shutil.ignore_patterns("__pycache__")
    return Bench(Path(shutil.copytree(SHIPPED, tmp_path / "tasks/curve-fit", ignore=ignored)))


def test_several_tasks_are_checked_and_one_that_is_not_sound_is_enough(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(bench.folder, bench.folder.parent / "other"))
    (other / "task.yaml").write_text("name: other\n")
    monkeypatch.setenv("COLUMNS", "100")
    shown = CliRunner().invoke(app, ["task", "check", "--all"])
    assert shown.exit_code == 1
    lines = shown.output.splitlines()
    assert (lines[0], lines.count("other")) == ("curve-fit", 1)
    assert sum(line.startswith("ok") for line in lines) == len(CHECKS)
    assert "BAD schema: task.yaml, and all that it names" in lines
    found = json.loads(CliRunner().invoke(app, ["task", "check", "other", "--json"]).stdout)
    assert [outcome["ok"] for outcome in found] == [False] * len(CHECKS)


@pytest.mark.parametrize("arguments", [(), ("curve-fit", "--all")])
def test_which_tasks_must_be_said(bench: Bench, arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["task", "check", *arguments])
    assert result.exit_code == 2
    assert result.output == "ERROR: name tasks, or --all; there are: curve-fit\n"


# ---- From the texts -----------------------------------------------------------------------------


def test_a_field_that_is_not_known(bench: Bench) -> None:
    bench.spoil("task.yaml", "tests: 3", "tests: 3\nattempts: 3")
    line = bench.line("task.yaml", "attempts")
    assert bench.check() == (
        1,
        {"schema": [(f"task.yaml:{line}", "attempts: is not a known field")]},
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("[11, 40]", "files[0].regions[1].lines: 11–40 is outside curve.py (23 lines)"),
        (
            "[7, 11]",
            "files[0].regions[1].lines: 7–11 needs a locked line between itself and ridge (6–6) "
            "above it",
        ),
    ],
    ids=["outside the file", "touching another"],
)
def test_regions_that_cannot_be(bench: Bench, lines: str, message: str) -> None:
    bench.spoil("task.yaml", "lines: [11, 11]", f"lines: {lines}")
    where = f"task.yaml:{bench.line('task.yaml', f'lines: {lines}')}"
    assert bench.check() == (1, {"schema": [(where, message)]})


def test_a_region_that_cuts_a_statement(bench: Bench) -> None:
    bench.spoil("task.yaml", "lines: [11, 11]", "lines: [9, 11]")
    where = f"task.yaml:{bench.line('task.yaml', 'lines: [9, 11]')}"
    code, found = bench.check()
    assert code == 1
    assert found["regions"] == [(where, "9–11 cuts the statement in lines 9–12 of curve.py")]


def test_rules_for_a_region_that_is_not_there(bench: Bench) -> None:
    bench.spoil("task.yaml", "{name: ridge, scope", "{name: rigde, scope")
    code, found = bench.check()
    [(_, message)] = found["schema"]
    assert code == 1
    assert message.endswith("'rigde' is no region of the file; there are features, ridge")


def test_unedited_files_that_break_their_own_rules(bench: Bench) -> None:
    bench.spoil("task.yaml", "allowed: [math, numpy]", "allowed: [math]")
    code, found = bench.check()
    assert code == 1
    where, message = found["checks"][0]
    assert where == "curve.py:11"
    assert message.startswith("import: ")


@pytest.mark.parametrize(
    ("old", "new", "field", "message"),
    [
        (
            "line: 11\n    end_line: 11",
            "line: 12\n    end_line: 12",
            "- op: replace",
            "edit 1 is refused: ",
        ),
        ("x**3]", "x**3, np.load]", "name: cubic", "(line 11 of curve.py as edited)"),
    ],
    ids=["a locked line", "against the rules"],
)
def test_a_baseline_that_is_refused(
    bench: Bench, old: str, new: str, field: str, message: str
) -> None:
    bench.spoil("baselines/cubic.yaml", old, new)
    code, found = bench.check()
    [(where, said)] = found["checks"]
    assert code == 1
    assert where == f"baselines/cubic.yaml:{bench.line('baselines/cubic.yaml', field)}"
    assert message in said


def test_data_that_training_and_scoring_share(bench: Bench) -> None:
    bench.spoil("prepare.py", "for _ in range(count)]", "for _ in range(100)]")
    bench.spoil("prepare.py", "    chance = random.Random(2026)\n", "")
    bench.spoil(
        "prepare.py", "        path =", "        chance = random.Random(2026)\n        path ="
    )
    code, found = bench.check()
    assert code == 1
    assert ("score/final.json is run/train.json: `run` sees it") in [m for _, m in found["data"]]


def test_a_data_command_that_fails(bench: Bench) -> None:
    bench.spoil("prepare.py", "def main():", "def main():\n    raise SystemExit('no disk')")
    code, found = bench.check()
    [(where, message)] = found["data"]
    assert code == 1
    assert where == f"task.yaml:{bench.line('task.yaml', 'data: {')}"
    assert "failed with exit code 1" in message


# ---- From a session -----------------------------------------------------------------------------


def test_a_script_that_fails(bench: Bench) -> None:
    bench.spoil(
        "scripts/running.py",
        "    weights = ",
        "    raise RuntimeError('not today')\n    weights = ",
    )
    code, found = bench.check()
    where, message = found["session"][0]
    assert code == 1
    assert where == "scripts/main.sh:1"
    assert message.startswith("fit-small, run: failed: ")
    assert "RuntimeError: not today" in message


def test_a_metric_that_scoring_leaves_out(bench: Bench) -> None:
    bench.spoil("scripts/scoring.py", '"metrics": {"worst": max(development)},', '"metrics": {},')
    code, found = bench.check()
    assert code == 1
    [(where, message)] = found["scores"]
    assert where == f"task.yaml:{bench.line('task.yaml', 'name: mae, kind: scored')}"
    assert message == "mae: metrics.json: hidden.metrics: worst is missing"


def test_feedback_that_is_not_printed_hidden_values_that_are_and_limits_that_are_too_tight(
    bench: Bench,
) -> None:
    bench.spoil("task.yaml", "'fit_mae=([0-9.]+|nan|inf)'", "'lost=([0-9.]*)'")
    bench.spoil(
        "scripts/scoring.py",
        '{"mae": float(np.mean(development))}',
        '{"mae": float(np.mean(final))}',
    )
    bench.spoil("task.yaml", "run_s: 60", "run_s: 15")
    bench.spoil("task.yaml", "tests: 3", "tests: 3\nmax_step_ratio: 1000")
    code, found = bench.check()
    assert code == 1
    pattern = f"task.yaml:{bench.line('task.yaml', 'lost=')}"
    assert found["feedback"] == [
        (pattern, "fit_mae is in none of the 1 lines that fit-small printed"),
    ]
    error = f"task.yaml:{bench.line('task.yaml', 'name: mae, kind: scored')}"
    assert (error, "mae on the final split stands in the answer to GET /tests/1") in found["hidden"]
    [(where, message)] = found["limits"]
    assert where == f"task.yaml:{bench.line('task.yaml', 'run_s')}"
    assert re.fullmatch(
        r"run_s is 15; the unedited files took \d+\.\d s, and edits may take 1000 times as long",
        message,
    )


# ---- Commands -----------------------------------------------------------------------------------

CODE = """\
@cache
def f(
    a,
):
    x = 1
    if x:
        y = 2
    else:
        y = 3
    return y


z = 4
"""


@pytest.mark.parametrize(
    ("first", "last", "cut"),
    [
        (5, 5, None),
        (5, 9, None),
        (7, 7, None),
        (1, 10, None),
        (1, 11, None),
        (13, 13, None),
        (5, 4, None),
        (2, 4, (1, 10)),
        (3, 3, (2, 4)),
        (3, 2, (2, 4)),
        (2, 10, (1, 10)),
        (10, 13, (1, 10)),
        (6, 7, (6, 9)),
        (7, 10, (6, 9)),
    ],
)
def test_which_regions_cut_a_statement(first: int, last: int, cut: tuple[int, int] | None) -> None:
    assert cut_statement(CODE, ast.parse(CODE), first, last) == cut


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--regions", "2-3,5"], "--regions 2-3: cuts"),
        (["--regions", "5-9,10"], "at least one locked line must stand between two regions"),
        (["--regions", "40-50"], "has 13 lines"),
        (["--regions", "6-5"], "6-5: its last line is before its first"),
        (["--regions", "x"], "give lines as 10-20,33-40"),
        (["--regions", "5", "--file", "nowhere.py"], "nowhere.py: No such file"),
    ],
)
def test_a_new_task_that_cannot_be_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(tmp_path / "tasks"))
    monkeypatch.setenv("COLUMNS", "400")
    (tmp_path / "code.py").write_text(CODE)
    file = [] if "--file" in arguments else ["--file", str(tmp_path / "code.py")]
    result = CliRunner().invoke(app, ["task", "new", "mine", *file, *arguments])
    assert result.exit_code == 2
    assert said.replace(": cuts", " cuts") in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "tasks" / "mine").exists()


def test_what_two_metrics_have_in_common_by_chance_is_no_leak() -> None:
    """A percentage of few items may be another metric's too; a number with many digits may not."""
    task, status = load_task(SHIPPED), RunStatus(updated_at="", steps=[])

    def leaks(value: float) -> int:
        answers = (("test", f"mae={value!r}"),)
        hidden = (("metrics", "worst", value),)
        trial = Trial(answers, status, metrics={"mae": value}, hidden=hidden)
        return len(list(_leaks(task, "small", trial)))

    assert leaks(68.75) == leaks(100 / 3) == 0
    assert leaks(0.12345678901) == leaks(61.2386921089575) == 1


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("HARNESS_TASKS_DIR", str(SHIPPED.parent))
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["task", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_tasks_are_listed_and_shown(shown: Callable[..., str]) -> None:
    rows = {row["name"]: row for row in json.loads(shown("list", "--json"))}
    assert rows["curve-fit"]["baselines"] == ["cubic"]
    assert "llm-pretrain-residual" in shown("list")
    whole = shown("show", "curve-fit")
    for part in ("features", "11–11", "mae (primary)", "run 60 s, score 60 s", "baseline cubic"):
        assert part in whole
    assert json.loads(shown("show", "curve-fit", "--json"))["name"] == "curve-fit"


def test_the_prompt_is_what_an_agent_is_told(shown: Callable[..., str]) -> None:
    prompt = shown("prompt", "curve-fit", "--profile", "small")
    assert prompt.startswith("# A curve through noisy points\n")
    assert "## curve.py  [EDITABLE — lines 6–6, lines 11–11 only]" in prompt
    assert "worst" not in prompt
