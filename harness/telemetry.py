"""What Prometheus reads at `/metrics`, in a registry of this server's own.

Names are documented in docs/operations.md. No label holds what an agent or a client chose: a tool
that does not exist counts as `unknown`, a path that leads nowhere as route `none`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from harness.events import AnyEvent, TestFinished, TestReleased, TestResumed

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(frozen=True)
class Survey:
    """How things stand at one moment."""

    sessions: Mapping[str, int] = field(default_factory=dict)
    """by state, of those that this server has had to do with since it started"""
    tests: Mapping[str, int] = field(default_factory=dict)
    """tests that are not finished, by state: checking, queued, running"""
    capacity: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """what the executor has, by kind (`slot`, `gpu`): in all, in use"""


class Telemetry:
    """Counters that the parts of one server add to. Safe to call from threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._tools = Counter(
            "harness_tool_calls", "Tool calls.", ["tool", "outcome"], registry=self.registry
        )
        self._labelled_tools = lru_cache(1000)(self._tools.labels)
        self._tool_seconds = Histogram(
            "harness_tool_seconds",
            "Seconds until a tool call was answered, waiting included.",
            ["tool"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._requests = Counter(
            "harness_http_requests",
            "HTTP requests.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._labelled_requests = lru_cache(1000)(self._requests.labels)
        self._request_seconds = Histogram(
            "harness_http_request_seconds",
            "Seconds until a request was answered to its end.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._ended = Counter(
            "harness_tests_ended", "Tests, by how they ended.", ["outcome"], registry=self.registry
        )
        self._resumed = Counter(
            "harness_tests_resumed", "Interrupted tests that went on.", registry=self.registry
        )
        self._database = Counter(
            "harness_database_errors", "Statements that failed.", registry=self.registry
        )

    def tool_called(self, tool: str, outcome: str, seconds: float) -> None:
        self._labelled_tools(tool, outcome).inc()
        self._tool_seconds.labels(tool).observe(seconds)

    def request_ended(self, method: str, route: str, status: int, seconds: float) -> None:
        method = method if method in _METHODS else "other"
        self._labelled_requests(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def journaled(self, events: Iterable[AnyEvent]) -> None:
        """Events that have come into the journal."""
        for entry in events:
            if isinstance(entry, TestFinished):
                self._ended.labels(_outcome(entry)).inc()
            elif isinstance(entry, TestReleased):
                self._ended.labels(entry.kind).inc()
            elif isinstance(entry, TestResumed):
                self._resumed.inc()

    def watch_database(self, engine: Engine) -> None:
        """Count what fails there; that another server was first is no failure."""

        def failed(context: Any) -> None:
            if not isinstance(context.sqlalchemy_exception, IntegrityError):
                self._database.inc()

        event.listen(engine, "handle_error", failed)

    def survey_with(self, look: Callable[[], Survey]) -> None:
        """Where the gauges come from whenever they are read."""
        self.registry.register(_Gauges(look))

    def exposition(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type. May take a while."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


def _outcome(finished: TestFinished) -> str:
    if finished.void is not None:
        return "void"
    return "scored" if finished.scored else "failed"


class _Gauges(Collector):
    def __init__(self, look: Callable[[], Survey]) -> None:
        self._look = look

    def describe(self) -> Iterator[Metric]:
        return iter(())  # looked at only when read

    def collect(self) -> Iterator[Metric]:
        seen = self._look()
        sessions = GaugeMetricFamily("harness_sessions", "Sessions by state.", labels=["state"])
        for state, count in seen.sessions.items():
            sessions.add_metric([state], count)
        tests = GaugeMetricFamily("harness_tests", "Unfinished tests by state.", labels=["state"])
        for state, count in seen.tests.items():
            tests.add_metric([state], count)
        total = GaugeMetricFamily(
            "harness_executor_capacity", "What the executor has.", labels=["kind"]
        )
        used = GaugeMetricFamily(
            "harness_executor_in_use", "How much of it tests use.", labels=["kind"]
        )
        for kind, (in_all, in_use) in seen.capacity.items():
            total.add_metric([kind], in_all)
            used.add_metric([kind], in_use)
        yield from (sessions, tests, total, used)
