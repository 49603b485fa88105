"""Many pieces of work on several processes, so that none outlives the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

from corpus.files import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")
State = TypeVar("State")
Started = dict["connection.Connection[Any, Any]", BaseProcess]


def carry_out(
    tasks: Sequence[Task],
    work: Callable[[State, Task], Result],
    begin: Callable[..., State],
    arguments: tuple[Any, ...],
    workers: int,
) -> Iterator[Result]:
    """`work(begin(*arguments), task)` for each task, as they are done, in any order.

    With one worker in this process; else `begin` is called once in each of `workers` processes.
    What a task raises as DataError or OSError is raised here. Raises DataError if a process dies.
    """
    if workers <= 1 or len(tasks) <= 1:
        state = begin(*arguments) if tasks else None
        for task in tasks:
            yield work(state, task)  # type: ignore[arg-type]
        return
    context = multiprocessing.get_context("spawn")
    started: Started = {}
    try:
        for _ in range(min(workers, len(tasks))):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, os.getpid(), work, begin, arguments), daemon=True
            )
            process.start()
            theirs.close()
            started[ours] = process
        yield from _hand_out(tasks, started)
    finally:
        for one in started.values():
            one.kill()
        for line, one in started.items():
            one.join()
            line.close()


def _hand_out(
    tasks: Sequence[Task],
    started: Started,
) -> Iterator[Any]:
    waiting = list(reversed(tasks))
    left = len(tasks)
    for line in started:
        if waiting:
            line.send(waiting.pop())
    while left:
        for ready in connection.wait(list(started)):
            line = cast("connection.Connection[Any, Any]", ready)
            process = started[line]
            try:
                failure, result = line.recv()
            except (EOFError, ConnectionResetError):
                process.join()
                raise DataError(
                    f"a worker died ({_how(process.exitcode)}). If it was short of memory, take "
                    "fewer with --workers; run this again: it goes on where it stopped"
                ) from None
            if failure is not None:
                raise failure
            left -= 1
            if waiting:
                line.send(waiting.pop())
            yield result


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"signal {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}; what it said is above"


def _serve(
    line: connection.Connection,
    parent: int,
    work: Callable[[Any, Any], Any],
    begin: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    state = begin(*arguments)
    while True:
        try:
            task = line.recv()
        except EOFError:
            return
        answer: tuple[Exception | None, Any]
        try:
            answer = (None, work(state, task))
        except (DataError, OSError) as error:
            answer = (error, None)
        line.send(answer)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
