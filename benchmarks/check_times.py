"""How long checks take, beside what they cannot do without: parsing, and importing torch.

    python benchmarks/check_times.py [--contract]

Static checks are timed on the first task's file after each edit of its first baseline, cold (a new
text each time) and again (the same text, kept from before). `--contract` also runs the contract
check as `harness check` does, alone and four cases side by side.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.checks.static import check  # noqa: E402
from harness.edits import apply_edit  # noqa: E402
from harness.regions import EditableFile  # noqa: E402
from harness.task import Task, find_tasks  # noqa: E402
from harness.vetting import Case, vet  # noqa: E402

ROUNDS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--contract", action="store_true")
    parser.add_argument("--rounds", type=int, default=3, help="of each contract timing")
    options = parser.parse_args()
    task = next(iter(find_tasks(ROOT / "tasks").values()))
    rows = static_rows(task)
    if options.contract:
        rows += contract_rows(task, options.rounds)
    print("| what | median | beside | ratio |\n|---|---|---|---|")
    for what, seconds, peer, ratio in rows:
        print(f"| {what} | {seconds * 1e3:,.1f} ms | {peer} | {ratio:.2f} |")


def static_rows(task: Task) -> list[tuple[str, float, str, float]]:
    [declared] = task.files
    text = task.read_file(declared.name)
    pristine = EditableFile.from_text(declared.name, text, declared.region_tuples())
    files = {declared.name: pristine}
    for edit in task.all_baselines()[0].edits:
        result = apply_edit(files, edit)
        files[result.after.name] = result.after
    edited = files[declared.name]
    parse = median(lambda round_: ast.parse(edited.text))

    def cold(round_: int) -> None:
        # A comment of its own makes each text a new one.
        region = edited.regions[0]
        fresh = edited.with_region(0, (*region.lines, f"# {round_}"))
        check(pristine, fresh, declared.constraints)

    def warm(_round: int) -> None:
        check(pristine, edited, declared.constraints)

    peer = f"ast.parse of the same text, {parse * 1e3:.1f} ms"
    rows = [("static, after an edit", median(cold))]
    warm(0)
    rows.append(("static, the same text again", median(warm)))
    return [(what, seconds, peer, seconds / parse) for what, seconds in rows]


def contract_rows(task: Task, rounds: int) -> list[tuple[str, float, str, float]]:
    def import_torch(_round: int) -> None:
        subprocess.run([sys.executable, "-c", "import torch"], check=True)

    loaded = median(import_torch, rounds=rounds)
    peer = f"python -c 'import torch', {loaded:.1f} s"
    edits = tuple(task.all_baselines()[0].edits)
    rows = []
    for count in (1, 4):
        cases = [Case(f"case {n}", edits) for n in range(count)]

        def run(_round: int, cases: list[Case] = cases) -> None:
            with tempfile.TemporaryDirectory() as folder:
                verdicts = list(vet(task, None, cases, Path(folder), Path(folder)))
            assert all(verdict.ok for verdict in verdicts), verdicts

        seconds = median(run, rounds=rounds)
        rows.append((f"contract, {count} at once", seconds, peer, seconds / loaded))
    return rows


def median(call: Callable[[int], object], rounds: int = ROUNDS) -> float:
    """Median seconds of a call, after one that does not count."""
    call(-1)
    times = []
    for round_ in range(rounds):
        began = time.perf_counter()
        call(round_)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
