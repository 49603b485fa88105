"""Counting tests: how many a session has, has used, and may still start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """A test is used once its first stage has started; a queued one is not used yet."""

    total: int
    used: int
    running: int | None = None
    """the number of the test that is queued or running, if there is one"""

    @property
    def remaining(self) -> int:
        return self.total - self.used

    def as_json(self) -> dict[str, int | None]:
        return {
            "tests": self.total,
            "used": self.used,
            "remaining": self.remaining,
            "running": self.running,
        }
