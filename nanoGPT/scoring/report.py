"""metrics.json, and the surroundings of a `score` half.

What an agent may see is at the top level and comes from the split `development`. Everything else,
the split `final`, the metrics that are hidden from agents and what the audit measured, is under
"hidden" only, and nothing here prints it.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SPLITS = ("development", "final")


class ScoreError(Exception):
    """Scoring cannot be done; the message says why, and what to do."""


@dataclass(frozen=True)
class Surroundings:
    """The environment that a score half is given."""

    data: Path
    """What scoring may read of the data folder."""
    out: Path
    """Where metrics.json goes."""
    run_out: Path
    """What training left: the checkpoints."""
    stage: str
    unedited: Path | None
    """What scoring the unedited files left in its `reference`, if they were scored here before."""

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> Surroundings:
        """Raises ScoreError for a variable that is missing."""
        env = os.environ if env is None else env
        try:
            return cls(
                data=Path(env["HARNESS_DATA"]),
                out=Path(env["HARNESS_OUT"]),
                run_out=Path(env["HARNESS_RUN_OUT"]),
                stage=env["HARNESS_STAGE"],
                unedited=Path(env["HARNESS_UNEDITED"]) if env.get("HARNESS_UNEDITED") else None,
            )
        except KeyError as error:
            raise ScoreError(
                f"{error.args[0]} is not set. Start this through a script of the task."
            ) from None


@dataclass
class Report:
    """Collects results and writes metrics.json."""

    metrics: dict[str, float] = field(default_factory=dict)
    per_window: dict[str, list[float]] = field(default_factory=dict)
    per_item: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    hidden: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"metrics": {}, "final": {}, "per_window": {}, "per_item": {}}
    )
    void: str | None = None
    """The category of a failed audit: nothing in here counts then."""

    def add_windows(self, name: str, split: str, value: float, windows: Sequence[float]) -> None:
        """A visible metric of one split, with the losses it is made of."""
        rounded = [round(loss, 6) for loss in windows]
        if split == "development":
            self.metrics[name], self.per_window[name] = value, rounded
        else:
            self.hidden["final"][name], self.hidden["per_window"][name] = value, rounded

    def add_items(
        self, name: str, split: str, items: Sequence[dict[str, Any]], *, hidden: bool
    ) -> float:
        """The share of `items` that are correct, in percent, as a metric of one split.

        Of a hidden metric both splits' items are kept under "hidden", each with its "split".
        Raises ScoreError if there is no item.
        """
        if not items:
            raise ScoreError(f"{name} has no items. Check the task's evaluation files.")
        value = 100.0 * sum(bool(item["correct"]) for item in items) / len(items)
        if split == "development" and not hidden:
            self.metrics[name], self.per_item[name] = value, list(items)
        else:
            self.hidden["final" if split == "final" else "metrics"][name] = value
            kept = self.hidden["per_item"].setdefault(name, [])
            kept.extend({**item, "split": split} for item in items)
        return value

    def write(self, folder: Path) -> None:
        """Write metrics.json into `folder` in one step."""
        content: dict[str, Any] = {
            "metrics": self.metrics,
            "per_window": self.per_window,
            "per_item": self.per_item,
            "hidden": self.hidden,
        }
        if self.void is not None:
            content["void"] = self.void
        temporary = folder / "metrics.json.tmp"
        temporary.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, folder / "metrics.json")


def perplexity(name: str, loss: float) -> float:
    """exp of a mean loss in nats. Raises ScoreError if no number is that large."""
    try:
        return math.exp(loss)
    except OverflowError:
        raise ScoreError(f"{name} is too large to be a number: the model has diverged") from None


def carry_out(score: Callable[[], None]) -> int:
    """Run a score half; a ScoreError becomes one line on stderr and exit code 1."""
    try:
        score()
    except ScoreError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 0
