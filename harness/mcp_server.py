"""The MCP door: the same tools over streamable HTTP, for one session at each address.

The SDK speaks the protocol; here a call of `tools/call` becomes a call of tools.dispatch, with its
text, and its data as structured content. A mistake of the agent's is a result with `isError`; a
mistake of the client's, or a fault of ours, is a JSON-RPC error.

No state is kept between two requests, so a restart of the server is not noticed. A call that was
begun is carried out and journaled although its client goes away meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import mcp_types as mcp
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from harness import tool_formats, tools
from harness.answers import Answer
from harness.database import unavailable
from harness.follow import look
from harness.journal_size import JournalFull
from harness.service import LiveSession, Service
from harness.store import StaleSession

log = logging.getLogger("harness.mcp")

KEY_META = "harness/idempotency-key"
"""the name in `_meta` of what is `Idempotency-Key` over HTTP"""

PROGRESS_SECONDS = 2.0
"""between two notifications of progress; clients that ask for them take each as a sign of life"""

MAX_BODY = 64 * 1024 * 1024
"""bytes; the server's own limit is lower, and answers as it does everywhere"""

Context = ServerRequestContext[Any, Any]


class McpDoor:
    """All sessions' MCP servers. `run` is entered once, around everything that it answers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._server: Server[Any] = Server(
            "harness",
            version="1",
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            get_tool_input_schema=_input_schema,
        )
        self._manager = StreamableHTTPSessionManager(
            self._server, stateless=True, max_request_body_size=MAX_BODY
        )

    def run(self) -> contextlib.AbstractAsyncContextManager[None]:
        return self._manager.run()

    def answer(self, live: LiveSession) -> Response:
        """The response to a request that belongs to this session; it reads the request itself."""
        return _McpResponse(self._manager, live)

    async def _list_tools(
        self, _context: Context, _params: mcp.PaginatedRequestParams | None
    ) -> mcp.ListToolsResult:
        return mcp.ListToolsResult(
            tools=[
                mcp.Tool(
                    name=tool.name, description=tool.description, input_schema=tool.inputSchema
                )
                for tool in tool_formats.mcp()
            ]
        )

    async def _call_tool(
        self, context: Context, params: mcp.CallToolRequestParams
    ) -> mcp.CallToolResult:
        assert context.request is not None
        live: LiveSession = context.request.scope["harness.session"]
        answer = await self._dispatch(context, live, params)
        return mcp.CallToolResult(
            content=[mcp.TextContent(type="text", text=answer.text)],
            structured_content=answer.data,
            is_error=not answer.ok,
        )

    async def _dispatch(
        self, context: Context, live: LiveSession, params: mcp.CallToolRequestParams
    ) -> Answer:
        key = dict(context.meta or {}).get(KEY_META)
        if key is not None and not (isinstance(key, str) and 0 < len(key) <= 150):
            raise MCPError(mcp.INVALID_PARAMS, f"_meta['{KEY_META}'] must have 1 to 150 characters")
        call = asyncio.create_task(
            tools.dispatch(self._service, live, params.name, params.arguments or {}, key)
        )
        try:
            async with self._told_of_progress(context, live, params):
                return await asyncio.shield(call)
        except tools.UnknownTool as error:
            known = ", ".join(tools.TOOLS)
            raise MCPError(
                mcp.INVALID_PARAMS, f"There is no tool {params.name!r}. The tools are {known}."
            ) from error
        except tools.KeyConflict as error:
            raise MCPError(
                mcp.INVALID_PARAMS, f"_meta['{KEY_META}'] was used for another call."
            ) from error
        except JournalFull as error:
            raise MCPError(mcp.INVALID_PARAMS, f"{error} {error.hint}") from error
        except StaleSession as error:
            raise MCPError(
                mcp.INTERNAL_ERROR,
                "Another server has changed this session meanwhile. Repeat the call; nothing of it "
                "was done.",
            ) from error
        except Exception as error:
            if unavailable(error):
                raise MCPError(
                    mcp.INTERNAL_ERROR, "The database does not answer. Try again in a moment."
                ) from error
            # The SDK would send the exception's text to clients of older versions.
            log.exception("session %s: %s could not be answered", live.session.id, params.name)
            raise MCPError(mcp.INTERNAL_ERROR, "A fault of the server's.") from error

    @contextlib.asynccontextmanager
    async def _told_of_progress(
        self, context: Context, live: LiveSession, params: mcp.CallToolRequestParams
    ) -> AsyncIterator[None]:
        """Tells a client that asked for it how a call that waits goes on."""
        tool = tools.TOOLS.get(params.name)
        asked = context.meta is not None and "progress_token" in context.meta
        if tool is None or tool.begin is None or not asked:
            yield
            return
        telling = asyncio.create_task(self._tell_progress(context, live, params.name))
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _tell_progress(self, context: Context, live: LiveSession, name: str) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            found = await look(self._service, live)
            if name == "check":
                said = "[Check] running."
            else:
                said = found.line if found is not None else "waiting"
            # What a call is through with is its own waiting; the message says what it waits for.
            await context.session.report_progress(round(time.monotonic() - began, 1), None, said)


class _McpResponse(Response):
    """Hands the request over to the SDK, which answers it itself."""

    def __init__(self, manager: StreamableHTTPSessionManager, live: LiveSession) -> None:
        super().__init__()
        self._manager, self._live = manager, live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = {**scope, "harness.session": self._live}
        await self._manager.handle_request(scope, receive, send)


def _input_schema(name: str) -> dict[str, Any] | None:
    tool = tools.TOOLS.get(name)
    return None if tool is None else tool.parameters
