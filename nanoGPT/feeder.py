"""Streams the tokens of a training run to its ranks: the only process that holds the shards.

    python -P -m feeder --key=value ...          with the settings of the run

Takes the listening socket that it inherits (`channel.Listener`), reads train.bin and monitor.bin in
HARNESS_DATA, and keeps served.json in HARNESS_OUT. What a rank gets is known in advance: from its
first step on, before each evaluation its monitor windows, and for each step its micro-batches. It
asks for one piece after the other; each is sent once.

Guaranteed: a rank gets no batch twice in one attempt, none out of turn, none of another rank, and
none beyond the last step, whatever it sends. A run that was interrupted may start again only where
it can have saved (`may_start_at`). Not guaranteed: that the other side trains on what it gets only
once. It may keep it; the clock limits what that is worth.

Knows no torch: it must be ready long before training is, and runs beside it all the time.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import channel
from shards import Rows, ShardError, Shards

TRAINING_FILE = Path(__file__).with_name("custom_pretrain.py")
"""The unedited file, whose classes hold the settings' defaults."""
CLASSES = ("GPTConfig", "TrainConfig")
HELLO = ("rank", "world", "start")
MOST_RANKS = 1024


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


def may_start_at(start: int, begun: int | None, save_interval: int) -> bool:
    """Whether a run whose step `begun` was the last to get tokens can go on at step `start`.

    Training saves after every `save_interval` updates, and step `begun` is update begun + 1: the
    last save can be that of the last multiple up to there. One that was interrupted in the middle
    leaves the one before it, and where there is none, the run starts over.
    """
    if begun is None or save_interval == 0:
        return start == 0
    last = (begun + 1) // save_interval * save_interval
    return start in (last, max(0, last - save_interval))


class Feeder:
    """Serves the ranks of one run, each on a thread of its own."""

    def __init__(self, settings: Settings, shards: Shards, record: Path) -> None:
        self._settings, self._shards, self._record = settings, shards, record
        self._lock = threading.Lock()
        self._begun = _read_record(record)
        """The last step that got tokens in an earlier start of this run."""
        self._now = -1
        self._run: tuple[int, int] | None = None
        """world and start of this start of the run: the same for all ranks"""
        self._ranks: set[int] = set()

    def serve(self, listener: channel.Listener) -> None:
        """Takes connections until the process is ended."""
        while True:
            line = listener.accept()
            threading.Thread(target=self._serve_line, args=(line,), daemon=True).start()

    def _serve_line(self, line: channel.Connection) -> None:
        try:
            hello = line.receive()
            refusal = self._admit(hello)
            if refusal is not None:
                # It asks for its first piece only after this, and is told then.
                memory = channel.Memory.create(1)
                line.send({"rows": 0, "span": 0}, [memory.fd])
                line.receive()
                line.send({"refused": refusal})
                return
            rows, span = self._settings.micro_batch, self._settings.block_size + 1
            memory = channel.Memory.create(rows * span * np.dtype(np.uint16).itemsize)
            line.send({"rows": rows, "span": span}, [memory.fd])
            self._stream(line, memory, hello["rank"], hello["world"], hello["start"])
        except (channel.ChannelClosed, channel.ProtocolError):
            return  # its own doing, and its own loss
        finally:
            line.close()

    def _admit(self, hello: dict[str, Any]) -> str | None:
        """Why a rank gets nothing; None if it is welcome."""
        rank, world, start = (hello.get(name) for name in HELLO)
        if not all(type(n) is int and n >= 0 for n in (rank, world, start)):
            return "rank, world and start must be whole numbers."
        assert isinstance(rank, int)
        assert isinstance(world, int)
        assert isinstance(start, int)
        if not rank < world <= MOST_RANKS:
            return f"there is no rank {rank} of {world}."
        with self._lock:
            if self._run not in (None, (world, start)):
                return "the ranks of a run start alike."
            if rank in self._ranks:
                return f"rank {rank} has its line already."
            if not may_start_at(start, self._begun, self._settings.save_interval):
                return f"this run cannot start at step {start}."
            self._run = (world, start)
            self._ranks.add(rank)
        return None

    def _stream(
        self, line: channel.Connection, memory: channel.Memory, rank: int, world: int, start: int
    ) -> None:
        for kind, step in self._turns(start):
            if kind == "train":
                self._note(step)
                pieces = self._shards.train(step, rank, world)
            else:
                pieces = self._shards.monitor(rank, world)
            for piece in (*_each(pieces), None):
                if line.receive().get("next") != [kind, step]:
                    line.send({"refused": f"it is the turn of {kind} {step}."})
                    return
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
        """Keeps on record that `step` gets tokens, before it does."""
        with self._lock:
            if step <= self._now:
                return
            self._now = step
            temporary = self._record.with_name(self._record.name + ".tmp")
            temporary.write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")
            os.replace(temporary, self._record)


def _each(pieces: Iterator[Rows]) -> Iterator[Rows]:
    """The pieces; a token that the model does not know is this folder's fault."""
    try:
        yield from pieces
    except ShardError as error:
        print(f"ERROR: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # from any thread


def _read_record(path: Path) -> int | None:
    if not path.is_file():
        return None
    return int(json.loads(path.read_text(encoding="utf-8"))["step"])


def main(argv: Sequence[str] | None = None) -> int:
    try:
        settings = Settings.read(sys.argv[1:] if argv is None else argv)
        seed = int(os.environ.get("HARNESS_SEED", "42"))
        shards = Shards(Path(os.environ["HARNESS_DATA"]), seed, settings)
    except ShardError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    record = Path(os.environ["HARNESS_OUT"]) / "served.json"
    Feeder(settings, shards, record).serve(channel.Listener.from_environment())
    return 0


if __name__ == "__main__":
    sys.exit(main())
