"""How often luck is called better, and a true gain found: `python benchmarks/verdicts.py [ROUNDS]`.

On made tests: windows that differ by 0.5 nats, a seed's luck of 0.004, a seed's luck in one window
of 0.02, 128 windows. Picked: the entry's first test is the luckiest of three. Then how often an
honest entry's values are so alike that they count as one seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import numpy as np  # noqa: E402
from test_verdicts import Noise  # noqa: E402

from harness.scoring import SAME_SEED  # noqa: E402


def main(rounds: int) -> None:
    print("| seeds of entry and unedited | no difference | the same, picked | a gain of 0.02 |")
    print("|---|---|---|---|")
    for entry, unedited in ((2, 2), (2, 3), (3, 3), (5, 3), (3, 5)):
        noise = Noise(entry * 100 + unedited)
        found = (
            noise.verdicts(rounds, entry, unedited),
            noise.verdicts(rounds, entry, unedited, picked=3),
            noise.verdicts(rounds, entry, unedited, gain=0.02),
        )
        shares = (f"{each['better'] / rounds:.1%}" for each in found)
        print(f"| {entry} and {unedited} | {' | '.join(shares)} |", flush=True)
    rng = np.random.default_rng(0)
    for entry in (2, 3):
        own, theirs = (rng.normal(size=(1_000_000, n)).var(axis=1, ddof=1) for n in (entry, 3))
        share = (own < SAME_SEED * theirs).mean()
        print(f"taken for one seed, {entry} seeds beside 3: {share:.2%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split(":", 1)[0])
    parser.add_argument("rounds", type=int, nargs="?", default=2000, help="2000 if left out")
    main(parser.parse_args().rounds)
