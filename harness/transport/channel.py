"""Messages and arrays between a trusted process and one that runs an agent's code.

Stand-alone: the standard library and numpy, nothing of the harness. The harness puts this folder
on the path of every role. Small messages go through a Unix socket as JSON, arrays through shared
memory that the trusted side makes.

Trusted side: `Server` starts the process behind the role `serve` and calls it; a feeder takes
`Listener.from_environment()`. Other side: `serve` answers the calls of a `Server`, `connect` is
the line to a feeder.

Guaranteed to the trusted side: shared memory keeps its size (sealed), so that reading it never
faults; where an array lies, its dtype and its shape are the trusted side's own; what is returned
is a copy, which nobody changes any more; a message is a JSON object of at most MESSAGE_BYTES.
Not guaranteed: that what the other side says is true, or that it ever answers: the caller's time
limit ends that.
"""

from __future__ import annotations

import array
import builtins
import contextlib
import fcntl
import json
import math
import mmap
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:  # the runner, which starts servers and calls none, starts sooner without it
    import numpy as np
    from numpy.typing import DTypeLike, NDArray

MESSAGE_BYTES = 4 << 20
ALIGNMENT = 64

CHANNEL = "HARNESS_CHANNEL"
"""Variable of the side that runs agents' code: `fd:N`, or the path of a socket."""
LISTEN = "HARNESS_LISTEN_FD"
"""Variable of a feeder: the number of a listening socket that it has inherited."""
SERVER = "HARNESS_SERVER"
"""Variable of a scorer: a JSON file that says how the role `serve` is started, and its log."""

Later = Callable[[], Mapping[str, Any] | None]
"""Waits until a call's outputs are filled, by a GPU for example, and returns the call's facts.

It runs in a thread of its own, beside the next handler: what is set for one thread, as torch's
`no_grad`, is not set there. Inputs and outputs stay in place until it returns.
"""

Handler = Callable[..., Mapping[str, Any] | Later | None]
"""handler(inputs, outputs, **args): reads arrays, fills arrays, returns facts for the caller; or a
`Later`, if the outputs are not filled yet."""

Spec: TypeAlias = "tuple[DTypeLike, Sequence[int]]"
"""dtype and shape of an array."""


class ChannelClosed(Exception):
    """The other side is gone."""


class ServerFailed(Exception):
    """The served code raised; the text is the exception's type, if it is one of Python's own.

    What it said stands in the log of its process: it has seen inputs that the scorer's log, which
    an agent may read, must not repeat.
    """


class ProtocolError(Exception):
    """The other side said something that is no message of this protocol."""


# ---- Messages ------------------------------------------------------------------------------------


class Connection:
    """One end of a stream socket that carries JSON objects, and file descriptors with them."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Raises ChannelClosed; ValueError for a message that is too long or no JSON."""
        self.send_packed(packed(message), fds)

    def send_packed(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Sends what `packed` has made of a message. Raises ChannelClosed."""
        try:
            sent = socket.send_fds(self._socket, [data], list(fds)) if fds else 0
            self._socket.sendall(data[sent:])
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def receive(self, most_bytes: int = MESSAGE_BYTES) -> dict[str, Any]:
        """The next message. Raises ChannelClosed or ProtocolError, if it is too long at once."""
        message, _ = self._receive(0, most_bytes)
        return message

    def receive_with_fd(self) -> tuple[dict[str, Any], int]:
        """The next message and the one file descriptor that came with it."""
        message, fds = self._receive(1)
        if len(fds) != 1:
            for fd in fds:
                os.close(fd)
            raise ProtocolError("a message without its file descriptor")
        return message, fds[0]

    def _receive(
        self, most_fds: int, most_bytes: int = MESSAGE_BYTES
    ) -> tuple[dict[str, Any], list[int]]:
        head, fds = self._read(4, most_fds)
        (size,) = struct.unpack("<I", head)
        if size > most_bytes:
            raise ProtocolError(f"a message of {size} bytes; at most {most_bytes} are taken")
        body, more = self._read(size, most_fds)
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            raise ProtocolError("a message that is no JSON") from None
        if not isinstance(message, dict):
            raise ProtocolError("a message that is no JSON object")
        return message, fds + more

    def _read(self, size: int, most_fds: int) -> tuple[bytes, list[int]]:
        parts, fds = bytearray(), array.array("i")
        space = socket.CMSG_SPACE(most_fds * fds.itemsize) if most_fds else 0
        while len(parts) < size:
            try:
                part, ancillary, _, _ = self._socket.recvmsg(size - len(parts), space)
            except OSError as error:
                raise ChannelClosed(str(error)) from None
            if not part:
                raise ChannelClosed("the other side has ended")
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
            parts += part
        return bytes(parts), list(fds)

    def close(self) -> None:
        self._socket.close()


def packed(message: Mapping[str, Any]) -> bytes:
    """A message as it is sent. Raises ValueError if it is too long, TypeError if it is no JSON."""
    body = json.dumps(message, allow_nan=False).encode()
    if len(body) > MESSAGE_BYTES:
        raise ValueError(f"a message of {len(body)} bytes; at most {MESSAGE_BYTES} are sent")
    return struct.pack("<I", len(body)) + body


class Listener:
    """Where connections of processes in the sandbox come in."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    @classmethod
    def from_environment(cls) -> Listener:
        """The listening socket that the harness passed on. Raises KeyError if there is none."""
        return cls(socket.socket(fileno=int(os.environ[LISTEN])))

    @classmethod
    def bind(cls, path: Path) -> Listener:
        """A new socket at `path`, whose folder exists; what stood there is replaced."""
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _short(path) as name:
            sock.bind(name)
        sock.listen(64)
        return cls(sock)

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> Connection:
        return Connection(self._socket.accept()[0])

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for `path` that fits a socket's address, which holds 107 characters."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def connect() -> Connection:
    """The line that HARNESS_CHANNEL names. Raises ChannelClosed if nobody listens there."""
    where = os.environ[CHANNEL]
    if where.startswith("fd:"):
        return Connection(socket.socket(fileno=int(where[3:])))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(Path(where)) as name:
            sock.connect(name)
    except OSError as error:
        sock.close()
        raise ChannelClosed(str(error)) from None
    return Connection(sock)


# ---- Shared memory -------------------------------------------------------------------------------


class Memory:
    """A block of memory that two processes share."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self._map = mmap.mmap(fd, self.size)

    @classmethod
    def create(cls, size: int) -> Memory:
        """New memory of `size` bytes, which nobody can make shorter or longer."""
        fd = os.memfd_create("harness", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, max(1, size))
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            return cls(fd)
        except OSError:
            os.close(fd)  # to map it takes another one, of which there may be none
            raise

    def view(self, dtype: DTypeLike, shape: Sequence[int], offset: int) -> NDArray[Any]:
        """An array over the memory, not a copy. ValueError if it does not lie inside."""
        import numpy as np

        kind = np.dtype(dtype)
        count = math.prod(shape)
        if kind.hasobject or offset < 0 or offset + count * kind.itemsize > self.size:
            raise ValueError(f"{kind} {tuple(shape)} at {offset} does not fit {self.size} bytes")
        flat: NDArray[Any] = np.frombuffer(self._map, kind, count, offset)
        return flat.reshape(shape)

    def close(self) -> None:
        os.close(self.fd)


def _placed(arrays: Mapping[str, Spec], offset: int) -> tuple[dict[str, Any], int]:
    """Where each array goes, one behind the other, as JSON; and where the last one ends."""
    import numpy as np

    places = {}
    for name, (dtype, shape) in arrays.items():
        kind = np.dtype(dtype)
        offset = -(-offset // ALIGNMENT) * ALIGNMENT
        places[name] = {"dtype": kind.str, "shape": [int(n) for n in shape], "offset": offset}
        offset += math.prod(shape) * kind.itemsize
    return places, offset


def _views(memory: Memory, places: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    return {
        name: memory.view(place["dtype"], place["shape"], place["offset"])
        for name, place in places.items()
    }


# ---- Calls ---------------------------------------------------------------------------------------


class Server:
    """A fresh process of the role `serve`, which the harness has said how to start.

    Args:
        memory_bytes: shared memory for the arrays of one call; two calls may be under way.
        env: variables of this one process, besides those that the harness gives it.

    Two calls at most are under way: the answer to one can be worked on while the next is computed.
    Ended when the context is left.
    """

    SLOTS = 2

    def __init__(self, memory_bytes: int, env: Mapping[str, str] | None = None) -> None:
        self._slot_bytes = -(-memory_bytes // ALIGNMENT) * ALIGNMENT
        self._memory = Memory.create(self.SLOTS * self._slot_bytes)
        self._calls = 0
        self._waiting: deque[dict[str, Any]] = deque()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = _start(theirs.fileno(), env or {})
        self._connection = Connection(ours)
        self._greeted = False

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        name: str,
        inputs: Mapping[str, NDArray[Any]] | None = None,
        outputs: Mapping[str, Spec] | None = None,
        **args: Any,
    ) -> None:
        """Begins a call; `result` gives its outcome, in the order of the calls.

        `args` is JSON. Raises ValueError if the arrays need more than `memory_bytes`, ChannelClosed
        if the process has ended.
        """
        if len(self._waiting) == self.SLOTS:
            raise ValueError("two calls are under way already; take a result first")
        given = dict(inputs or {})
        start = (self._calls % self.SLOTS) * self._slot_bytes
        placed, end = _placed({k: (v.dtype, v.shape) for k, v in given.items()}, start)
        wanted, end = _placed(outputs or {}, end)
        if end - start > self._slot_bytes:
            raise ValueError(f"a call of {end - start} bytes; there are {self._slot_bytes}")
        for key, view in _views(self._memory, placed).items():
            view[...] = given[key]
        if not self._greeted:
            self._connection.send({}, [self._memory.fd])
            self._greeted = True
        message = {"call": name, "inputs": placed, "outputs": wanted, "args": args}
        self._connection.send(message)
        self._waiting.append(wanted)
        self._calls += 1

    @property
    def memory(self) -> NDArray[np.uint8]:
        """All shared memory, for one who wants to lock its pages."""
        return self._memory.view("u1", (self._memory.size,), 0)

    def result(
        self, take: Callable[[NDArray[Any]], Any] = lambda view: view.copy()
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Copies of the outputs of the oldest call under way, and its facts.

        `take` makes the copies: to a GPU, say. Raises ServerFailed if the served code raised,
        ChannelClosed if its process ended.
        """
        wanted = self._waiting.popleft()
        reply = self._connection.receive()
        if "error" in reply:
            raise ServerFailed(_known_exception(reply["error"]))
        facts = reply.get("facts")
        views = _views(self._memory, wanted)
        copies = {name: take(view) for name, view in views.items()}
        return copies, facts if isinstance(facts, dict) else {}

    def call(
        self,
        name: str,
        inputs: Mapping[str, NDArray[Any]] | None = None,
        outputs: Mapping[str, Spec] | None = None,
        **args: Any,
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """`submit` and `result` in one; only while no call is under way."""
        self.submit(name, inputs, outputs, **args)
        return self.result()

    def close(self) -> None:
        """Ends the process and everything below it, if it runs in a sandbox."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._memory.close()


def sandboxed(arguments: Sequence[str], command: Sequence[str]) -> tuple[list[str], int]:
    """How a sandbox's program is called: it reads its `arguments` from a file.

    Its own environment and command line, path and arguments, can be seen inside. So the first word
    here is not where it lies: Popen's `executable` says that.

    Returns:
        The command line, and a file descriptor to pass on and then to close.
    """
    fd = os.memfd_create("arguments", 0)
    os.write(fd, b"".join(part.encode() + b"\0" for part in arguments))
    os.lseek(fd, 0, os.SEEK_SET)
    return ["bwrap", "--args", str(fd), "--", *command], fd


def _start(channel: int, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process as HARNESS_SERVER describes it, with the file descriptor as its channel."""
    plan = json.loads(Path(os.environ[SERVER]).read_text(encoding="utf-8"))
    own = dict(env) | {CHANNEL: f"fd:{channel}"}
    argv, passed, program = list(plan["argv"]), [channel], None
    if plan["sandbox"] is None:
        variables = plan["env"] | own
    else:
        program, *sandbox_args = plan["sandbox"]
        variables = plan["env"]
        for name, value in own.items():
            sandbox_args += ["--setenv", name, value]
        argv, fd = sandboxed(sandbox_args, argv)
        passed.append(fd)
    log = os.open(plan["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    passed.append(log)
    try:
        return subprocess.Popen(
            argv,
            executable=program,
            cwd=plan["cwd"],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=passed[:-1],
        )
    finally:
        for fd in passed[1:]:
            os.close(fd)


def _known_exception(name: object) -> str:
    """The name itself only if it is one that Python gives: any other could carry what was seen."""
    known = getattr(builtins, name, None) if isinstance(name, str) else None
    is_exception = isinstance(known, type) and issubclass(known, BaseException)
    return str(name) if is_exception else "an exception"


def serve(
    handlers: Mapping[str, Handler], begin: Callable[[NDArray[np.uint8]], object] | None = None
) -> None:
    """Answers the calls of a `Server` until it is gone.

    `begin` is called first, with all shared memory.
    A handler that raises ends the process with its traceback, after the caller was told; exit
    handlers do not run then. One that returns a `Later` has its caller answered when that returns;
    meanwhile the next call begins.
    """
    connection = connect()
    answers = _Answers(connection)
    try:
        _, fd = connection.receive_with_fd()
        memory = Memory(fd)
        if begin is not None:
            begin(memory.view("u1", (memory.size,), 0))
        while True:
            message = connection.receive()
            answers.give(partial(_call, handlers, memory, message))
    except ChannelClosed:
        return


class _Answers:
    """Tells the caller what calls came to, in their order, each when it is known."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._outcomes: queue.SimpleQueue[bytes | Later | Exception] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def give(self, call: Callable[[], Mapping[str, Any] | Later | None]) -> None:
        """Makes a call. Does not return if it raises an exception."""
        outcome = _outcome(call)
        self._outcomes.put(outcome)
        if isinstance(outcome, Exception):
            self._thread.join()

    def _send(self) -> None:
        try:
            while True:
                outcome = self._outcomes.get()
                if callable(outcome):
                    outcome = _outcome(outcome)
                if isinstance(outcome, bytes):
                    self._connection.send_packed(outcome)
                    continue
                if isinstance(outcome, Exception):
                    traceback.print_exception(outcome)
                    self._connection.send({"error": type(outcome).__name__})
                return
        except ChannelClosed:
            pass
        finally:
            # Nobody would be answered any more, whatever it was that ended this thread.
            _end_process()


def _end_process() -> None:
    """With exit code 1, from any thread."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _call(
    handlers: Mapping[str, Handler], memory: Memory, message: Mapping[str, Any]
) -> Mapping[str, Any] | Later | None:
    inputs, outputs = (_views(memory, message[kind]) for kind in ("inputs", "outputs"))
    return handlers[message["call"]](inputs, outputs, **message["args"])


def _outcome(work: Callable[[], Mapping[str, Any] | Later | None]) -> bytes | Later | Exception:
    """Facts as the message that tells them, before anybody can change them; or what else came."""
    try:
        found = work()
        if callable(found):
            return found
        return packed({"facts": dict(found or {})})
    except Exception as error:
        return error
