"""The API's document: complete, true, and with examples that work; and no input that breaks it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from conftest import Player, new_player
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from harness.board import LeaderboardView
from harness.events import SessionEnded
from harness.tools import TOOLS

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def bounded(examples: int) -> settings:
    """So many examples, always the same ones."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # a failure is shown as it was found
        suppress_health_check=list(HealthCheck),
    )


OPERATIONS = [
    ("POST", "/v1/sessions"),
    ("GET", "/v1/sessions/{session_id}"),
    ("POST", "/v1/sessions/{session_id}/tools/{tool}"),
    ("POST", "/v1/sessions/{session_id}/messages"),
    ("POST", "/v1/sessions/{session_id}/review"),
    ("GET", "/v1/sessions/{session_id}/tests/{number}"),
    ("GET", "/v1/sessions/{session_id}/files/{name}"),
    ("GET", "/v1/sessions/{session_id}/transcript"),
    ("GET", "/v1/sessions/{session_id}/events"),
    ("POST", "/v1/sessions/{session_id}/mcp"),
    ("GET", "/v1/tasks"),
    ("GET", "/v1/tasks/{name}"),
    ("GET", "/v1/leaderboards/{task}"),
    ("GET", "/v1/tools"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]


@pytest.fixture
def player(start_server: Callable[..., TestClient], tmp_path: Path) -> Player:
    """A session on a server that has no data: a test is refused at once, and nothing is run."""
    return new_player(start_server(data_dir=tmp_path / "empty"))


@pytest.fixture
def document(player: Player) -> dict[str, Any]:
    found: dict[str, Any] = player.client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def end(player: Player) -> None:
    """End the session as the server does: then its events are a stream with an end."""
    portal, service = player.client.portal, player.client.app.state.service  # type: ignore[attr-defined]
    assert portal is not None
    live = portal.call(service.get, player.id)
    live.session.record(SessionEnded(reason="nobody called it for a day"))


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_as_the_document_says(
    player: Player, document: dict[str, Any], method: str, path: str
) -> None:
    load_all_checks()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.seed = 6
    if path.endswith("/events"):
        end(player)
    known = {"session_id": player.id} if "{session_id}" in path else None
    operation = schema[path][method]

    @bounded(10 if path == "/v1/sessions" else 25)  # each one that is created takes a moment
    @given(case=operation.as_strategy(path_parameters=known), authorized=st.integers(0, 4))
    def answer(case: Any, authorized: int) -> None:
        kwargs = case.as_transport_kwargs(base_url="http://testserver")
        kwargs.pop("cookies", None)
        headers = {k: v for k, v in kwargs.pop("headers").items() if k.lower() != "authorization"}
        if path.endswith("/mcp"):
            headers["Accept"] = "application/json, text/event-stream"
        if authorized:  # one call in five has no token
            headers |= player.headers
        response = player.client.request(**kwargs, headers=headers)
        case.validate_response(response, checks=CHECKS)
        assert "Traceback" not in response.text

    answer()


def test_the_document_has_these_calls(document: dict[str, Any]) -> None:
    assert [(method, path) for method, path, _ in operations(document)] == OPERATIONS


def test_everything_is_described(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    for method, path, operation in operations(document):
        name = f"{method} {path}"
        assert operation["summary"], name
        assert set(operation["tags"]) <= tags, name
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (name, parameter["name"])
        for status, response in operation["responses"].items():
            assert response["description"], (name, status)
            if status[0] in "45" and not path.endswith("/mcp"):
                content = response["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ErrorBody"}, name
                assert set(content["example"]["error"]) == {"code", "message", "hint"}, name
        if "{session_id}" in path:
            assert operation["security"] == [{"HTTPBearer": []}], name
            assert {"401", "404"} <= set(operation["responses"]), name
        assert {"429", "503"} <= set(operation["responses"]), name
    for name, schema in document["components"]["schemas"].items():
        for field, value in schema["properties"].items():
            assert value.get("description"), f"{name}.{field}"


def test_every_example_works(player: Player, document: dict[str, Any]) -> None:
    paths = document["paths"]

    def examples(path: str) -> dict[str, Any]:
        body = paths[path]["post"]["requestBody"]["content"]["application/json"]
        return {name: example["value"] for name, example in body["examples"].items()}

    sessions = examples("/v1/sessions")
    assert set(sessions) == {"two-files", "vetted-line"}
    for body in sessions.values():
        assert player.client.post("/v1/sessions", json=body).status_code == 201
    calls = examples("/v1/sessions/{session_id}/tools/{tool}")
    assert {name.partition(":")[0] for name in calls} == set(TOOLS)
    for name, args in calls.items():
        tool = name.partition(":")[0]
        answer = player.call(tool, **args)
        if tool == "test":  # no data here, and so nothing to submit
            assert answer["error"] == "test_refused"
        elif tool == "submit":
            assert answer["error"] == "nothing_to_submit"
        else:
            assert answer["ok"], answer["text"]
    shown = paths["/v1/leaderboards/{task}"]["get"]["responses"]["200"]
    LeaderboardView.model_validate(shown["content"]["application/json"]["example"], strict=False)
    for body in examples("/v1/sessions/{session_id}/review").values():
        path = f"/v1/sessions/{player.id}/review"
        assert player.client.post(path, json=body).status_code == 201
    for body in examples("/v1/sessions/{session_id}/messages").values():
        path = f"/v1/sessions/{player.id}/messages"
        assert player.client.post(path, json=body, headers=player.headers).status_code == 201


ODD_TEXT = st.text(max_size=40) | st.sampled_from(
    ["line_rate.py", "line_model.py", "loop.py", "../x", "", "\x00", "\ud800", "replace", "insert",
     "str_replace", "FIRST_RATE = 0.05", "\u202e", "1", "nan", "9" * 5000]
)  # fmt: skip
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 60) | st.integers() | st.floats() | ODD_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_TEXT, inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("tool", list(TOOLS))
def test_no_arguments_break_a_tool(player: Player, tool: str) -> None:
    known = st.sampled_from(list(TOOLS[tool].parameters["properties"]) or ["n"])
    arguments = st.dictionaries(known | ODD_TEXT, ODD, max_size=8)
    likely = st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(TOOLS[tool].parameters["properties"], ODD),
    )

    @bounded(60)
    @given(args=arguments | likely)
    def call(args: dict[str, Any]) -> None:
        began = time.monotonic()
        response = player.client.post(
            f"/v1/sessions/{player.id}/tools/{tool}",
            content=json.dumps(args),
            headers=player.headers,
        )
        assert time.monotonic() - began < 10, args
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["text"]
        assert answer["ok"] or (answer["error"] and answer["text"].startswith("ERROR: "))
        assert "Traceback" not in response.text

    call()
    # Each of them is in the journal, which any reader can read.
    assert len(player.get("/transcript").splitlines()) > 60
