from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from runs import (
    alive,
    around,
    carry_out,
    finish,
    kill_group,
    prepare,
    stage,
    start,
    status_of,
    wait_for,
)

from harness.jobs.plan import (
    PlanError,
    make_plan,
    prepare_run_dir,
    read_plan,
    read_progress,
    snapshot,
    write_status,
)
from harness.jobs.processes import living_runner
from harness.task import load_task
from harness.workspace import RunPaths, SessionPaths, read_regular

TASK = load_task(Path(__file__).parent / "tasks" / "two_files")


def states(paths: RunPaths) -> list[tuple[str, str, str, int | None]]:
    return [(s.stage, s.role, s.state, s.exit) for s in status_of(paths).steps]


# ---------------------------------------------------------------------------------------------
# Order, exits, reasons


def test_steps_run_in_order_and_a_failure_skips_what_needs_it(tmp_path: Path) -> None:
    note = f"echo $HARNESS_STAGE.$1 >> {tmp_path}/order"
    paths = prepare(
        tmp_path,
        stage(tmp_path, "one", run=note, score=note),
        stage(tmp_path, "two", run=f"{note}; echo 'ERROR: it broke' >&2; exit 3", score=note),
        stage(tmp_path, "three", score=note, needs=["two"]),
        stage(tmp_path, "four", score=note, needs=["three"]),
        stage(tmp_path, "five", score=note, needs=["one"]),
    )
    status = carry_out(paths)
    assert status.state == "finished"
    assert states(paths) == [
        ("one", "run", "done", 0),
        ("one", "score", "done", 0),
        ("two", "run", "failed", 3),
        ("two", "score", "skipped", None),
        ("three", "score", "skipped", None),
        ("four", "score", "skipped", None),
        ("five", "score", "done", 0),
    ]
    assert status.step("two", "run").reason == ["ERROR: it broke"]
    assert status.step("two", "score").reason == ["two failed"]
    assert status.step("four", "score").reason == ["two failed"]
    assert (tmp_path / "order").read_text().split() == [
        "one.run",
        "one.score",
        "two.run",
        "five.score",
    ]
    assert paths.step("two", "run").exit.is_file()
    assert living_runner(paths) is None


def test_an_exception_is_told_by_the_frames_of_the_editable_file(tmp_path: Path) -> None:
    script = (
        "echo 'def f(): return 1 / 0' > model.py\n"  # the step begins in the snapshot
        "python -c 'import model; model.f()'"
    )
    status = carry_out(prepare(tmp_path, stage(tmp_path, "one", run=script)))
    assert status.step("one", "run").reason == [
        "ZeroDivisionError: division by zero",
        '  File "model.py", line 1, in f',
        "    def f(): return 1 / 0",
    ]


def test_a_step_has_exactly_the_plans_environment(tmp_path: Path) -> None:
    paths = prepare(tmp_path, stage(tmp_path, "one", run="exec env -0", score="pwd; cat; id -u"))
    plan = read_plan(paths)
    carry_out(paths, SECRET_TOKEN="hunter2", PYTHONPATH=str(tmp_path))
    text = paths.step("one", "run").log.read_text()
    got = dict(entry.split("=", 1) for entry in text.split("\0") if entry)
    # bash itself sets these.
    added = {name: got.pop(name) for name in ("PWD", "SHLVL", "_") if name in got}
    assert added["PWD"] == str(paths.files)
    # Which GPUs it has is decided when the run starts.
    assert got == plan.env | plan.stages[0].steps[0].env | {"HARNESS_GPUS": ""}
    assert got["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert got["HOME"] == str(paths.home)
    assert got["TMPDIR"] == str(paths.tmp)
    assert "hunter2" not in text
    # stdin is empty: `cat` came back at once.
    assert paths.step("one", "score").log.read_text().split() == [
        str(paths.files),
        str(os.getuid()),
    ]


def test_the_order_of_stdout_and_stderr_is_kept(tmp_path: Path) -> None:
    paths = prepare(tmp_path, stage(tmp_path, "one", run="echo a; echo b >&2; echo c"))
    carry_out(paths)
    assert paths.step("one", "run").log.read_text() == "a\nb\nc\n"


# ---------------------------------------------------------------------------------------------
# Ends by force


def test_an_orphan_in_a_session_of_its_own_is_dead_before_score(tmp_path: Path) -> None:
    orphan = (
        f'(setsid bash -c \'trap "" TERM HUP; echo $$ > {tmp_path}/pid; '
        f"while :; do sleep 0.05; date >> {tmp_path}/ticks; done' </dev/null >/dev/null 2>&1 &)\n"
        f"while [ ! -s {tmp_path}/ticks ]; do sleep 0.02; done"
    )
    look = f"kill -0 $(cat {tmp_path}/pid) 2>/dev/null && echo alive || echo dead"
    paths = prepare(tmp_path, stage(tmp_path, "one", run=orphan, score=look))
    carry_out(paths)
    assert paths.step("one", "score").log.read_text() == "dead\n"
    assert not alive(tmp_path / "pid")


def test_a_killed_process_group_is_exit_137(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 60; echo x"
    paths = prepare(tmp_path, stage(tmp_path, "one", run=script, score=":"))
    runner = start(paths)
    wait_for((tmp_path / "pid").exists)
    kill_group(int((tmp_path / "pid").read_text()))
    finish(runner)
    assert states(paths) == [("one", "run", "failed", 137), ("one", "score", "skipped", None)]
    assert "killed by SIGKILL, signal 9" in status_of(paths).step("one", "run").reason[0]


def test_a_step_over_its_time_is_ended_with_all_its_children(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pid; echo reached; wait"
    paths = prepare(tmp_path, stage(tmp_path, "one", run=script, score=":", limit_s=0.5))
    status = carry_out(paths)
    assert [step.state for step in status.steps] == ["timeout", "skipped"]
    assert status.steps[0].reason == ["It ran longer than its limit of 0.5 s."]
    assert paths.step("one", "run").log.read_text().startswith("reached\n")
    assert not alive(tmp_path / "pid")


@pytest.mark.parametrize("script", ["yes", "yes | head -c 5000000"], ids=["endless", "ends"])
def test_a_log_is_capped(tmp_path: Path, script: str) -> None:
    paths = prepare(tmp_path, stage(tmp_path, "one", run=script, log_bytes=10_000))
    status = carry_out(paths)
    assert status.steps[0].state == "failed"
    assert status.steps[0].reason == ["It printed more than its limit of 10000 bytes. Print less."]
    log = paths.step("one", "run").log.read_bytes()
    assert log[:10_000] == b"y\n" * 5000
    assert log[10_000:] == (
        b"\n[stopped: It printed more than its limit of 10000 bytes. Print less.]\n"
    )


def test_a_fork_bomb_of_some_size_ends(tmp_path: Path) -> None:
    bomb = (
        "f() { for i in 1 2 3; do setsid sleep 60 & done; }\n"
        f"f; (f; sleep 60) & echo $! > {tmp_path}/pid"
    )
    paths = prepare(
        tmp_path, stage(tmp_path, "one", run=bomb, score=f"kill -0 $(cat {tmp_path}/pid)")
    )
    assert [step.state for step in carry_out(paths).steps] == ["done", "failed"]


def test_score_starts_in_an_empty_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    paths = RunPaths(tmp_path / "run")
    forge = f"mkdir -p {paths.steps}; ln -s {outside} {paths.step('one', 'score').root}"
    prepare(tmp_path, stage(tmp_path, "one", run=forge, score="ls -A $HARNESS_OUT"))
    carry_out(paths)
    assert paths.step("one", "score").log.read_text() == "log.txt\n"
    assert os.listdir(outside) == ["kept"]


# ---------------------------------------------------------------------------------------------
# Stopping, resuming


def test_resume_after_the_runner_was_killed(tmp_path: Path) -> None:
    first = f"echo once >> {tmp_path}/first"
    second = (
        "if [ -e $HARNESS_OUT/resume ]; then echo resumed; exit 0; fi; touch $HARNESS_OUT/resume\n"
        f"(trap '' TERM; setsid sleep 77 & echo $! > {tmp_path}/pid)\n"
        f"echo begun; touch {tmp_path}/begun; sleep 60"
    )
    paths = prepare(tmp_path, stage(tmp_path, "one", run=first), stage(tmp_path, "two", run=second))
    runner = start(paths)
    wait_for((tmp_path / "begun").exists)
    log = paths.step("two", "run").log
    wait_for(lambda: log.exists() and log.read_text() == "begun\n")  # the runner writes it
    assert living_runner(paths) is not None
    runner.kill()
    finish(runner, -signal.SIGKILL)
    assert living_runner(paths) is None
    assert status_of(paths).state == "running"
    status = carry_out(paths)
    assert (status.state, status.starts) == ("finished", 2)
    assert [step.state for step in status.steps] == ["done", "done"]
    assert (tmp_path / "first").read_text() == "once\n"
    assert log.read_text() == "begun\nresumed\n"
    assert not alive(tmp_path / "pid")
    before = paths.status.read_bytes()
    finish(start(paths))
    assert paths.status.read_bytes() == before, "a finished run is never touched again"


@pytest.mark.parametrize("cancel", [False, True], ids=["interrupted", "cancelled"])
def test_sigterm(tmp_path: Path, cancel: bool) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; wait"
    paths = prepare(tmp_path, stage(tmp_path, "one", run=script, score=":"))
    runner = start(paths)
    wait_for((tmp_path / "pid").exists)
    if cancel:
        paths.cancel.touch()
    runner.terminate()
    finish(runner, 0 if cancel else 75)
    assert not alive(tmp_path / "pid")
    status = status_of(paths)
    if cancel:
        assert status.state == "cancelled"
        assert [(s.state, s.reason) for s in status.steps] == 2 * [("skipped", ["cancelled"])]
    else:
        assert status.state == "interrupted"
        assert [s.state for s in status.steps] == ["waiting", "waiting"]
        assert not paths.step("one", "run").exit.exists()


def test_a_sigterm_that_meets_the_step_first_is_no_failure(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 60"
    paths = prepare(tmp_path, stage(tmp_path, "one", run=script))
    runner = start(paths)
    wait_for((tmp_path / "pid").exists)
    # As a cluster ends a job: every process is told, in any order.
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    time.sleep(0.1)
    runner.terminate()
    finish(runner, 75)
    assert [step.state for step in status_of(paths).steps] == ["waiting"]


def test_time_used_before_an_interruption_stays_used(tmp_path: Path) -> None:
    """But for what the run may have lost; or short wall times would lift the limit."""
    script = f"touch {tmp_path}/begun; sleep 60"
    paths = prepare(tmp_path, stage(tmp_path, "one", run=script, limit_s=12))
    status = status_of(paths)
    status.steps[0].spent_s = 11.6
    write_status(paths, status)
    began = time.monotonic()
    status = carry_out(paths)
    assert status.steps[0].state == "timeout"
    assert status.steps[0].reason == ["It ran longer than its limit of 12 s."]
    assert time.monotonic() - began < 10


def test_a_step_is_killed_before_its_runner_where_memory_runs_out(tmp_path: Path) -> None:
    script = f"cat /proc/self/oom_score_adj > {tmp_path}/score"
    carry_out(prepare(tmp_path, stage(tmp_path, "one", run=script)))
    assert (tmp_path / "score").read_text() == "1000\n"


def test_memory_of_a_job_is_a_limit_too(tmp_path: Path) -> None:
    """So that the step is ended, and counts, before the cluster ends all of the job."""
    script = 'python -c "a = bytearray(400 << 20); import time; time.sleep(60)"'
    one = stage(tmp_path, "one", run=script)
    step = one.steps[0].model_copy(update={"disk_bytes": 1 << 30})
    paths = prepare(tmp_path, one.model_copy(update={"steps": [step]}))
    status = carry_out(paths, HARNESS_GIVEN_MEMORY=str(300 << 20))
    assert status.steps[0].reason == ["It was stopped: It held more than 0.3 GiB of memory."]


def test_only_one_runner_works_on_a_directory(tmp_path: Path) -> None:
    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo ran"
    paths = prepare(tmp_path, stage(tmp_path, "one", run=script))
    runner = start(paths)
    wait_for(lambda: status_of(paths).running)
    assert "another runner is at work" in finish(start(paths), 3)
    (tmp_path / "go").touch()
    finish(runner)
    assert paths.step("one", "run").log.read_text() == "ran\n"


def test_a_directory_without_a_plan(tmp_path: Path) -> None:
    assert "has no plan.json" in finish(start(RunPaths(tmp_path)), 2)


# ---------------------------------------------------------------------------------------------
# Progress


def test_progress_is_shown_with_the_time_left(tmp_path: Path) -> None:
    script = (
        "for i in 1 2 3 4; do\n"
        'printf \'{"stage": "one", "step": %d, "steps": 100, "loss": 2.5}\' $i'
        " > $HARNESS_OUT/p\n"
        "mv $HARNESS_OUT/p $HARNESS_OUT/progress.json; sleep 0.3; done\n"
        f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
    )
    paths = prepare(tmp_path, stage(tmp_path, "one", run=script, score="sleep 0.6"))
    runner = start(paths)

    def reached() -> bool:
        progress = status_of(paths).progress
        return progress is not None and progress.step == 4

    wait_for(reached)
    progress = status_of(paths).progress
    assert progress is not None
    assert (progress.stage, progress.steps, progress.loss) == ("one", 100, 2.5)
    assert progress.seconds_left is not None
    assert 10 < progress.seconds_left < 120
    before = status_of(paths).updated_at
    wait_for(lambda: status_of(paths).updated_at > before, 2)
    (tmp_path / "go").touch()
    finish(runner)
    assert status_of(paths).progress is None


GOOD = {"stage": "one", "step": 3, "steps": 9, "loss": 1.5, "tokens_per_s": 10}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps(GOOD), (3, 9, 1.5, 10.0)),
        (json.dumps(GOOD | {"loss": float("nan")}), (3, 9, None, 10.0)),
        (json.dumps(GOOD | {"step": "3", "steps": True, "loss": [1]}), (None, None, None, 10.0)),
        (json.dumps(GOOD | {"step": -1, "steps": 1e300}), (None, None, 1.5, 10.0)),
        (json.dumps(GOOD).replace("3", "9" * 3000), (None, 9, 1.5, 10.0)),
        (json.dumps(GOOD | {"secret": "x"}), (3, 9, 1.5, 10.0)),
        (json.dumps(GOOD | {"stage": "other"}), None),
        (json.dumps(GOOD) + " " * 5000, None),
        ("[" * 4000, None),
        ("{", None),
        ("", None),
        ("7", None),
    ],
)
def test_read_progress(
    tmp_path: Path, text: str, expected: tuple[float | None, ...] | None
) -> None:
    (tmp_path / "progress.json").write_text(text)
    found = read_progress(tmp_path, "one")
    got = found and (found.step, found.steps, found.loss, found.tokens_per_s)
    assert got == expected


@pytest.mark.parametrize(
    "attack",
    [
        "mkfifo $HARNESS_OUT/progress.json",
        "ln -s /etc/passwd $HARNESS_OUT/progress.json",
        "ln -s /dev/zero $HARNESS_OUT/progress.json",
        "mkdir $HARNESS_OUT/progress.json",
        "ln -s progress.json $HARNESS_OUT/progress.json",
    ],
)
def test_a_progress_file_can_do_no_harm(tmp_path: Path, attack: str) -> None:
    paths = prepare(
        tmp_path,
        stage(tmp_path, "one", run=f"{attack}; sleep 0.4"),
        stage(tmp_path, "two", run=":"),
    )
    assert [step.state for step in carry_out(paths).steps] == ["done", "done"]


def test_read_regular(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 5) == b"12345"
    assert read_regular(tmp_path / "none", 5) is None
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        read_regular(tmp_path / "file", 4)
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", ".", "file/x"):
        with pytest.raises(ValueError, match="not a regular file"):
            read_regular(tmp_path / name, 100)


# ---------------------------------------------------------------------------------------------
# The plan of a task


def test_the_plan_of_a_task(tmp_path: Path) -> None:
    paths = SessionPaths(tmp_path).run(2, 3)
    plan = make_plan(
        TASK, "toy", 2, 3, around(paths, tmp_path / "data", threads=2), extra_env={"A": "b"}
    )
    prepare_run_dir(paths, plan, snapshot(TASK, {"line_rate.py": "edited\n"}))
    assert read_plan(paths) == plan
    assert status_of(paths).state == "queued"
    assert (paths.files / "line_rate.py").read_text() == "edited\n"
    assert (paths.files / "loop.py").read_bytes() == dict(TASK.sibling_contents())["loop.py"]
    run, score = plan.stages[0].steps
    assert run.confinement is not None
    assert {name: run.env[name] for name in run.env if name.startswith("HARNESS_")} == {
        "HARNESS_FILES": "/harness/files",
        "HARNESS_DATA": "/harness/data",
        "HARNESS_OUT": "/harness/out",
        "HARNESS_CACHE": "/harness/cache",
        "HARNESS_STAGE": "fit-toy",
    }
    shown = {mount.target: mount for mount in run.confinement.mounts}
    assert shown["/harness/data"].source == str(tmp_path / "data/points/run")
    assert [m.source for m in shown.values() if m.writable] == [str(paths.out), str(paths.cache)]
    assert run.keeps[0].file == "fit.json"
    assert score.confinement is None
    assert score.env == {
        "HARNESS_DATA": str(tmp_path / "data/points/score"),
        "HARNESS_OUT": str(paths.root / "steps/fit-toy.score"),
        "HARNESS_RUN_OUT": str(paths.kept),
        "HARNESS_SERVER": str(paths.server("fit-toy")),
        "HARNESS_STAGE": "fit-toy",
    }
    assert score.companion is not None
    assert score.companion.role == "serve"
    assert "HARNESS_DATA" not in score.companion.env
    assert plan.stages[1].needs == ["fit-toy"]
    assert plan.env["HARNESS_SEED"] == "42"
    assert plan.env["HARNESS_PROFILE"] == "toy"
    assert plan.env["A"] == "b"
    assert plan.env["OMP_NUM_THREADS"] == "2"
    with pytest.raises(FileExistsError):
        prepare_run_dir(paths, plan, {})


def test_without_a_sandbox_the_same_variables_hold_paths_of_the_host(tmp_path: Path) -> None:
    paths = SessionPaths(tmp_path).run(1)
    plan = make_plan(TASK, "toy", 1, 1, around(paths, tmp_path / "data", sandbox=False))
    run = plan.stages[0].steps[0]
    assert not plan.sandbox
    assert run.confinement is None
    assert run.env["HARNESS_FILES"] == str(paths.files)
    assert run.env["HARNESS_OUT"] == str(paths.out)


def test_gpus_are_handed_out_or_missed(tmp_path: Path) -> None:
    profile = TASK.profile("toy")
    fit = profile.stages[0].model_copy(update={"gpus": 2})
    big = profile.model_copy(update={"stages": (fit, profile.stages[1])})
    task = TASK.model_copy(update={"profiles": {"toy": big}})
    paths = SessionPaths(tmp_path).run(1)
    plan = make_plan(task, "toy", 1, 1, around(paths, tmp_path, gpus=3))
    assert ([stage.gpus for stage in plan.stages], plan.gpus) == ([2, 0], 2)
    with pytest.raises(PlanError, match=r"needs 2 GPU\(s\), there are 1"):
        make_plan(task, "toy", 1, 1, around(paths, tmp_path, gpus=1))
