"""The soak, a few rounds of it; `make soak` plays the whole."""

from __future__ import annotations

from pathlib import Path

from soak import soak


def test_killed_at_any_instant_nothing_is_lost_and_nothing_is_done_twice(tmp_path: Path) -> None:
    found, counts = soak(tmp_path, rounds=2, seed=7)
    assert found == []
    assert counts["answers"] >= 4
