"""Sessions that the house plays: a baseline's edits, or a submission's, each with seeds of its own.

Such a session has as many tests as seeds, test n with the n-th. That it tests what its header says
is proved by nobody here: the leaderboard goes by the hashes of the tested files.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from harness.likeness import UNEDITED
from harness.submissions import Submission
from harness.task import Task

MOST_SEEDS = 100
"""tests that one such session may have"""

SEED_LIMIT = 2**31
"""seeds are drawn below it"""


class BadReplica(ValueError):
    """There is nothing to play; the message says why, and what to do."""


@dataclass(frozen=True)
class Replica:
    """What a session is for, as its header has it."""

    purpose: Literal["baseline", "confirmation"]
    of: str
    """the baseline's name, empty for the unedited files; or the session that is confirmed"""
    seeds: tuple[int, ...]


def of_baseline(task: Task, name: str, seeds: Collection[int]) -> Replica:
    """Raises BadReplica."""
    if name != UNEDITED and name not in task.baselines:
        known = ", ".join(task.baselines) or "none"
        raise BadReplica(f"{task.name} has no baseline {name!r}; there are: {known}")
    if not 1 <= len(seeds) <= MOST_SEEDS or len(set(seeds)) < len(seeds):
        raise BadReplica(f"give from 1 to {MOST_SEEDS} seeds, each once")
    if any(not 0 <= seed < 2**32 for seed in seeds):
        raise BadReplica("a seed is from 0 to 4294967295")
    return Replica("baseline", name, tuple(seeds))


def of_submission(
    task: Task, found: Submission, count: int, unplayed: Collection[int] = ()
) -> Replica:
    """With `count` seeds: first those that earlier confirmations left `unplayed`, then fresh ones.

    So nobody chooses among seeds by breaking off. Raises BadReplica if its results could not stand
    beside the submission's.
    """
    header = found.header
    if found.version != task.version:
        raise BadReplica(
            f"session {header.session} was scored by version {found.version} of {task.name}, which "
            f"is version {task.version} now; if only the scoring has changed, first: "
            f"harness regrade {task.name} --apply"
        )
    texts = {name: file.text for name, file in task.shipped().items()}
    same = texts == {file.name: file.text for file in header.files}
    if not same or task.locked_digest() != header.locked_digest:
        raise BadReplica(f"the files of {task.name} are others than session {header.session} had")
    fresh = fresh_seeds(count, {*found.seeds, *unplayed})
    return Replica("confirmation", header.session, (*sorted(unplayed), *fresh)[:count])


def fresh_seeds(count: int, taken: Collection[int]) -> tuple[int, ...]:
    """Seeds that nobody could know before, none of them among `taken`. Raises BadReplica."""
    if not 1 <= count <= MOST_SEEDS:
        raise BadReplica(f"give from 1 to {MOST_SEEDS} seeds")
    drawn: dict[int, None] = {}
    while len(drawn) < count:
        seed = secrets.randbelow(SEED_LIMIT)
        if seed not in taken:
            drawn[seed] = None
    return tuple(drawn)
