"""The contract's probes: what breaks it is found by the right rule, honest ideas are accepted."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contract_cases import (
    ATTACKS,
    COMPILED_ATTACKS,
    GATE,
    HONEST,
    OWN_SIZE_ATTACKS,
    WIDE_ATTACKS,
    Edit,
    after,
    init,
    loop,
    optimizer,
)
from training import ROOT

import contract
from edited_file import import_file
from harness.edits import split_lines
from harness.regions import EditableFile
from harness.task import load_task
from probes.report import Report

NAME = contract.FILE
SCRIPT = ROOT / "tasks" / "llm-pretrain-residual" / "scripts" / "contract.sh"
# Two honest ideas, one with state and one with rounding, go through all checks each time, the
# others through the quick ones; `make slow` takes all of them through all.
FULLY = ("ProRes with its own counter", "routing by token, statistics beside")
LATE = {
    "wide": WIDE_ATTACKS,
    "own_sizes": OWN_SIZE_ATTACKS,
    "compiled": COMPILED_ATTACKS,
}
"""By the one check that finds them."""
ALL_ATTACKS = ATTACKS | WIDE_ATTACKS | OWN_SIZE_ATTACKS | COMPILED_ATTACKS
SIBLINGS = ("data.py", "shards.py", "checkpoint.py", "progress.py")


def edited(edit: Edit) -> EditableFile:
    task = load_task(ROOT / "tasks" / "llm-pretrain-residual")
    file = EditableFile.from_text(NAME, task.read_file(NAME), task.file(NAME).region_tuples())
    for index, region in enumerate(file.regions):
        if region.name in edit:
            file = file.with_region(index, split_lines(edit[region.name]))
        if region.name == "block" and "module" in edit:
            kept = file.regions[index].lines
            file = file.with_region(index, (*kept, "", *split_lines(edit["module"])))
    return file


def write(folder: Path, edit: Edit) -> Path:
    """A snapshot's folder of files with the edit in it; the path of the edited one."""
    path = folder / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(edited(edit).text)
    for sibling in SIBLINGS:
        target = path.parent / sibling
        if not target.exists():
            target.symlink_to(ROOT / "nanoGPT" / sibling)
    return path


@dataclass
class Outcome:
    """What the checks say of one edit."""

    findings: list[dict[str, Any]]
    warnings: list[dict[str, Any]]

    @property
    def rules(self) -> set[str]:
        return {finding["rule"] for finding in self.findings}


def probe(folder: Path, edit: Edit) -> Outcome:
    """The checks of the first size."""
    plain = F.cross_entropy
    report = contract.examine(write(folder, edit), quick=True)
    F.cross_entropy = plain  # one of the attacks replaces it
    return Outcome(report.findings, report.warnings)


def probe_late(check: str, folder: Path, edit: Edit) -> Outcome:
    """One of the checks that `probe` leaves out."""
    path = write(folder, edit)
    report = Report(path, NAME)
    module = import_file(path)
    if check == "compiled":
        contract.compiled(module, contract.SIZES[0], 0, report)
    else:
        {"wide": contract.wide, "own_sizes": contract.own_sizes}[check](module, 0, 13535, report)
    return Outcome(report.findings, report.warnings)


def probe_fully(folder: Path, edit: Edit) -> Outcome:
    """All checks, as they are before a test."""
    report = contract.examine(write(folder, edit))
    return Outcome(report.findings, report.warnings)


def start_worker() -> None:
    torch.set_num_threads(1)


def some(names: Sequence[str], each: Callable[[str], object]) -> list[Any]:
    """All of the names; `make test` runs one in four, and the first of each kind."""
    firsts = {each(name): name for name in reversed(names)}
    return [
        name
        if index % 4 == 0 or name in firsts.values()
        else pytest.param(name, marks=pytest.mark.attacks)
        for index, name in enumerate(names)
    ]


class Outcomes:
    """What the checks say of cases, by name: those that come next are begun beside the one asked.

    Two processes work, each of which imports torch once.
    """

    def __init__(
        self,
        folder: Path,
        cases: Mapping[str, tuple[Callable[[Path, Edit], Outcome], Edit]],
        ahead: int = 2,
    ) -> None:
        self._folder, self._cases, self._ahead = folder, cases, ahead
        self._names = list(cases)
        self._begun: dict[str, Future[Outcome]] = {}
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(2, context, start_worker)

    def __getitem__(self, name: str) -> Outcome:
        place = self._names.index(name)
        for number in range(place, min(place + 1 + self._ahead, len(self._names))):
            if self._names[number] not in self._begun:
                function, edit = self._cases[self._names[number]]
                folder = self._folder / str(number)
                self._begun[self._names[number]] = self.pool.submit(function, folder, edit)
        return self._begun[name].result()


@pytest.fixture(scope="module")
def outcomes(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Outcomes]:
    params = (getattr(item, "callspec", None) for item in request.session.items)
    chosen = {callspec.params.get("name") for callspec in params if callspec is not None}
    cases: dict[str, tuple[Callable[[Path, Edit], Outcome], Edit]] = {
        name: (probe, edit) for name, (_, edit) in ATTACKS.items()
    }
    for check, attacks in LATE.items():
        cases |= {name: (partial(probe_late, check), edit) for name, (_, edit) in attacks.items()}
    for name, edit in HONEST.items():
        cases[name] = (probe_fully if name in FULLY else probe, edit)
    found = Outcomes(
        tmp_path_factory.mktemp("cases"),
        {name: case for name, case in cases.items() if name in chosen},
    )
    with found.pool:
        yield found


@pytest.mark.parametrize("name", some(list(ALL_ATTACKS), lambda name: ALL_ATTACKS[name][0]))
def test_attacks_are_refused(name: str, outcomes: Outcomes) -> None:
    rule = ALL_ATTACKS[name][0]
    assert rule in outcomes[name].rules, outcomes[name]


@pytest.mark.parametrize("name", some(list(HONEST), lambda name: name in FULLY))
def test_honest_ideas_are_accepted(name: str, outcomes: Outcomes) -> None:
    assert outcomes[name].findings == []


@pytest.fixture(scope="module")
def full_outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    cases = {name: (probe_fully, edit) for name, edit in HONEST.items()}
    found = Outcomes(tmp_path_factory.mktemp("fully"), cases)
    with found.pool:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_every_honest_idea_is_accepted_by_all_checks(name: str, full_outcomes: Outcomes) -> None:
    assert full_outcomes[name].findings == []


# ── what the report says ───────────────────────────────────────────────────────────────────────


def test_a_leak_is_told_with_its_size_and_place(tmp_path: Path) -> None:
    edit = loop(
        """
        for i, block in enumerate(self.transformer.h):
            x = block(x)
            x = x + 0.01 * x[:, -1:] if i == 1 else x
        """
    )
    found = {f["message"][:8]: f for f in probe(tmp_path, edit).findings}
    assert {f["rule"] for f in found.values()} == {"causality"}
    message = found["Changing"]["message"]
    assert re.match(
        r"Changing (token 15 alone|all tokens from \d+ on), of 16, changes the logits of position "
        r"\d+ by \d\.\de-0\d; it is first seen in what goes into block 2 "
        r"\((training|evaluation), step \d+, at initialisation, and \d+ more times\)\. "
        r"A position may depend on itself and on earlier positions only\. ",
        message,
    ), message


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore")  # as `examine` has it
def test_everything_is_found_at_once(tmp_path: Path, one_thread: None) -> None:
    edit = GATE | after(
        """
        x = x + 0.1 * x.mean(1, keepdim=True) + 0.1 * x.mean(0)
        if not self.training:
            torch.manual_seed(7)
        if targets is not None:
            x = x + 0.1 * self.transformer.wte(targets.clamp(min=0))
        """
    )
    edit |= optimizer("return self.parameters()")
    report = Report(path := write(tmp_path, edit), NAME)
    module = import_file(path)
    subject = contract.construct(module, contract.SIZES[0], 0, report)
    assert subject is not None
    settings = module.read_settings([], module.CONFIG_OVERRIDES)
    assert contract.examine_size(subject, module, settings, report)
    expected = {"causality", "batch-independence", "targets-reach-logits", "changes-itself"}
    assert {f["rule"] for f in report.findings} == expected | {"optimizer"}
    assert len(report.findings) <= 2 * len(expected) + 1
    assert all(f["file"] == NAME for f in report.findings)


@pytest.mark.parametrize(
    ("edit", "rule", "source", "message"),
    [
        (after("x = x + nothing"), "exception", "x = x + nothing", "NameError: name 'nothing' is"),
        (
            after("raise KeyError(self.config.n_layer, __file__)"),
            "exception",
            "raise KeyError(",
            "KeyError: (4, '<path>')",
        ),
        (init("self.s = nn.Parameter(t)"), "construction", "self.s = nn", "NameError: name 't'"),
        (optimizer("return [0]"), "optimizer", "def configure_optimizers", "returns a list"),
        (optimizer("return 1 / 0"), "optimizer", "return 1 / 0", "ZeroDivisionError: "),
        ({"overrides": "CONFIG_OVERRIDES = {'n': 1}"}, "construction", "may not set", "StageErr"),
        ({"module": "import nowhere_at_all"}, "construction", "import nowhere", "ModuleNotFound"),
        ({"module": "x = (\n"}, "construction", "x = (", "SyntaxError: '(' was never closed"),
    ],
)
def test_exceptions_are_told_with_their_line(
    edit: Edit, rule: str, source: str, message: str, tmp_path: Path
) -> None:
    outcome = probe(tmp_path, edit)
    finding = outcome.findings[0]
    assert finding["rule"] == rule
    assert message in finding["message"]
    assert str(tmp_path) not in str(outcome)
    lines = (tmp_path / NAME).read_text().splitlines()
    assert source in lines[finding["line"] - 1] or source in lines[finding["line"] - 2]


WARNED: dict[str, tuple[str, str, Edit]] = {
    "unused": ("unused-parameter", "No backward pass reaches gate.", GATE),
    "not held": (
        "unused-parameter",
        "No optimizer group holds gate.",
        GATE
        | after("x = x * (1 + self.gate)")
        | optimizer("return torch.optim.AdamW(self.transformer.parameters(), lr=learning_rate)"),
    ),
    "batch in training": (
        "batch-independence",
        "changes the logits of sequence",
        after("x = x + 0.1 * x.mean(0) if self.training else x"),
    ),
    "chance": (
        "not-deterministic",
        "With other random numbers a forward in evaluation gives other results",
        after("x = x + 0.1 * torch.randn_like(x)"),
    ),
    "counter out of reach": (
        "not-deterministic",
        "Two forwards of the same tokens from the same parameters",
        {"module": "CALLS = [0]"}
        | after("CALLS[0] += 1\nx = x + CALLS[0] * x.roll(1, -1) if self.training else x"),
    ),
    "autocast": (
        "autocast",
        "RuntimeError: ",
        after("y = block.mlp.c_fc(x)\nx = torch.lerp(x, y[..., : x.size(-1)], 0.1)"),
    ),
    "state that is not saved": (
        "checkpoint",
        "A new model with the trained one's parameters and buffers gives other logits",
        init("self.mix = torch.randn(config.n_embd)") | after("x = x + self.mix"),
    ),
}


@pytest.mark.parametrize(("rule", "message", "edit"), WARNED.values(), ids=WARNED)
def test_warnings_refuse_nothing(rule: str, message: str, edit: Edit, tmp_path: Path) -> None:
    outcome = probe(tmp_path, edit)
    assert outcome.findings == []
    assert [w["rule"] for w in outcome.warnings] == [rule]
    assert message in outcome.warnings[0]["message"]


# ── the script ─────────────────────────────────────────────────────────────────────────────────


def run_script(folder: Path, edit: Edit, role: str = "contract", **more: str) -> tuple[Any, Any]:
    """The finished process and what it left in findings.json."""
    files, out = folder / "files", folder / "out"
    write(files, edit)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HARNESS_FILES": str(files),
        "HARNESS_OUT": str(out),
        "HARNESS_SEED": "42",
        "HARNESS_GPUS": "",
        "HARNESS_PROFILE": "smoke",
        "HARNESS_STAGE": "contract",
        "OMP_NUM_THREADS": "2",
    }
    done = subprocess.run(
        ["bash", str(SCRIPT), role],
        cwd=files,
        env=environment | more,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = out / "findings.json"
    assert done.returncode != 0 or [path.name for path in out.iterdir()] == [found.name]
    return done, json.loads(found.read_text()) if found.exists() else None


def test_the_script_reports_through_a_file(tmp_path: Path) -> None:
    done, report = run_script(tmp_path, HONEST["prints"] | GATE)
    assert (done.returncode, done.stdout) == (0, "0 findings, 1 warnings\n"), done.stderr
    assert report["findings"] == []
    assert [w["rule"] for w in report["warnings"]] == ["unused-parameter"]
    assert not list((tmp_path / "files").rglob("__pycache__"))
    assert report["facts"]["forwards"] > 500
    assert report["facts"]["compile_s"] > 0


def test_a_half_that_ends_early_is_told(tmp_path: Path) -> None:
    """The two sizes are probed by two processes."""
    edit = after("if self.config.n_layer == 6:\n    __import__('os')._exit(3)")
    done, report = run_script(tmp_path, edit)
    assert done.returncode == 0
    (finding,) = report["findings"]
    assert finding["rule"] == "exception"
    assert finding["message"].startswith("The process of the probes ended with code 3.")


def test_the_same_trouble_in_both_halves_is_one_finding(tmp_path: Path) -> None:
    done, report = run_script(tmp_path, after("x = x * (1 / 0)"))
    assert done.returncode == 0
    (finding,) = report["findings"]
    assert finding["message"].startswith("ZeroDivisionError: ")
    assert "and 15 more times" in finding["message"]


def test_probes_end_in_time(tmp_path: Path) -> None:
    edit = after("while True:\n    try:\n        x = block(x)\n    except Exception:\n        pass")
    done, report = run_script(tmp_path, edit, HARNESS_LIMIT_S="2")
    assert done.returncode == 0
    (finding,) = report["findings"]
    assert finding["rule"] == "time"
    assert finding["message"].startswith("The probes do not end within 2 s of ")
    lines = edited(edit).text.splitlines()
    assert finding["line"] >= lines.index("        while True:")


def test_an_unknown_role_is_an_error(tmp_path: Path) -> None:
    done, report = run_script(tmp_path, {}, role="run")
    assert (done.returncode, report) == (2, None)
    assert done.stderr.startswith("ERROR: this check has only the role contract")


def test_the_tiny_profile_s_sizes_are_its_own() -> None:
    """They are probed as they are; the script says them too."""
    text = (SCRIPT.parent / "settings_tiny.sh").read_text()
    given = {name: int(value) for name, value in re.findall(r"--(\w+)=(\d+)", text)}
    assert {name: given[name] for name in contract.TINY} == contract.TINY
