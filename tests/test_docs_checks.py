"""Every example in docs/checks.md is what the page says it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import contract
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


def sections(chapter: str) -> dict[str, str]:
    """The page's text under each `### rule, rule` heading of a chapter."""
    text = PAGE[PAGE.index(f"\n## {chapter}\n") + 1 :]
    text = text[: text.index("\n## ")]
    found: dict[str, str] = {}
    for part in text.split("\n### ")[1:]:
        heading, _, body = part.partition("\n")
        for rule in heading.split(", "):
            found[rule] = body
    return found


SECTIONS = sections("From the text")
RUNNING = sections("From running it at a small size")


def test_every_rule_has_its_section() -> None:
    assert set(SECTIONS) == set(RULES)


def examples(sections: dict[str, str]) -> list[tuple[str, str, str, str]]:
    return [(rule, *match) for rule, body in sections.items() for match in EXAMPLE.findall(body)]


@pytest.mark.parametrize(("rule", "region", "outcome", "text"), examples(SECTIONS))
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


def shown_once() -> list[tuple[str, str, str, str]]:
    """The running examples, each with the first rule of its section."""
    return list(
        {text: (rule, *rest, text) for rule, *rest, text in examples(RUNNING)[::-1]}.values()
    )


@pytest.mark.parametrize(("rule", "region", "outcome", "text"), shown_once())
def test_a_running_example_is_refused_or_accepted(
    rule: str, region: str, outcome: str, text: str, tmp_path: Path
) -> None:
    index = [r.name for r in PRISTINE.regions].index(region)
    edited = PRISTINE.with_region(index, text.removesuffix("\n").split("\n"))
    assert not check(PRISTINE, edited, FILE.constraints), "the text has to pass to be run"
    path = tmp_path / "custom_pretrain.py"
    path.write_text(edited.text)
    report = contract.examine(path, FILE.name, quick=True)
    found = {finding["rule"] for finding in report.findings}
    if outcome == "accepted":
        assert not found
    else:
        assert found & {other for other, body in RUNNING.items() if body == RUNNING[rule]}


def test_every_rule_of_the_contract_is_named() -> None:
    described = (contract.__doc__ or "").split("Rules that refuse:")[1].split("Guaranteed")[0]
    for rule in re.findall(r"^  ([a-z-]+)  ", described, re.MULTILINE):
        assert rule in RUNNING, rule
