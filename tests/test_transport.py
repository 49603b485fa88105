"""The transport: messages, shared memory, and calls of a process behind it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import channel

Start = Callable[..., channel.Server]

SERVING = """
import os, time
import channel
import numpy as np

def double(inputs, outputs, shift=0):
    outputs["y"][...] = 2 * inputs["x"] + shift
    return {"count": int(inputs["x"].size)}

def fail(inputs, outputs):
    raise ValueError("no such thing")

def tell(inputs, outputs):
    raise type("What I have seen", (Exception,), {})

def leave(inputs, outputs):
    os._exit(3)

def late(inputs, outputs):
    # What it writes after its answer is too late for the caller's copy.
    serve_later.append(outputs["y"])
    outputs["y"][...] = 1

order = []

def slow(inputs, outputs, until, fails=False, leaves=False):
    # Its answer comes when so many calls of it have begun.
    order.append(until)

    def finish():
        while len(order) < until:
            time.sleep(0.001)
        if fails:
            raise ValueError("no such thing")
        if leaves:
            raise SystemExit(3)
        outputs["y"][...] = until
        return {"until": until}

    return finish

told = {}

def count(inputs, outputs):
    # One mapping for all calls, which goes on changing.
    told["calls"] = told.get("calls", 0) + 1
    return told

def no_json(inputs, outputs):
    return {"what": {1, 2}}

serve_later = []
begun = []

def memory(inputs, outputs):
    outputs["last"][...] = 7
    return {"bytes": begun[0].nbytes, "same": bool((begun[0] == 7).any())}

handlers = {"double": double, "fail": fail, "tell": tell, "leave": leave, "late": late}
handlers |= {"memory": memory, "slow": slow, "count": count, "no_json": no_json}
channel.serve(handlers, begin=begun.append)
"""


@pytest.fixture
def pair() -> Any:
    ours, theirs = socket.socketpair()
    one, other = channel.Connection(ours), channel.Connection(theirs)
    yield one, other, theirs
    one.close()
    other.close()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a server process without a sandbox around it."""
    (tmp_path / "serving.py").write_text(SERVING)
    plan = {
        "argv": [sys.executable, str(tmp_path / "serving.py")],
        "env": {**os.environ, "PYTHONPATH": str(Path(channel.__file__).parent)},
        "cwd": str(tmp_path),
        "sandbox": None,
        "log": str(tmp_path / "serve.log"),
    }
    (tmp_path / "server.json").write_text(json.dumps(plan))
    monkeypatch.setenv(channel.SERVER, str(tmp_path / "server.json"))
    return lambda size=1000: channel.Server(size)


def test_messages_go_both_ways(pair: Any) -> None:
    one, other, _ = pair
    one.send({"a": [1, "ä", None]})
    assert other.receive() == {"a": [1, "ä", None]}
    other.send({})
    assert one.receive() == {}


def test_memory_goes_with_a_message_and_is_shared(pair: Any) -> None:
    one, other, _ = pair
    memory = channel.Memory.create(64)
    one.send({"here": 1}, [memory.fd])
    message, fd = other.receive_with_fd()
    assert message == {"here": 1}
    same = channel.Memory(fd)
    memory.view(np.int32, (4,), 16)[...] = [1, 2, 3, 4]
    assert same.view(np.int32, (2, 2), 16).tolist() == [[1, 2], [3, 4]]
    memory.close()
    same.close()


def test_nobody_can_change_the_size_of_the_memory() -> None:
    memory = channel.Memory.create(64)
    for size in (0, 1000):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(memory.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    memory.close()


@pytest.mark.parametrize(
    ("dtype", "shape", "offset"),
    [("f4", (17,), 0), ("f4", (1,), -4), ("f4", (1,), 61), ("O", (1,), 0)],
)
def test_an_array_lies_inside_the_memory(dtype: str, shape: tuple[int, ...], offset: int) -> None:
    memory = channel.Memory.create(64)
    with pytest.raises(ValueError, match="does not fit"):
        memory.view(dtype, shape, offset)
    memory.close()


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"\xff\xff\xff\xff", "at most 4194304 are taken"),
        (b"\x03\x00\x00\x00abc", "no JSON"),
        (b"\x02\x00\x00\x00[]", "no JSON object"),
        (b"\x02\x00\x00\x00\xff\xff", "no JSON"),
    ],
)
def test_what_is_no_message(pair: Any, raw: bytes, error: str) -> None:
    one, _, theirs = pair
    theirs.sendall(raw)
    with pytest.raises(channel.ProtocolError, match=error):
        one.receive()


def test_a_message_without_its_memory(pair: Any) -> None:
    one, other, _ = pair
    one.send({})
    with pytest.raises(channel.ProtocolError, match="without its file descriptor"):
        other.receive_with_fd()


def test_the_other_side_is_gone(pair: Any) -> None:
    one, other, theirs = pair
    theirs.sendall(b"\x10\x00\x00\x00{")
    other.close()
    with pytest.raises(channel.ChannelClosed):
        one.receive()


def test_a_long_path_of_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    listener = channel.Listener.bind(folder / "socket")
    monkeypatch.setenv(channel.CHANNEL, str(folder / "socket"))
    with closing(channel.connect()) as line, closing(listener.accept()) as taken:
        line.send({"hello": 1})
        assert taken.receive() == {"hello": 1}
    listener.close()


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(channel.CHANNEL, str(tmp_path / "socket"))
    with pytest.raises(channel.ChannelClosed):
        channel.connect()


def test_calls_with_arrays_and_facts(start: Start) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    with start() as server:
        given, facts = server.call("double", {"x": x}, {"y": (np.float32, (2, 3))}, shift=1)
        assert given["y"].tolist() == (2 * x + 1).tolist()
        assert facts == {"count": 6}


def test_two_calls_may_be_under_way(start: Start) -> None:
    with start() as server:
        for n in (1, 2):
            server.submit("double", {"x": np.full(4, n)}, {"y": (np.int64, (4,))})
        with pytest.raises(ValueError, match="under way already"):
            server.submit("double", {"x": np.zeros(4)}, {"y": (np.int64, (4,))})
        assert server.result()[0]["y"].tolist() == [2] * 4
        server.submit("double", {"x": np.full(4, 3)}, {"y": (np.int64, (4,))})
        assert [server.result()[0]["y"][0] for _ in range(2)] == [4, 6]


ONE = {"y": ("i4", (1,))}


def test_a_call_begins_while_the_answer_before_is_under_way(start: Start) -> None:
    with closing(start()) as server:
        for count in (2, 4, 6):  # of each pair the first is answered once the second has begun
            server.submit("slow", outputs=ONE, until=count)
            server.submit("slow", outputs=ONE, until=0)
            (first, facts), (second, _) = server.result(), server.result()
            assert (first["y"], facts, second["y"]) == (count, {"until": count}, 0)
        # Nobody has to call again for an answer to come.
        assert server.call("slow", outputs=ONE, until=7)[1] == {"until": 7}
        server.submit("slow", outputs=ONE, until=0)
        server.submit("double", {"x": np.arange(3)}, {"y": ("i8", (3,))})
        assert server.result()[1] == {"until": 0}
        assert server.result()[1] == {"count": 3}


@pytest.mark.parametrize("raises", ["fail", "slow"])
def test_an_answer_under_way_comes_before_another_call_s_error(start: Start, raises: str) -> None:
    with closing(start()) as server:
        server.submit("slow", outputs=ONE, until=1)
        server.submit(
            raises, outputs=ONE, **({"until": 2, "fails": True} if raises == "slow" else {})
        )
        assert server.result()[0]["y"] == 1
        with pytest.raises(channel.ServerFailed, match="ValueError"):
            server.result()
        with pytest.raises(channel.ChannelClosed):
            server.call("slow", until=0)


def test_an_answer_under_way_that_leaves_ends_the_process(start: Start) -> None:
    with closing(start()) as server:
        server.submit("slow", outputs=ONE, until=1, leaves=True)
        with pytest.raises(channel.ChannelClosed):
            server.result()


def test_facts_are_those_of_their_own_call(start: Start) -> None:
    """Though the answer is sent while the next handler changes what it returned."""
    with closing(start()) as server:
        for calls in range(1, 100, 2):
            server.submit("count")
            server.submit("count")
            told = [server.result()[1] for _ in range(2)]
            assert told == [{"calls": calls}, {"calls": calls + 1}]


def test_facts_that_are_no_json(start: Start) -> None:
    with closing(start()) as server, pytest.raises(channel.ServerFailed, match="TypeError"):
        server.call("no_json")


def test_a_result_is_a_copy(start: Start) -> None:
    with start() as server:
        first, _ = server.call("late", {}, {"y": (np.int64, (4,))})
        server.call("double", {"x": np.full(4, 9)}, {"y": (np.int64, (4,))})
        server.call("double", {"x": np.full(4, 9)}, {"y": (np.int64, (4,))})
        assert first["y"].tolist() == [1] * 4


def test_another_copy_than_the_usual(start: Start) -> None:
    with start() as server:
        server.submit("double", {"x": np.arange(4)}, {"y": (np.int64, (4,))})
        assert server.result(lambda view: view.tolist())[0] == {"y": [0, 2, 4, 6]}


def test_both_sides_know_all_of_the_memory(start: Start) -> None:
    with start() as server:
        _, facts = server.call("memory", {}, {"last": (np.uint8, (1,))})
        assert facts == {"bytes": server.memory.nbytes, "same": True}
        assert (server.memory == 7).any()


def test_arrays_that_are_too_large(start: Start) -> None:
    with start() as server, pytest.raises(ValueError, match="a call of"):
        server.call("double", {"x": np.zeros(1000)}, {})


@pytest.mark.parametrize(
    ("call", "told"), [("fail", "ValueError"), ("tell", "an exception"), ("nothing", "KeyError")]
)
def test_what_served_code_raises_is_told_without_its_words(
    start: Start, tmp_path: Path, call: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with start() as server:
        with pytest.raises(channel.ServerFailed) as failed:
            server.call(call)
        with pytest.raises(channel.ChannelClosed):
            server.call("double", {"x": np.zeros(1)}, {"y": (np.int64, (1,))})
    assert str(failed.value) == told
    assert capfd.readouterr() == ("", "")
    log = (tmp_path / "serve.log").read_text()
    assert "Traceback" in log
    assert ("no such thing" in log) == (call == "fail")


def test_served_code_that_ends_its_process(start: Start) -> None:
    with start() as server, pytest.raises(channel.ChannelClosed):
        server.call("leave")
