"""The house: imports go downward only, and the rooms that may not know each other do not."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top down, as docs/design.md draws it; a module may import from the floors below its own
# and from its own.
FLOORS = (
    ("server",),
    ("harness.api", "harness.cli"),
    ("harness.commands",),
    ("harness.doctor", "harness.house_sessions"),
    ("harness.scaffold",),
    ("harness.soundness",),
    ("harness.trial",),
    ("harness.demo",),
    ("harness.terminal",),
    (
        "harness.mcp_server",
        "harness.stream",
        "harness.gate",
        "harness.requests",
        "harness.standing",
    ),
    ("harness.tool_formats", "harness.follow", "harness.examples"),
    ("harness.export_command",),
    ("harness.exports",),
    ("harness.web",),
    ("harness.replay_modes",),
    (
        "harness.replay_view",
        "harness.replay_steps",
        "harness.replay_files",
        "harness.rerun",
        "harness.review",
        "harness.margins",
        "harness.certify",
    ),
    ("harness.story",),
    ("harness.replay", "harness.tools", "harness.told_tests"),
    ("harness.recordings",),
    ("harness.trajectories",),
    ("harness.saved_page",),
    ("harness.recorded",),
    ("harness.service",),
    ("harness.standings",),
    ("harness.leaderboard", "harness.leaderboard_forms", "harness.measured"),
    ("harness.rows",),
    ("harness.entries",),
    ("harness.outcomes", "harness.regrading"),
    (
        "harness.session",
        "harness.appending",
        "harness.ending",
        "harness.prompt",
        "harness.retention",
        "harness.datasets",
        "harness.vetting",
        "harness.replicas",
        "harness.submissions",
    ),
    ("harness.results", "harness.answers", "harness.probes", "harness.run_commands"),
    ("harness.conduct",),
    ("harness.jobs",),
    ("harness.checks",),
    ("harness.sandbox",),
    ("harness.task",),
    ("harness.store", "harness.telemetry"),
    ("harness.grades", "harness.verdicts"),
    ("harness.claim", "harness.migrations"),
    ("harness.workspace", "harness.database", "harness.group_commit"),
    ("harness.journal_size",),
    ("harness.events",),
    ("harness.budget", "harness.metrics", "harness.render", "harness.tracebacks"),
    ("harness.likeness",),
    ("harness.edits", "harness.diffs", "harness.scoring"),
    ("harness.regions", "harness.constraints"),
    (
        "harness.errors",
        "harness.settings",
        "harness.hardware",
        "harness.printable",
        "harness.transport",
        "harness.recorder",
        "harness.access",
        "harness.hosts",
        "harness.limits",
        "harness.refused",
        "harness.logs",
        "harness.troubles",
        "harness.state_folder",
    ),
    ("harness.client",),
    ("harness.retries", "harness.refusals"),
    ("harness.wire", "harness.board"),
    ("harness",),
)


def floor_of(module: str) -> int | None:
    """How far down a module lives; a package's files live where the package does."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        for depth, floor in enumerate(FLOORS):
            if name in floor and (name != "harness" or len(parts) == 1):
                return depth
    return None


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", [*modules("harness"), ROOT / "server.py"], ids=name_of)
def test_imports_go_downward_only(path: Path) -> None:
    own = floor_of(name_of(path))
    assert own is not None, f"{name_of(path)} has no floor in this table"
    for module in imports_of(path):
        if module == "server" or module.split(".")[0] == "harness":
            floor = floor_of(module)
            if floor is not None and module != "harness":
                assert floor >= own, f"{name_of(path)} imports {module} from above"


@pytest.mark.parametrize("path", [*modules("nanoGPT"), *modules("tasks")], ids=name_of)
def test_tasks_know_nothing_of_the_harness(path: Path) -> None:
    assert not {m for m in imports_of(path) if m.split(".")[0] in ("harness", "server")}


def test_transport_and_recorder_stand_alone() -> None:
    for path in modules("harness/transport") + modules("harness/recorder"):
        roots = {module.split(".")[0] for module in imports_of(path)}
        assert roots <= sys.stdlib_module_names | {"numpy"}, path


@pytest.mark.parametrize("path", modules("harness"), ids=name_of)
def test_the_harness_knows_nothing_of_any_task(path: Path) -> None:
    assert not {m for m in imports_of(path) if m.split(".")[0] in ("nanoGPT", "tasks")}


def test_no_name_of_a_shipped_task_occurs_in_the_harness() -> None:
    from harness.task import find_tasks

    names: set[str] = set()
    for task in find_tasks(ROOT / "tasks").values():
        names.add(task.name)
        names.update(metric.name for metric in task.metrics)
        names.update(Path(file.name).name for file in (*task.files, *task.siblings))
        for profile in task.profiles.values():
            names.update(stage.label for stage in profile.stages)
            names.update(Path(stage.script).name for stage in profile.stages)
    assert len(names) > 10
    for path in modules("harness"):
        if path.parent.name == "scaffold":
            continue  # the example was made from it and kept its files' names
        text = path.read_text()
        assert not {name for name in names if name in text}, path
