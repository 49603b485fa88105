"""What goes over HTTP as types: what the server sends is what the client reads.

A reader ignores fields that it does not know, so that a newer server can speak to an older client.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

WAITING = ("checking", "queued", "running")
"""states of a test that has not ended"""


class ErrorDetail(BaseModel):
    code: str = Field(description="The mistake, for programs.", examples=["unknown_session"])
    message: str = Field(description="The mistake in a sentence.")
    hint: str = Field(description="What to do next; empty if that is plain.")


class ErrorBody(BaseModel):
    """What every status from 400 on comes with."""

    error: ErrorDetail = Field(description="What was wrong with the call.")


class Acknowledged(BaseModel):
    ok: bool = Field(description="Always true.")


class Health(BaseModel):
    status: str = Field(description="Always `ok`; what is not ok is a status of its own.")


class BudgetView(BaseModel):
    tests: int = Field(description="Counted tests that the session has in all.")
    used: int = Field(description="Tests that have been counted.")
    remaining: int = Field(description="Tests that may still be started.")
    running: int | None = Field(description="Number of the test that is queued or running.")


class ToolSchema(BaseModel):
    name: str = Field(description="The tool's name, the last part of its address.")
    description: str = Field(description="What it does, for the model.")
    parameters: dict[str, Any] = Field(description="JSON Schema of its arguments.")


class OpenAIFunction(BaseModel):
    name: str = Field(description="The tool's name.")
    description: str = Field(description="What it does, for the model.")
    parameters: dict[str, Any] = Field(description="JSON Schema of its arguments.")
    strict: bool | None = Field(default=None, description="Whether the schema is for strict mode.")


class OpenAITool(BaseModel):
    type: Literal["function"] = Field(description="Always `function`.")
    function: OpenAIFunction = Field(description="The function that the model may call.")


class AnthropicTool(BaseModel):
    name: str = Field(description="The tool's name.")
    description: str = Field(description="What it does, for the model.")
    input_schema: dict[str, Any] = Field(description="JSON Schema of its arguments.")


class GeminiFunction(BaseModel):
    name: str = Field(description="The tool's name.")
    description: str = Field(description="What it does, for the model.")
    parameters: dict[str, Any] = Field(description="A Gemini `Schema` of its arguments.")


class GeminiTool(BaseModel):
    functionDeclarations: list[GeminiFunction] = Field(description="All of the tools.")


class McpTool(BaseModel):
    name: str = Field(description="The tool's name.")
    description: str = Field(description="What it does, for the model.")
    inputSchema: dict[str, Any] = Field(description="JSON Schema of its arguments.")


class BaselineRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(description="A baseline of the task; empty for the unedited files.")
    seeds: list[int] = Field(description="The seed of each test; as many tests as seeds.")


class ConfirmationRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    session: str = Field(description="The id of the agent's session whose submission is trained.")
    seeds: int = Field(
        default=2,
        description="How many seeds the server shall give: those that earlier, closed "
        "confirmations left unplayed, then fresh ones.",
    )


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
    baseline: BaselineRequest | None = Field(
        default=None,
        description="For `harness baseline run`: the session is no agent's, it plays a baseline.",
    )
    confirmation: ConfirmationRequest | None = Field(
        default=None,
        description="For `harness confirm`: the session plays a submission again, whose task and "
        "profile these have to be.",
    )


class SessionCreated(BaseModel):
    id: str = Field(description="The session's id.")
    token: str = Field(description="The bearer token of this session; it is shown only here.")
    task: str = Field(description="The task's name.")
    profile: str = Field(description="The profile that tests run at.")
    prompt: str = Field(description="What the agent is told.")
    budget: BudgetView = Field(description="Tests in all, used and left.")
    tools: list[ToolSchema] = Field(description="The tools' schemas.")


class StageView(BaseModel):
    name: str = Field(description="The stage's name in the task.")
    label: str = Field(description="Its name in answers.")
    script: str = Field(description="The script that it runs.")
    state: str = Field(description="`done`, `failed`, `timeout`, `void` or `skipped`.")
    exit: int | None = Field(default=None, description="The script's exit code.")
    reason: list[str] = Field(default=[], description="Why it failed, line by line.")
    seconds: float | None = Field(default=None, description="How long it took.")
    limit_s: float | None = Field(default=None, description="How long it may take.")
    feedback: list[str] = Field(default=[], description="The last lines of metrics, at most five.")
    metrics: dict[str, float] = Field(default={}, description="Its visible metrics.")


class TestView(BaseModel):
    """A test as programs see it. A test that has not ended has progress, an ended one a result."""

    __test__ = False  # pytest would collect the name
    model_config = ConfigDict(extra="allow")
    test: int = Field(description="The test's number.")
    state: str = Field(
        description="`checking`, `queued` or `running`; `finished`; or, given back and not "
        "counted, `refused`, `interrupted` or `cancelled`."
    )
    text: str | None = Field(default=None, description="What an agent reads of it.")
    place: int | None = Field(default=None, description="Its place in the queue, from 1.")
    stage: str | None = Field(default=None, description="The label of the stage that runs.")
    role: str | None = Field(default=None, description="What of the stage runs: `run`, `score`, …")
    step: int | None = Field(default=None, description="The training step that was reached.")
    steps: int | None = Field(default=None, description="How many steps it takes.")
    seconds_left: float | None = Field(default=None, description="About how long it still takes.")
    loss: float | None = Field(default=None, description="The loss that training last told.")
    tokens_per_s: float | None = Field(default=None, description="Training's speed.")
    scored: bool | None = Field(default=None, description="Whether it can be submitted.")
    metrics: dict[str, float] | None = Field(default=None, description="Its visible metrics.")
    stages: list[StageView] | None = Field(default=None, description="What each stage came to.")
    curve: list[dict[str, float]] | None = Field(
        default=None, description="What training told at each line of metrics, thinned."
    )
    findings: list[dict[str, Any]] | None = Field(
        default=None, description="What checks found, if they refused it."
    )

    @property
    def ended(self) -> bool:
        return self.state not in WAITING


class SessionView(BaseModel):
    id: str = Field(description="The session's id.")
    task: str = Field(description="The task's name.")
    profile: str = Field(description="The profile that tests run at.")
    state: Literal["open", "submitted", "ended"] = Field(description="Whether it can be called.")
    submitted: int | None = Field(description="The test that was submitted.")
    budget: BudgetView = Field(description="Tests in all, used and left.")
    results: list[TestView] = Field(description="Every finished test.")


class ToolAnswer(BaseModel):
    ok: bool = Field(description="False if the call was a mistake of the agent's.")
    text: str = Field(description="What the agent reads.")
    error: str | None = Field(default=None, description="The mistake's code, if not ok.")
    data: dict[str, Any] = Field(
        description="The same for programs; empty when a repeated call is told its answer again."
    )
    budget: BudgetView = Field(description="Tests in all, used and left.")

    @property
    def waits_for(self) -> int | None:
        """The number of the test that this answer says is not ended yet, if it says so."""
        waits = self.ok and "test" in self.data and self.data.get("state") in WAITING
        return int(self.data["test"]) if waits else None


class MessageRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: str = Field(description="Who said it: `assistant`, `user`, `system`.", max_length=40)
    text: str = Field(description="What was thought or said.")
    usage: dict[str, Any] | None = Field(default=None, description="Tokens, as the model counts.")


class ReviewRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    verdict: Literal["clean", "suspect", "disqualified"] = Field(
        description="What was found; the latest verdict counts."
    )
    category: str = Field(
        default="",
        description="The class of the fault, one of those in docs/leaderboard.md; `disqualified` "
        "needs one, `clean` has none. The session's agent can read it.",
    )
    note: str = Field(
        default="",
        description="What else is to be known; people with a key alone can read it.",
        max_length=10_000,
    )


class TaskSummary(BaseModel):
    name: str = Field(description="The task's name.")
    version: int = Field(description="Results of different versions are not comparable.")
    title: str = Field(description="The task in a line.")
    profiles: list[str] = Field(description="The scales that it can be run at.")


class RegionView(BaseModel):
    name: str = Field(description="The region's name.")
    title: str = Field(description="What stands there.")
    lines: list[int] = Field(
        description="Its first and last line; the last is before the first if it is empty.",
        min_length=2,
        max_length=2,
    )


class FileView(BaseModel):
    name: str = Field(description="The file, by its path.")
    regions: list[RegionView] = Field(description="What of it may be edited.")


class TaskView(TaskSummary):
    instruction: str = Field(description="What is asked for, in Markdown.")
    files: list[FileView] = Field(description="The editable files.")
