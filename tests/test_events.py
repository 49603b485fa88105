"""The header of a session: what it says, and what its hash covers."""

from __future__ import annotations

from datetime import UTC, datetime

from harness.events import Header, canonical

HASH = "1ef2a463821d3b2019578c8419c705bcb3a28f21b6cd500efe6e589460fcc491"
"""as computed before headers could say what a session is for"""


def header(**more: object) -> Header:
    return Header.model_validate(
        {
            "session": "s",
            "created_at": datetime(2026, 1, 1, tzinfo=UTC),
            "task": "t",
            "task_version": 1,
            "profile": "p",
            "tests": 3,
            "files": (),
            "locked_digest": "x",
            **more,
        }
    )


def test_headers_of_agents_keep_the_hash_that_they_always_had() -> None:
    assert header().hash == HASH
    assert header(purpose="agent", of=None, seeds=()).hash == HASH


def test_what_a_session_is_for_is_part_of_its_hash() -> None:
    confirming = header(purpose="confirmation", of="another", seeds=(7, 8))
    assert confirming.hash != HASH
    stored = canonical(confirming.model_dump(mode="json"))
    assert Header.model_validate_json(stored) == confirming
