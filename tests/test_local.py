from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from runs import ROOT, alive, around, prepare, stage, status_of, wait_for

from harness.jobs import EXECUTORS, JobState, make_executor
from harness.jobs.local import LocalExecutor
from harness.jobs.plan import PlanError, make_plan, prepare_run_dir, snapshot
from harness.jobs.processes import living_runner
from harness.task import load_task
from harness.workspace import RunPaths, SessionPaths

TASK = load_task(Path(__file__).parent / "tasks" / "two_files")
FAILING: Mapping[str, str] = {
    "line_rate.py": TASK.read_file("line_rate.py").replace(
        "    return FIRST_RATE", "    return FIRST_RATE / (4 - step)"
    )
}


def gated(folder: Path, gpus: int = 0) -> RunPaths:
    """A run that says which GPUs it has, and ends when ``go`` exists in the folder."""
    wait = f"echo $$ > {folder}/pid; while [ ! -e {folder}/go ]; do sleep 0.02; done"
    own = stage(folder, "one", run=f"echo -n $HARNESS_GPUS > {folder}/gpus; {wait}")
    return prepare(folder, own.model_copy(update={"gpus": gpus}))


def gpus_of(run: RunPaths) -> str:
    """The GPUs that a gated run was given, once it has begun."""
    wait_for((run.root.parent / "pid").exists)
    return (run.root.parent / "gpus").read_text()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[RunPaths]]:
    """Run directories whose runners are ended after the test."""
    runs: list[RunPaths] = []
    yield runs
    for run in runs:
        LocalExecutor().cancel(run)
    wait_for(lambda: not any(map(living_runner, runs)))


def done(executor: LocalExecutor, run: RunPaths) -> bool:
    return executor.state(run).kind == "gone"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    command = TASK.prepare_command("toy", folder / "points")
    assert command is not None
    subprocess.run(command, check=True)
    return folder


@pytest.mark.parametrize("edited", [{}, FAILING], ids=["honest", "failing"])
def test_a_test_of_the_toy_task(tmp_path: Path, data: Path, edited: Mapping[str, str]) -> None:
    run = SessionPaths(tmp_path).run(1)
    prepare_run_dir(run, make_plan(TASK, "toy", 1, 1, around(run, data)), snapshot(TASK, edited))
    executor = LocalExecutor()
    executor.submit(run)
    wait_for(lambda: done(executor, run))
    status = status_of(run)
    assert status.state == "finished", run.runner_log.read_text()
    curve = TASK.read_curve("toy", "fit", run.step("fit-toy", "run").log.read_text())
    if edited:
        assert [step.state for step in status.steps] == ["failed", "skipped", "skipped"]
        assert status.steps[0].exit == 1
        assert status.steps[0].reason == [
            "ZeroDivisionError: float division by zero",
            '  File "line_rate.py", line 10, in rate',
            "    return FIRST_RATE / (4 - step)",
        ]
        assert [point.step for point in curve] == [0, 2, 4]
        return
    assert [step.state for step in status.steps] == ["done", "done", "done"]
    assert [point.step for point in curve] == [0, 2, 4, 6, 8, 10]
    scores = TASK.read_scores("toy", "fit", run.step("fit-toy", "score").metrics.read_bytes())
    assert 0 < scores.visible["error"] < 1
    assert scores.hidden.keys() == {"worst"}
    assert scores.final.keys() == {"error"}
    near = TASK.read_scores("toy", "near", run.step("near-toy", "score").metrics.read_bytes())
    assert near.visible == {"near": 100.0}


def test_a_queue_is_first_in_first_out(tmp_path: Path, started: list[RunPaths]) -> None:
    runs = [gated(tmp_path / name) for name in ("a", "b", "c")]
    started += runs
    executor = LocalExecutor(slots=1)
    for run in runs:
        executor.submit(run)
        executor.submit(run)
    states = [executor.state(run) for run in runs]
    assert [(state.kind, state.place) for state in states] == [
        ("running", None),
        ("queued", 1),
        ("queued", 2),
    ]
    # Nothing like it was seen yet: each is taken to need the 20 s that its limit is.
    assert states[1].seconds == pytest.approx(20, abs=5)
    assert states[2].seconds == pytest.approx(40, abs=5)
    executor.cancel(runs[1])
    assert status_of(runs[1]).state == "cancelled"
    assert executor.state(runs[1]) == JobState("gone")
    assert executor.state(runs[2]).place == 1
    (tmp_path / "a" / "go").touch()
    wait_for(lambda: executor.state(runs[2]) == JobState("running"))
    assert status_of(runs[0]).state == "finished"
    (tmp_path / "c" / "go").touch()
    wait_for(lambda: done(executor, runs[2]))
    assert status_of(runs[2]).state == "finished"
    executor.submit(runs[2])
    assert executor.state(runs[2]) == JobState("gone")


def test_gpus_belong_to_one_run_at_a_time_and_nobody_overtakes(
    tmp_path: Path, started: list[RunPaths]
) -> None:
    first, large, small, without = (
        gated(tmp_path / name, gpus) for name, gpus in (("a", 2), ("b", 3), ("c", 1), ("d", 0))
    )
    started += [first, large, small, without]
    executor = LocalExecutor(slots=1, gpus=["0", "2", "GPU-x"])
    for run in started:
        executor.submit(run)
    assert gpus_of(first) == "0,2"
    assert gpus_of(without) == ""
    # One is free, but the run before needs three.
    assert executor.state(small).place == 2
    assert not executor.idle(gpus=1)
    assert executor.capacity() == {"slot": (1, 1), "gpu": (3, 2)}
    (tmp_path / "a/go").touch()
    assert (wait_for(lambda: done(executor, first)), gpus_of(large)) == (None, "0,2,GPU-x")
    assert executor.state(small).place == 1
    (tmp_path / "b/go").touch()
    assert (wait_for(lambda: done(executor, large)), gpus_of(small)) == (None, "0")
    with pytest.raises(PlanError, match=r"needs 4 GPU\(s\), there are 3"):
        executor.submit(gated(tmp_path / "e", gpus=4))


def test_gpus_of_a_run_from_before_are_held(tmp_path: Path, started: list[RunPaths]) -> None:
    before, after = gated(tmp_path / "a", 1), gated(tmp_path / "b", 1)
    started += [before, after]
    LocalExecutor(gpus=["0", "1"]).submit(before)
    # At once: the runner itself has not said anything yet.
    executor = LocalExecutor(gpus=["0", "1"])
    executor.submit(before)
    executor.submit(after)
    assert [gpus_of(before), gpus_of(after)] == ["0", "1"]


def test_one_that_was_begun_goes_before_those_that_were_not(
    tmp_path: Path, started: list[RunPaths]
) -> None:
    runs = [gated(tmp_path / name) for name in ("begun", "other", "waiting")]
    started += runs
    executor = LocalExecutor()
    for run in runs:
        executor.submit(run)
    wait_for(lambda: status_of(runs[0]).running and living_runner(runs[0]))
    runner = living_runner(runs[0])
    assert runner is not None
    runner.kill()
    wait_for(lambda: executor.state(runs[1]).kind == "running")
    executor.submit(runs[0])
    assert [executor.state(run).place for run in runs] == [1, None, 2]


def test_a_run_that_is_cancelled_from_outside_leaves_the_queue(
    tmp_path: Path, started: list[RunPaths]
) -> None:
    first, second = gated(tmp_path / "a"), gated(tmp_path / "b")
    started += [first, second]
    executor = LocalExecutor()
    executor.submit(first)
    executor.submit(second)
    second.cancel.touch()
    executor.poll()
    assert executor.state(second).kind == "gone"
    assert status_of(second).state == "cancelled"


def test_cancel_ends_a_running_one(tmp_path: Path) -> None:
    run = gated(tmp_path)
    executor = LocalExecutor()
    executor.submit(run)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    executor.cancel(run)
    wait_for(lambda: done(executor, run))
    assert status_of(run).state == "cancelled"
    assert not alive(tmp_path / "pid")


def test_cancel_right_after_submit(tmp_path: Path) -> None:
    run = gated(tmp_path)
    executor = LocalExecutor()
    executor.submit(run)
    executor.cancel(run)
    wait_for(lambda: done(executor, run))
    assert status_of(run).state == "cancelled"


def test_a_killed_runner_is_gone_and_goes_on_when_submitted(
    tmp_path: Path, started: list[RunPaths]
) -> None:
    run = gated(tmp_path)
    started.append(run)
    executor = LocalExecutor()
    executor.submit(run)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    runner = living_runner(run)
    assert runner is not None
    runner.kill()
    wait_for(lambda: done(executor, run))
    wait_for(lambda: not alive(tmp_path / "pid"))
    (tmp_path / "go").touch()
    executor.submit(run)
    wait_for(lambda: done(executor, run))
    assert (status_of(run).state, status_of(run).starts) == ("finished", 2)


def test_cancel_after_the_runner_was_killed_ends_what_it_left(tmp_path: Path) -> None:
    # The script's own child survives the runner: only the script itself is tied to it.
    script = f"(sleep 61 & echo $! > {tmp_path}/pid; wait)\nsleep 60"
    run = prepare(tmp_path, stage(tmp_path, "one", run=script))
    executor = LocalExecutor()
    executor.submit(run)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    runner = living_runner(run)
    assert runner is not None
    runner.kill()
    wait_for(lambda: done(executor, run))
    assert alive(tmp_path / "pid")
    executor.cancel(run)
    wait_for(lambda: done(executor, run))
    assert status_of(run).state == "cancelled"
    assert not alive(tmp_path / "pid")


def test_a_runner_outlives_its_server_and_is_found_again(
    tmp_path: Path, started: list[RunPaths]
) -> None:
    run = gated(tmp_path)
    started.append(run)
    server = (
        "import sys\nfrom pathlib import Path\nfrom harness.jobs.local import LocalExecutor\n"
        "from harness.workspace import RunPaths\n"
        "LocalExecutor().submit(RunPaths(Path(sys.argv[1])))\n"
    )
    subprocess.run([sys.executable, "-c", server, str(run.root)], cwd=ROOT, check=True)
    wait_for(lambda: status_of(run).running)
    executor = LocalExecutor()
    executor.submit(run)
    assert executor.state(run) == JobState("running")
    other = gated(tmp_path / "other")
    started.append(other)
    executor.submit(other)
    assert executor.state(other).place == 1, "the one found again has the slot"
    (tmp_path / "go").touch()
    wait_for(lambda: executor.state(other) == JobState("running"))
    assert (status_of(run).state, status_of(run).starts) == ("finished", 1)


def test_the_runners_environment_has_no_secrets(
    tmp_path: Path, started: list[RunPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    run = gated(tmp_path)
    started.append(run)
    LocalExecutor().submit(run)
    wait_for(lambda: living_runner(run))
    runner = living_runner(run)
    assert runner is not None
    assert "hunter2" not in str(runner.environ())
    assert psutil.Process(runner.pid).parent() == psutil.Process()


def test_a_directory_that_is_not_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"has no plan\.json"):
        LocalExecutor().submit(RunPaths(tmp_path))


def test_the_table_of_executors() -> None:
    assert isinstance(make_executor("local", slots=2), LocalExecutor)
    with pytest.raises(ValueError, match=f"may be one of: {', '.join(sorted(EXECUTORS))}"):
        make_executor("cloud")
