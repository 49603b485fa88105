"""What the processes of a step opened, started and connected to, as they recorded it themselves.

`recorder/sitecustomize.py` writes the record inside the processes that run an agent's code. So it
is read as that code may have made it: a regular file of a stated size, line by line, nothing taken
that is not as the recorder writes it. Guaranteed: what comes out is small, and is plain JSON.
Not guaranteed: that it is true or whole. It is evidence, for people; the sandbox is what holds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.sandbox import INSIDE, PACKAGES
from harness.task import RECORDED, Task
from harness.workspace import RunPaths, read_regular

if TYPE_CHECKING:  # pages import this module for its words alone, and nothing of jobs
    from harness.jobs.plan import Plan, PlanStage, PlanStep

RECORD_BYTES = 1 << 20
"""Of a record; a larger one was not written by the recorder, and is not read."""
FULL_BYTES = 190 << 10
"""From here on the recorder leaves out counts, and then all that is new."""
WORD_CHARS = 240
SHOWN = 200
"""Matters of a step that are kept, of each kind."""

OPENED = {
    "open": "opened",
    "os.listdir": "listed",
    "os.scandir": "listed",
    "os.remove": "removed",
    "os.rename": "renamed",
    "os.link": "linked",
    "os.symlink": "linked",
    "os.chmod": "changed the rights of",
    "os.truncate": "cut off",
    "ctypes.dlopen": "loaded the library",
}
STARTED = {
    "subprocess.Popen": "started",
    "os.system": "started in a shell",
    "os.exec": "became",
    "os.posix_spawn": "started",
    "os.spawn": "started",
    "os.fork": "forked",
    "os.forkpty": "forked with a terminal",
    "os.kill": "signalled",
    "os.killpg": "signalled",
}
CONNECTED = {
    "socket.connect": "connected to",
    "socket.bind": "listened at",
    "socket.sendto": "sent to",
    "socket.getaddrinfo": "looked up",
}
EVENTS = OPENED | STARTED | CONNECTED
"""Each event of the recorder and its word for people."""

_SYSTEM = ("/usr/", "/lib/", "/lib32/", "/lib64/", "/bin/", "/sbin/", "/etc/ld.so.")
_MACHINE = (
    "/dev/nvidia", "/dev/urandom", "/dev/random", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat",
    "/proc/driver/nvidia", "/proc/self/stat", "/proc/self/maps", "/proc/self/task/",
    "/proc/self/fd", "/sys/devices/system/", "/sys/fs/cgroup/", "/etc/localtime", "/etc/hosts",
    "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/passwd", "/etc/mime.types",
)  # fmt: skip
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "sandbox")

Area = tuple[str, str]
"""A folder's path with a slash behind it, and its name for people."""


def conduct(task: Task, plan: Plan, stage: PlanStage, paths: RunPaths) -> dict[str, dict[str, Any]]:
    """By role, what the steps of a stage recorded; roles without a record are left out.

    Of each: `matters`, a list of `event`, `what`, `writes`, `count`, those not to be expected of
    any step; `more`, how many others of them there were; `expected`, how often what was, by area;
    `problem`, why the record cannot be relied on even as such, or empty.
    """
    found: dict[str, dict[str, Any]] = {}
    for step in stage.steps:
        if step.role not in RECORDED:
            continue
        try:
            content = read_regular(paths.conduct(stage.label, step.role), RECORD_BYTES)
        except (ValueError, OSError) as error:
            found[step.role] = _sorted_out([], step, (), str(error))
            continue
        if content is not None:
            entries, problem = _entries(content)
            areas = _areas(task, plan, stage, step)
            found[step.role] = _sorted_out(entries, step, areas, problem)
    return found


def _entries(content: bytes) -> tuple[list[dict[str, Any]], str]:
    """What the lines say, each distinct event once with its count over all processes."""
    counts: dict[tuple[str, str, bool], dict[int, int]] = {}
    broken = 0
    for line in content.split(b"\n"):
        if not line:
            continue
        try:
            value = json.loads(line)
            pid, count, what = value["pid"], value["count"], value["what"]
            event, writes = value["event"], value["writes"]
            right = (
                type(pid) is int and type(count) is int and 0 < count < 1 << 53
                and type(what) is str and len(what) <= WORD_CHARS and type(writes) is bool
                and event in EVENTS
            )  # fmt: skip
        except (ValueError, TypeError, KeyError, RecursionError):
            right = False
        if not right:
            broken += 1
            continue
        # A process says again and again how often it has been; the last word holds.
        what = what.encode("utf-8", "replace").decode()
        counts.setdefault((event, what, writes), {})[pid] = count
    problem = f"{broken} of its lines are not as the recorder writes them" if broken else ""
    if not problem and len(content) > FULL_BYTES:
        problem = "it is full: what happened later, or how often, is not in it"
    entries = [
        {"event": event, "what": what, "writes": writes, "count": sum(by_process.values())}
        for (event, what, writes), by_process in counts.items()
    ]
    return entries, problem


def _sorted_out(
    entries: Sequence[dict[str, Any]], step: PlanStep, areas: Sequence[Area], problem: str
) -> dict[str, Any]:
    matters: list[dict[str, Any]] = []
    expected: dict[str, int] = {}
    for entry in entries:
        area = _area(entry, step, areas)
        if area is None:
            matters.append(entry)
        else:
            expected[area] = expected.get(area, 0) + entry["count"]
    matters.sort(key=_weight)
    return {
        "matters": matters[:SHOWN],
        "more": max(0, len(matters) - SHOWN),
        "expected": dict(sorted(expected.items(), key=lambda item: -item[1])),
        "problem": problem,
    }


def _weight(entry: dict[str, Any]) -> tuple[int, str]:
    """Processes and connections first, then what was written, then what was read."""
    if entry["event"] in OPENED:
        return (1 if entry["writes"] else 2), entry["what"]
    return 0, entry["what"]


def _area(entry: dict[str, Any], step: PlanStep, areas: Sequence[Area]) -> str | None:
    """The name of what it belongs to, if any step may do this."""
    event, what = entry["event"], entry["what"]
    if event in STARTED:
        return None
    if event in CONNECTED:
        channel = step.env.get("HARNESS_CHANNEL", "")
        if channel and what in (channel, f"/proc/self/fd/N/{Path(channel).name}"):
            return "the line to the feeder"
        return "its own loopback" if what.split(" ")[0].startswith(_LOOPBACK) else None
    if event == "ctypes.dlopen" and "/" not in what:
        return "libraries of the system"
    parts = what.split(" to ") if event in ("os.rename", "os.link", "os.symlink") else [what]
    names = {_place(part, entry["writes"], areas) for part in parts}
    return names.pop() if len(names) == 1 else None


def _place(path: str, writes: bool, areas: Sequence[Area]) -> str | None:
    if path == "/dev/null":
        return "/dev/null"
    if path.startswith("(an open folder)/"):
        return "files of folders that it had open"
    for folder, name in areas:
        if f"{path}/".startswith(folder):
            return name if not writes or name in _WRITTEN else None
    if writes:
        return None
    if path.startswith(_SYSTEM):
        return "interpreter and system libraries"
    return "facts of the machine" if path.startswith(_MACHINE) else None


_FOLDERS = (
    ("HARNESS_OUT", "its output"),
    ("HARNESS_CACHE", "its compile cache"),
    ("TMPDIR", "temporary files"),
    ("HARNESS_FILES", "the files under test"),
    ("HARNESS_DATA", "its training data"),
    ("HARNESS_REFERENCE", "the unedited files"),
    ("HARNESS_MEASURED", "what was measured of the unedited files"),
)
_WRITTEN = ("its output", "its compile cache", "temporary files")


def _areas(task: Task, plan: Plan, stage: PlanStage, step: PlanStep) -> list[Area]:
    env = plan.env | step.env
    found = [(env[variable], name) for variable, name in _FOLDERS if env.get(variable)]
    if channel := env.get("HARNESS_CHANNEL"):
        found.append((str(Path(channel).parent), "the line to the feeder"))
    found += [("/tmp", "temporary files"), ("/dev/shm", "temporary files")]
    found += [(path, "the harness's own modules") for path in env["PYTHONPATH"].split(":")[:-1]]
    if step.confinement is None:
        found += [(str(path), "packages") for path in _package_folders()]
        code = [Path(stage.script).parent, *(task.root_folder / n for n in task.sandbox.code)]
        found += [(str(path), "the task's code") for path in code]
    else:
        found += [(str(PACKAGES), "packages"), (str(INSIDE / "code"), "the task's code")]
    prefixes = {sys.prefix, sys.base_prefix}
    found += [(prefix, "interpreter and system libraries") for prefix in prefixes]
    found.sort(key=lambda area: -len(area[0]))
    return [(folder.rstrip("/") + "/", name) for folder, name in found]


def _package_folders() -> Iterator[Path]:
    for folder in sys.path:
        if Path(folder).name in ("site-packages", "dist-packages"):
            yield Path(folder)
