from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.regions import EditableFile
from harness.task import Task, TaskError, find_tasks, load_task

TASKS = Path(__file__).parent / "tasks"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TASKS / "two_files", tmp_path / "two_files"))


Change = tuple[str, str]


def change(folder: Path, *changes: Change) -> None:
    path = folder / "task.yaml"
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        text = text.replace(old, new)
    path.write_text(text)


def line_of(folder: Path, part: str) -> int:
    lines = (folder / "task.yaml").read_text().split("\n")
    return next(n for n, line in enumerate(lines, 1) if part in line)


def test_the_toy_task() -> None:
    task = find_tasks(TASKS)["two-files"]
    assert [file.name for file in task.files] == ["line_model.py", "line_rate.py"]
    assert task.file("line_rate.py").region_tuples() == [
        ("first-rate", 3, 3),
        ("helpers", 6, 5),
        ("rate", 9, 10),
    ]
    assert task.read_file("line_rate.py").split("\n")[2] == "FIRST_RATE = 0.05"
    assert [name for name, _ in task.sibling_contents()] == ["loop.py"]
    assert task.primary("toy").name == "error"
    assert [m.name for m in task.metrics_of("toy", "fit", kind="scored")] == ["error", "worst"]
    assert [m.name for m in task.metrics_of("toy", hidden=False)] == ["loss", "error", "near"]
    assert task.baseline("falling_rate").edits[0]["op"] == "replace"
    assert task.read_instruction().startswith("# A line through points")
    assert task.script_path(task.profile("toy").stage("near")).is_file()


def test_regions_agree_with_the_files_as_edited() -> None:
    task = load_task(TASKS / "two_files")
    for file in task.files:
        edited = EditableFile.from_text(file.name, task.read_file(file.name), file.region_tuples())
        assert [(r.name, r.first, r.last) for r in edited.regions] == file.region_tuples()


def test_what_was_loaded_stays(folder: Path) -> None:
    task = load_task(folder)
    before = task.read_file("line_rate.py")
    (folder / "line_rate.py").write_text("changed\n")
    assert task.read_file("line_rate.py") == before


def test_the_schema_describes_every_field() -> None:
    schema = Task.model_json_schema()
    json.dumps(schema)
    for definition in [schema, *schema["$defs"].values()]:
        for name, field in definition["properties"].items():
            assert field.get("description"), f"{definition['title']}.{name} has no docstring"


FIT = "- {name: loss, kind: feedback, stage: fit,"
ERROR = "- {name: error, kind: scored, stage: fit, direction: lower, unit: metres,"

PROBLEMS: list[tuple[str, list[Change], str, str, str]] = [
    # name, changes, part of the line that is named, field, what
    ("unknown key", [("tests: 3", "tests: 3\ncolour: red")], "colour", "colour", "known field"),
    ("missing key", [("version: 1\n", "")], "name: two-files", "version", "is missing"),
    ("wrong type", [("tests: 3", "tests: many")], "tests: many", "tests", "integer"),
    ("key twice", [("tests: 3", "tests: 3\ntests: 4")], "tests: 4", "tests", "given twice"),
    ("no file", [("name: line_model.py", "name: line.py")], "line.py", "files[0].name", "No such"),
    (
        "escaping path",
        [("name: loop.py", "name: ../loop.py")],
        "../loop.py",
        "siblings[0].name",
        "relative path",
    ),
    (
        "region outside",
        [("lines: [9, 10]", "lines: [9, 12]")],
        "[9, 12]",
        "files[1].regions[2].lines",
        "outside line_rate.py (10 lines)",
    ),
    (
        "regions touch",
        [("lines: [6, 5]", "lines: [4, 5]")],
        "[4, 5]",
        "files[1].regions[1].lines",
        "locked line between",
    ),
    (
        "backwards region",
        [("lines: [9, 10]", "lines: [9, 7]")],
        "[9, 7]",
        "files[1].regions[2].lines",
        "ends before",
    ),
    ("script", [("scripts/near.sh", "near.sh")], "near.sh", "profiles.toy.stages[1].script", "no"),
    (
        "need",
        [("needs: [fit]", "needs: [near]")],
        "needs",
        "profiles.toy.stages[1].needs[0]",
        "fit",
    ),
    (
        "label",
        [("label: near-toy", "label: fit-toy")],
        "fit-toy",
        "profiles.toy.stages[1].label",
        "",
    ),
    (
        "limit",
        [("{run_s: 20, score_s: 20}", "{run_s: 20}")],
        "{run_s: 20}",
        "profiles.toy.stages[0].limits",
        "score_s is missing",
    ),
    (
        "two primaries",
        [("decimals: 2}", "decimals: 2, primary: true}")],
        "metrics:",
        "metrics",
        "one",
    ),
    ("no primary", [(", primary: true", "")], "metrics:", "metrics", "has none"),
    (
        "stage",
        [("kind: scored, stage: near", "kind: scored, stage: far")],
        "far",
        "metrics[3].stage",
        "",
    ),
    (
        "profile",
        [("decimals: 2}", "decimals: 2, profiles: [big]}")],
        "big",
        "metrics[3].profiles[0]",
        "there are toy",
    ),
    (
        "no pattern",
        [(", pattern: 'loss=([0-9.]+|nan|inf)'", "")],
        FIT,
        "metrics[0].pattern",
        "missing",
    ),
    ("bad pattern", [("loss=([0-9.]+", "loss=([0-9.+")], FIT, "metrics[0].pattern", "regular"),
    ("no group", [("'step=(\\d+)'", "'step'")], "feedback: {", "feedback.step", "one group"),
    ("scored pattern", [(ERROR, ERROR + " pattern: '(x)',")], ERROR, "metrics[1].pattern", "none"),
    ("baseline", [("[falling_rate]", "[rising]")], "rising", "baselines[0]", "no such file"),
    ("instruction", [("instruction.md", "none.md")], "none.md", "instruction", "no such file"),
    (
        "published",
        [("{error: 0.1}", "{errors: 0.1}")],
        "errors",
        "published[0].metrics.errors",
        "near",
    ),
    ("prepare", [("[make_data.py]", "[x.py]")], "x.py", "profiles.toy.data.prepare[0]", "no such"),
    ("syntax", [("tests: 3", "tests: [3")], "sandbox", "(file)", ""),
]


@pytest.mark.parametrize(
    ("changes", "part", "field", "what"), [p[1:] for p in PROBLEMS], ids=[p[0] for p in PROBLEMS]
)
def test_a_problem_names_file_line_and_field(
    folder: Path, changes: list[Change], part: str, field: str, what: str
) -> None:
    change(folder, *changes)
    with pytest.raises(TaskError) as caught:
        load_task(folder)
    if field == "metrics[3].stage":
        part = "stage: far"
    if field == "profiles.toy.stages[1].label":
        lines = (folder / "task.yaml").read_text().split("\n")
        expected = max(n for n, line in enumerate(lines, 1) if part in line)
    else:
        expected = line_of(folder, part)
    start = f"{folder / 'task.yaml'}:{expected}: {field}: "
    matching = [problem for problem in caught.value.problems if problem.startswith(start)]
    assert matching, str(caught.value)
    assert any(what in problem for problem in matching)


def test_all_problems_come_at_once(folder: Path) -> None:
    change(
        folder,
        ("needs: [fit]", "needs: [far]"),
        ("lines: [9, 10]", "lines: [9, 99]"),
        ("[falling_rate]", "[rising]"),
    )
    with pytest.raises(TaskError) as caught:
        load_task(folder)
    assert len(caught.value.problems) == 3


BREAK: dict[str, Callable[[Path], object]] = {
    "baseline.yaml:2: colour: is not": lambda path: path.write_text(
        "title: t\ncolour: red\nname: baseline\nedits: []\n"
    ),
    "baseline.yaml:1: name: must be 'baseline'": lambda path: path.write_text(
        "name: other\ntitle: t\nedits: []\n"
    ),
    "baseline.yaml:1: (file): is empty": lambda path: path.write_text(""),
}


@pytest.mark.parametrize("expected", BREAK)
def test_a_baseline_is_checked_too(folder: Path, expected: str) -> None:
    change(folder, ("[falling_rate]", "[baseline]"))
    BREAK[expected](folder / "baselines" / "baseline.yaml")
    with pytest.raises(TaskError, match="baseline") as caught:
        load_task(folder)
    assert expected in str(caught.value)


def test_no_task_yaml(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"task\.yaml:1: \(file\): No such file"):
        load_task(tmp_path)
