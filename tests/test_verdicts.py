"""Differences, intervals and verdicts: against textbook numbers, as properties, on made noise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.scoring import (
    Result,
    at_equal_compute,
    decline,
    difference,
    normalised,
    quantile,
    sample,
)

VALUES = st.floats(0.5, 20, allow_nan=False)


def results(values: Sequence[float], windows: Sequence[Sequence[float]] = ()) -> list[Result]:
    rows = list(windows) or [None] * len(values)
    return [Result(seed, v, w) for seed, (v, w) in enumerate(zip(values, rows, strict=True))]


# ── against other implementations ─────────────────────────────────────────────────────────────


def test_the_interval_from_seeds_is_welchs_where_the_entry_scatters_more() -> None:
    entry, unedited = [2.20, 2.30, 2.26, 2.21], [2.27, 2.28, 2.272]
    found = difference(sample(results(entry)), sample(results(unedited)), "lower").seeds
    theirs = stats.ttest_ind(entry, unedited, equal_var=False).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_the_interval_from_windows_is_that_of_paired_differences() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(3, 0.5, 50)
    ours, theirs = base - 0.02 + rng.normal(0, 0.03, 50), base + rng.normal(0, 0.03, 50)
    found = difference(
        sample([Result(1, float(ours.mean()), ours)]),
        sample([Result(1, float(theirs.mean()), theirs)]),
        "lower",
    )
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.windows is not None
    assert (found.windows.low, found.windows.high) == pytest.approx((expected.low, expected.high))
    assert (found.seeds, found.both, found.verdict) == (None, None, "one seed")


@pytest.mark.parametrize("degrees", [1, 2, 3.7, 30, 1e6])
def test_students_t(degrees: float) -> None:
    assert quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees))
    assert quantile(math.inf) == pytest.approx(1.959964, abs=1e-6)


# ── what always holds ─────────────────────────────────────────────────────────────────────────


@given(st.lists(VALUES, min_size=1, max_size=6), st.lists(VALUES, min_size=1, max_size=6))
def test_one_seed_is_never_better_or_worse(entry: list[float], unedited: list[float]) -> None:
    for ours, theirs in ((entry[:1], unedited), (entry, unedited[:1])):
        found = difference(sample(results(ours)), sample(results(theirs)), "lower")
        assert found.verdict == "one seed"
        assert found.both is None
    # Nor are many tests with one seed more than one.
    repeated = [Result(42, value) for value in entry]
    assert difference(sample(repeated), sample(results(unedited)), "lower").verdict == "one seed"


@given(st.lists(VALUES, min_size=2, max_size=5), st.lists(VALUES, min_size=2, max_size=5))
def test_directions_mirror_each_other(entry: list[float], unedited: list[float]) -> None:
    ours, theirs = sample(results(entry)), sample(results(unedited))
    lower, higher = (difference(ours, theirs, d).verdict for d in ("lower", "higher"))
    swap = {"better": "worse", "worse": "better"}
    assert higher == swap.get(lower, lower)


@given(st.lists(VALUES, min_size=2, max_size=6))
def test_nothing_is_better_than_itself(values: list[float]) -> None:
    same = sample(results(values))
    assert difference(same, same, "lower").verdict == "within noise"


@given(VALUES, VALUES, VALUES)
def test_the_score_is_0_at_the_unedited_files_and_1_at_the_best(
    value: float, unedited: float, best: float
) -> None:
    score = normalised(value, unedited, best, "lower")
    if score is None:
        assert best > unedited - 1e-9
        return
    assert best < unedited
    assert normalised(unedited, unedited, best, "lower") == 0
    assert normalised(best, unedited, best, "lower") == 1
    assert (score > 0) == (value < unedited) or value == pytest.approx(unedited)
    assert normalised(-value, -unedited, -best, "higher") == pytest.approx(score)


def test_an_edit_that_fixes_its_own_seed_has_one() -> None:
    unedited = sample(results([2.28, 2.27, 2.275]))
    fixed = sample(results([2.10, 2.10, 2.10]))
    assert difference(fixed, unedited, "lower").verdict == "one seed"
    # Nor does it help to scatter a little: the spread is that of the unedited files at least.
    nearly = sample(results([2.2650, 2.2651, 2.2652]))
    found = difference(nearly, unedited, "lower")
    assert found.seeds is not None
    assert found.seeds.standard_error == pytest.approx(0.005 * math.sqrt(2 / 3))
    assert found.verdict == "within noise"


def test_where_nothing_is_random_a_difference_is_one() -> None:
    entry, unedited = sample(results([0.2, 0.2])), sample(results([0.3, 0.3]))
    assert difference(entry, unedited, "lower").verdict == "better"
    assert difference(unedited, unedited, "lower").verdict == "within noise"


def test_windows_of_another_number_or_unit_are_not_paired() -> None:
    rows = [[2.0, 3.0, 4.0], [2.1, 3.0, 4.0]]
    unedited = sample(results([3.0, 3.033], rows))
    assert unedited.windows is not None
    for windows in ([[2.0, 4.0], [2.0, 4.1]], [[1.0, 1.1, 1.2], [1.0, 1.2, 1.3]]):
        entry = sample(results([3.0, 3.01], windows))
        found = difference(entry, unedited, "lower").windows
        # As if each side had seen another text.
        known = unedited.windows if entry.windows is None else entry.windows
        assert found is not None
        assert found.standard_error**2 == pytest.approx(2 * known.var(ddof=1) / len(known))
    whole = sample([*results([3.0], rows[:1]), Result(1, 3.0)])
    assert whole.windows is not None
    assert whole.windows.tolist() == rows[0]


def test_results_that_hardly_differ_are_of_one_seed() -> None:
    unedited = sample(results([3.0, 3.02, 2.98]))
    for spread, verdict in ((1e-9, "one seed"), (1e-4, "one seed"), (1e-2, "better")):
        entry = sample(results([2.9, 2.9 + spread, 2.9 - spread]))
        assert difference(entry, unedited, "lower").verdict == verdict
    # A seed that was tested three times has rounding of its own.
    entry = sample([Result(1, 0.1), *[Result(2, 0.1)] * 3])
    assert difference(entry, sample(results([0.3, 0.31])), "lower").verdict == "one seed"


def test_a_curves_slope_in_its_second_half() -> None:
    curve = [{"step": n, "loss": 5 - 0.3 * math.log(n) + (n < 50)} for n in range(1, 101)]
    slope = decline(curve, "loss")
    assert slope == pytest.approx(-0.3)
    assert at_equal_compute(2.0, -0.3, 2.0) == pytest.approx(2.0 - 0.3 * math.log(2))
    assert decline(curve[:1], "loss") is None
    assert decline([{"step": 100, "loss": 3}, {"step": 200, "loss": 2}], "loss") is not None
    assert decline(curve, "error") is None
    assert decline([], "loss") is None


# ── on noise like ours ────────────────────────────────────────────────────────────────────────


class Noise:
    """Losses by window: text differs much, seeds a little, and each seed on each window."""

    def __init__(self, seed: int, *, of_seeds: float = 0.004, windows: int = 128) -> None:
        self.rng = np.random.default_rng(seed)
        self.of_seeds, self.windows = of_seeds, windows

    def text(self) -> np.ndarray:
        return self.rng.normal(3.5, 0.5, self.windows)

    def tests(self, text: np.ndarray, count: int, gain: float = 0.0) -> list[Result]:
        found = []
        for seed in range(count):
            luck = self.rng.normal(0, self.of_seeds) + self.rng.normal(0, 0.02, self.windows)
            losses = text - gain + luck
            found.append(Result(seed, float(losses.mean()), losses))
        return found

    def verdicts(
        self, rounds: int, entry: int, unedited: int, *, gain: float = 0.0, picked: int = 1
    ) -> Counter[str]:
        """Of so many comparisons; the entry's first test is the luckiest of `picked`."""
        found: Counter[str] = Counter()
        for _ in range(rounds):
            text = self.text()
            mine = self.tests(text, entry, gain)
            tried = [mine[0], *self.tests(text, picked - 1, gain)]
            best = min(tried, key=lambda r: r.value)
            mine[0] = Result(0, best.value, best.windows)
            theirs = sample(self.tests(text, unedited))
            found[difference(sample(mine), theirs, "lower").verdict] += 1
        return found


@pytest.mark.parametrize(
    ("entry", "unedited", "of_seeds"),
    [(2, 2, 0.004), (3, 3, 0.0), (3, 3, 0.004), (3, 3, 0.05), (5, 3, 0.004), (2, 6, 0.05)],
)
def test_luck_is_called_better_in_at_most_a_twentieth(
    entry: int, unedited: int, of_seeds: float
) -> None:
    found = Noise(entry * 10 + unedited, of_seeds=of_seeds).verdicts(300, entry, unedited)
    assert found["better"] <= 15, found
    assert found["worse"] <= 15, found


def test_the_luckiest_of_three_submitted_is_so_too() -> None:
    found = Noise(5).verdicts(300, 3, 3, picked=3)
    assert found["better"] <= 15, found


def test_a_planted_improvement_is_found() -> None:
    found = Noise(6).verdicts(100, 3, 3, gain=0.02)
    assert found["better"] >= 90, found
    assert Noise(7).verdicts(100, 3, 3, gain=-0.02)["worse"] >= 90
