"""The full-size check at the smallest size: its real processes on a CPU, and its verdicts."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from training import FOLDER, ROOT, SMALL, edited

import preflight
from harness.task import load_task
from preflight import Check, Outcome, Report, Unedited

SCRIPTS = ROOT / "tasks/llm-pretrain-residual/scripts"
NAME = "nanoGPT/custom_pretrain.py"

LOOP = "            x = block(x)\n"
RESIDUAL = "        # self.residual_scale = nn.Parameter(torch.ones(config.n_layer))\n"


def snapshot(folder: Path, *changes: tuple[str, str]) -> Path:
    """A folder as a test runs in, with the training file changed."""
    edited(folder / "nanoGPT", *changes)
    for sibling in ("data.py", "shards.py", "checkpoint.py", "progress.py"):
        shutil.copy(FOLDER / sibling, folder / "nanoGPT")
    return folder


def line_of(folder: Path, text: str) -> int:
    """The line of the training file in `folder` that holds `text`."""
    lines = (folder / NAME).read_text().split("\n")
    return next(number for number, line in enumerate(lines, 1) if text in line)


@dataclasses.dataclass
class Preflight:
    """Calls the check as a stage script does, on a snapshot of its own."""

    folder: Path

    def __post_init__(self) -> None:
        self.reference = snapshot(self.folder / "reference")

    def environment(self, files: Path) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HARNESS_FILES": str(files),
            "HARNESS_REFERENCE": str(self.reference),
            "HARNESS_CACHE": str(self.folder / "cache"),
            "HARNESS_MEASURED": str(self.folder / "measured"),
            "HARNESS_OUT": str(self.folder / "out"),
            "HARNESS_SEED": "42",
            "HARNESS_GPUS": "",
            "HARNESS_PROFILE": "smoke",
            "HARNESS_STAGE": "gpt-smoke",
            "HARNESS_LIMIT_S": "120",
            "HARNESS_MAX_STEP_RATIO": "2.0",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", str(FOLDER / "preflight.py"), *SMALL, *arguments]

    def measure(self, *arguments: str) -> None:
        """Measures the unedited file."""
        shutil.rmtree(self.folder / "measured", ignore_errors=True)
        own = {"HARNESS_OUT": str(self.folder / "measured"), "HARNESS_CACHE": str(self.kept)}
        subprocess.run(
            self.command("--reference", *arguments),
            cwd=self.reference,
            env=self.environment(self.reference) | own,
            check=True,
        )

    @property
    def kept(self) -> Path:
        """What is kept between tests."""
        return self.folder / "kept"

    def check(self, *changes: tuple[str, str], arguments: tuple[str, ...] = ()) -> Report:
        """The findings on a file with these changes; nothing else may be left behind."""
        files = snapshot(self.folder / "files", *changes)
        done = subprocess.run(
            self.command(*arguments),
            cwd=files,
            env=self.environment(files),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        out = self.folder / "out"
        assert [path.name for path in out.iterdir()] == ["findings.json"]
        return Report(**json.loads((out / "findings.json").read_text()))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small products gain nothing from threads, and lose much where the cores are shared."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def full_size(tmp_path: Path) -> Preflight:
    return Preflight(tmp_path)


def test_the_unedited_file_is_accepted(full_size: Preflight) -> None:
    report = full_size.check()
    assert report.findings == report.warnings == []
    assert report.facts["steps"] == 8
    assert report.facts["micro_batches"] == 4
    assert "step_ratio" not in report.facts


@pytest.mark.parametrize(
    ("change", "rule", "message", "at"),
    [
        (
            (LOOP, "            x = block(x) @ torch.ones(3, 3)\n"),
            "exception",
            "RuntimeError: ",
            "torch.ones(3, 3)",
        ),
        ((LOOP, "            x = (block(x)\n"), "exception", "SyntaxError: ", "(block(x)"),
        (
            (LOOP, "            raise OSError('no /root/secret/folder/file.txt')\n"),
            "exception",
            "OSError: no file.txt",
            "raise OSError",
        ),
        (
            ("CONFIG_OVERRIDES = {}", "CONFIG_OVERRIDES = {'max_iters': 1}"),
            "exception",
            "StageError: CONFIG_OVERRIDES may not set 'max_iters'",
            'raise progress.StageError(f"CONFIG_OVERRIDES may',
        ),
        (
            (LOOP, "            x = block(x)\n        import os; os._exit(3)\n"),
            "exception",
            "The process ended by itself with exit code 3",
            None,
        ),
        (
            (LOOP, "            x = block(x) / 0.0\n"),
            "not-finite",
            "the loss is nan at step 0. Look in the edited lines",
            None,
        ),
        (
            (LOOP, "            x = block(x) if self.training else x * float('inf')\n"),
            "not-finite",
            "the loss is nan in eval mode after 1 steps.",
            None,
        ),
        (
            # Finite at first; its gradient is not.
            (LOOP, "            x = block(x) + (x * 0).abs().sqrt()\n"),
            "not-finite",
            "the loss is nan in eval mode after 1 steps.",
            None,
        ),
    ],
    ids=["shape", "syntax", "path", "override", "exit", "nan", "eval", "gradient"],
)
def test_what_does_not_work_is_refused(
    full_size: Preflight, change: tuple[str, str], rule: str, message: str, at: str | None
) -> None:
    report = full_size.check(change)
    (finding,) = report.findings
    assert finding["rule"] == rule
    assert finding["message"].startswith(message)
    assert finding["file"] == NAME
    assert finding["line"] == (at and line_of(full_size.folder / "files", at))


@pytest.mark.slow
def test_a_slow_edit_is_too_slow_for_the_ratio_and_for_the_limit(full_size: Preflight) -> None:
    slow = (LOOP, "            x = block(x)\n        import time; time.sleep(0.1)\n")
    arguments = ("--time-on-cpu", "--max_iters=4000")
    full_size.measure(*arguments)
    report = full_size.check(slow, arguments=arguments)
    assert [finding["rule"] for finding in report.findings] == ["too-slow", "time-limit"]
    facts = report.facts
    assert facts["step_ratio"] > 2
    assert 0.4 < facts["step_s"] < 3  # four micro-batches
    assert facts["test_s"] == pytest.approx(4000 * facts["step_s"], rel=0.5)
    assert (
        f"{facts['step_ratio']:.1f} times as long as the unedited file's"
        in report.findings[0]["message"]
    )
    assert "the stage has 2 minutes" in report.findings[1]["message"]
    assert not facts["reference_known"]
    # The second time the unedited file's measurement is found, and is the same one.
    full_size.measure(*arguments)
    again = full_size.check(arguments=arguments).facts
    assert again["reference_known"]
    assert again["reference_step_s"] == facts["reference_step_s"]


def test_what_is_known_of_the_unedited_file_holds_for_it_alone(tmp_path: Path) -> None:
    reference = snapshot(tmp_path / "reference")

    def key(machine: str = "cpu", torch: str = "2.13.0", **values: Any) -> str:
        chosen: dict[str, Any] = {"settings": SMALL, "gpus": ()} | values
        unedited = Unedited(**chosen, reference=reference, cache=tmp_path / "kept")
        return unedited.key(machine, torch)

    first = key()
    assert key(seed=1, memory_gib=79.0) == first
    others = {
        key(machine="NVIDIA H200"),
        key(torch="2.11.0"),
        key(settings=(*SMALL, "--n_layer=2")),
        key(gpus=("0", "1")),
    }
    with (reference / "nanoGPT/data.py").open("a") as file:
        file.write("# another version\n")
    assert len(others | {first, key()}) == 6


def test_nothing_that_an_edit_starts_outlives_the_check(full_size: Preflight) -> None:
    wait = "4711.42"
    report = full_size.check(
        (
            LOOP,
            "            x = block(x)\n"
            "        import subprocess\n"
            f"        subprocess.Popen(['sleep', '{wait}'], start_new_session=True)\n",
        )
    )
    assert report.findings == []
    commands = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if wait in command]


def test_only_the_unedited_file_fills_what_is_kept(full_size: Preflight) -> None:
    full_size.measure("--time-on-cpu")
    (record,) = full_size.kept.glob("*.json")
    before = record.read_bytes()
    full_size.check(arguments=("--time-on-cpu",))
    assert record.read_bytes() == before
    assert json.loads((full_size.folder / "measured/measured.json").read_text())["known"] is False


def test_without_figures_of_the_unedited_file_there_is_no_verdict(full_size: Preflight) -> None:
    done = subprocess.run(
        full_size.command("--time-on-cpu"),
        cwd=full_size.reference,
        env=full_size.environment(full_size.reference),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ERROR: no figures of the unedited file" in done.stderr


def test_a_loop_without_end_is_given_up(
    full_size: Preflight, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "STEPS_S", 1.0)
    endless = (LOOP, "            x = block(x)\n        while self.training: pass\n")
    files = snapshot(full_size.folder / "files", endless)
    # Runners of earlier tests may still be below this process, ended and not collected.
    before = set(psutil.Process().children(recursive=True))
    report = a_check(files, full_size.reference).report(full_size.folder)
    assert [f["rule"] for f in report.findings] == ["time-limit"]
    assert report.findings[0]["message"].startswith("The first steps took more than 1 s.")
    assert set(psutil.Process().children(recursive=True)) <= before


def test_ending_the_check_ends_what_it_started(full_size: Preflight) -> None:
    endless = (LOOP, "            x = block(x)\n        while True: pass\n")
    files = snapshot(full_size.folder / "files", endless)
    with subprocess.Popen(
        full_size.command(), cwd=files, env=full_size.environment(files)
    ) as process:
        below: list[psutil.Process] = []
        while not below:
            time.sleep(0.05)
            below = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(20) == 143
    _, alive = psutil.wait_procs(below, timeout=10)
    assert not alive


def a_check(files: Path, reference: Path, **values: Any) -> Check:
    chosen: dict[str, Any] = {
        "files": files,
        "reference": reference,
        "cache": files / "cache",
        "settings": SMALL,
        "gpus": (),
        "timed": False,
    }
    return Check(**chosen | values)


@pytest.mark.slow
def test_compiling_for_too_long_leaves_the_verdict_to_the_time_without(
    full_size: Preflight, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = a_check(
        full_size.reference,
        full_size.reference,
        settings=(*SMALL, "--compile=true"),
        cache=full_size.folder / "cache",
        measured={
            "step_s": 0.01,
            "peak_bytes": 0,
            "compile_s": 0.0,
            "known": True,
            "check_s": 0.0,
        },
        timed=True,
        max_step_ratio=0.001,
    )
    monkeypatch.setattr(preflight, "COMPILE_S", 0.0)
    report = check.report(full_size.folder)
    assert [f["rule"] for f in report.findings] == ["too-slow"]
    assert [w["rule"] for w in report.warnings] == ["compile-time"]
    assert "without torch.compile, which was not done after 0 s" in report.findings[0]["message"]
    assert report.facts["compiled"] is False
    assert report.facts["step_ratio"] == pytest.approx(report.facts["step_s"] / 0.01)


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        (("0",), "would take 2 minutes (1 s a step); the stage has 60 s. Do less"),
        (
            ("0", "1"),
            "would take 2 minutes on 2 GPUs, 240 GPU-seconds (1 s a step); the stage has 60 s "
            "on each, 120 GPU-seconds. Do less",
        ),
    ],
)
def test_the_limit_is_one_of_gpu_seconds(gpus: tuple[str, ...], said: str, tmp_path: Path) -> None:
    check = a_check(tmp_path, tmp_path, gpus=gpus, limit_s=60.0)
    result = dict.fromkeys(preflight.FACTS, 0.0) | {"steps": 120, "step_s": 1.0}
    for test_s, found in ((60.0, 0), (120.0, 1)):
        report = preflight.Report()
        check._judge(result | {"test_s": test_s}, {"step_s": 1.0}, report)
        assert len(report.findings) == found
        assert report.facts["test_gpu_s"] == test_s * len(gpus)
        assert report.facts["limit_gpu_s"] == 60.0 * len(gpus)
    assert said in report.findings[0]["message"]


GIB = 2**30
FULL = {
    "rule": "memory", "line": 163, "held_bytes": 78 * GIB, "asked_bytes": 2 * GIB,
    "memory_bytes": 79 * GIB,
}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "message", "line"),
    [
        (
            {
                "micro_batch": 32,
                "needed_bytes": 148 * GIB,
                "lines": {"97": 30 * GIB, "164": 31 * GIB},
            },
            "does not fit: about 148 GiB needed at micro-batch 32, of 79.0 GiB (without "
            "torch.compile; with it memory ran out at 78.0 GiB with 2.0 GiB more asked for). Of "
            "the 61 GiB that a forward pass keeps, 31 GiB are held by the edited line 164 "
            "(31 GiB). Keep fewer or smaller tensors for the backward pass.",
            164,
        ),
        (
            None,
            "does not fit: memory ran out at 78.0 GiB with 2.0 GiB more asked for, of 79.0 GiB. "
            "Keep fewer or smaller tensors for the backward pass.",
            163,
        ),
    ],
)
def test_what_does_not_fit_is_told_with_its_lines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    found: dict[str, Any] | None,
    message: str,
    line: int,
) -> None:
    check = a_check(
        snapshot(tmp_path / "files", (LOOP, "            x = block(x) + x\n")),
        snapshot(tmp_path / "reference"),
        settings=("--device=cuda",),
        gpus=("0",),
    )
    outcomes = {"train": Outcome(failed=FULL), "memory": Outcome(result=found)}
    monkeypatch.setattr(Check, "take", lambda _, folder, mode, *rest: outcomes[mode])
    (finding,) = check.report(tmp_path).findings
    assert (finding["rule"], finding["message"], finding["line"]) == ("memory", message, line)


# At smoke `make tasks` takes it, too.
@pytest.mark.parametrize("profile", [pytest.param("smoke", marks=pytest.mark.slow), "tiny"])
def test_the_stage_scripts_take_one_step(tmp_path: Path, profile: str) -> None:
    caller = Preflight(tmp_path)
    command = ["bash", str(SCRIPTS / f"gpt_{profile}.sh"), "preflight"]
    environment = caller.environment(caller.reference)
    subprocess.run(command, cwd=caller.reference, env=environment, check=True, capture_output=True)
    report = json.loads((tmp_path / "out/findings.json").read_text())
    assert report["findings"] == []
    assert report["facts"]["steps"] == {"smoke": 30, "tiny": 200}[profile]


def test_a_gpu_stage_without_a_gpu_cannot_be_checked(tmp_path: Path) -> None:
    caller = Preflight(tmp_path)
    done = subprocess.run(
        ["bash", str(SCRIPTS / "gpt_345m.sh"), "preflight"],
        cwd=caller.reference,
        env=caller.environment(caller.reference),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: this stage trains on GPUs and was given none.")


@pytest.mark.parametrize("name", ["llm-pretrain-residual", "llm-pretrain-mlp"])
def test_the_steps_limits_leave_room_for_what_a_check_finds(name: str) -> None:
    """Compiling that is given up, steps without it, and a look at what holds the memory."""
    start, compiling, steps = preflight.START_S, preflight.COMPILE_S, preflight.STEPS_S
    check = start + compiling + 2 * (start + steps + steps)
    unedited = preflight.PATIENCE * (start + compiling) + steps
    stages = [
        stage
        for profile in load_task(ROOT / "tasks" / name).profiles.values()
        for stage in profile.stages
        if "reference" in stage.roles
    ]
    assert len(stages) == 2
    for stage in stages:
        assert (stage.limits.preflight_s or 0) > check
        assert (stage.limits.reference_s or 0) > unedited
