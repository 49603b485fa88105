"""The MCP door, with the SDK's own client over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import TOY_TASKS, Player, new_player
from fastapi.testclient import TestClient
from live import served
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from test_api import FIRST_RESULT, SLOWER
from test_client import SLOW_MODEL

import server
from harness.client import Client, Session
from harness.mcp_server import KEY_META
from harness.settings import Settings
from harness.tools import TOOLS

MODES = ("legacy", "auto")
"""the handshake of 2025 and before, and the protocol of 2026 without one"""


@contextlib.asynccontextmanager
async def connected(url: str, session: Session, mode: str) -> AsyncIterator[McpClient]:
    headers = {"Authorization": f"Bearer {session.token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=90) as http:
        transport = streamable_http_client(f"{url}/v1/sessions/{session.id}/mcp", http_client=http)
        async with McpClient(transport, mode=mode) as client:
            yield client


def play(
    url: str,
    mode: str,
    part: Callable[[McpClient, Session], Coroutine[Any, Any, None]],
) -> Session:
    """A new session, of which an MCP client plays this part."""
    with Client(url) as client:
        session = client.create_session("two-files", agent="mcp")

    async def run() -> None:
        async with connected(url, session, mode) as mcp_client:
            await part(mcp_client, session)

    asyncio.run(run())
    return session


def text_of(result: Any) -> str:
    [content] = result.content
    assert content.type == "text"
    return str(content.text)


@pytest.mark.parametrize("mode", MODES)
def test_a_whole_session(live_url: str, mode: str) -> None:
    async def part(client: McpClient, _session: Session) -> None:
        listed = (await client.list_tools()).tools
        assert [(t.name, t.description, t.input_schema) for t in listed] == [
            (tool.name, tool.description, tool.parameters) for tool in TOOLS.values()
        ]
        viewed = await client.call_tool("view", {"filename": "line_rate.py"})
        assert not viewed.is_error
        refused = await client.call_tool("edit", SLOWER | {"start_line": 1})
        assert refused.is_error
        assert text_of(refused).startswith("ERROR: Lines 1..3 exceed the editable range.")
        edited = await client.call_tool("edit", SLOWER)
        assert edited.structured_content["filename"] == "line_rate.py"
        await client.call_tool("undo")
        result = await client.call_tool("test", {"wait_s": 50})
        assert text_of(result) == FIRST_RESULT
        assert result.structured_content["metrics"]["near"] == 100.0
        assert not (await client.call_tool("submit", {"n": 1})).is_error
        closed = await client.call_tool("undo")
        assert (closed.is_error, text_of(closed)) == (
            True,
            "ERROR: This session is closed: test #1 was submitted.",
        )

    session = play(live_url, mode, part)
    with Client(live_url) as client:
        kept = client.session(session.id, session.token).transcript()
    calls = [json.loads(line) for line in kept.splitlines()[1:]]
    assert [e["tool"] for e in calls if e["type"] == "tool_called"] == [
        "view", "edit", "edit", "undo", "test", "submit", "undo",
    ]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_call_that_waits_tells_its_progress(live_url: str, mode: str) -> None:
    told: list[tuple[float, str | None]] = []

    async def keep(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    async def part(client: McpClient, _session: Session) -> None:
        slow = SLOWER | {"filename": "line_model.py", "start_line": 7, "end_line": 8}
        await client.call_tool("edit", slow | {"content": SLOW_MODEL})
        result = await client.call_tool("test", {"wait_s": 50}, progress_callback=keep)
        assert result.structured_content["scored"]

    play(live_url, mode, part)
    assert told
    assert [progress for progress, _ in told] == sorted({progress for progress, _ in told})
    pattern = r"\[Test #1\] (checking|queued|running).*\.|waiting"
    assert all(re.fullmatch(pattern, said or "") for _, said in told), told


@pytest.mark.parametrize("mode", MODES)
def test_a_clients_mistakes_are_errors_of_the_protocol(live_url: str, mode: str) -> None:
    async def part(client: McpClient, _session: Session) -> None:
        with pytest.raises(MCPError, match=r"There is no tool 'fly'\. The tools are view, edit"):
            await client.call_tool("fly")
        meta: Any = {KEY_META: "one"}
        first = await client.call_tool("edit", SLOWER, meta=meta)
        again = await client.call_tool("edit", SLOWER, meta=meta)
        assert text_of(again) == text_of(first)
        with pytest.raises(MCPError, match="was used for another call"):
            await client.call_tool("undo", meta=meta)
        with pytest.raises(MCPError, match="must have 1 to 150 characters"):
            await client.call_tool("undo", meta={KEY_META: ""})
        await client.call_tool("undo")
        nothing = await client.call_tool("undo")
        assert text_of(nothing) == "ERROR: Nothing to undo."

    play(live_url, mode, part)


def test_a_call_is_carried_out_although_its_client_goes_away(live_url: str) -> None:
    async def part(client: McpClient, _session: Session) -> None:
        slow = SLOWER | {"filename": "line_model.py", "start_line": 7, "end_line": 8}
        await client.call_tool("edit", slow | {"content": SLOW_MODEL})
        with pytest.raises(MCPError):
            await client.call_tool("test", {"wait_s": 3}, read_timeout_seconds=0.5)

    session = play(live_url, "auto", part)
    with Client(live_url) as client:
        again = client.session(session.id, session.token)
        assert again.wait(1).scored
        for event in again.events():
            if event.data.get("tool") == "test":
                break
        assert again.state().budget.used == 1


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
ACCEPTS = {"Accept": "application/json, text/event-stream"}


def test_the_sessions_token_comes_before_anything_else(client: TestClient) -> None:
    mine, other = new_player(client), new_player(client)
    path = f"/v1/sessions/{mine.id}/mcp"
    del client.headers["Authorization"]  # the owner's key, which opens every session
    for headers in ({}, {"Authorization": "Bearer x"}, other.headers):
        for body in (json.dumps(INITIALIZE), "not json", ""):
            response = client.post(path, content=body, headers={**ACCEPTS, **headers})
            assert (response.status_code, response.json()["error"]["code"]) == (401, "bad_token")
    assert client.post(path, json=INITIALIZE, headers=ACCEPTS | mine.headers).status_code == 200


def test_what_is_no_message_is_refused(player: Player) -> None:
    path, post = f"/v1/sessions/{player.id}/mcp", player.client.post
    headers = ACCEPTS | player.headers | {"Content-Type": "application/json"}
    assert post(path, content="{", headers=headers).status_code == 400
    assert post(path, content="[]", headers=headers).status_code == 400
    assert post(path, content="{}", headers=headers | {"Accept": "text/html"}).status_code == 406
    large = post(path, content='"' + "x" * 3_000_000 + '"', headers=headers)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
    # There is no stream beside the calls, and nothing to delete: no state is kept.
    for method in ("GET", "DELETE"):
        response = player.client.request(method, path, headers=headers)
        assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_a_journal_that_is_full_is_told(tmp_path: Path, toy_data: Path, own_key: None) -> None:
    settings = Settings(
        state_dir=tmp_path / "state",
        tasks_dir=TOY_TASKS,
        data_dir=toy_data,
        limit_journal_bytes=2000,
    )

    async def part(client: McpClient, _session: Session) -> None:
        with pytest.raises(MCPError, match=r"no room for this call\. test, status and submit"):
            await client.call_tool("view", {"filename": "line_rate.py", "why": "x" * 2000})
        assert not (await client.call_tool("status", {})).is_error

    with served(server.build(settings)) as url:
        play(url, "auto", part)
