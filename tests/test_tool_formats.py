"""Every tool in every vendor's format, held to that vendor's published rules.

The rules, as of this writing: OpenAI, "Function calling" and "Structured outputs: supported
schemas"; Anthropic, "Tool use" (name, description, input_schema); Google, the API reference of
`FunctionDeclaration` and `Schema`; MCP, the `Tool` of its schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

import mcp_types
import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from harness.tool_formats import FORMATS, Format
from harness.tools import TOOLS

Tool = Mapping[str, Any]


def keys(value: Mapping[str, Any], *, required: set[str], optional: set[str] = frozenset()) -> None:
    assert required <= set(value) <= required | optional, set(value)


def openai_function(tool: Tool) -> Tool:
    keys(tool, required={"type", "function"})
    assert tool["type"] == "function"
    function = tool["function"]
    keys(function, required={"name", "description", "parameters"}, optional={"strict"})
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", function["name"])
    assert 0 < len(function["description"]) <= 1024
    schema = function["parameters"]
    Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert not {"oneOf", "anyOf", "allOf", "enum", "not"} & set(schema)
    return function


def openai(found: Any) -> dict[str, Tool]:
    assert all("strict" not in tool["function"] for tool in found)
    return {f["name"]: f["parameters"] for f in map(openai_function, found)}


STRICT_TYPES = {"string", "number", "boolean", "integer", "object", "array", "null"}


def openai_strict(found: Any) -> dict[str, Tool]:
    for function in map(openai_function, found):
        assert function["strict"] is True
        schema = function["parameters"]
        assert schema["additionalProperties"] is False
        assert schema["required"] == list(schema["properties"])  # each one, none left out
        assert len(schema["properties"]) <= 5000
        for value in schema["properties"].values():
            keys(value, required={"type"}, optional={"description", "enum"})
            types = value["type"] if isinstance(value["type"], list) else [value["type"]]
            assert set(types) <= STRICT_TYPES
    return {tool["function"]["name"]: tool["function"]["parameters"] for tool in found}


def anthropic(found: Any) -> dict[str, Tool]:
    for tool in found:
        keys(tool, required={"name", "description", "input_schema"})
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool["name"])
        assert tool["description"]
        Draft202012Validator.check_schema(tool["input_schema"])
        assert tool["input_schema"]["type"] == "object"
        assert not {"oneOf", "anyOf", "allOf"} & set(tool["input_schema"])
    return {tool["name"]: tool["input_schema"] for tool in found}


GEMINI_FIELDS = {
    "type", "format", "title", "description", "nullable", "enum", "maxItems", "minItems",
    "properties", "required", "minProperties", "maxProperties", "minLength", "maxLength",
    "pattern", "example", "anyOf", "propertyOrdering", "default", "items", "minimum", "maximum",
}  # fmt: skip
GEMINI_FORMATS = {
    "STRING": {"enum", "date-time"},
    "INTEGER": {"int32", "int64"},
    "NUMBER": {"float", "double"},
}


def gemini_schema(schema: Tool) -> None:
    assert set(schema) <= GEMINI_FIELDS
    kind = schema["type"]
    assert kind in {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT"}
    if "format" in schema:
        assert schema["format"] in GEMINI_FORMATS[kind]
    if "enum" in schema:
        assert kind == "STRING"
        assert schema["format"] == "enum"
        assert all(isinstance(value, str) and value for value in schema["enum"])
    if kind == "OBJECT":
        assert schema["properties"]  # an object without any is refused
        assert set(schema.get("required", [])) <= set(schema["properties"])
        for name, value in schema["properties"].items():
            assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}", name)
            gemini_schema(value)
    assert schema.get("required") != []


def gemini(found: Any) -> dict[str, Tool]:
    [tool] = found
    keys(tool, required={"functionDeclarations"})
    assert len(tool["functionDeclarations"]) <= 512
    for declared in tool["functionDeclarations"]:
        keys(declared, required={"name", "description", "parameters"})
        assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}", declared["name"])
        gemini_schema(declared["parameters"])
    return {tool["name"]: tool["parameters"] for tool in tool["functionDeclarations"]}


def mcp(found: Any) -> dict[str, Tool]:
    for tool in found:
        keys(tool, required={"name", "description", "inputSchema"})
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", tool["name"])
        Draft202012Validator.check_schema(tool["inputSchema"])
        assert mcp_types.Tool.model_validate(tool).input_schema["type"] == "object"
    return {tool["name"]: tool["inputSchema"] for tool in found}


RULES: dict[str, Callable[[Any], dict[str, Tool]]] = {
    "openai": openai,
    "openai-strict": openai_strict,
    "anthropic": anthropic,
    "gemini": gemini,
    "mcp": mcp,
}


@pytest.mark.parametrize("form", get_args(Format))
def test_every_tool_keeps_the_vendors_rules(client: TestClient, form: str) -> None:
    response = client.get("/v1/tools", params={"format": form})
    assert response.status_code == 200
    schemas = RULES[form](response.json())
    assert list(schemas) == list(TOOLS)
    for name, schema in schemas.items():
        asked = TOOLS[name].parameters
        assert list(schema["properties"]) == list(asked["properties"])
        for argument, value in schema["properties"].items():
            described = asked["properties"][argument]
            assert value.get("description") == described.get("description")
            assert value.get("enum") == described.get("enum")
        if form != "openai-strict":
            assert schema.get("required", []) == asked["required"]


def test_the_formats_are_those_that_the_api_takes() -> None:
    assert set(FORMATS) == set(get_args(Format)) == set(RULES)


def test_a_format_that_nobody_has_is_refused(client: TestClient) -> None:
    response = client.get("/v1/tools", params={"format": "cobol"})
    assert response.status_code == 422
    message = response.json()["error"]["message"]
    assert all(form in message for form in FORMATS)


def test_what_strict_mode_sends_is_understood(player: Any) -> None:
    """Each argument that is not used comes as null there."""
    sent = dict.fromkeys(TOOLS["edit"].parameters["properties"])
    sent |= {"op": "insert", "filename": "line_rate.py", "after_line": 5, "content": "# x"}
    assert player.call("edit", **sent)["ok"]
    assert player.call("undo", n=None)["ok"]
    assert player.call("status", wait_s=None)["ok"]
    assert player.call("view", filename="loop.py", start_line=None, end_line=None)["ok"]
