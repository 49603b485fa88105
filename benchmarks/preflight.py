"""What the full-size check says of the unedited file and of a recorded session's versions.

    python benchmarks/preflight.py --transcript FILE [--cases cold,warm,last,first-capped,first]

Runs the stage's own script as a test would, `reference` and then `preflight`, each case by itself,
and prints a Markdown table. The transcript is a recorded session: its versions are the file as it
stood at the first test and at the end; `-capped` means no more memory than --cap-gib. `cold` begins
with an empty cache, and the cases after it find what it measured. With --gpus 0,1 the work of one
of two ranks is measured, on the first GPU. Needs torch, numpy, psutil and this checkout, no
installed harness.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.edits import apply_edit  # noqa: E402
from harness.regions import EditableFile  # noqa: E402

SCRIPTS = ROOT / "tasks/llm-pretrain-residual/scripts"
FILE = "nanoGPT/custom_pretrain.py"
SIBLINGS = ("data.py", "shards.py", "checkpoint.py", "progress.py")
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--transcript", type=Path, required=True)
    parser.add_argument("--cases", default="cold,warm,last,first-capped,first")
    parser.add_argument("--cap-gib", type=float, default=79.0, help="memory of the capped case")
    parser.add_argument("--script", default="gpt_345m.sh")
    parser.add_argument("--gpus", default="0,1", help="ids, comma-separated; empty for a CPU")
    parser.add_argument("--limit-s", type=float, default=28800, help="the stage's run limit")
    parser.add_argument("--patience-s", type=float, default=570, help="no new case after this")
    parser.add_argument("--cache", type=Path, help="kept between calls; else a new one")
    parser.add_argument("--out", type=Path, help="where logs and findings are copied")
    parser.add_argument("extra", nargs="*", help="further --key=value settings, after --")
    options = parser.parse_args()
    began = time.monotonic()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        versions = make_versions(options.transcript, folder)
        for case in options.cases.split(","):
            left = options.patience_s - (time.monotonic() - began)
            if left < 30:
                print(f"no time left for {case}")
                continue
            rows.append(row(case, run(case, versions, folder, options, left)))
            print(f"{time.monotonic() - began:.0f} s: {rows[-1]}", flush=True)
    print("\n| case | verdict | peak | compile | step | of unedited | whole test | check took |")
    print("|---|---|---|---|---|---|---|---|")
    for cells in rows:
        print("| " + " | ".join(cells) + " |")


def make_versions(transcript: Path, folder: Path) -> dict[str, Path]:
    """Snapshots: the unedited file, and those of the recorded session."""
    record = json.loads(transcript.read_text(encoding="utf-8"))
    ranges = [(f"r{i}", first, last) for i, (first, last) in enumerate(record["start"]["editable"])]
    file = EditableFile.from_text(FILE, (ROOT / FILE).read_text(encoding="utf-8"), ranges)
    versions = {"unedited": snapshot(folder / "unedited", file.text)}
    for step in record["steps"]:
        if step["tool"] == "test" and "first" not in versions:
            versions["first"] = snapshot(folder / "first", file.text)
        if step["tool"] == "edit" and step["first_line"].startswith("OK"):
            file = apply_edit({FILE: file}, step["args"]).after
    versions["last"] = snapshot(folder / "last", file.text)
    return versions


def snapshot(folder: Path, text: str) -> Path:
    (folder / FILE).parent.mkdir(parents=True)
    (folder / FILE).write_text(text, encoding="utf-8")
    for sibling in SIBLINGS:
        shutil.copy(ROOT / "nanoGPT" / sibling, (folder / FILE).parent)
    return folder


def run(
    case: str,
    versions: dict[str, Path],
    folder: Path,
    options: argparse.Namespace,
    patience_s: float,
) -> dict[str, Any]:
    """findings.json of one case, or what stands for it."""
    version, _, capped = case.partition("-")
    files = versions.get(version, versions["unedited"])
    out = folder / f"out-{case}"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HARNESS_FILES": str(files),
        "HARNESS_REFERENCE": str(versions["unedited"]),
        "HARNESS_SEED": "42",
        "HARNESS_GPUS": options.gpus,
        "HARNESS_PROFILE": "benchmark",
        "HARNESS_STAGE": "benchmark",
        "HARNESS_LIMIT_S": str(options.limit_s),
        "HARNESS_MAX_STEP_RATIO": "2.0",
    }
    measured, own_cache = folder / f"measured-{case}", folder / f"cache-{case}"
    kept = options.cache or folder / "cache"
    kept.mkdir(exist_ok=True)
    unedited = {"HARNESS_OUT": str(measured), "HARNESS_CACHE": str(kept)}
    unedited |= {"HARNESS_FILES": str(versions["unedited"])}
    own = {"HARNESS_OUT": str(out), "HARNESS_CACHE": str(own_cache)}
    own |= {"HARNESS_MEASURED": str(measured)}
    cap = [f"--memory-gib={options.cap_gib}"] if capped else []
    began = time.monotonic()
    log = folder / f"{case}.log"
    code = 0
    with log.open("wb") as writer:
        for role, more, extra in (("reference", unedited, []), ("preflight", own, cap)):
            if role == "preflight":
                # As the runner gives it: a copy of what the unedited file compiled.
                own_cache.mkdir()
                if (warm := measured / "cache").is_dir():
                    shutil.copytree(warm, own_cache, dirs_exist_ok=True)
            left = patience_s - (time.monotonic() - began)
            command = ["bash", str(SCRIPTS / options.script), role, *options.extra, *extra]
            code = code or _ended(command, files, environment | more, writer, left)
    report: dict[str, Any] = {"findings": [], "warnings": [], "facts": {}, "code": code}
    if (found := out / "findings.json").is_file():
        report |= json.loads(found.read_text(encoding="utf-8"))
    report["wall_s"] = time.monotonic() - began
    if options.out:
        shutil.copy(log, options.out / log.name)
        (options.out / f"{case}.json").write_text(json.dumps(report, indent=1))
    for entry in (*report["findings"], *report["warnings"]):
        print(f"{case}: {json.dumps(entry)}", flush=True)
    if code:
        print(log.read_text(errors="replace")[-3000:], flush=True)
    return report


def _ended(
    command: list[str], folder: Path, env: dict[str, str], log: IO[bytes], patience_s: float
) -> int:
    """The exit code of a command, which is told to stop after so many seconds."""
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        return process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        return process.wait()


def row(case: str, report: dict[str, Any]) -> list[str]:
    facts = report["facts"]

    def shown(key: str, scale: float, form: str) -> str:
        return format(facts[key] / scale, form) if facts.get(key) else "-"

    rules = ", ".join(entry["rule"] for entry in report["findings"])
    verdict = f"failed with {report['code']}" if report["code"] else rules or "accepted"
    compiling = shown("compile_s", 1, ".0f") + " s"
    if "compile_given_up_s" in facts:
        compiling = f"given up after {facts['compile_given_up_s']:.0f} s"
    return [
        case,
        verdict,
        f"over {shown('memory_bytes', GIB, '.0f')} GiB, about {shown('needed_bytes', GIB, '.0f')}"
        if "memory" in rules
        else f"{shown('peak_bytes', GIB, '.1f')} GiB",
        compiling,
        shown("step_s", 1, ".2f") + " s",
        shown("step_ratio", 1, ".2f"),
        shown("test_s", 3600, ".1f") + " h",
        f"{report['wall_s']:.0f} s",
    ]


if __name__ == "__main__":
    main()
