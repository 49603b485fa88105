"""How much better: differences with intervals, verdicts, the normalised score. Pure.

Guaranteed: fewer than two seeds on a side never give a verdict of `better` or `worse`; of several
tests with one seed the mean counts once; an entry's spread over seeds is never taken to be smaller
than the unedited files', since an edit may fix its own seed, and an entry whose results are the
same whatever its seed, or all but the same, where the unedited files' are not, has one.

Not guaranteed: anything against choosing. Who submits the best of many tests brings its luck along;
what is fresh (a confirmation's seeds) is the remedy. Windows are taken as independent; neighbours
from one document are less than that. docs/leaderboard.md has the formulas and measured rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Direction = Literal["lower", "higher"]
Verdict = Literal["better", "within noise", "worse", "one seed"]

LEVEL: Final = 0.95
"""of every interval, two-sided"""

SAME_UNIT: Final = 0.01
"""the mean of a test's windows may differ from its value by this share, or they are not its losses
(a perplexity's are not)"""

SAME_SEED: Final = 1e-4
"""an entry whose variance over seeds is below this share of the unedited files' fixes its own seed:
honest ones fall below it in 0.7% of cases with two seeds, in 0.01% with three"""

EXACT: Final = 1e-12
"""a difference of this share of the values is none"""


@dataclass(frozen=True)
class Result:
    """One finished test."""

    seed: int
    value: float
    windows: Sequence[float] | Floats | None = None
    """losses by window, in the order of the data set's windows"""


@dataclass(frozen=True)
class Sample:
    """The results of one code, a value for each seed."""

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    """by seed, the mean of its tests"""
    windows: Floats | None
    """(windows,), averaged over the seeds of which there are any; None if there are none"""

    @property
    def size(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def variance(self) -> float | None:
        """Over seeds, unbiased; None with one."""
        if len(self.values) < 2:
            return None
        mean = self.mean
        return math.fsum((value - mean) ** 2 for value in self.values) / (len(self.values) - 1)

    @property
    def standard_error(self) -> float | None:
        """Of the mean, over seeds; None with one."""
        variance = self.variance
        return None if variance is None else math.sqrt(variance / len(self.values))


@dataclass(frozen=True)
class Interval:
    """A 95% interval by Student's t."""

    low: float
    high: float
    standard_error: float
    degrees: float
    """of freedom; infinite where nothing scatters"""


@dataclass(frozen=True)
class Difference:
    """An entry less the unedited files, in the metric's unit."""

    value: float
    windows: Interval | None
    """from paired windows: what another text would change"""
    seeds: Interval | None
    """from seeds: what other seeds would change"""
    both: Interval | None
    """variances added; what the verdict goes by"""
    verdict: Verdict


def sample(results: Sequence[Result]) -> Sample:
    """At least one result; seeds in ascending order."""
    by_seed: dict[int, list[Result]] = {}
    for result in results:
        by_seed.setdefault(result.seed, []).append(result)
    seeds = tuple(sorted(by_seed))
    values = tuple(
        math.fsum(result.value for result in by_seed[seed]) / len(by_seed[seed]) for seed in seeds
    )
    return Sample(seeds, values, _windows([by_seed[seed] for seed in seeds]))


def _windows(by_seed: Sequence[Sequence[Result]]) -> Floats | None:
    rows: list[Floats] = []
    for results in by_seed:
        own = [losses for result in results if (losses := _losses(result)) is not None]
        if len({losses.shape for losses in own}) > 1:
            return None
        if own:
            rows.append(np.mean(own, axis=0))
    if len({row.shape for row in rows}) != 1:
        return None
    averaged: Floats = np.mean(rows, axis=0)
    return averaged


def _losses(result: Result) -> Floats | None:
    if result.windows is None or len(result.windows) < 2:
        return None
    losses = np.asarray(result.windows, dtype=np.float64)
    fits = abs(float(losses.mean()) - result.value) <= SAME_UNIT * abs(result.value)
    return losses if fits else None


def difference(entry: Sample, unedited: Sample, direction: Direction) -> Difference:
    """The entry less the unedited files, with its intervals and the verdict."""
    value = entry.mean - unedited.mean
    windows, seeds = _of_windows(entry, unedited), _of_seeds(entry, unedited)
    both = None
    if seeds is not None:
        both = _added([seeds] if windows is None else [seeds, windows])
    return Difference(
        value,
        _interval(value, windows),
        _interval(value, seeds),
        _interval(value, both),
        _verdict(value, _interval(value, both), entry, unedited, direction),
    )


@dataclass(frozen=True)
class _Spread:
    """A variance of the difference, and how well it is known."""

    variance: float
    degrees: float


def _of_windows(entry: Sample, unedited: Sample) -> _Spread | None:
    known = [side.windows for side in (entry, unedited) if side.windows is not None]
    if not known:
        return None
    if len(known) == 2 and known[0].shape == known[1].shape:
        paired = known[0] - known[1]
        return _Spread(float(paired.var(ddof=1)) / len(paired), len(paired) - 1)
    # They cannot be paired: as if each side had seen another text.
    return _Spread(2 * float(known[0].var(ddof=1)) / len(known[0]), len(known[0]) - 1)


def _of_seeds(entry: Sample, unedited: Sample) -> _Spread | None:
    if entry.variance is None or unedited.variance is None:
        return None
    spread = max(entry.variance, unedited.variance)
    return _added(
        [
            _Spread(spread / entry.size, entry.size - 1),
            _Spread(unedited.variance / unedited.size, unedited.size - 1),
        ]
    )


def _added(spreads: Sequence[_Spread]) -> _Spread:
    """Independent variances added; degrees of freedom by Welch and Satterthwaite."""
    variance = math.fsum(spread.variance for spread in spreads)
    if variance == 0:
        return _Spread(0.0, math.inf)
    # Shares first: the square of a tiny variance would be nothing.
    shares = math.fsum((s.variance / variance) ** 2 / s.degrees for s in spreads)
    return _Spread(variance, 1 / shares)


def _interval(value: float, spread: _Spread | None) -> Interval | None:
    if spread is None:
        return None
    error = math.sqrt(spread.variance)
    half = quantile(spread.degrees) * error if error else 0.0
    return Interval(value - half, value + half, error, spread.degrees)


def quantile(degrees: float) -> float:
    """Student's t below which 97.5% lie; `degrees` of freedom, 1 or more, may be infinite."""
    from scipy.special import stdtrit  # a tenth of any command's start, and few need it

    return float(stdtrit(min(degrees, 1e9), (1 + LEVEL) / 2))


def _verdict(
    value: float,
    both: Interval | None,
    entry: Sample,
    unedited: Sample,
    direction: Direction,
) -> Verdict:
    if both is None or _ignores_its_seed(entry, unedited):
        return "one seed"
    if abs(value) <= EXACT * max(abs(entry.mean), abs(unedited.mean)):
        return "within noise"
    if both.low <= 0 <= both.high:
        return "within noise"
    return "better" if (value < 0) == (direction == "lower") else "worse"


def _ignores_its_seed(entry: Sample, unedited: Sample) -> bool:
    own, theirs = entry.variance, unedited.variance
    return own is not None and theirs is not None and own < SAME_SEED * theirs


def normalised(value: float, unedited: float, best: float, direction: Direction) -> float | None:
    """0 for the unedited files' mean, 1 for the best baseline's; None if that is not better."""
    span = unedited - best if direction == "lower" else best - unedited
    if span <= EXACT * max(abs(unedited), abs(best)):
        return None
    gain = unedited - value if direction == "lower" else value - unedited
    return gain / span


def decline(curve: Sequence[dict[str, Any]], metric: str) -> float | None:
    """By how much a curve still changes with the logarithm of the step, in its second half.

    The slope of a line by least squares through the points whose step is at least half of the
    last one; None with fewer than two of them.
    """
    points = [(p["step"], p[metric]) for p in curve if metric in p and p.get("step", 0) > 0]
    points = [(step, value) for step, value in points if 2 * step >= points[-1][0]]
    if len({step for step, _ in points}) < 2:
        return None
    steps, values = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    logs = np.log(steps) - np.log(steps).mean()
    slope = float(logs @ (values - values.mean()) / (logs @ logs))
    return slope if math.isfinite(slope) else None


def at_equal_compute(unedited: float, slope: float, ratio: float) -> float:
    """What the unedited files might reach with `ratio` times as many steps."""
    return unedited + slope * math.log(ratio)
