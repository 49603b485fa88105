"""Docs fail when stale: what the code has, the pages name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import typer
from readers import pinned

from harness import events
from harness.cli import app
from harness.errors import all_codes
from harness.settings import Settings
from harness.tools import TOOLS
from harness.verdicts import CATEGORIES, VERDICTS

ROOT = Path(__file__).parents[1]
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize("code", sorted(all_codes()))
def test_every_error_code_is_in_the_protocol(code: str) -> None:
    assert f"`{code}`" in PROTOCOL


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_every_tool_and_argument_is_in_the_protocol(tool: object) -> None:
    assert re.search(rf"^## .*\b{tool.name}\b", PROTOCOL, re.MULTILINE)
    for argument in tool.parameters["properties"]:
        assert f"`{argument}`" in PROTOCOL


def test_every_event_type_is_in_the_protocol() -> None:
    union, _ = get_args(events.AnyEvent)
    for event in get_args(union):
        assert f"`{event.model_fields['type'].default}`" in PROTOCOL


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_in_operations(name: str) -> None:
    assert f"`HARNESS_{name.upper()}`" in OPERATIONS


def test_every_command_is_in_operations() -> None:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        for part in getattr(command, "commands", {"": None}):
            assert f"`harness {name} {part}".rstrip() in OPERATIONS


def test_versions_of_others_readers_are_those_that_tests_ask() -> None:
    pages = "".join(path.read_text() for path in sorted(ROOT.glob("docs/*.md")))
    for package in ("inspect-ai", "openai", "anthropic", "google-genai", "harbor"):
        said = re.findall(rf"\b{package} (\d+\.\d+\.\d+)", pages)
        assert said, package
        assert set(said) == {pinned(package)}, package


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_verdict_and_category_is_on_the_leaderboards_page() -> None:
    page = (ROOT / "docs/leaderboard.md").read_text()
    for name in VERDICTS:
        assert f"| `{name}` |" in page
    for name, meaning in CATEGORIES.items():
        assert f"| `{name}` | {meaning} |" in page
