"""What an audit measured, beside the limits that it was held to.

Pure. An audit's facts are the task's own JSON. Two names in one object tell of a limit: `x` and
`x_limit`, or `beyond` and `allowed`; a number `x` beside `unedited_x` tells of a cost. All else is
shown as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Margin:
    """One measure that has a limit."""

    measure: str
    """where it stands in the audit, in words"""
    value: float
    limit: float

    @property
    def share(self) -> float:
        """How much of the limit is used: 1 at the limit, more where it was crossed."""
        if self.limit == 0:
            return 0.0 if self.value == 0 else math.inf
        return abs(self.value) / abs(self.limit)


@dataclass(frozen=True)
class Cost:
    """A number of the model beside the unedited one's."""

    name: str
    value: float
    unedited: float


def margins(audit: Mapping[str, object]) -> list[Margin]:
    """The closest to its limit first."""
    found = [margin for place, part in _objects(audit, ()) for margin in _of(place, part)]
    return sorted(found, key=lambda margin: -margin.share)


def costs(audit: Mapping[str, object]) -> list[Cost]:
    found = []
    for _, part in _objects(audit, ()):
        for name, value in part.items():
            own, theirs = _number(value), _number(part.get(f"unedited_{name}"))
            if own is not None and theirs is not None:
                found.append(Cost(name.replace("_", " "), own, theirs))
    return found


def _objects(
    value: object, place: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    if isinstance(value, Mapping):
        yield place, value
        for key, item in value.items():
            yield from _objects(item, (*place, str(key)))


def _of(place: tuple[str, ...], part: Mapping[str, object]) -> Iterator[Margin]:
    for name, value in part.items():
        limit = part.get("allowed" if name == "beyond" else f"{name}_limit")
        own, most = _number(value), _number(limit)
        if own is not None and most is not None:
            # The last folder names the sample; what lies above it is the audit's own order.
            yield Margin(", ".join([*place[-1:], name.replace("_", " ")]), own, most)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None  # NaN too
