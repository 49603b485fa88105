"""The first steps of an edited training file at full size, before a test is spent on it.

    python -P nanoGPT/preflight.py --reference --key=value ...
    python -P nanoGPT/preflight.py [--memory-gib=N] --key=value ...

The first measures the unedited file on this machine, once, and keeps that in HARNESS_CACHE; to
HARNESS_OUT go measured.json and a compile cache. The second is the check: it takes real optimizer
steps with the settings of the run, on random tokens and one GPU, with the edited file in a process
of its own (preflight_steps.py), and compares them with HARNESS_MEASURED/measured.json. Writes
findings.json to HARNESS_OUT and exits 0 whatever it finds; 1 says that the check itself could not
be made.

Rules: `memory` (does not fit), `too-slow` (a step against the unedited file's), `time-limit` (all
steps and evaluations against the stage's limit, or a step that never ends), `compile-time` (a
warning: the time without torch.compile decides), `not-finite`, `exception`. On a CPU one step is
taken, and only the last three and a step that never ends are looked for.

Guaranteed: `--reference` never reads the edited file, and only it writes what is kept between
tests. The check runs where the edited code does, and writes only what dies with the run. No process
of its steps is alive when findings.json is written.
Not guaranteed: that a later step needs no more memory or time than the first dozen, or that an
edit which knows where it runs tells the truth here.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import difflib
import hashlib
import importlib.metadata
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

FILE = "nanoGPT/custom_pretrain.py"
STEPS = Path(__file__).with_name("preflight_steps.py")
TIMED_STEPS = 8
START_S, COMPILE_S, STEPS_S = 120.0, 240.0, 60.0
"""Longest time for building the model, compiling it, and all steps after that. At 345M two
baselines took two minutes from their start to a first step, one took more than 165 s."""
PATIENCE = 4
"""How many times as long the unedited file may take: the first run waits for cold disks, too."""
GIB = 2**30
FEWER = "Keep fewer or smaller tensors for the backward pass."


class CheckFailed(Exception):
    """The check could not be made, through no fault of the edit; the text says what to do."""


@dataclasses.dataclass
class Report:
    """What findings.json holds."""

    findings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    warnings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def find(self, rule: str, message: str, line: int | None = None) -> None:
        """Something that refuses the test."""
        self.findings.append(_entry(rule, message, line))

    def warn(self, rule: str, message: str) -> None:
        """Something to know that refuses nothing."""
        self.warnings.append(_entry(rule, message, None))


def _entry(rule: str, message: str, line: int | None) -> dict[str, Any]:
    return {"rule": rule, "file": FILE, "line": line, "message": message}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a process of preflight_steps.py ended: one of these is set."""

    result: dict[str, Any] | None = None
    failed: dict[str, Any] | None = None
    late: str | None = None
    """what was not done in time: `start`, `compile` or `steps`"""
    died: int | None = None
    """its exit code, where it said nothing"""


MEASURED = "measured.json"
"""The unedited file's figures, in the folder that `--reference` leaves."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """How the first steps of a training file are taken."""

    settings: tuple[str, ...]
    gpus: tuple[str, ...]
    seed: int = 42
    memory_gib: float | None = None
    timed: bool = True
    """whether time counts; False on a CPU"""

    def compiles(self) -> bool:
        return _setting(self.settings, "compile", "true") in ("true", "1")

    def take(
        self, folder: Path, mode: str, compile_cache: Path, scratch: Path, known_good: bool = False
    ) -> Outcome:
        """Runs preflight_steps.py on the file in `folder` until it ends or is late."""
        events = scratch / f"{folder.name}.{mode}.events"
        events.unlink(missing_ok=True)
        request = {
            "folder": str(folder),
            "events": str(events),
            "settings": list(self.settings),
            "seed": self.seed,
            "world": max(1, len(self.gpus)),
            "mode": mode,
            "steps": TIMED_STEPS if self.timed else 0,
            "memory_gib": None if known_good else self.memory_gib,
        }
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("HARNESS_CACHE", "HARNESS_REFERENCE", "HARNESS_MEASURED")
        }
        environment |= {
            "CUDA_VISIBLE_DEVICES": self.gpus[0] if self.gpus else "",
            "TORCHINDUCTOR_CACHE_DIR": str(compile_cache),
            "TRITON_CACHE_DIR": str(compile_cache / "triton"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        compiling = mode == "train" and self.compiles()
        patience = PATIENCE if known_good else 1
        limits = {
            "start": patience * START_S,
            "compile": patience * COMPILE_S if compiling else STEPS_S,
            "steps": STEPS_S,
        }
        command = [sys.executable, "-P", str(STEPS), json.dumps(request)]
        others = set(psutil.Process().children(recursive=True))
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
        try:
            return _follow(process, events, limits)
        finally:
            _end_all_but(others)
            process.wait()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unedited(Steps):
    """The unedited file, measured once on each machine."""

    reference: Path
    """its snapshot"""
    cache: Path
    """what is kept between tests"""

    def key(self, machine: str, torch: str) -> str:
        """What the unedited file's figures depend on, as the name to keep them under."""
        digest = hashlib.sha256()
        for source in [*sorted((self.reference / FILE).parent.glob("*.py")), STEPS]:
            digest.update(f"{source.name}\0".encode() + source.read_bytes() + b"\0")
        digest.update(json.dumps([self.settings, len(self.gpus), machine, torch]).encode())
        return digest.hexdigest()[:20]

    def measure(self, out: Path) -> None:
        """Leaves measured.json and a compile cache in `out`. Raises CheckFailed."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="preflight-", dir=out) as scratch:
            figures, kept, known = self._known(Path(scratch))
        # Triton's index files name their folder; it makes them again from the rest.
        shutil.copytree(kept, out / "cache" / "compile", ignore=shutil.ignore_patterns("triton"))
        figures = figures | {"known": known, "check_s": time.monotonic() - began}
        _write_json(out / MEASURED, figures)

    def _known(self, scratch: Path) -> tuple[dict[str, Any], Path, bool]:
        """The unedited file's figures, its compile cache, and whether they were known before."""
        torch = importlib.metadata.version("torch")
        machine = _gpu_name(self.gpus[0]) if self.gpus else "cpu"
        key = self.key(machine, torch)
        record, kept = self.cache / f"{key}.json", self.cache / f"{key}.compile"
        with contextlib.suppress(FileNotFoundError, ValueError):
            value = json.loads(record.read_text(encoding="utf-8"))
            if kept.is_dir():
                return value, kept, True
        self.cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self.cache))
        try:
            outcome = self.take(self.reference, "train", fresh, scratch, known_good=True)
            if outcome.result is None:
                raise CheckFailed(
                    f"the unedited file could not be measured ({outcome}). "
                    "Free the GPU, or run the profile on a larger one."
                )
            with contextlib.suppress(OSError):  # another check may have been first
                fresh.rename(kept)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        _write_json(record, outcome.result | {"machine": machine, "torch": torch})
        return outcome.result, kept, False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check(Steps):
    """One preflight: what to measure and by which limits."""

    files: Path
    reference: Path
    cache: Path
    """a compile cache that is this run's own"""
    measured: dict[str, Any] | None = None
    """the unedited file's figures; needed where time counts"""
    limit_s: float = math.inf
    max_step_ratio: float = 2.0

    def report(self, scratch: Path) -> Report:
        """Measures both files. Raises CheckFailed if the unedited one cannot be."""
        report = Report()
        reference = self.measured if self.timed else None
        if reference is not None:
            report.facts |= {
                "reference_step_s": reference["step_s"],
                "reference_peak_bytes": reference["peak_bytes"],
                "reference_compile_s": reference["compile_s"],
                "reference_known": reference["known"],
                "reference_check_s": reference["check_s"],
            }
        outcome = self.take(self.files, "train", self.cache, scratch)
        if outcome.late == "compile" and self.timed and self.compiles():
            report.facts["compile_given_up_s"] = COMPILE_S
            outcome = self.take(self.files, "eager", self.cache, scratch)
        if outcome.result is not None:
            self._judge(outcome.result, reference, report)
        elif outcome.failed is not None and outcome.failed["rule"] == "memory":
            self._does_not_fit(outcome.failed, scratch, report)
        elif outcome.failed is not None:
            failed = outcome.failed
            ways = {
                "not-finite": " Look in the edited lines for something that overflows or divides "
                "by zero, or lower the learning rate.",
                "exception": "",
            }
            report.find(failed["rule"], failed["message"] + ways[failed["rule"]], failed["line"])
        elif outcome.late is not None:
            what, limit = {
                "start": ("importing the file and building the model", START_S),
                "compile": ("the first steps", STEPS_S),
                "steps": ("a few optimizer steps", STEPS_S),
            }[outcome.late]
            report.find(
                "time-limit",
                f"{what[0].upper()}{what[1:]} took more than {limit:.0f} s. Look for a loop that "
                "does not end, or do far less work.",
            )
        else:
            report.find(
                "exception",
                f"The process ended by itself with {_ending(outcome.died)} and said nothing. "
                "Take out what ends it.",
            )
        return report

    def _judge(
        self, result: dict[str, Any], reference: dict[str, Any] | None, report: Report
    ) -> None:
        report.facts |= {key: result[key] for key in FACTS}
        given_up = "compile_given_up_s" in report.facts
        if reference is None:
            return
        ratio = result["step_s"] / reference["step_s"]
        report.facts["step_ratio"] = ratio
        how = ""
        if given_up:
            how = f", without torch.compile, which was not done after {COMPILE_S:.0f} s"
            report.warn(
                "compile-time",
                f"torch.compile was not done after {COMPILE_S:.0f} s and was given up; the time "
                f"without it decides: {ratio:.1f} times the unedited file's. The run itself "
                "compiles to the end. Fewer operations compile faster.",
            )
        if ratio > self.max_step_ratio:
            report.find(
                "too-slow",
                f"too slow: a step takes {ratio:.1f} times as long as the unedited file's "
                f"({result['step_s']:.3g} s against {reference['step_s']:.3g} s{how}); at most "
                f"{self.max_step_ratio:.1f} times is allowed. Do less work in each layer.",
            )
        # The stage holds its GPUs for as long as it runs: its limit in GPU-seconds is the one on
        # its clock times their number, and so is what the test takes.
        gpus = max(1, len(self.gpus))
        report.facts |= {"test_gpu_s": result["test_s"] * gpus}
        if math.isfinite(self.limit_s):
            report.facts |= {"limit_gpu_s": self.limit_s * gpus}
        if result["test_s"] * gpus > self.limit_s * gpus:
            shared = f" on {gpus} GPUs, {result['test_s'] * gpus:,.0f} GPU-seconds" * (gpus > 1)
            has = f" on each, {self.limit_s * gpus:,.0f} GPU-seconds" * (gpus > 1)
            report.find(
                "time-limit",
                f"too long: {result['steps']:,} steps and the evaluations would take "
                f"{_duration(result['test_s'])}{shared} ({result['step_s']:.3g} s a step{how}); "
                f"the stage has {_duration(self.limit_s)}{has}. Do less work in each layer.",
            )

    def _does_not_fit(self, failed: dict[str, Any], scratch: Path, report: Report) -> None:
        held, asked, total = (
            failed[key] / GIB for key in ("held_bytes", "asked_bytes", "memory_bytes")
        )
        if not total:
            report.find("memory", "does not fit: out of memory on the CPU.", failed["line"])
            return
        eager = "compile_given_up_s" in report.facts or not self.compiles()
        report.facts |= {"held_bytes": failed["held_bytes"], "memory_bytes": failed["memory_bytes"]}
        line = failed["line"]
        stopped = f"memory ran out at {held:.1f} GiB"
        stopped += f" with {asked:.1f} GiB more asked for" if asked else ""
        text = f"{stopped}, of {total:.1f} GiB"
        # Without it the reader still learns how much there was and, mostly, where it ended.
        found = self.take(self.files, "memory", self.cache, scratch).result
        if found is not None:
            needed = found["needed_bytes"] / GIB
            report.facts["needed_bytes"] = found["needed_bytes"]
            if needed > total:
                text = f"about {needed:.0f} GiB needed at micro-batch {found['micro_batch']}"
                text += f", of {total:.1f} GiB"
                if not eager:
                    text += f" (without torch.compile; with it {stopped})"
            if most := self._edited_lines_of(found["lines"]):
                line = most[0][0]
                shown = ", ".join(f"{number} ({size / GIB:.0f} GiB)" for number, size in most)
                text += f". Of the {sum(found['lines'].values()) / GIB:.0f} GiB that a forward "
                text += f"pass keeps, {sum(size for _, size in most) / GIB:.0f} GiB are held by "
                text += f"the edited line{'s' if len(most) > 1 else ''} {shown}"
        report.find("memory", f"does not fit: {text}. {FEWER}", line)

    def _edited_lines_of(self, sizes: dict[str, int]) -> list[tuple[int, int]]:
        """The at most three edited lines that hold most, with at least 1 GiB or a twentieth."""
        before, after = (
            (folder / FILE).read_text(encoding="utf-8").split("\n")
            for folder in (self.reference, self.files)
        )
        edited = {
            number + 1
            for kind, _, _, first, last in difflib.SequenceMatcher(
                None, before, after, autojunk=False
            ).get_opcodes()
            if kind != "equal"
            for number in range(first, last)
        }
        least = min(GIB, sum(sizes.values()) / 20)
        own = [(int(k), v) for k, v in sizes.items() if int(k) in edited and v >= least]
        return sorted(own, key=lambda pair: -pair[1])[:3]


FACTS = (
    "steps", "micro_batch", "micro_batches", "micro_batch_s", "update_s", "step_s", "timed_steps",
    "compile_s", "compiled", "cache_hits", "test_s", "peak_bytes", "memory_bytes",
)  # fmt: skip


def _follow(process: subprocess.Popen[bytes], events: Path, limits: dict[str, float]) -> Outcome:
    """Reads `events` while the process writes them."""
    phase, since, done = "start", time.monotonic(), 0
    while True:
        code = process.poll()
        text = events.read_text(encoding="utf-8") if events.is_file() else ""
        lines = text.split("\n")[:-1]
        for line in lines[done:]:
            event = json.loads(line)
            kind = event.pop("event")
            if kind == "result":
                return Outcome(result=event)
            if kind == "failed":
                return Outcome(failed=_cleaned(event))
            phase, since = {"built": "compile", "warm": "steps"}[kind], time.monotonic()
        done = len(lines)
        if code is not None:
            return Outcome(died=code)
        if time.monotonic() - since > limits[phase]:
            return Outcome(late=phase)
        time.sleep(0.05)


def _adopt_orphans() -> None:
    """From now on descendants whose parent ends are children of this process, so none is lost."""
    set_child_subreaper = 36
    if ctypes.CDLL(None).prctl(set_child_subreaper, 1) != 0:
        raise CheckFailed("prctl failed, so orphans cannot be ended. Run this on Linux.")


def _end_all_but(others: set[psutil.Process]) -> None:
    """Kills every process below this one, also those in sessions of their own, but `others`."""
    while left := [p for p in psutil.Process().children(recursive=True) if p not in others]:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)


def _give_up(*_: object) -> None:
    """On SIGTERM: whoever gave this check no more time wants the GPU back."""
    _end_all_but(set())
    sys.exit(143)


def _cleaned(event: dict[str, Any]) -> dict[str, Any]:
    """The event with `line`, and its message short and without paths of this machine."""
    message = re.sub(r"(?:/[^\s/'\"`:,;()]+)+/", "", str(event.get("message", "")))
    return event | {"line": event.get("line"), "message": message[:300]}


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit code {code}"


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"


def _setting(settings: Sequence[str], name: str, default: str) -> str:
    """The last value that --name=value gives, as the training file reads it."""
    found = [part.partition("=")[2] for part in settings if part.startswith(f"--{name}=")]
    return found[-1] if found else default


def _gpu_name(gpu: str) -> str:
    """Its model. Asking torch would hold memory on the card, and takes seconds."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "-i", gpu]
    asking = "import torch; print(torch.cuda.get_device_name())"
    for command in (query, [sys.executable, "-c", asking]):
        with contextlib.suppress(OSError):
            found = subprocess.run(
                command,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": gpu},
                capture_output=True,
                text=True,
            )
            if found.returncode == 0:
                return found.stdout.strip()
    raise CheckFailed(f"GPU {gpu} does not answer. Look at nvidia-smi.")


def _write_json(path: Path, value: object) -> None:
    """Replaces `path` in one step, so that a reader never meets half a file."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _folder(name: str) -> Path:
    """The folder that a variable names. Raises CheckFailed if it is not set."""
    if name not in os.environ:
        raise CheckFailed(f"{name} is not set. Set it to the folder to use.")
    return Path(os.environ[name])


def _measured() -> dict[str, Any]:
    """The unedited file's figures, as `--reference` left them. Raises CheckFailed."""
    path = _folder("HARNESS_MEASURED") / MEASURED
    try:
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckFailed(f"no figures of the unedited file ({error}). Measure it first.") from None
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Further --key=value arguments are the run's own.", allow_abbrev=False
    )
    parser.add_argument("--memory-gib", type=float, help="use no more of the GPU's memory")
    parser.add_argument("--reference", action="store_true", help="measure the unedited file")
    parser.add_argument("--time-on-cpu", action="store_true", help="judge time on a CPU, too")
    options, settings = parser.parse_known_args()
    signal.signal(signal.SIGTERM, _give_up)
    try:
        _adopt_orphans()
        on_gpu = _setting(settings, "device", "cuda") == "cuda"
        out, files = _folder("HARNESS_OUT"), _folder("HARNESS_FILES").resolve()
        gpus = tuple(part for part in os.environ.get("HARNESS_GPUS", "").split(",") if part)
        if on_gpu and not gpus:
            raise CheckFailed("this stage trains on GPUs and was given none.")
        out.mkdir(parents=True, exist_ok=True)
        steps: dict[str, Any] = {
            "settings": tuple(settings),
            "gpus": gpus if on_gpu else (),
            "seed": int(os.environ.get("HARNESS_SEED", "42")),
            "memory_gib": options.memory_gib,
            "timed": on_gpu or options.time_on_cpu,
        }
        if options.reference:
            Unedited(**steps, reference=files, cache=_folder("HARNESS_CACHE")).measure(out)
            return
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="preflight-", dir=out) as scratch:
            check = Check(
                **steps,
                files=files,
                reference=_folder("HARNESS_REFERENCE").resolve(),
                cache=Path(os.environ.get("HARNESS_CACHE", scratch)) / "compile",
                measured=_measured() if steps["timed"] else None,
                limit_s=float(os.environ.get("HARNESS_LIMIT_S", "inf")),
                max_step_ratio=float(os.environ.get("HARNESS_MAX_STEP_RATIO", "2.0")),
            )
            report = check.report(Path(scratch))
        report.facts["check_s"] = round(time.monotonic() - began, 1)
        _write_json(out / "findings.json", dataclasses.asdict(report))
    except CheckFailed as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(1)
    for kind, entries in (("refused", report.findings), ("warning", report.warnings)):
        for entry in entries:
            print(f"{kind}: {entry['rule']}: {entry['message']}")
    print(json.dumps(report.facts))


if __name__ == "__main__":
    main()
