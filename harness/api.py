"""The HTTP door: `/v1` in JSON, as docs/protocol.md describes it.

A mistake of the agent's is an answer (200, `ok: false`), so that a model sees it as a tool result;
a mistake of the client's is a status with `{"error": {"code", "message", "hint"}}`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from harness import standing, tools
from harness.access import Access, caller_of
from harness.gate import Gate
from harness.refused import Refused
from harness.requests import Observed
from harness.service import LiveSession, Service, UnknownProfile, UnknownTask
from harness.session import result_data
from harness.store import StaleSession


class ClientError(Exception):
    """Becomes a status with an error object."""

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint

    def response(self) -> JSONResponse:
        error = {"code": self.code, "message": self.message, "hint": self.hint}
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else None
        return JSONResponse({"error": error}, self.status, headers)


class BudgetModel(BaseModel):
    tests: int = Field(description="Counted tests that the session has in all.")
    used: int = Field(description="Tests that have been counted.")
    remaining: int = Field(description="Tests that may still be started.")
    running: int | None = Field(description="Number of the test that is queued or running.")


class ToolSchema(BaseModel):
    name: str = Field(description="The tool's name, the last part of its address.")
    description: str = Field(description="What it does, for the model.")
    parameters: dict[str, Any] = Field(description="JSON Schema of its arguments.")


class SessionRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    task: str = Field(description="A task's name, as `GET /v1/tasks` lists them.")
    profile: str | None = Field(
        default=None, description="One of the task's profiles; the server's default if left out."
    )
    agent: str | dict[str, Any] | None = Field(
        default=None,
        description="Who plays: a name, or an object with `model`, `scaffold`, `sampling`, "
        "`other_tools`.",
    )


class SessionCreated(BaseModel):
    id: str = Field(description="The session's id.")
    token: str = Field(description="The bearer token of this session; it is shown only here.")
    task: str = Field(description="The task's name.")
    profile: str = Field(description="The profile that tests run at.")
    prompt: str = Field(description="What the agent is told.")
    budget: BudgetModel = Field(description="Tests in all, used and left.")
    tools: list[ToolSchema] = Field(description="The tools' schemas.")


class SessionView(BaseModel):
    id: str = Field(description="The session's id.")
    task: str = Field(description="The task's name.")
    profile: str = Field(description="The profile that tests run at.")
    state: Literal["open", "submitted", "ended"] = Field(description="Whether it can be called.")
    submitted: int | None = Field(description="The test that was submitted.")
    budget: BudgetModel = Field(description="Tests in all, used and left.")
    results: list[dict[str, Any]] = Field(description="Every finished test.")


class ToolAnswer(BaseModel):
    ok: bool = Field(description="False if the call was a mistake of the agent's.")
    text: str = Field(description="What the agent reads.")
    error: str | None = Field(default=None, description="The mistake's code, if not ok.")
    data: dict[str, Any] = Field(description="The same for programs.")
    budget: BudgetModel = Field(description="Tests in all, used and left.")


class MessageRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: str = Field(description="Who said it: `assistant`, `user`, `system`.", max_length=40)
    text: str = Field(description="What was thought or said.")
    usage: dict[str, Any] | None = Field(default=None, description="Tokens, as the model counts.")


class TaskSummary(BaseModel):
    name: str = Field(description="The task's name.")
    version: int = Field(description="Results of different versions are not comparable.")
    title: str = Field(description="The task in a line.")
    profiles: list[str] = Field(description="The scales that it can be run at.")


_bearer = HTTPBearer(
    auto_error=False,
    description="An API key, which opens everything, or the token that creating a session gave, "
    "which opens that session.",
)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]


async def _live_session(
    session_id: str,
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
        yield
        await service.stop()

    app = FastAPI(
        title="Research harness",
        description="Research tasks for language-model agents.",
        version="1",
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.access = access
    service.telemetry.survey_with(lambda: standing.survey(service))
    app.add_middleware(Gate, access=access, token_fits=token_fits)
    app.add_middleware(Observed, telemetry=service.telemetry)
    _add_error_handlers(app)
    _add_session_routes(app)
    _add_public_routes(app)
    return app


def _add_session_routes(app: FastAPI) -> None:
    @app.post("/v1/sessions", status_code=201, summary="Start a session")
    async def create_session(
        body: SessionRequest, request: Request, service: ServiceDep
    ) -> SessionCreated:
        limits = request.app.state.access.limits
        key, open_now = caller_of(request.scope).name, standing.open_sessions(service)
        try:
            with limits.opening_session(key, open_now) as opened:
                created = await service.create(body.task, body.profile, body.agent)
                opened(created.live.session.id)
        except (UnknownTask, UnknownProfile) as error:
            raise ClientError(404, error.code, str(error), error.hint) from error
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

    @app.get("/v1/sessions/{session_id}", summary="A session's state and results")
    async def get_session(live: LiveDep) -> SessionView:
        state = live.session.state
        return SessionView(
            id=live.session.id,
            task=live.task.name,
            profile=live.profile,
            state=standing.state_of(live),
            submitted=state.submitted.number if state.submitted else None,
            budget=_budget(live),
            results=[result_data(result) for _, result in sorted(state.results.items())],
        )

    @app.post("/v1/sessions/{session_id}/tools/{tool}", summary="Call a tool")
    async def call_tool(
        tool: str, request: Request, live: LiveDep, service: ServiceDep
    ) -> ToolAnswer:
        args = await _json_object(request)
        key = request.headers.get("Idempotency-Key")
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
        return ToolAnswer(
            ok=answer.ok,
            text=answer.text,
            error=answer.error,
            data=answer.data,
            budget=_budget(live),
        )

    @app.post("/v1/sessions/{session_id}/messages", status_code=201, summary="Keep a message")
    async def keep_message(
        body: MessageRequest, live: LiveDep, service: ServiceDep
    ) -> dict[str, bool]:
        """Keep what the model thought or said between two calls in the journal."""
        await service.keep_message(live, body.role, body.text, body.usage)
        return {"ok": True}

    @app.get("/v1/sessions/{session_id}/tests/{number}", summary="A test's result or progress")
    async def get_test(
        number: int,
        live: LiveDep,
        service: ServiceDep,
        wait_s: Annotated[int, Query(ge=0, description="Seconds to wait for the result.")] = 0,
    ) -> dict[str, Any]:
        attempts = [a for a in live.session.state.attempts if a.number == number]
        if not attempts:
            raise ClientError(404, "unknown_test", f"Test #{number} was never started.")
        attempt = attempts[-1]
        if attempt.active and wait_s:
            wait_s = min(wait_s, tools.MAX_WAIT_S)
            await service.wait_for_test(live, number, attempt.attempt, wait_s)
        answer = live.session.test_answer(number, attempt.attempt, service.progress(live))
        return {**answer.data, "text": answer.text}

    @app.get(
        "/v1/sessions/{session_id}/files/{name:path}",
        summary="An editable file as it stands",
        response_class=PlainTextResponse,
    )
    async def get_file(name: str, live: LiveDep) -> PlainTextResponse:
        file = live.session.state.files.get(name)
        if file is None:
            names = ", ".join(live.session.state.files)
            raise ClientError(404, "unknown_file", f"No editable file {name}.", f"Files: {names}.")
        return PlainTextResponse(file.text)

    @app.get(
        "/v1/sessions/{session_id}/transcript",
        summary="The journal as JSON Lines",
        response_class=PlainTextResponse,
    )
    async def get_transcript(
        live: LiveDep, format: Literal["jsonl"] = "jsonl"
    ) -> PlainTextResponse:
        lines = await live.transcript_lines()
        return PlainTextResponse("".join(lines), media_type="application/jsonl")


def _add_public_routes(app: FastAPI) -> None:
    @app.get("/v1/tasks", summary="The tasks")
    async def list_tasks(service: ServiceDep) -> list[TaskSummary]:
        return [_task_summary(task) for task in service.tasks.values()]

    @app.get("/v1/tasks/{name}", summary="One task")
    async def get_task(name: str, service: ServiceDep) -> dict[str, Any]:
        task = service.tasks.get(name)
        if task is None:
            raise ClientError(
                404,
                "unknown_task",
                f"There is no task {name}.",
                f"The tasks are {', '.join(service.tasks)}.",
            )
        return {
            **_task_summary(task).model_dump(),
            "instruction": task.read_instruction(),
            "files": [
                {
                    "name": file.name,
                    "regions": [
                        {"name": region.name, "title": region.title, "lines": list(region.lines)}
                        for region in file.regions
                    ],
                }
                for file in task.files
            ],
        }

    @app.get("/v1/tools", summary="The tools' schemas")
    async def list_tools() -> list[ToolSchema]:
        return [ToolSchema(**schema) for schema in tools.schemas()]

    @app.get("/healthz", summary="Whether the server runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether it can take calls")
    async def readyz(service: ServiceDep) -> dict[str, str]:
        """Database, executor, state folder and the watch over tests; 503 says what is wrong."""
        if faults := await service.in_thread(standing.faults, service):
            raise Refused(
                503,
                "not_ready",
                " ".join(faults),
                "The server's log says more; try again in a moment.",
                {"Retry-After": "5"},
            )
        return {"status": "ok"}

    @app.get("/metrics", summary="Counters for Prometheus", response_class=PlainTextResponse)
    async def metrics(service: ServiceDep) -> Response:
        content, media_type = await service.in_thread(service.telemetry.exposition)
        return Response(content, headers={"Content-Type": media_type})


def _task_summary(task: Any) -> TaskSummary:
    return TaskSummary(
        name=task.name, version=task.version, title=task.title, profiles=list(task.profiles)
    )


def _budget(live: LiveSession) -> BudgetModel:
    return BudgetModel(**live.session.state.budget.as_json())


async def _json_object(request: Request) -> dict[str, Any]:
    body = await request.body()
    try:
        value = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ClientError(
            422, "bad_json", "The body is not JSON.", "Send the arguments as one JSON object."
        ) from error
    if not isinstance(value, dict):
        raise ClientError(
            422,
            "bad_json",
            "The body is not a JSON object.",
            "Send the arguments as one JSON object.",
        )
    return value


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def on_refused(_request: Request, refused: Refused) -> JSONResponse:
        return JSONResponse(refused.body, refused.status, refused.headers)

    @app.exception_handler(ClientError)
    async def on_client_error(_request: Request, error: ClientError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        found = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()[:10]
        )
        return ClientError(422, "bad_request", found, "See /docs for the call.").response()

    @app.exception_handler(HTTPException)
    async def on_http(_request: Request, error: HTTPException) -> JSONResponse:
        hint = "See /docs for the calls there are." if error.status_code in (404, 405) else ""
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        return ClientError(error.status_code, code, str(error.detail), hint).response()

    @app.exception_handler(SQLAlchemyError)
    async def on_database(request: Request, _error: SQLAlchemyError) -> JSONResponse:
        return await on_refused(request, _database_away())

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
