"""The tools as the vendors' own packages take them: their types, and a call of each client.

What types do not show (names' patterns, lengths, keywords of a schema) is in test_tool_formats.py.
"""

from __future__ import annotations

from typing import Any

import mcp_types
import pytest
from conftest import KEY, TOY_TASKS
from fastapi.testclient import TestClient
from readers import ask, readers_python

import server
from harness.settings import Settings

FORMS = ("openai", "openai-strict", "anthropic", "gemini")


def spoiled(form: str, tools: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The tools with one thing wrong each: a key that nobody knows, a word where a schema goes."""
    first, *rest = tools
    inner = {"anthropic": None, "gemini": "functionDeclarations"}.get(form, "function")
    place = first if inner is None else first[inner]
    place, wrap = (place[0], True) if isinstance(place, list) else (place, False)
    schema = next(key for key in place if key in ("parameters", "input_schema"))

    def with_place(changed: dict[str, Any]) -> list[dict[str, Any]]:
        if inner is None:
            return [changed, *rest]
        return [{**first, inner: [changed] if wrap else changed}, *rest]

    return {
        "a tool's unknown key": [{**first, "colour": "red"}, *rest],
        "a function's unknown key": with_place({**place, "colour": "red"}),
        "no schema": with_place({**place, schema: "an object"}),
        "no name": with_place({**place, "name": 3}),
    }


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    folder = tmp_path_factory.mktemp("state")
    settings = Settings(state_dir=folder, tasks_dir=TOY_TASKS, api_key=KEY)
    return TestClient(server.build(settings), headers={"Authorization": f"Bearer {KEY}"})


@pytest.fixture(scope="module")
def told(client: TestClient) -> dict[tuple[str, str], tuple[Any, dict[str, Any]]]:
    """By format and what is wrong with them: the tools, and what the vendor's package says."""
    readers_python()
    asked = {}
    for form in FORMS:
        tools = client.get("/v1/tools", params={"format": form}).json()
        asked[form, ""] = tools
        asked |= {(form, what): wrong for what, wrong in spoiled(form, tools).items()}
    said = ask("vendors", [{"form": form, "tools": tools} for (form, _), tools in asked.items()])
    return {key: (tools, one) for (key, tools), one in zip(asked.items(), said, strict=True)}


@pytest.mark.parametrize("form", FORMS)
def test_a_vendors_package_takes_the_tools_as_they_are(
    told: dict[tuple[str, str], tuple[Any, dict[str, Any]]], form: str
) -> None:
    tools, said = told[form, ""]
    assert said == {"typed": tools, "sent": tools}


@pytest.mark.parametrize("form", FORMS)
def test_a_vendors_package_takes_no_other_tools(
    told: dict[tuple[str, str], tuple[Any, dict[str, Any]]], form: str
) -> None:
    wrong = {what: pair for (of, what), pair in told.items() if of == form and what}
    assert len(wrong) == 4
    for what, (tools, said) in wrong.items():
        assert said.get("typed") != tools, what


def test_mcps_own_types_take_the_tools_as_they_are(client: TestClient) -> None:
    tools = client.get("/v1/tools", params={"format": "mcp"}).json()
    assert tools
    listed = mcp_types.ListToolsResult.model_validate({"tools": tools})
    dumped = [
        tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed.tools
    ]
    assert dumped == tools
