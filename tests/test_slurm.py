"""Runs as jobs of a real Slurm cluster of one node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import new_player
from fastapi.testclient import TestClient
from runs import prepare, stage, status_of, wait_for
from slurm import cluster, why_not

from harness.jobs import Executor, make_executor
from harness.jobs.processes import living_runner, run_mark
from harness.workspace import RunPaths

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.xdist_group("slurm"),
]


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    with (
        # Not pytest's folder, which munge's user cannot enter.
        tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder,
        cluster(Path(folder)) as env,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in env.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def executor(slurm: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    monkeypatch.setattr("harness.jobs.slurm.SETTLE_SECONDS", 3.0)
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    yield make_executor("slurm", time_min=5, cpus=1)
    subprocess.run(["scancel", "--user", str(os.geteuid())], check=True)


def ended(executor: Executor, run: RunPaths) -> bool:
    return executor.state(run).kind == "gone"


def resumable(folder: Path, seconds: int = 100) -> RunPaths:
    """A run that ends by itself only when it is started for the second time."""
    script = f"if [ -e {folder}/begun ]; then exit 0; fi; touch {folder}/begun; sleep {seconds}"
    return prepare(folder, stage(folder, "one", run=script, limit_s=seconds + 20))


def job_of(run: RunPaths) -> str:
    """The id of the job that the run has now."""
    listing = subprocess.run(
        ["squeue", "--me", "-h", "-o", "%j %i"], capture_output=True, text=True, check=True
    ).stdout
    return dict(line.split() for line in listing.splitlines())[f"harness-{run_mark(run)}"]


def test_a_session_whose_tests_are_jobs(
    slurm: None, start_server: Callable[..., TestClient]
) -> None:
    client = start_server(executor="slurm", slurm_cpus=1)
    player = new_player(client)
    answer = player.call("test", wait_s=50)
    while answer["data"].get("state") != "finished":
        answer = player.call("status", wait_s=50)
    assert answer["data"]["metrics"]["error"] == pytest.approx(0.267, abs=1e-3)


def test_a_job_that_is_requeued_goes_on_and_costs_nothing(
    executor: Executor, tmp_path: Path
) -> None:
    run = resumable(tmp_path)
    executor.submit(run)
    executor.submit(run)  # which makes no second job
    wait_for((tmp_path / "begun").exists, 60)
    wait_for(lambda: status_of(run).running, 30)
    name = subprocess.run(
        ["squeue", "--me", "-h", "-o", "%i"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(name) == 1
    # What Slurm sends when the wall-time limit is near, or the job is preempted.
    subprocess.run(["scancel", "--signal=USR2", name[0]], check=True)
    wait_for(lambda: status_of(run).state == "interrupted", 30)
    assert executor.state(run).kind != "gone"
    # Slurm would let it wait for two minutes.
    wait_for(lambda: executor.state(run).kind == "queued", 30)
    subprocess.run(["scontrol", "update", f"JobId={name[0]}", "StartTime=now"], check=True)
    wait_for(lambda: status_of(run).starts == 2, 60)
    wait_for(lambda: ended(executor, run), 60)
    assert status_of(run).state == "finished", run.runner_log.read_text()


def test_cancelled_while_it_waits_and_while_it_runs(executor: Executor, tmp_path: Path) -> None:
    running = prepare(tmp_path / "a", stage(tmp_path / "a", "one", run="sleep 100", limit_s=120))
    cores = len(os.sched_getaffinity(0))
    full = make_executor("slurm", time_min=5, cpus=cores)
    full.submit(running)
    wait_for(lambda: status_of(running).running, 60)
    waiting = resumable(tmp_path / "b")
    full.submit(waiting)
    # A server that starts anew knows them by their names.
    again = make_executor("slurm", time_min=5, cpus=cores)
    again.submit(waiting)
    state = again.state(waiting)
    assert (state.kind, state.place) == ("queued", 1)
    again.cancel(waiting)
    assert status_of(waiting).state == "cancelled"
    again.cancel(running)
    wait_for(lambda: status_of(running).state == "cancelled", 30)
    wait_for(lambda: ended(again, running), 30)


def test_a_job_whose_runner_is_killed_is_gone(executor: Executor, tmp_path: Path) -> None:
    run = resumable(tmp_path)
    executor.submit(run)
    wait_for((tmp_path / "begun").exists, 60)
    runner = living_runner(run)
    assert runner is not None
    runner.send_signal(signal.SIGKILL)
    wait_for(lambda: ended(executor, run), 60)
    assert status_of(run).state == "running"
    executor.submit(run)
    wait_for(lambda: status_of(run).state == "finished", 60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_jobs_that_come_to_their_wall_time_limit(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm itself tells one of them before, as ours are told, and ends the other at its limit of a
    minute, which it looks after twice a minute."""
    monkeypatch.setattr("harness.jobs.slurm.SIGNAL_SECONDS", 20)
    told = make_executor("slurm", time_min=1, cpus=1)
    untold = make_executor("slurm", time_min=1, cpus=1, extra={"signal": "CONT@1"})
    saved, cut = resumable(tmp_path / "saved", 500), resumable(tmp_path / "cut", 500)
    told.submit(saved)
    untold.submit(cut)
    wait_for(lambda: status_of(saved).running and status_of(cut).running, 60)
    first, other = job_of(saved), job_of(cut)

    # It has ended its runner in order, and is requeued under its number.
    wait_for(lambda: status_of(saved).state == "interrupted", 150)
    wait_for(lambda: told.state(saved).kind == "queued", 30)
    assert job_of(saved) == first
    subprocess.run(["scontrol", "update", f"JobId={first}", "StartTime=now"], check=True)
    wait_for(lambda: status_of(saved).state == "finished", 60)
    assert status_of(saved).starts == 2

    # Its processes are gone, and its test goes on as one that was interrupted.
    wait_for(lambda: ended(untold, cut), 150)
    shown = subprocess.run(["scontrol", "show", "job", other], capture_output=True, text=True)
    assert "JobState=TIMEOUT" in shown.stdout
    assert status_of(cut).state in ("interrupted", "running")
    assert living_runner(cut) is None
    untold.submit(cut)
    wait_for(lambda: status_of(cut).state == "finished", 60)
    assert status_of(cut).starts == 2


def test_nothing_of_the_servers_environment_gets_into_a_job(
    executor: Executor, tmp_path: Path
) -> None:
    run = prepare(tmp_path, stage(tmp_path, "one", run="sleep 100", limit_s=120))
    executor.submit(run)
    wait_for(lambda: living_runner(run), 60)
    runner = living_runner(run)
    assert runner is not None
    for process in (runner, *runner.parents()):
        with contextlib.suppress(psutil.AccessDenied):  # the machine's own, above slurmd
            assert "hunter2" not in process.environ().values(), process
    assert executor.threads == 1
    wait_for(run.hardware.exists, 60)
    executor.cancel(run)
    wait_for(lambda: ended(executor, run), 60)


def test_a_controller_that_is_away_takes_nobodys_test(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that starts meanwhile does not call a running test interrupted."""
    run = prepare(tmp_path, stage(tmp_path, "one", run="sleep 100", limit_s=120))
    executor.submit(run)
    wait_for(lambda: status_of(run).running, 60)
    again = make_executor("slurm", time_min=5, cpus=1)
    monkeypatch.setattr("harness.jobs.slurm.COMMAND_SECONDS", 0.001)
    assert again.state(run).kind == "running"
    monkeypatch.undo()
    assert again.state(run).kind == "running"
    again.cancel(run)
    wait_for(lambda: status_of(run).state == "cancelled", 60)


def test_nothing_falls_back_to_a_smaller_profile(
    slurm: None, start_server: Callable[..., TestClient]
) -> None:
    service = start_server(executor="slurm").app.state.service  # type: ignore[attr-defined]
    [task] = [task for task in service.tasks.values() if task.name == "two-files"]
    large = task.profiles["toy"].model_copy(
        update={
            "stages": tuple(
                stage.model_copy(update={"gpus": 8}) for stage in task.profiles["toy"].stages
            )
        }
    )
    both = task.model_copy(update={"profiles": {"large": large, "toy": task.profiles["toy"]}})
    assert service.choose_profile(both) == "large"
