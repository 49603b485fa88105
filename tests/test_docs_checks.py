"""Every example in docs/checks.md is what the page says it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.checks.static import RULES, check
from harness.regions import EditableFile
from harness.task import load_task

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/checks.md").read_text()
TASK = load_task(ROOT / "tasks/llm-pretrain-residual")
[FILE] = TASK.files

PRISTINE = EditableFile.from_text(FILE.name, TASK.read_file(FILE.name), FILE.region_tuples())

EXAMPLE = re.compile(
    r"^```python ([a-z-]+) (refused|accepted)\n(.*?)^```$", re.DOTALL | re.MULTILINE
)


def sections() -> dict[str, str]:
    """The page's text under each `### rule, rule` heading of the static part."""
    static = PAGE[PAGE.index("## From the text") :]
    static = static[: static.index("\n## ", 5)] if "\n## " in static[5:] else static
    found: dict[str, str] = {}
    for part in static.split("\n### ")[1:]:
        heading, _, body = part.partition("\n")
        for rule in heading.split(", "):
            found[rule] = body
    return found


SECTIONS = sections()


def test_every_rule_has_its_section() -> None:
    assert set(SECTIONS) == set(RULES)


def examples() -> list[tuple[str, str, str, str]]:
    return [(rule, *match) for rule, body in SECTIONS.items() for match in EXAMPLE.findall(body)]


@pytest.mark.parametrize(("rule", "region", "outcome", "text"), examples())
def test_an_example_is_refused_or_accepted(rule: str, region: str, outcome: str, text: str) -> None:
    index = [r.name for r in PRISTINE.regions].index(region)
    edited = PRISTINE.with_region(index, text.removesuffix("\n").split("\n"))
    found = {finding.rule for finding in check(PRISTINE, edited, FILE.constraints)}
    if outcome == "accepted":
        assert not found
    else:
        # Rules that share a section share its examples.
        assert found & {other for other, body in SECTIONS.items() if body == SECTIONS[rule]}


def test_every_rule_shows_both_sides() -> None:
    for rule, body in SECTIONS.items():
        shown = {outcome for _, outcome, _ in EXAMPLE.findall(body)}
        assert shown == {"refused", "accepted"} or rule == "encoding"
