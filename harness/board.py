"""A leaderboard as types: what the API sends, `harness leaderboard --json` prints, pages show.

For people with a key: everything here speaks of the split `final`, which no agent is shown.
A reader ignores fields that it does not know.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

Standing = Literal["confirmed", "unconfirmed", "unranked"]


class IntervalView(BaseModel):
    low: float = Field(description="Its lower end.")
    high: float = Field(description="Its upper end.")
    standard_error: float = Field(description="Of the difference.")
    degrees: float | None = Field(
        description="Of freedom, by Welch and Satterthwaite; null where nothing scatters."
    )


class DifferenceView(BaseModel):
    """An entry's mean less the unedited files', in the metric's unit; intervals are of 95%."""

    value: float = Field(description="Mean over seeds less that of the unedited files.")
    windows: IntervalView | None = Field(
        description="From paired validation windows; null without them."
    )
    seeds: IntervalView | None = Field(
        description="From seeds; null if either side has fewer than two."
    )
    both: IntervalView | None = Field(
        description="Variances of both added: what the verdict goes by."
    )


class MetricView(BaseModel):
    name: str = Field(description="The metric's name in the task.")
    unit: str = Field(description="Its unit.")
    direction: Literal["lower", "higher"] = Field(description="Which way is better.")
    decimals: int = Field(description="Digits that are shown.")


class ValueView(BaseModel):
    name: str = Field(description="The metric's name in the task.")
    split: Literal["final", "development"] = Field(
        description="`final` is hidden from agents; `development` is what they were shown, if the "
        "metric is not hidden."
    )
    hidden: bool = Field(description="Whether agents never see it.")
    mean: float = Field(description="Over seeds.")
    standard_error: float | None = Field(description="Over seeds; null with one.")
    seeds: int = Field(description="How many seeds it is the mean of.")


class CostView(BaseModel):
    gpu_hours: float | None = Field(
        description="Of one test: its stages' time by their GPUs, mean over results; null on a CPU."
    )
    hours: float | None = Field(description="Of one test, by the clock, mean over results.")
    spent_gpu_hours: float | None = Field(
        description="Of all tests of the session; null on a CPU and for what the house ran."
    )
    spent_hours: float | None = Field(description="Of all tests of the session, by the clock.")
    parameters_added: int | None = Field(
        description="Numbers in parameters and buffers beyond the unedited model's, counted in the "
        "checkpoint; null if the task's scorer does not say."
    )
    time_ratio: float | None = Field(
        description="Time of the stages that train, beside the unedited files'."
    )
    step_time_ratio: float | None = Field(
        description="Time of a training step beside the unedited files', as training told it."
    )
    unedited_at_equal_compute: float | None = Field(
        description="An estimate of what the unedited files would reach in as much time: their "
        "mean plus the slope of their curve over the logarithm of the step, in its second half, "
        "times the logarithm of `time_ratio`. A rate that decays to the end makes it too good."
    )
    tests_used: int | None = Field(description="Counted tests of the session.")
    tests_allowed: int | None = Field(description="Tests that the session had in all.")
    sessions_started: int | None = Field(
        description="Sessions that the same agent started on this task and profile."
    )
    sessions_open: int | None = Field(description="Of those, still open.")
    sessions_abandoned: int | None = Field(
        description="Of those, closed without a submit of the agent's own."
    )


class RunView(BaseModel):
    """A test that a row rests on."""

    session: str = Field(description="The session that it was a test of.")
    test: int = Field(description="Its number.")
    attempt: int = Field(description="Of this number, from 1.")
    purpose: Literal["agent", "baseline", "confirmation"] = Field(
        description="What the session was for."
    )
    seed: int = Field(description="The seed that it was given.")
    value: float | None = Field(description="The ranked metric on `final`; null without a score.")
    at: datetime | None = Field(description="When it finished, UTC.")
    provenance: dict[str, Any] = Field(description="What ran, on what.")


class ReviewView(BaseModel):
    verdict: Literal["clean", "suspect", "disqualified"] = Field(description="A person's verdict.")
    category: str = Field(description="Of what was found.")
    note: str = Field(description="In words.")
    at: datetime | None = Field(description="When, UTC.")


class RowView(BaseModel):
    kind: Literal["submission", "baseline", "unedited"] = Field(description="What was measured.")
    name: str = Field(description="The agent's or the baseline's name.")
    session: str | None = Field(description="The submission's session.")
    standing: Standing = Field(
        description="The list that it stands in: `confirmed` (two seeds or more that the harness "
        "gave, none of them without a score or unplayed), `unconfirmed`, `unranked`."
    )
    rank: int | None = Field(description="In its list, from 1; equals share one.")
    unranked: str = Field(description="Why it has no rank; empty if it has one.")
    mean: float | None = Field(description="The ranked metric on `final`, mean over seeds.")
    standard_error: float | None = Field(description="Over seeds; null with one.")
    seeds: list[int] = Field(description="The seeds of its results.")
    fresh_seeds: int = Field(description="How many of them the harness chose.")
    failed: int = Field(description="Tests of this code without a score, which are in no mean.")
    missing: int = Field(
        description="Seeds of its confirmations without a finished test: refused, given back, or "
        "not played yet. It is not confirmed while there are any."
    )
    difference: DifferenceView | None = Field(
        description="To the unedited files of the group; null if those were not measured."
    )
    verdict: (
        Literal["better", "within noise", "worse", "one seed", "tests failed", "unedited"] | None
    ) = Field(
        description="From the difference; `tests failed` where it would be better if tests of this "
        "code had not ended without a score; null if there is nothing to compare with."
    )
    score: float | None = Field(
        description="0 is the unedited files, 1 the best baseline; null without such a scale."
    )
    same_as: str | None = Field(
        description="The baseline that the code is up to formatting, or `` for the unedited files: "
        "score, verdict and rank are then that one's."
    )
    changed_lines: int | None = Field(description="Lines taken away and put in, up to formatting.")
    nearest: str | None = Field(description="The baseline whose code is nearest.")
    distance: float | None = Field(
        description="To that one: 0 is the same code, 1 no changed line in common."
    )
    metrics: list[ValueView] = Field(description="Every scored metric.")
    cost: CostView = Field(description="What it took.")
    review: ReviewView | None = Field(description="The latest; null if nobody has looked.")
    runs: list[RunView] = Field(description="The tests that it rests on, with their provenance.")


class ScaleView(BaseModel):
    """What the normalised score is measured by."""

    unedited: float | None = Field(description="The unedited files' mean: 0.")
    best: float | None = Field(description="The best baseline's mean: 1, if it is better.")
    baseline: str | None = Field(description="The best baseline's name.")
    verdict: str | None = Field(description="Of the best baseline.")


class GroupView(BaseModel):
    """Rows that may be compared: one version, profile, locked text, data set, hardware, torch."""

    current: bool = Field(description="Whether version and locked text are today's.")
    task_version: int = Field(description="The task's version.")
    profile: str = Field(description="The profile.")
    locked_digest: str = Field(description="Over every locked byte.")
    data: str = Field(description="The data set and its manifest's sha256.")
    hardware: str = Field(description="What tests ran on.")
    torch: str = Field(description="torch's version, major and minor.")
    metric: MetricView = Field(description="What is ranked.")
    scale: ScaleView = Field(description="Of the normalised score.")
    missing: list[str] = Field(description="Baselines that were not measured here.")
    notes: list[str] = Field(description="What a reader should know, each a sentence.")
    rows: list[RowView] = Field(
        description="Confirmed ones first, then unconfirmed, then unranked; by rank."
    )


class PublishedView(BaseModel):
    """A result that others published: other data, other machines, never ranked with ours."""

    name: str = Field(description="As its authors call it.")
    profile: str | None = Field(description="The profile that it is comparable in scale with.")
    metrics: dict[str, float] = Field(description="As published.")
    note: str = Field(description="Where it comes from.")


class LeaderboardView(BaseModel):
    task: str = Field(description="The task's name.")
    title: str = Field(description="The task in a line.")
    version: int = Field(description="The task's version today.")
    score_definition: str = Field(description="What the normalised score is.")
    verdict_definition: str = Field(description="How verdicts are made.")
    groups: list[GroupView] = Field(
        description="Rows of different groups are not ranked together; today's come first."
    )
    published: list[PublishedView] = Field(description="Results from elsewhere.")
