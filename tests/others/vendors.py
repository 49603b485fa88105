"""Tools given to the vendors' own packages: their published types, and a real call of each client.

Standard input: a list of {"form", "tools"}. Standard output, for each: `typed`, the tools as they
come out of the types (which drop what they do not know), or `error`; `sent`, what the client
puts into its request, from a server of ours that plays the vendor's.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import anthropic
import openai
from anthropic.types import ToolParam
from google import genai
from google.genai import types
from openai.lib._pydantic import _ensure_strict_json_schema
from openai.types.chat import ChatCompletionFunctionToolParam
from pydantic import TypeAdapter

ANSWERS = {
    "/chat/completions": {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop",
                     "message": {"role": "assistant", "content": "done"}}],
    },
    "/v1/messages": {
        "id": "1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "done"}],
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
    "/v1/models/m:generateContent": {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "done"}]}}],
    },
}  # fmt: skip


class Vendor(BaseHTTPRequestHandler):
    """Keeps the last request's body and answers as the vendor's service does."""

    got: Any = None

    def do_POST(self) -> None:
        Vendor.got = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(ANSWERS[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: standard error is for mistakes."""


def openai_types(tools: Any) -> Any:
    adapter = TypeAdapter(list[ChatCompletionFunctionToolParam])
    return adapter.validate_python(tools, strict=True)


def openai_strict_types(tools: Any) -> Any:
    """Strict mode's schemas once more through that which the SDK makes such schemas with."""
    found = openai_types(tools)
    for tool in found:
        schema = tool["function"]["parameters"]
        tool["function"]["parameters"] = _ensure_strict_json_schema(schema, path=(), root=schema)
    return found


def anthropic_types(tools: Any) -> Any:
    return TypeAdapter(list[ToolParam]).validate_python(tools, strict=True)


def gemini_types(tools: Any) -> Any:
    found = [types.Tool.model_validate(tool) for tool in tools]
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in found]


def call_openai(url: str, tools: Any) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    asked: Any = [{"role": "user", "content": "x"}]
    answer = client.chat.completions.create(model="m", messages=asked, tools=tools)
    assert answer.choices[0].message.content == "done"


def call_anthropic(url: str, tools: Any) -> None:
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    asked: Any = [{"role": "user", "content": "x"}]
    answer = client.messages.create(model="m", max_tokens=9, messages=asked, tools=tools)
    assert answer.content[0].text == "done"


def call_gemini(url: str, tools: Any) -> None:
    client = genai.Client(api_key="none", http_options={"base_url": url})
    answer = client.models.generate_content(model="m", contents="x", config={"tools": tools})
    assert answer.text == "done"


VENDORS: dict[str, tuple[Callable[[Any], Any], Callable[[str, Any], None]]] = {
    "openai": (openai_types, call_openai),
    "openai-strict": (openai_strict_types, call_openai),
    "anthropic": (anthropic_types, call_anthropic),
    "gemini": (gemini_types, call_gemini),
}


def main() -> None:
    server = HTTPServer(("127.0.0.1", 0), Vendor)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    answers = []
    for question in json.load(sys.stdin):
        typed, call = VENDORS[question["form"]]
        answer: dict[str, Any] = {}
        try:
            answer["typed"] = typed(json.loads(json.dumps(question["tools"])))
        except ValueError as error:
            answer["error"] = str(error)
        else:
            call(url, question["tools"])
            answer["sent"] = Vendor.got["tools"]
        answers.append(answer)
    json.dump(answers, sys.stdout)


main()
