"""The loop of docs/agent-owners.md as it stands there, cut off every few seconds."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live import CuttingProxy, served
from prepared import shakespeare_dir
from test_mcp import connected, text_of

import server
from harness.client import Client
from harness.settings import Settings
from harness.task import find_tasks

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/agent-owners.md").read_text()

Call = tuple[str, dict[str, Any]]


def loop() -> dict[str, Any]:
    """What the page's block of code defines."""
    [block] = re.findall(
        r"<!-- a test runs this block as it stands -->\n```python\n(.*?)```", PAGE, re.S
    )
    found: dict[str, Any] = {}
    exec(compile(block, "docs/agent-owners.md", "exec"), found)
    return found


def scripted(calls: list[Call], read: list[str]) -> Callable[[str], Call | None]:
    """A model that has made its mind up; what it is given goes to `read`."""
    left = iter(calls)

    def model(text: str) -> Call | None:
        read.append(text)
        return next(left, None)

    return model


def test_the_loop_plays_a_whole_session_although_it_is_cut_off(live_url: str) -> None:
    slow = "def predict(slope, x):\n    return slope * x + 0 * sum(range(400_000))"
    calls: list[Call] = [
        ("edit", {"op": "replace", "filename": "line_model.py", "start_line": 7, "end_line": 8,
                  "content": slow}),
        ("test", {"wait_s": 1}),
        ("submit", {"n": 1}),
    ]  # fmt: skip
    read: list[str] = []
    with CuttingProxy(live_url, 2) as proxy:
        state = loop()["run"](proxy.url, "two-files", scripted(calls, read))
        assert proxy.cut >= 1
    assert (state.state, state.submitted, state.budget.used) == ("submitted", 1, 1)
    # The model is asked once for each thing that there is to tell, and never while it waits.
    assert len(read) == 4
    assert "TEST_METRICS" in read[2]
    assert read[3].startswith("[submit] Submitting result from test #1 as final.")


def test_a_test_that_is_refused_is_told_to_the_model(live_url: str) -> None:
    broken = {"op": "replace", "filename": "line_model.py", "start_line": 7, "end_line": 8,
              "content": "def predict("}  # fmt: skip
    read: list[str] = []
    loop()["run"](live_url, "two-files", scripted([("edit", broken), ("test", {})], read))
    assert read[2].startswith("ERROR: Test not started, and not counted: ")


@pytest.fixture
def real_url(tmp_path: Path, own_key: None) -> Iterator[str]:
    """A server with this repository's tasks and real data."""
    data = shakespeare_dir().parent
    settings = Settings(state_dir=tmp_path / "state", tasks_dir=ROOT / "tasks", data_dir=data)
    with served(server.build(settings)) as url:
        yield url


def demo_calls() -> tuple[str, list[Call]]:
    """The demo's task and an agent's calls: a baseline's edits, a test of them, submit."""
    task = find_tasks(ROOT / "tasks")["llm-pretrain-residual"]
    [baseline, *_] = task.baselines
    edits: list[Call] = [("edit", dict(edit)) for edit in task.baseline(baseline).edits]
    return task.name, [*edits, ("test", {"wait_s": 50}), ("submit", {"n": 1})]


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["smoke", "tiny"])
@pytest.mark.timeout(1200)
def test_the_loop_plays_the_demo_although_it_is_cut_off(real_url: str, profile: str) -> None:
    task, calls = demo_calls()
    read: list[str] = []
    with CuttingProxy(real_url, 5) as proxy:
        state = loop()["run"](proxy.url, task, scripted(calls, read), profile=profile)
        assert proxy.cut >= 1
    assert (state.state, state.budget.used) == ("submitted", 1), "\n\n".join(read[-2:])


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["smoke", "tiny"])
@pytest.mark.timeout(1200)
def test_an_mcp_client_plays_the_demo(real_url: str, profile: str) -> None:
    task, calls = demo_calls()
    with Client(real_url) as client:
        session = client.create_session(task, profile=profile, agent="mcp")

        async def play() -> None:
            async with connected(real_url, session, "auto") as mcp:
                for tool, args in calls:
                    result = await mcp.call_tool(tool, args)
                    while "Nothing to do until then" in text_of(result):
                        result = await mcp.call_tool("status", {"wait_s": 50})
                    assert not result.is_error, text_of(result)

        asyncio.run(play())
        assert session.state().state == "submitted"
