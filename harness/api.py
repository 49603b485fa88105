"""The HTTP door: `/v1` in JSON, as docs/protocol.md describes it.

A mistake of the agent's is an answer (200, `ok: false`), so that a model sees it as a tool result;
a mistake of the client's is a status with `{"error": {"code", "message", "hint"}}`.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from harness import standing, tools
from harness.access import Access, caller_of
from harness.board import LeaderboardView
from harness.database import one_line, unavailable
from harness.entries import unplayed
from harness.examples import (
    leaderboard_example,
    message_example,
    review_example,
    session_examples,
    tool_examples,
)
from harness.gate import Gate
from harness.journal_size import JournalFull
from harness.leaderboard_forms import of_profile
from harness.mcp_server import McpDoor
from harness.refusals import refusals
from harness.refused import Refused, too_many
from harness.replicas import BadReplica, Replica, of_baseline, of_submission
from harness.requests import Observed
from harness.service import LiveSession, Service, UnknownProfile, UnknownTask, storable
from harness.session import result_data
from harness.store import StaleSession, TooManyOpen
from harness.stream import event_stream
from harness.submissions import NoSubmission, submission_of
from harness.task import Task
from harness.tool_formats import Format, Formatted, formatted
from harness.verdicts import BadVerdict, reviewed
from harness.wire import (
    Acknowledged,
    BudgetView,
    FileView,
    Health,
    MessageRequest,
    RegionView,
    ReviewRequest,
    SessionCreated,
    SessionRequest,
    SessionView,
    TaskSummary,
    TaskView,
    TestView,
    ToolAnswer,
    ToolSchema,
)

log = logging.getLogger("harness.api")


async def _replica(body: SessionRequest, service: Service) -> Replica | None:
    """What the house plays, if the request asks for that. Raises BadReplica."""
    task = service.tasks.get(body.task)
    if task is None or (body.baseline is None and body.confirmation is None):
        return None
    if body.baseline is not None and body.confirmation is not None:
        raise BadReplica("a session plays a baseline or a confirmation, not both")
    if body.baseline is not None:
        return of_baseline(task, body.baseline.name, body.baseline.seeds)
    assert body.confirmation is not None
    wanted = body.confirmation.session
    live = await service.get(wanted)
    if live is None:
        raise BadReplica(f"there is no session {wanted[:40]}")
    await service.refresh(live)
    header = live.session.state.header
    if (header.task, header.profile) != (body.task, body.profile):
        raise BadReplica(
            f"session {header.session} is of {header.task}, profile {header.profile}: name these"
        )
    try:
        found = submission_of(header, live.events)
    except NoSubmission as error:
        raise BadReplica(str(error)) from error
    outcomes = await service.in_thread(service.standings.outcomes, task.name)
    return of_submission(task, found, body.confirmation.seeds, unplayed(outcomes, wanted))


class ClientError(Exception):
    """Becomes a status with an error object."""

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint

    def response(self) -> JSONResponse:
        error = {"code": self.code, "message": self.message, "hint": self.hint}
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else None
        return JSONResponse({"error": error}, self.status, headers)


_bearer = HTTPBearer(
    auto_error=False,
    description="An API key, which opens everything, or the token that creating a session gave, "
    "which opens that session.",
)


async def _service(request: Request) -> Service:  # one that is not async takes a thread
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]

SessionId = Annotated[str, PathParameter(description="The session's id.")]
ToolName = Annotated[
    str,
    PathParameter(description="The tool's name.", json_schema_extra={"enum": list(tools.TOOLS)}),
]
TestNumber = Annotated[int, PathParameter(description="The test's number, from 1.")]

TAGS = [
    {"name": "sessions", "description": "One agent's attempt at one task; needs its token."},
    {"name": "tasks", "description": "What there is to do."},
    {"name": "tools", "description": "What an agent can call."},
    {"name": "health", "description": "Whether the server runs."},
]


async def _live_session(
    session_id: SessionId,
    request: Request,
    service: ServiceDep,
    _described: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> LiveSession:
    if not caller_of(request.scope).may_enter(session_id):  # the gate has seen to it already
        raise ClientError(401, "bad_token", "The token does not belong to this session.")
    live = await service.get(session_id)
    if live is None:
        raise ClientError(
            404,
            "unknown_session",
            f"There is no session {session_id}.",
            "POST /v1/sessions starts one.",
        )
    if request.method == "GET":
        # What adds to the session finds out by itself.
        await service.refresh(live)
    return live


LiveDep = Annotated[LiveSession, Depends(_live_session)]


def create_app(service: Service, access: Access) -> FastAPI:
    """The application over a service that is started and stopped with it."""

    async def token_fits(session_id: str, token: str) -> bool:
        try:
            live = await service.get(session_id)
        except SQLAlchemyError as error:
            raise _database_away() from error
        return live is not None and service.token_fits(live, token)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        _app.state.mcp = McpDoor(service)
        async with _app.state.mcp.run():
            yield
        await service.stop()

    app = FastAPI(
        title="Research harness",
        summary="Research tasks for language-model agents.",
        description="A mistake of the agent's is an answer (`200`, `ok: false`); a mistake of the "
        "client's is a status with an error object.",
        version="1",
        openapi_tags=TAGS,
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.access = access
    service.telemetry.survey_with(lambda: standing.survey(service))
    app.add_middleware(Gate, access=access, token_fits=token_fits)
    app.add_middleware(Observed, telemetry=service.telemetry)
    _add_error_handlers(app)
    _add_session_routes(app, service)
    _add_streaming_routes(app)
    _add_public_routes(app)
    return app


def _add_session_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/sessions",
        status_code=201,
        summary="Start a session",
        tags=["sessions"],
        responses=refusals(400, 401, 404, 413, 422),
        openapi_extra=_examples(session_examples(service.tasks)),
    )
    async def create_session(
        body: SessionRequest, request: Request, service: ServiceDep
    ) -> SessionCreated:
        most = request.app.state.access.limits.allowance.open_sessions
        key = caller_of(request.scope).name
        try:
            created = await service.create(
                body.task,
                body.profile,
                body.agent,
                opened_by=key,
                most=most,
                replica=await _replica(body, service),
            )
        except BadReplica as error:
            raise ClientError(422, "bad_request", str(error)) from error
        except (UnknownTask, UnknownProfile) as error:
            raise ClientError(404, error.code, str(error), error.hint) from error
        except TooManyOpen as error:
            raise too_many(
                "too_many_sessions",
                f"{error.count} sessions of this key are open, and {most} may be.",
                60,
                "Submit or end some of them, or raise HARNESS_LIMIT_OPEN_SESSIONS.",
            ) from error
        live = created.live
        return SessionCreated(
            id=live.session.id,
            token=created.token,
            task=live.task.name,
            profile=live.profile,
            prompt=created.prompt,
            budget=_budget(live),
            tools=[ToolSchema(**schema) for schema in tools.schemas()],
        )

    @app.get(
        "/v1/sessions/{session_id}",
        summary="A session's state and results",
        tags=["sessions"],
        responses=refusals(401, 404, 422),
        response_model_exclude_unset=True,
    )
    async def get_session(live: LiveDep) -> SessionView:
        state = live.session.state
        return SessionView(
            id=live.session.id,
            task=live.task.name,
            profile=live.profile,
            state=standing.state_of(live),
            submitted=state.submitted.number if state.submitted else None,
            budget=_budget(live),
            results=[TestView(**result_data(r)) for _, r in sorted(state.results.items())],
        )

    @app.post(
        "/v1/sessions/{session_id}/tools/{tool}",
        summary="Call a tool",
        tags=["sessions", "tools"],
        responses=refusals(401, 404, 409, 413, 422),
        openapi_extra=_tool_body(next(iter(service.tasks.values()), None)),
        response_model=ToolAnswer,
    )
    async def call_tool(
        tool: ToolName,
        request: Request,
        live: LiveDep,
        service: ServiceDep,
        key: Annotated[
            str | None,
            Header(
                alias="Idempotency-Key",
                description="Names one operation: a call with the same key does nothing twice, "
                "and is told the operation's present state. 1 to 150 characters.",
            ),
        ] = None,
    ) -> Response:
        """The body is the tool's arguments, one flat object; an empty body is no arguments."""
        args = await _json_object(request)
        if key is not None and not 0 < len(key) <= 150:
            raise ClientError(422, "bad_key", "Idempotency-Key must have 1 to 150 characters.")
        try:
            answer = await tools.dispatch(service, live, tool, args, key)
        except tools.UnknownTool as error:
            raise ClientError(
                404,
                "unknown_tool",
                f"There is no tool {tool!r}.",
                f"The tools are {', '.join(tools.TOOLS)}.",
            ) from error
        except tools.KeyConflict as error:
            raise ClientError(
                409,
                "key_conflict",
                "This Idempotency-Key was used for another call.",
                "Use a new key for each operation, and the same one only to repeat it.",
            ) from error
        told = ToolAnswer(
            ok=answer.ok,
            text=answer.text,
            error=answer.error,
            data=answer.data,
            budget=_budget(live),
        )
        # What is of that type already is not looked at once more.
        return Response(told.model_dump_json(), media_type="application/json")

    @app.post(
        "/v1/sessions/{session_id}/messages",
        status_code=201,
        summary="Keep a message",
        tags=["sessions"],
        responses=refusals(400, 401, 404, 413, 422),
        openapi_extra=_examples(message_example()),
    )
    async def keep_message(
        body: MessageRequest, live: LiveDep, service: ServiceDep
    ) -> Acknowledged:
        """Keep what the model thought or said between two calls in the journal."""
        await service.keep_message(live, body.role, body.text, body.usage)
        return Acknowledged(ok=True)

    @app.post(
        "/v1/sessions/{session_id}/review",
        status_code=201,
        summary="Add a person's verdict",
        tags=["sessions"],
        responses=refusals(400, 401, 404, 413, 422),
        openapi_extra=_examples(review_example()),
    )
    async def review_session(
        body: ReviewRequest, request: Request, live: LiveDep, service: ServiceDep
    ) -> Acknowledged:
        """Needs a key. The session may be closed; nothing of it changes but its rank."""
        if not caller_of(request.scope).is_owner:
            raise ClientError(
                403,
                "key_needed",
                "A verdict is a person's: a session's token cannot give one.",
                "Send 'Authorization: Bearer <key>' with an API key.",
            )
        try:
            event = reviewed(body.verdict, body.category, storable(body.note))
        except BadVerdict as error:
            raise ClientError(
                422, "bad_verdict", f"{error}.", "See docs/leaderboard.md for the categories."
            ) from error
        await service.review(live, event)
        return Acknowledged(ok=True)

    @app.get(
        "/v1/sessions/{session_id}/tests/{number}",
        summary="A test's result or progress",
        tags=["sessions"],
        responses=refusals(401, 404, 422),
        response_model_exclude_unset=True,
    )
    async def get_test(
        number: TestNumber,
        live: LiveDep,
        service: ServiceDep,
        wait_s: Annotated[
            int,
            Query(
                ge=0,
                description=f"Seconds to wait for the result; more than {tools.MAX_WAIT_S} are "
                f"taken as {tools.MAX_WAIT_S}.",
            ),
        ] = 0,
    ) -> TestView:
        attempts = [a for a in live.session.state.attempts if a.number == number]
        if not attempts:
            raise ClientError(
                404,
                "unknown_test",
                f"Test #{number} was never started.",
                f"POST /v1/sessions/{live.session.id}/tools/test starts the next one.",
            )
        attempt = attempts[-1]
        if attempt.active and wait_s:
            wait_s = min(wait_s, tools.MAX_WAIT_S)
            await service.wait_for_test(live, number, attempt.attempt, wait_s)
        answer = live.session.test_answer(number, attempt.attempt, service.progress(live))
        return TestView(**answer.data, text=answer.text)

    @app.get(
        "/v1/sessions/{session_id}/files/{name:path}",
        summary="An editable file as it stands",
        tags=["sessions"],
        responses=refusals(401, 404, 422) | _content(200, "The file.", "text/plain"),
        response_class=Response,
    )
    async def get_file(
        name: Annotated[str, PathParameter(description="The file, by its path.")], live: LiveDep
    ) -> PlainTextResponse:
        file = live.session.state.files.get(name)
        if file is None:
            names = ", ".join(live.session.state.files)
            raise ClientError(404, "unknown_file", f"No editable file {name}.", f"Files: {names}.")
        return PlainTextResponse(file.text)

    @app.get(
        "/v1/sessions/{session_id}/transcript",
        summary="The journal as JSON Lines",
        tags=["sessions"],
        responses=refusals(401, 404, 422)
        | _content(200, "The header, then each event, a line of JSON each.", "application/jsonl"),
        response_class=Response,
    )
    async def get_transcript(
        live: LiveDep,
        format: Annotated[Literal["jsonl"], Query(description="How it is written.")] = "jsonl",
    ) -> PlainTextResponse:
        lines = await live.transcript_lines()
        return PlainTextResponse("".join(lines), media_type="application/jsonl")


def _add_streaming_routes(app: FastAPI) -> None:
    @app.get(
        "/v1/sessions/{session_id}/events",
        summary="The journal as it is written, as server-sent events",
        tags=["sessions"],
        responses=refusals(401, 404, 422)
        | _content(200, "Events until the session is closed.", "text/event-stream")
        | {204: {"description": "The session is closed, and nothing came after Last-Event-ID."}},
        response_class=Response,
    )
    async def get_events(
        live: LiveDep,
        service: ServiceDep,
        last_event_id: Annotated[
            int,
            Header(
                alias="Last-Event-ID",
                ge=0,
                description="The id of the last event that was read; the stream goes on after it.",
            ),
        ] = 0,
    ) -> Response:
        """Each event of the journal has its `seq` as id. Between them come `progress` events of
        the running test, without an id, and comment lines; an `end` event is the last."""
        if last_event_id > live.session.state.seq:
            raise ClientError(
                422,
                "bad_event_id",
                f"This session has no event {last_event_id} yet.",
                "Send the id of the last event that you read, or leave Last-Event-ID out.",
            )
        return event_stream(service, live, last_event_id)

    @app.post(
        "/v1/sessions/{session_id}/mcp",
        summary="The tools over MCP (streamable HTTP)",
        tags=["sessions", "tools"],
        responses=refusals(401, 404, 413, 422)
        | _content(200, "A JSON-RPC response, or a stream that ends with it.", *MCP_TYPES)
        | {202: {"description": "A notification was taken."}}
        | _content(400, "Not a message of MCP.", "application/json", "text/plain")
        | _content(406, "The client must accept JSON and server-sent events.", *MCP_TYPES),
        response_class=Response,
        openapi_extra={
            "requestBody": {
                "description": "One message of the Model Context Protocol.",
                "required": True,
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        },
    )
    async def speak_mcp(live: LiveDep, request: Request) -> Response:
        """For an MCP client with the session's token as bearer token."""
        door: McpDoor = request.app.state.mcp
        return door.answer(live)


MCP_TYPES = ("application/json", "text/event-stream")

_SCHEMAS: dict[str, dict[str, Any]] = {
    "application/json": {},
    "text/event-stream": {
        "type": "object",
        "description": "One event of the stream.",
        "properties": {
            "event": {"type": "string", "description": "Its type."},
            "id": {"type": "string", "description": "Its place in the journal, if it has one."},
            "data": {"type": "string", "description": "What it carries, as JSON."},
        },
        "required": ["event", "data"],
    },
}


def _content(status: int, description: str, *types: str) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for a body that no model of ours describes."""
    schemas = {name: {"schema": _SCHEMAS.get(name, {"type": "string"})} for name in types}
    return {status: {"description": description, "content": schemas}}


def _examples(examples: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"examples": examples}}}}


def _tool_body(task: Task | None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"type": "object"}}
    if task is not None:
        content["examples"] = tool_examples(task)
    return {
        "requestBody": {
            "description": "The tool's arguments, one flat object; `GET /v1/tools` has each "
            "tool's schema. Arguments that it does not know are ignored.",
            "content": {"application/json": content},
        }
    }


def _add_public_routes(app: FastAPI) -> None:
    @app.get("/v1/tasks", summary="The tasks", tags=["tasks"], responses=refusals(401))
    async def list_tasks(service: ServiceDep) -> list[TaskSummary]:
        return [_task_summary(task) for task in service.tasks.values()]

    @app.get(
        "/v1/tasks/{name}", summary="One task", tags=["tasks"], responses=refusals(401, 404, 422)
    )
    async def get_task(
        name: Annotated[str, PathParameter(description="The task's name.")], service: ServiceDep
    ) -> TaskView:
        task = _known_task(service, name)
        return TaskView(
            **_task_summary(task).model_dump(),
            instruction=task.read_instruction(),
            files=[
                FileView(
                    name=file.name,
                    regions=[
                        RegionView(name=region.name, title=region.title, lines=list(region.lines))
                        for region in file.regions
                    ],
                )
                for file in task.files
            ],
        )

    @app.get(
        "/v1/leaderboards/{task}",
        summary="A task's leaderboard",
        tags=["tasks"],
        responses=refusals(401, 404, 422)
        | {200: {"content": {"application/json": {"example": leaderboard_example()}}}},
    )
    async def get_leaderboard(
        task: Annotated[str, PathParameter(description="The task's name.")],
        service: ServiceDep,
        profile: Annotated[
            str | None, Query(description="Of this profile alone; of all if left out.")
        ] = None,
    ) -> LeaderboardView:
        """Needs a key: it tells of the split `final`, which no agent is shown."""
        known = _known_task(service, task)
        if profile is not None and profile not in known.profiles:
            raise ClientError(
                404,
                "unknown_profile",
                f"There is no profile {profile}.",
                f"The profiles are {', '.join(known.profiles)}.",
            )
        return of_profile(await service.in_thread(service.standings.board, task), profile)

    @app.get(
        "/v1/tools",
        summary="The tools' schemas",
        tags=["tools"],
        responses=refusals(401, 422),
        response_model_exclude_unset=True,
    )
    async def list_tools(
        format: Annotated[
            Format | None,
            Query(
                description="Whose model calls they are for; what comes is what that vendor's "
                "`tools` argument is set to. Ours if left out."
            ),
        ] = None,
    ) -> Formatted:
        return formatted(format)

    @app.get("/healthz", summary="Whether the server runs", tags=["health"], responses=refusals())
    async def healthz() -> Health:
        return Health(status="ok")

    @app.get("/readyz", summary="Whether it can take calls", tags=["health"], responses=refusals())
    async def readyz(service: ServiceDep) -> Health:
        """Database, executor, state folder and the watch over tests; 503 says what is wrong."""
        if faults := await service.in_thread(standing.faults, service):
            raise Refused(
                503,
                "not_ready",
                " ".join(faults),
                "The server's log says more; try again in a moment.",
                {"Retry-After": "5"},
            )
        return Health(status="ok")

    @app.get(
        "/metrics",
        summary="Counters for Prometheus",
        tags=["health"],
        responses=refusals(401) | _content(200, "Prometheus's text format.", "text/plain"),
        response_class=Response,
    )
    async def metrics(service: ServiceDep) -> Response:
        content, media_type = await service.in_thread(service.telemetry.exposition)
        return Response(content, headers={"Content-Type": media_type})


def _known_task(service: Service, name: str) -> Task:
    task = service.tasks.get(name)
    if task is None:
        raise ClientError(
            404,
            "unknown_task",
            f"There is no task {name}.",
            f"The tasks are {', '.join(service.tasks)}.",
        )
    return task


def _task_summary(task: Any) -> TaskSummary:
    return TaskSummary(
        name=task.name, version=task.version, title=task.title, profiles=list(task.profiles)
    )


def _budget(live: LiveSession) -> BudgetView:
    return BudgetView(**live.session.state.budget.as_json())


async def _json_object(request: Request) -> dict[str, Any]:
    body = await request.body()
    try:
        value = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise _bad_json("The body is not JSON.") from error
    if not isinstance(value, dict):
        raise _bad_json("The body is not a JSON object.")
    return value


def _bad_json(what: str) -> ClientError:
    return ClientError(422, "bad_json", what, "Send the arguments as one JSON object.")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def on_refused(_request: Request, refused: Refused) -> JSONResponse:
        return JSONResponse(refused.body, refused.status, refused.headers)

    @app.exception_handler(ClientError)
    async def on_client_error(_request: Request, error: ClientError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        if any(item["type"] == "json_invalid" for item in error.errors()):
            return _bad_json("The body is not JSON.").response()
        found = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()[:10]
        )
        return ClientError(422, "bad_request", found, "See /docs for the call.").response()

    @app.exception_handler(HTTPException)
    async def on_http(_request: Request, error: HTTPException) -> JSONResponse:
        hint = "See /docs for the calls there are." if error.status_code in (404, 405) else ""
        codes = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "http_error")
        response = ClientError(error.status_code, code, str(error.detail), hint).response()
        response.headers.update(error.headers or {})  # a 405 names the methods that there are
        return response

    @app.exception_handler(SQLAlchemyError)
    async def on_database(request: Request, error: SQLAlchemyError) -> JSONResponse:
        if not unavailable(error):
            raise error  # a fault of ours, which waiting does not mend
        log.warning("a call was not answered, since the database was not: %s", one_line(error))
        return await on_refused(request, _database_away())

    @app.exception_handler(OSError)
    async def on_disk(_request: Request, error: OSError) -> JSONResponse:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise error
        log.error("a call was not answered, since the disk is full: %s", error)
        response = ClientError(
            503,
            "disk_full",
            "The server's disk is full, and nothing of the call was done.",
            "Its operator has to free some of it; try again after that.",
        ).response()
        response.headers["Retry-After"] = "60"
        return response

    @app.exception_handler(JournalFull)
    async def on_full(_request: Request, error: JournalFull) -> JSONResponse:
        return ClientError(413, "journal_full", str(error), error.hint).response()

    @app.exception_handler(StaleSession)
    async def on_stale(_request: Request, _error: StaleSession) -> JSONResponse:
        response = ClientError(
            503,
            "session_moved_on",
            "Another server has changed this session meanwhile.",
            "Repeat the call; nothing of it was done.",
        ).response()
        response.headers["Retry-After"] = "1"
        return response


def _database_away() -> Refused:
    return Refused(
        503,
        "database_unavailable",
        "The database does not answer.",
        "Try again in a moment.",
        {"Retry-After": "5"},
    )
