"""The tools' schemas as each vendor's model calls take them.

A format's answer is what that vendor's `tools` argument is set to. The tools themselves are
defined once, in tools.py; here only the spelling changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from harness import tools
from harness.wire import (
    AnthropicTool,
    GeminiFunction,
    GeminiTool,
    McpTool,
    OpenAIFunction,
    OpenAITool,
    ToolSchema,
)

Format = Literal["openai", "openai-strict", "anthropic", "gemini", "mcp"]

Formatted = (
    list[ToolSchema] | list[OpenAITool] | list[AnthropicTool] | list[GeminiTool] | list[McpTool]
)


def formatted(form: Format | None) -> Formatted:
    """All tools in one of the formats; without one, as a session's start gives them."""
    if form is None:
        return [ToolSchema(**schema) for schema in tools.schemas()]
    return FORMATS[form]()


def openai() -> list[OpenAITool]:
    """Function tools of a chat completion, called without strict mode."""
    return [
        OpenAITool(type="function", function=OpenAIFunction(**schema)) for schema in tools.schemas()
    ]


def openai_strict() -> list[OpenAITool]:
    """The same for strict mode, which wants every argument named: what is optional may be null."""
    return [
        OpenAITool(
            type="function",
            function=OpenAIFunction(
                name=schema["name"],
                description=schema["description"],
                parameters=_strict(schema["parameters"]),
                strict=True,
            ),
        )
        for schema in tools.schemas()
    ]


def anthropic() -> list[AnthropicTool]:
    return [
        AnthropicTool(
            name=schema["name"],
            description=schema["description"],
            input_schema=schema["parameters"],
        )
        for schema in tools.schemas()
    ]


def gemini() -> list[GeminiTool]:
    return [
        GeminiTool(
            functionDeclarations=[
                GeminiFunction(
                    name=schema["name"],
                    description=schema["description"],
                    parameters=_gemini(schema["parameters"]),
                )
                for schema in tools.schemas()
            ]
        )
    ]


def mcp() -> list[McpTool]:
    return [
        McpTool(
            name=schema["name"],
            description=schema["description"],
            inputSchema=schema["parameters"],
        )
        for schema in tools.schemas()
    ]


FORMATS: Mapping[Format, Callable[[], Formatted]] = {
    "openai": openai,
    "openai-strict": openai_strict,
    "anthropic": anthropic,
    "gemini": gemini,
    "mcp": mcp,
}


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    required = schema["required"]
    properties = {
        name: value if name in required else {**value, "type": [value["type"], "null"]}
        for name, value in schema["properties"].items()
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _gemini(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A `Schema` object: types in capitals, an enum says that it is one, no empty lists."""
    found: dict[str, Any] = {"type": schema["type"].upper()}
    if "description" in schema:
        found["description"] = schema["description"]
    if "enum" in schema:
        found |= {"format": "enum", "enum": schema["enum"]}
    if "properties" in schema:
        found["properties"] = {n: _gemini(value) for n, value in schema["properties"].items()}
    if schema.get("required"):
        found["required"] = schema["required"]
    return found
