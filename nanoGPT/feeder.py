"""Streams the tokens of a training run to its ranks: the only process that holds the shards.

    python -P -m feeder --key=value ...          with the settings of the run

Takes the listening socket that it inherits (`channel.Listener`), reads the shards in HARNESS_DATA,
and keeps served.json in HARNESS_OUT. What a rank gets is known in advance: from its first step on,
before each evaluation its monitor windows, and for each step its micro-batches. It asks for one
piece after the other; each is sent once.

The shards' sizes are compared with meta.json at the start, their sha256 beside the run, which
reads all of them: the last step's tokens go out only when every one is right, and the first that is
not ends the feeder.

One process of this module is one start of a run, and whoever starts runs starts this one with it.
Guaranteed, whatever the other side sends: in one start a rank has one connection, and no batch goes
out twice, out of turn, to another rank or beyond the last step. A run that was interrupted starts
again at the last save that it can have made, or from step 0, with the same batches
(`possible_starts`); how often is not the other side's to decide. Not guaranteed: that it trains
only once on what it gets. It may keep it; the clock limits what that is worth.

Knows no torch: it must be ready long before training is, and runs beside it all the time.
"""

from __future__ import annotations

import ast
import errno
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import channel
from shards import Rows, ShardError, Shards, check_digest

TRAINING_FILE = Path(__file__).with_name("custom_pretrain.py")
"""The unedited file, whose classes hold the settings' defaults."""
CLASSES = ("GPTConfig", "TrainConfig")
HELLO = ("rank", "world", "start")
MOST_LINES = 32
"""Connections at one time, each with a thread and up to three open files; so no more ranks."""
REQUEST_BYTES = 256
"""No request needs half of it."""
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)
"""Errors that the other side can bring about, and that end with its connections."""
CHECKERS = 4
"""Threads that compare the shards with their sha256."""
PAUSE_S = 0.1
"""Before a connection is accepted again after one of them."""


@dataclass(frozen=True)
class Settings:
    """What decides which batches there are; as in TrainConfig."""

    block_size: int
    vocab_size: int
    global_batch: int
    micro_batch: int
    eval_windows: int
    max_iters: int
    eval_interval: int
    save_interval: int

    @classmethod
    def read(cls, argv: Sequence[str]) -> Settings:
        """The training file's defaults, then --key=value arguments.

        Raises ShardError for an argument that is none of its settings, or no whole number.
        """
        defaults = _defaults(TRAINING_FILE.read_text(encoding="utf-8"))
        values = {name: int(defaults[name]) for name in cls.__dataclass_fields__}
        for argument in argv:
            name, sign, text = argument.removeprefix("--").partition("=")
            if name not in defaults or not sign or not argument.startswith("--"):
                raise ShardError(f"unknown {argument!r}. Give --key=value, as training takes them.")
            if name in values:
                try:
                    values[name] = int(text)
                except ValueError:
                    raise ShardError(f"--{name} takes a whole number, not {text!r}.") from None
        for name, value in values.items():
            if value < (0 if name == "save_interval" else 1):
                raise ShardError(f"{name} is {value}; that is too small.")
        return cls(**values)


def _defaults(source: str) -> dict[str, Any]:
    """The literal defaults of the settings' classes. Importing the file would load torch."""
    found: dict[str, Any] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name in CLASSES:
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and field.value is not None:
                    assert isinstance(field.target, ast.Name)
                    found[field.target.id] = ast.literal_eval(field.value)
    return found


def possible_starts(asked: int | None, save_interval: int) -> set[int]:
    """Where an honest run can start if `asked` is the largest step it ever asked tokens for.

    Step 0, always: an optimizer that cannot be saved leaves nothing to go on from, nor does a run
    that was interrupted when it had just cleaned up. Else the last save. The first rank saves
    after every `save_interval` updates. When any rank asks for step n, n - 1 updates and their
    saves are done; the n-th is applied on that rank, but perhaps not yet saved by the first. By the
    end of the step n + 1 can be done and saved.
    """
    if asked is None or save_interval == 0:
        return {0}
    done = (asked - 1, asked, asked + 1)
    return {0, *(max(0, updates // save_interval * save_interval) for updates in done)}


class Feeder:
    """Serves the ranks of one run, each on a thread of its own."""

    def __init__(self, settings: Settings, shards: Shards, record: Path) -> None:
        self._settings, self._shards, self._record = settings, shards, record
        self._lock = threading.Lock()
        self._asked = _read_record(record, settings.max_iters)
        """The largest step whose tokens were asked for, in this start of the run or before."""
        self._starts = possible_starts(self._asked, settings.save_interval)
        self._run: tuple[int, int] | None = None
        """world and start of this start of the run: the same for all ranks"""
        self._ranks: set[int] = set()
        self._lines = threading.BoundedSemaphore(MOST_LINES)
        self._checked = threading.Event()

    def serve(self, listener: channel.Listener) -> None:
        """Takes connections until the process is ended."""
        threading.Thread(target=self._check_shards, daemon=True).start()
        while True:
            try:
                line = listener.accept()
            except OSError as error:
                if error.errno not in PASSING:
                    raise
                time.sleep(PAUSE_S)
                continue
            if not self._lines.acquire(blocking=False):
                line.close()
                continue
            try:
                threading.Thread(target=self._serve_line, args=(line,), daemon=True).start()
            except RuntimeError:  # no more threads
                line.close()
                self._lines.release()

    def _check_shards(self) -> None:
        with ThreadPoolExecutor(CHECKERS) as pool:
            try:
                for _ in pool.map(lambda shard: check_digest(*shard), self._shards.digests()):
                    pass
            except ShardError as error:
                _end(str(error))
        self._checked.set()

    def _serve_line(self, line: channel.Connection) -> None:
        try:
            hello = line.receive(REQUEST_BYTES)
            refusal = self._admit(hello)
            rows, span = self._settings.micro_batch, self._settings.block_size + 1
            memory = channel.Memory.create(rows * span * np.dtype(np.uint16).itemsize)
            welcome = {"rows": rows, "span": span} if refusal is None else {"refused": refusal}
            try:
                line.send(welcome, [memory.fd])
            finally:
                memory.close()  # mapped it stays
            if refusal is None:
                self._stream(line, memory, hello["rank"], hello["world"], hello["start"])
        except (channel.ChannelClosed, channel.ProtocolError):
            return  # its own doing, and its own loss
        except OSError as error:
            if error.errno not in PASSING:
                raise
        finally:
            line.close()
            self._lines.release()

    def _admit(self, hello: dict[str, Any]) -> str | None:
        """Why a rank gets nothing; None if it is welcome."""
        rank, world, start = (hello.get(name) for name in HELLO)
        if not all(type(n) is int and n >= 0 for n in (rank, world, start)):
            return "rank, world and start must be whole numbers."
        assert isinstance(rank, int)
        assert isinstance(world, int)
        assert isinstance(start, int)
        if not rank < world <= MOST_LINES:
            return f"there is no rank {rank} of {world}."
        with self._lock:
            if self._run not in (None, (world, start)):
                return "the ranks of a run start alike."
            if rank in self._ranks:
                return f"rank {rank} has its line already."
            if self._run is None:
                if start not in self._starts:
                    return f"this run cannot start at step {start}."
                self._run = (world, start)
                print(f"The run starts at step {start} with {world} ranks.", flush=True)
            self._ranks.add(rank)
        return None

    def _stream(
        self, line: channel.Connection, memory: channel.Memory, rank: int, world: int, start: int
    ) -> None:
        for kind, step in self._turns(start):
            if kind == "train":
                pieces = self._shards.train(step, rank, world)
            else:
                pieces = self._shards.monitor(rank, world)
            # Read before they are asked for, while the rank computes.
            for piece in (*_each(pieces), None):
                if line.receive(REQUEST_BYTES).get("next") != [kind, step]:
                    line.send({"refused": f"it is the turn of {kind} {step}."})
                    return
                if kind == "train":
                    self._note(step)
                    if step == self._settings.max_iters - 1:
                        self._checked.wait()
                if piece is None:
                    line.send({"end": True})
                else:
                    view = memory.view(np.uint16, piece.tokens.shape, 0)
                    view[...] = piece.tokens
                    line.send({"index": piece.index, "rows": len(piece.tokens)})

    def _turns(self, start: int) -> Iterator[tuple[str, int]]:
        """What a run takes, in its order."""
        for step in range(start, self._settings.max_iters + 1):
            if step % self._settings.eval_interval == 0 or step == self._settings.max_iters:
                yield "monitor", step
            if step < self._settings.max_iters:
                yield "train", step

    def _note(self, step: int) -> None:
        """Keeps in mind that the tokens of `step` are asked for; on record, before they go out.

        Only where it changes what `possible_starts` says: a record that a loss of power cannot
        undo costs as much as a step of a small model.
        """
        with self._lock:
            if self._asked is not None and step <= self._asked:
                return
            starts = possible_starts(step, self._settings.save_interval)
            if starts != self._starts:
                try:
                    _write_record(self._record, step)
                except OSError as error:
                    _end(f"{self._record.name} cannot be written ({error}).")
            self._asked, self._starts = step, starts


def _each(pieces: Iterator[Rows]) -> Iterator[Rows]:
    """The pieces; a token that the model does not know is this folder's fault."""
    try:
        yield from pieces
    except ShardError as error:
        _end(str(error))


def _end(reason: str) -> NoReturn:
    """Ends the process, from any thread."""
    print(f"ERROR: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


def _write_record(path: Path, step: int) -> None:
    """Replaces the record; it is on the disk when this returns."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"step": step}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_record(path: Path, max_iters: int) -> int | None:
    """The step on record; None if there is no record. ShardError if it is damaged."""
    try:
        step = json.loads(path.read_text(encoding="utf-8"))["step"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        step = None
    if type(step) is not int or not 0 <= step < max_iters:
        raise ShardError(
            f"{path.name} is damaged: nobody knows where this run may go on. Cancel it and test "
            "again."
        )
    return step


def main(argv: Sequence[str] | None = None) -> int:
    try:
        settings = Settings.read(sys.argv[1:] if argv is None else argv)
        seed = int(os.environ.get("HARNESS_SEED", "42"))
        shards = Shards(Path(os.environ["HARNESS_DATA"]), seed, settings)
        feeder = Feeder(settings, shards, Path(os.environ["HARNESS_OUT"]) / "served.json")
    except ShardError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    feeder.serve(channel.Listener.from_environment())
    return 0


if __name__ == "__main__":
    sys.exit(main())
