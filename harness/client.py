"""A client of the HTTP door: an agent's session in typed Python.

Guaranteed: a tool call that the client gives up on, or that is cut off and sent again, is carried
out at most once (each has its own Idempotency-Key). A wait outlives connections that are cut, and
a server that is restarted. Not guaranteed: that a session was not created, or a message not kept,
when `create_session` or `keep_message` raises Unreachable; neither is sent twice.

    with Client("http://127.0.0.1:8000") as client:
        session = client.create_session("two-files", agent="me")
        answer = session.finish(session.test())     # waits; costs the model nothing
        session.submit(1)
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from harness.board import LeaderboardView
from harness.retries import (
    AGAIN,
    Away,
    BadAnswer,
    BadToken,
    Busy,
    Conflict,
    HarnessError,
    NotFound,
    Patience,
    Refused,
    Unreachable,
    refused,
    retry_after,
    send,
)
from harness.wire import (
    BaselineRequest,
    ConfirmationRequest,
    SessionCreated,
    SessionView,
    TaskSummary,
    TaskView,
    TestView,
    ToolAnswer,
    ToolSchema,
)

__all__ = [
    "Away",
    "BadAnswer",
    "BadToken",
    "Busy",
    "Client",
    "Conflict",
    "HarnessError",
    "NotFound",
    "Patience",
    "Refused",
    "Session",
    "SessionEvent",
    "Unreachable",
]

WAIT_S = 25
"""how long one request waits: shorter than what proxies and clients allow"""

READ_S = 75
"""without an answer for so long a connection is dead: the server waits for 50 at most"""

STREAM_READ_S = 45
"""the same for a stream of events, which has a heartbeat every ten seconds"""

Model = TypeVar("Model", bound=BaseModel)


class Client:
    """One server. `api_key` is for what is not a session's own; HARNESS_API_KEY if left out."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        patience: Patience | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.patience = patience or Patience()
        self._api_key = api_key or os.environ.get("HARNESS_API_KEY")
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(READ_S, connect=10),
            transport=transport,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def tasks(self) -> list[TaskSummary]:
        return [TaskSummary.model_validate(task) for task in self._get("/v1/tasks").json()]

    def task(self, name: str) -> TaskView:
        return read(TaskView, self._get(f"/v1/tasks/{name}"))

    def leaderboard(self, task: str, profile: str | None = None) -> LeaderboardView:
        """For people: a session's token does not open it."""
        params = {} if profile is None else {"profile": profile}
        return read(LeaderboardView, self._get(f"/v1/leaderboards/{task}", params=params))

    def tools(self, format: str | None = None) -> list[dict[str, Any]]:
        """The tools' schemas: `openai`, `openai-strict`, `anthropic`, `gemini`, `mcp`, or ours."""
        params = {} if format is None else {"format": format}
        found: list[dict[str, Any]] = self._get("/v1/tools", params=params).json()
        return found

    def create_session(
        self,
        task: str,
        *,
        profile: str | None = None,
        agent: str | dict[str, Any] | None = None,
        baseline: BaselineRequest | None = None,
        confirmation: ConfirmationRequest | None = None,
    ) -> Session:
        """Start a session; it is not sent twice, since a second one would count as started too.

        With `baseline` or `confirmation` it is the house's own, as `harness baseline run` and
        `harness confirm` play one.
        """
        body = {"task": task, "profile": profile, "agent": agent}
        if baseline is not None:
            body["baseline"] = baseline.model_dump()
        if confirmation is not None:
            body["confirmation"] = confirmation.model_dump()
        # A fresh connection: one that the other side has dropped would look like a lost answer.
        headers = {**self._key_header(), "Connection": "close"}
        response = self.request(
            "POST", "/v1/sessions", body=body, headers=headers, repeatable=False
        )
        created = read(SessionCreated, response)
        return Session(self, created.id, created.token, created)

    def transcript(self, id: str) -> str:
        """Any session's journal, by the key."""
        return self._get(f"/v1/sessions/{id}/transcript").text

    def session(self, id: str, token: str) -> Session:
        """A session that was created before."""
        return Session(self, id, token)

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: Any = None,
        params: Mapping[str, str | int] | None = None,
        repeatable: bool = True,
        patience: Patience | None = None,
    ) -> httpx.Response:
        """The response to one request, sent as often as it takes. Raises HarnessError."""
        return send(
            lambda: self._http.request(method, path, json=body, params=params, headers=headers),
            patience or self.patience,
            repeatable=repeatable,
        )

    def stream(self, path: str, headers: Mapping[str, str]) -> Any:
        return self._http.stream("GET", path, headers=headers, timeout=STREAM_READ_S)

    def _get(self, path: str, params: Mapping[str, str | int] | None = None) -> httpx.Response:
        return self.request("GET", path, params=params, headers=self._key_header())

    def _key_header(self) -> dict[str, str]:
        return {} if self._api_key is None else {"Authorization": f"Bearer {self._api_key}"}


@dataclass(frozen=True)
class SessionEvent:
    """One server-sent event: one of the journal's, or `progress` of a test."""

    type: str
    data: dict[str, Any]
    seq: int | None
    """its place in the journal; None for `progress`"""


class Session:
    """One session, called with its own token."""

    def __init__(
        self, client: Client, id: str, token: str, created: SessionCreated | None = None
    ) -> None:
        self.id, self.token = id, token
        self.created = created
        """what creating it gave, the prompt and the tools among it; None if it was before"""
        self._client = client
        self._path = f"/v1/sessions/{id}"
        self._headers = {"Authorization": f"Bearer {token}"}

    @property
    def prompt(self) -> str:
        """What the agent is told. Raises ValueError for a session that was created before."""
        if self.created is None:
            raise ValueError("only creating a session gives its prompt")
        return self.created.prompt

    @property
    def tools(self) -> list[ToolSchema]:
        """The tools' schemas. Raises ValueError for a session that was created before."""
        if self.created is None:
            raise ValueError("only creating a session gives its tools; see Client.tools")
        return self.created.tools

    # ── tools ─────────────────────────────────────────────────────────────────────────────────

    def call(
        self, tool: str, args: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> ToolAnswer:
        """Call a tool, once, however often the request has to be sent."""
        headers = {**self._headers, "Idempotency-Key": key or uuid.uuid4().hex}
        response = self._client.request(
            "POST", f"{self._path}/tools/{tool}", body=dict(args or {}), headers=headers
        )
        return read(ToolAnswer, response)

    def view(
        self, filename: str, start_line: int | None = None, end_line: int | None = None
    ) -> ToolAnswer:
        args = {"filename": filename, "start_line": start_line, "end_line": end_line}
        return self.call("view", {k: v for k, v in args.items() if v is not None})

    def edit(self, op: str, filename: str, **args: str | int) -> ToolAnswer:
        """`replace`, `insert` or `str_replace`, with the arguments that it needs."""
        return self.call("edit", {"op": op, "filename": filename, **args})

    def undo(self, n: int = 1) -> ToolAnswer:
        return self.call("undo", {"n": n})

    def check(self, wait_s: int = WAIT_S) -> ToolAnswer:
        return self.call("check", {"wait_s": wait_s})

    def test(self, wait_s: int = WAIT_S) -> ToolAnswer:
        return self.call("test", {"wait_s": wait_s})

    def status(self, wait_s: int = 0) -> ToolAnswer:
        return self.call("status", {"wait_s": wait_s})

    def submit(self, n: int) -> ToolAnswer:
        return self.call("submit", {"n": n})

    def finish(
        self, answer: ToolAnswer, *, on_progress: Callable[[TestView], None] | None = None
    ) -> ToolAnswer:
        """The answer itself, or, if a test goes on, what `status` says once it has ended.

        This is what an agent's owner calls between the model's turns: the model is not asked until
        there is something to tell it.
        """
        number = answer.waits_for
        if number is None:
            return answer
        ended = self.wait(number, on_progress=on_progress)
        if ended.state != "finished":
            # Given back: the reason stands in the test's own text, and `status` is past it.
            return answer.model_copy(
                update={
                    "ok": False,
                    "text": ended.text or "",
                    "error": "test_refused" if ended.state == "refused" else "test_released",
                    "data": ended.model_dump(exclude_unset=True, exclude={"text"}),
                    "budget": self.state().budget,
                }
            )
        return self.call("status")

    # ── what an owner may look at ─────────────────────────────────────────────────────────────

    def wait(
        self,
        number: int,
        *,
        wait_s: int = WAIT_S,
        on_progress: Callable[[TestView], None] | None = None,
    ) -> TestView:
        """A test once it has ended, however long that takes. Raises HarnessError.

        The client's patience counts from the last answer. A wait that is cut off is made shorter.
        """
        failing_since: float | None = None
        while True:
            try:
                response = self._client.request(
                    "GET",
                    f"{self._path}/tests/{number}",
                    params={"wait_s": wait_s},
                    headers=self._headers,
                    patience=Patience(total_s=0),
                )
            except (Unreachable, Busy, Away) as error:
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > self._client.patience.total_s:
                    raise
                wait_s = max(1, wait_s // 2) if isinstance(error, Unreachable) else wait_s
                time.sleep(min(1.0, self._client.patience.longest_s))
                continue
            failing_since = None
            test = read(TestView, response)
            if test.ended:
                return test
            if on_progress is not None:
                on_progress(test)

    def test_view(self, number: int) -> TestView:
        """A test as it is now."""
        return read(TestView, self._get(f"/tests/{number}"))

    def state(self) -> SessionView:
        return read(SessionView, self._get(""))

    def file(self, name: str) -> str:
        return self._get(f"/files/{name}").text

    def transcript(self) -> str:
        return self._get("/transcript").text

    def keep_message(self, role: str, text: str, usage: Mapping[str, Any] | None = None) -> None:
        """Keep what the model said; it is not sent twice, since it would be kept twice."""
        body = {"role": role, "text": text, "usage": usage}
        headers = {**self._headers, "Connection": "close"}
        self._client.request(
            "POST", f"{self._path}/messages", body=body, headers=headers, repeatable=False
        )

    def events(self, after: int = 0) -> Iterator[SessionEvent]:
        """What happens in the session after event `after`, each once, until it is closed.

        Connections that are cut are made again. Raises HarnessError.
        """
        alive = time.monotonic()
        while True:
            pause, connected = 0.2, False
            try:
                headers = {**self._headers, "Last-Event-ID": str(after)}
                with self._client.stream(f"{self._path}/events", headers) as response:
                    if response.status_code == 204:
                        return
                    if response.status_code >= 400:
                        response.read()
                        failure = refused(response)
                        if response.status_code not in AGAIN:
                            raise failure
                        pause = retry_after(response) or 1.0
                    else:
                        failure, connected = Unreachable("the stream of events was cut off"), True
                        for event in _parse(response.iter_text()):
                            if event.type == "end":
                                return
                            yield event
                            after = after if event.seq is None else event.seq
            except httpx.TransportError as error:
                failure = Unreachable(f"no answer: {error or type(error).__name__}")
            if connected:
                alive = time.monotonic()
            if time.monotonic() + pause - alive > self._client.patience.total_s:
                raise failure
            time.sleep(pause)

    def _get(self, path: str) -> httpx.Response:
        return self._client.request("GET", f"{self._path}{path}", headers=self._headers)


def read(model: type[Model], response: httpx.Response) -> Model:
    """An answer as its type. Raises BadAnswer."""
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise BadAnswer(f"not an answer of a harness: {response.text[:200]!r}") from error


def _parse(chunks: Iterator[str]) -> Iterator[SessionEvent]:
    """Server-sent events as this server writes them: line feeds, one line of data each."""
    kept = ""
    for chunk in chunks:
        *blocks, kept = (kept + chunk).split("\n\n")
        for block in blocks:
            fields = dict(
                line.split(": ", 1) for line in block.split("\n") if not line.startswith(":")
            )
            if "data" in fields:
                seq = int(fields["id"]) if "id" in fields else None
                yield SessionEvent(fields["event"], json.loads(fields["data"]), seq)
