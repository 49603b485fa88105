"""The unedited files against themselves, on real tests: how often is luck called better?

    harness baseline run TASK unedited --profile smoke --seeds 1001,1002,…
    harness baseline run TASK NAME --profile smoke --seeds 2001,2002,2003
    python benchmarks/null_runs.py TASK PROFILE [NAME…]

Reads the tests from HARNESS_STATE_DIR. Draws, again and again, an entry and unedited files of
disjoint seeds from the unedited files' tests, as the leaderboard would compare them; then each
named baseline beside all of the unedited files' tests.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.database import DatabaseRefused
from harness.entries import Entry, entries_of
from harness.likeness import UNEDITED
from harness.scoring import Result, Sample, difference, sample
from harness.settings import SettingsError, read_settings
from harness.standings import Standings
from harness.store import Store
from harness.task import Task, TaskError, load_task

DRAWS = 4000
SIZES = ((2, 2), (2, 3), (3, 3), (3, 5), (5, 5))


class NotMeasured(RuntimeError):
    """There is nothing to compare; the message says what to run."""


def results(entry: Entry) -> dict[int, list[Result]]:
    """By seed."""
    found: dict[int, list[Result]] = {}
    for test in entry.results:
        if test.value is not None:
            result = Result(test.seed, test.value, test.windows)
            found.setdefault(test.seed, []).append(result)
    return found


def main(name: str, profile: str, baselines: list[str]) -> None:
    settings = read_settings()
    task = load_task(settings.tasks_dir / name)
    if profile not in task.profiles:
        raise NotMeasured(f"no profile {profile!r}; profiles: {', '.join(task.profiles)}")
    entries = _entries(task, profile, settings.resolved_database_url)
    for wanted in (UNEDITED, *baselines):
        if wanted not in entries:
            run = f"harness baseline run {name} {wanted or 'unedited'} --profile {profile}"
            raise NotMeasured(f"no test of {wanted or 'the unedited files'} here; first: {run}")
    direction = task.primary(profile).direction
    plain = results(entries[UNEDITED])

    def of(seeds: Iterable[int]) -> Sample:
        return sample([result for seed in seeds for result in plain[seed]])

    whole = of(plain)
    print(f"{len(plain)} seeds of the unedited files: {whole.mean:.4f}, from "
          f"{min(whole.values):.4f} to {max(whole.values):.4f}, "
          f"standard deviation over seeds {(whole.variance or 0) ** 0.5:.4f}")  # fmt: skip
    chance = random.Random(0)
    print("| seeds of entry and unedited | better | within noise | worse |\n|---|---|---|---|")
    for own, other in SIZES:
        found: Counter[str] = Counter()
        for _ in range(DRAWS):
            drawn = chance.sample(list(plain), own + other)
            found[difference(of(drawn[:own]), of(drawn[own:]), direction).verdict] += 1
        shares = (f"{found[v] / DRAWS:.1%}" for v in ("better", "within noise", "worse"))
        print(f"| {own} and {other} | {' | '.join(shares)} |")
    singles = Counter(
        difference(of([seed]), of(plain.keys() - {seed}), direction).verdict for seed in plain
    )
    print(f"each seed alone beside all others: {dict(singles)}")
    for baseline in baselines:
        own_sample = sample([r for own in results(entries[baseline]).values() for r in own])
        compared = difference(own_sample, whole, direction)
        three = Counter(
            difference(own_sample, of(chance.sample(list(plain), 3)), direction).verdict
            for _ in range(DRAWS)
        )
        assert compared.both is not None
        both, share = compared.both, three["better"] / DRAWS
        print(f"{baseline}, {own_sample.size} seeds: {compared.value:+.4f} "
              f"[{both.low:+.4f}, {both.high:+.4f}], {compared.verdict}; "
              f"beside 3 drawn of the unedited files': {share:.1%} better")  # fmt: skip


def _entries(task: Task, profile: str, url: str) -> dict[str, Entry]:
    """The baselines' of the group that has most tests, by name."""
    store = Store(url, upgrade=False)
    outcomes = Standings(store, {task.name: task}).outcomes(task.name)
    groups = entries_of(task, [o for o in outcomes if o.profile == profile])
    store.close()
    largest = max(
        groups.values(), key=lambda rows: sum(len(row.results) for row in rows), default=[]
    )
    return {row.code: row for row in largest if row.code is not None}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("task")
    parser.add_argument("profile")
    parser.add_argument("baselines", nargs="*", default=[], help="compared with the unedited files")
    options = parser.parse_args()
    try:
        main(options.task, options.profile, options.baselines)
    except (DatabaseRefused, SettingsError, TaskError, NotMeasured) as error:
        parser.error(str(error))
