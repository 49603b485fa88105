"""A real Slurm cluster of one node, this machine, for the length of a test module."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")


def why_not() -> str | None:
    """Why there can be no cluster here."""
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd has to be started by root"
    with contextlib.suppress(KeyError):
        pwd.getpwnam("munge")
        return None
    return "there is no user munge"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Variables that lead Slurm's commands to a cluster that runs while the context is entered."""
    folder.chmod(0o755)
    munge = pwd.getpwnam("munge")
    private = folder / "munge"
    private.mkdir(mode=0o755)
    key = private / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for path in (private, key):
        os.chown(path, munge.pw_uid, munge.pw_gid)
    host = socket.gethostname().partition(".")[0]
    cores = len(os.sched_getaffinity(0))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(
        f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={private}/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=100000
ReturnToService=2
KillWait=5
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
    )
    env = {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    everything = os.environ | env
    as_munge = ["setpriv", f"--reuid={munge.pw_uid}", f"--regid={munge.pw_gid}", "--clear-groups"]
    munged = [
        "munged", "--foreground", f"--key-file={key}", f"--socket={private}/socket",
        f"--pid-file={private}/pid", f"--log-file={private}/log", f"--seed-file={private}/seed",
    ]  # fmt: skip
    commands = [[*as_munge, *munged], ["slurmctld", "-D", "-i"], ["slurmd", "-D"]]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as out:
                started.append(
                    subprocess.Popen(command, env=everything, stdout=out, stderr=out, cwd=folder)
                )
            if command is commands[0]:
                _wait(lambda: (private / "socket").exists(), "munged")
        _wait(lambda: b"idle" in _said(["sinfo", "-h", "-o", "%T"], everything), "the cluster")
        yield env
    finally:
        subprocess.run(["scancel", "--user=root"], env=everything, capture_output=True, check=False)
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _said(command: list[str], env: dict[str, str]) -> bytes:
    return subprocess.run(command, env=env, capture_output=True, check=False).stdout


def _wait(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come up"
        time.sleep(0.1)
