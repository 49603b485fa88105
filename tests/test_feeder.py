"""The feeder: real processes, the batches of the shards, and nothing twice or out of turn."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from training import FOLDER, SMALL, Trainer, edited, load, make_data, metrics, write_split

import channel
import feeder
import shards

data = load().data

ARGUMENTS = (
    "--block_size=16", "--vocab_size=64", "--global_batch=12", "--micro_batch=3",
    "--eval_windows=100", "--max_iters=5", "--eval_interval=2", "--save_interval=2",
)  # fmt: skip
SIZES = types.SimpleNamespace(
    block_size=16, vocab_size=64, global_batch=12, micro_batch=3, eval_windows=100
)


class Fed:
    """A feeder process over a folder of shards, on a socket of its own."""

    def __init__(self, folder: Path, arguments: tuple[str, ...] = ARGUMENTS) -> None:
        self.socket = folder / "socket"
        self.lines: list[channel.Connection] = []
        (folder / "fed").mkdir(exist_ok=True)
        listener = channel.Listener.bind(self.socket)
        number = listener.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "feeder", *arguments],
            env={
                **os.environ,
                "PYTHONPATH": f"{FOLDER}:{Path(channel.__file__).parent}",
                "HARNESS_DATA": str(folder / "data"),
                "HARNESS_OUT": str(folder / "fed"),
                "HARNESS_SEED": "42",
                channel.LISTEN: str(number),
            },
            pass_fds=[number],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        listener.close()

    def connect(self) -> channel.Connection:
        os.environ[channel.CHANNEL] = str(self.socket)
        self.lines.append(channel.connect())
        return self.lines[-1]

    def greet(self, hello: dict[str, Any]) -> tuple[channel.Connection, dict[str, Any]]:
        """A new connection, and the answer to its first message."""
        line = self.connect()
        line.send(hello)
        answer, memory = line.receive_with_fd()
        os.close(memory)
        return line, answer

    def line(self, rank: int = 0, world: int = 1, start: int = 0) -> channel.Connection:
        """The line of a rank that is welcome."""
        line, answer = self.greet({"rank": rank, "world": world, "start": start})
        assert answer == {"rows": 3, "span": 17}
        return line

    def refusal(self, rank: int = 0, world: int = 1, start: int = 0) -> str | None:
        """Why a rank gets nothing, None if it does."""
        line, answer = self.greet({"rank": rank, "world": world, "start": start})
        line.close()
        return answer.get("refused")

    def limit_files(self, count: int) -> None:
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (count, count))

    def record(self) -> dict[str, Any] | None:
        path = self.socket.parent / "fed/served.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()
        if self.process.stderr is not None:
            self.process.stderr.close()
        for line in self.lines:
            line.close()


Feed = Callable[..., Fed]


@pytest.fixture
def fed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Feed]:
    made: list[Fed] = []
    make_data(tmp_path / "data")
    monkeypatch.setenv(channel.CHANNEL, "")  # put back after the test

    def start(arguments: tuple[str, ...] = ARGUMENTS) -> Fed:
        made.append(Fed(tmp_path, arguments))
        os.environ[channel.CHANNEL] = str(made[-1].socket)
        return made[-1]

    yield start
    for one in made:
        one.close()


def ask(line: channel.Connection, kind: str, step: int) -> dict[str, Any]:
    line.send({"next": [kind, step]})
    return line.receive()


def take(line: channel.Connection, kind: str, step: int) -> int:
    """How many pieces there are of a turn, up to its end."""
    count = 0
    while "end" not in (answer := ask(line, kind, step)):
        assert "refused" not in answer, answer
        count += 1
    return count


def same(one: Any, other: Any) -> bool:
    return one.index == other.index and torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_feeder_sends_what_the_shards_hold(fed: Feed, tmp_path: Path, world: int) -> None:
    fed()
    for rank in range(world):
        read = data.ShardFeed(tmp_path / "data", 42, SIZES, rank, world)
        sent = data.StreamFeed(SIZES, rank, world, torch.device("cpu"))
        for step in range(6):
            turns = ["monitor"] if step % 2 == 0 or step == 5 else []
            for kind in turns + (["train"] if step < 5 else []):
                pairs = list(zip(getattr(read, kind)(step), getattr(sent, kind)(step), strict=True))
                assert all(same(*pair) for pair in pairs)
                assert pairs or world > 4


@pytest.mark.parametrize(
    ("kind", "step"), [("train", 0), ("monitor", 2), ("train", 1), ("everything", 0), ("train", -1)]
)
def test_nothing_is_sent_out_of_turn(fed: Feed, kind: str, step: int) -> None:
    with closing(fed().line()) as line:
        assert ask(line, kind, step) == {"refused": "it is the turn of monitor 0."}
        with pytest.raises(channel.ChannelClosed):
            ask(line, "monitor", 0)


def test_nothing_is_sent_twice_and_nothing_beyond_the_end(fed: Feed) -> None:
    feeding = fed()
    with closing(feeding.line()) as line:
        assert take(line, "monitor", 0) == 4
        assert take(line, "train", 0) == 4
        assert "refused" in ask(line, "train", 0)
    # To come back with another line gives nothing again, wherever it says that it starts.
    assert feeding.refusal() == "rank 0 has its line already."
    assert feeding.refusal(start=2) == "the ranks of a run start alike."


def test_after_the_last_step_there_is_nothing(fed: Feed) -> None:
    with closing(fed().line()) as line:
        for step in range(6):
            if step % 2 == 0 or step == 5:
                take(line, "monitor", step)
            if step < 5:
                take(line, "train", step)
        with pytest.raises(channel.ChannelClosed):
            ask(line, "train", 5)


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        ({"rank": 0, "world": 1, "start": 2}, "this run cannot start at step 2."),
        ({"rank": 1, "world": 1, "start": 0}, "there is no rank 1 of 1."),
        ({"rank": -1, "world": 1, "start": 0}, "rank, world and start must be whole numbers."),
        ({"rank": True, "world": 2, "start": 0}, "rank, world and start must be whole numbers."),
        ({}, "rank, world and start must be whole numbers."),
        ({"rank": 0, "world": 10**30, "start": 0}, f"there is no rank 0 of {10**30}."),
        ({"rank": 0, "world": 33, "start": 0}, "there is no rank 0 of 33."),
    ],
)
def test_who_gets_nothing(fed: Feed, hello: dict[str, Any], reason: str) -> None:
    _, answer = fed().greet(hello)
    assert answer == {"refused": reason}


def test_the_ranks_of_a_run_start_alike(fed: Feed) -> None:
    feeding = fed()
    feeding.line(rank=0, world=2)
    assert feeding.refusal(rank=1, world=3) == "the ranks of a run start alike."


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00",
        b"\xff\xff\xff\xff",
        b"\x03\x00\x00\x00abc",
        b"\x02\x00\x00\x00[]",
        b"\x09\x00\x00\x00" + b'{"rank":}',
    ],
)
def test_garbage_harms_nobody_else(fed: Feed, garbage: bytes) -> None:
    feeding = fed()
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(feeding.socket))
        raw.sendall(garbage)
    with closing(feeding.line()) as line:
        assert ask(line, "monitor", 0)["rows"] == 3
    assert feeding.process.poll() is None


def gone(line: channel.Connection) -> bool:
    """Whether the feeder has closed the line."""
    try:
        line.send({})
        line.receive()
    except channel.ChannelClosed:
        return True
    return False


@pytest.mark.parametrize(("files", "count"), [(64, 90), (20, 60)])
def test_idle_connections_harm_nobody_else(fed: Feed, files: int, count: int) -> None:
    """More than there may be, and with 20 files more than it can even accept."""
    feeding = fed()
    with closing(feeding.line(rank=0, world=2)) as first:
        feeding.limit_files(files)
        idle = [feeding.connect() for _ in range(count)]
        time.sleep(0.3)
        assert ask(first, "monitor", 0)["rows"] == 3
        if files == 64:
            assert sum(map(gone, idle[feeder.MOST_LINES - 1 :])) == 91 - feeder.MOST_LINES
        for line in idle:
            line.close()
        time.sleep(0.3)
        with closing(feeding.line(rank=1, world=2)) as second:
            assert ask(second, "monitor", 0)["rows"] == 3
    assert feeding.process.poll() is None


def test_connections_that_end_leave_nothing_open(fed: Feed) -> None:
    feeding = fed()
    feeding.line()
    feeding.limit_files(64)
    for _ in range(100):
        assert feeding.refusal() == "rank 0 has its line already."
    time.sleep(0.2)
    assert len(os.listdir(f"/proc/{feeding.process.pid}/fd")) < 20


@pytest.mark.parametrize("first", [True, False])
def test_a_request_is_short(fed: Feed, first: bool) -> None:
    feeding = fed()
    line = feeding.connect() if first else feeding.line()
    request = {"rank": 0, "world": 1, "start": 0} if first else {"next": ["monitor", 0]}
    line.send({**request, "more": " " * feeder.REQUEST_BYTES})
    assert gone(line)


# ---- Runs that were interrupted ------------------------------------------------------------------


def run_to(line: channel.Connection, last: int, first: int = 0) -> None:
    """Takes all tokens of the steps first..last, as training with ARGUMENTS does."""
    for step in range(first, last + 1):
        if step % 2 == 0:
            take(line, "monitor", step)
        take(line, "train", step)


def test_an_interrupted_run_goes_on_where_it_can_have_saved(fed: Feed) -> None:
    first = fed()
    with closing(first.line()) as line:
        run_to(line, last=3)
    first.close()
    assert first.record() == {"step": 3}
    again = fed()
    assert again.refusal(start=1) == "this run cannot start at step 1."
    assert again.refusal(start=3) == "this run cannot start at step 3."
    with closing(again.line(start=4)) as line:
        run_to(line, first=4, last=4)


def test_it_starts_alike_for_ranks_that_come_late(fed: Feed) -> None:
    """What the first rank asks for by then changes nothing for the second."""
    feeding = fed()
    with closing(feeding.line(rank=0, world=2)) as first:
        run_to(first, last=4)
        with closing(feeding.line(rank=1, world=2)) as second:
            run_to(second, last=4)


def test_a_step_is_on_record_only_when_it_is_asked_for(fed: Feed) -> None:
    """Interrupted while step 0 or an evaluation is computed: no later save is expected of it."""
    feeding = fed()
    with closing(feeding.line()) as line:
        take(line, "monitor", 0)
        take(line, "train", 0)
        time.sleep(0.1)
        assert feeding.record() is None
        ask(line, "train", 1)
        assert feeding.record() == {"step": 1}
    feeding.close()
    again = fed()
    with closing(again.line(start=0)) as line:
        run_to(line, last=4)


def test_starting_again_and_again_does_not_lead_back(fed: Feed) -> None:
    """No start lowers the record: data comes twice from the last save on, or from the beginning."""
    arguments = (*(a for a in ARGUMENTS if "max_iters" not in a), "--max_iters=9")
    first = fed(arguments)
    with closing(first.line()) as line:
        run_to(line, last=7)
    first.close()
    for start, welcome in [(6, True), (4, False), (2, False), (0, True), (4, False), (6, True)]:
        again = fed(arguments)
        assert (again.refusal(start=start) is None) == welcome, start
        if welcome:
            again.close()
            again = fed(arguments)
            with closing(again.line(start=start)) as line:
                run_to(line, first=start, last=start)
        again.close()
        assert again.record() == {"step": 7}


def test_a_run_that_starts_over_gets_the_same_batches(fed: Feed) -> None:
    def batches() -> list[Any]:
        feeding = fed()
        sent = data.StreamFeed(SIZES, 0, 1, torch.device("cpu"))
        found = [*sent.monitor(0), *sent.train(0), *sent.train(1)]
        feeding.close()
        return found

    one, other = batches(), batches()
    assert len(one) == 12
    assert all(same(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("asked", "interval", "starts"),
    [
        (None, 10, {0}),
        (0, 10, {0}),
        (8, 10, {0}),
        (9, 10, {0, 10}),  # asked for step 9: update 10 can be done and saved
        (10, 10, {0, 10}),  # another rank may be about to save it
        (11, 10, {0, 10}),
        (18, 10, {0, 10}),
        (19, 10, {0, 10, 20}),
        (20, 10, {0, 10, 20}),
        (21, 10, {0, 20}),
        (35, 10, {0, 30}),
        (5, 1, {0, 4, 5, 6}),
        (0, 1, {0, 1}),
        (35, 0, {0}),
    ],
)
def test_where_a_run_may_start(asked: int | None, interval: int, starts: set[int]) -> None:
    assert feeder.possible_starts(asked, interval) == starts


@pytest.mark.parametrize(("interval", "lag"), [(1, 0), (1, 1), (2, 0), (2, 1), (3, 1), (7, 0)])
def test_every_place_that_training_leaves_is_welcome(interval: int, lag: int) -> None:
    """Steps of the training loop, interrupted after each: the first rank is `lag` behind."""
    asked, saves = None, {0}
    for step in range(40):
        asked = step
        # Whoever asks for `step` has done `step` updates; the first rank's last may still miss.
        saves |= {n for n in range(1, step + 1 - lag) if n % interval == 0}
        assert max(saves) in feeder.possible_starts(asked, interval)
        saves |= {n for n in range(1, step + 2) if n % interval == 0}
        assert max(saves) in feeder.possible_starts(asked, interval)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '{"step": "7"}', '{"step": true}', '{"step": -1}', '{"step": 5}', "\xff"],
)
def test_a_damaged_record_is_said_in_one_line(fed: Feed, tmp_path: Path, text: str) -> None:
    (tmp_path / "fed").mkdir()
    (tmp_path / "fed/served.json").write_text(text, encoding="latin-1")
    feeding = fed()
    _, said = feeding.process.communicate(timeout=20)
    assert feeding.process.returncode == 1
    assert said == (
        "ERROR: served.json is damaged: nobody knows where this run may go on. Cancel it and test "
        "again.\n"
    )


def test_a_record_that_cannot_be_written_ends_the_feeder(fed: Feed, tmp_path: Path) -> None:
    feeding = fed()
    with closing(feeding.line()) as line:
        run_to(line, last=0)
        (tmp_path / "fed/served.json.tmp").mkdir()
        with pytest.raises(channel.ChannelClosed):
            ask(line, "train", 1)
    _, said = feeding.process.communicate(timeout=20)
    assert said.startswith("ERROR: served.json cannot be written (")
    assert said.count("\n") == 1


# ---- What is refused at the start ----------------------------------------------------------------


def test_the_defaults_are_the_training_file_s_own() -> None:
    defaults = load().TrainConfig()
    for name, value in vars(feeder.Settings.read([])).items():
        assert value == getattr(defaults, name), name


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("--colour=1", "unknown '--colour=1'"),
        ("max_iters=1", "unknown 'max_iters=1'"),
        ("--max_iters", "unknown '--max_iters'"),
        ("--max_iters=many", "--max_iters takes a whole number, not 'many'"),
        ("--micro_batch=0", "micro_batch is 0"),
    ],
)
def test_bad_settings(argument: str, reason: str) -> None:
    with pytest.raises(shards.ShardError, match=re.escape(reason)):
        feeder.Settings.read([argument])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: (f / "monitor-00000.bin").unlink(), "ERROR: no data: monitor-00000.bin is mi"),
        (lambda f: (f / "meta.json").write_text("{"), "ERROR: meta.json is not JSON"),
    ],
)
def test_a_broken_folder_is_said_at_once(
    fed: Feed, tmp_path: Path, spoil: Callable[[Path], Any], reason: str
) -> None:
    spoil(tmp_path / "data")
    feeding = fed()
    _, said = feeding.process.communicate(timeout=20)
    assert feeding.process.returncode == 1
    assert said.startswith(reason)


def test_a_token_beyond_the_vocabulary_ends_the_feeder(fed: Feed, tmp_path: Path) -> None:
    write_split(tmp_path / "data", "train", [64] * 2000)
    feeding = fed()
    with closing(feeding.line()) as line:
        take(line, "monitor", 0)
        with pytest.raises(channel.ChannelClosed):
            ask(line, "train", 0)
    assert feeding.process.wait(10) == 1


@pytest.mark.parametrize("file", ["train-00000.bin", "monitor-00000.bin"])
def test_a_shard_with_another_content_ends_the_feeder(fed: Feed, tmp_path: Path, file: str) -> None:
    path = tmp_path / "data" / file
    raw = bytearray(path.read_bytes())
    raw[7] ^= 1
    path.write_bytes(raw)
    feeding = fed()
    _, said = feeding.process.communicate(timeout=20)
    assert feeding.process.returncode == 1
    assert said == (
        f"ERROR: {file} is not the shard that meta.json describes: its sha256 differs. "
        f"{shards.HOW_TO_PREPARE}\n"
    )


def test_a_run_that_is_faster_than_the_check_does_not_end(fed: Feed, tmp_path: Path) -> None:
    """Its five steps take milliseconds, a shard of 2 GiB some seconds."""
    large, folder = 1 << 30, tmp_path / "data"
    with (folder / "monitor-00001.bin").open("wb") as file:
        file.truncate(2 * large)  # takes no room on the disk
    meta = json.loads((folder / "meta.json").read_text())
    shard = {"file": "monitor-00001.bin", "tokens": large, "sha256": "0" * 64}
    meta["splits"]["monitor"]["shards"].append(shard)
    (folder / "meta.json").write_text(json.dumps(meta))
    feeding = fed((*(a for a in ARGUMENTS if "eval_windows" not in a), "--eval_windows=5"))
    line = feeding.line()
    with pytest.raises(channel.ChannelClosed):
        run_to(line, last=4)
    _, said = feeding.process.communicate(timeout=20)
    assert said.startswith("ERROR: monitor-00001.bin is not the shard that meta.json describes")


def test_it_is_ready_long_before_training_is(fed: Feed) -> None:
    began = time.perf_counter()
    with closing(fed().line()) as line:
        ask(line, "monitor", 0)
    assert time.perf_counter() - began < 5
    assert (
        "torch"
        not in subprocess.run(
            [sys.executable, "-c", "import sys, feeder; print(*sys.modules)"],
            env={**os.environ, "PYTHONPATH": f"{FOLDER}:{Path(channel.__file__).parent}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    )


# ---- With training -----------------------------------------------------------------------------


@pytest.fixture
def trainer(
    fed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Trainer:
    return Trainer(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_training_comes_to_the_same_losses(
    fed: Feed, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    run = trainer.run if world == 1 else lambda *args, **kw: trainer.run_ranks(2, *args, **kw)
    monkeypatch.delenv(channel.CHANNEL)
    read = metrics(run(out="read"))
    feeding = fed(tuple(SMALL))
    monkeypatch.setenv(channel.CHANNEL, str(feeding.socket))
    environment = trainer.environment
    monkeypatch.setattr(
        trainer,
        "environment",
        lambda out: {k: v for k, v in environment(out).items() if k != "HARNESS_DATA"},
    )
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr("training.FOLDER", f"{FOLDER}:{Path(channel.__file__).parent}")
    assert metrics(run(out="sent")) == read
    assert len(read) > 1


def test_a_feeder_that_is_gone_ends_training_in_one_line(
    fed: Feed, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeding = fed(tuple(SMALL))
    feeding.close()
    monkeypatch.setenv(channel.CHANNEL, str(feeding.socket))
    assert trainer.fail().startswith("ERROR: the feeder of tokens is gone (")


@pytest.mark.parametrize("save_interval", [2, 0])
def test_training_that_is_interrupted_goes_on_with_the_feeder(
    fed: Feed, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, save_interval: int
) -> None:
    """With a place to go on from or without one, it comes to the losses of a run in one piece."""
    setting = f"--save_interval={save_interval}"
    monkeypatch.delenv(channel.CHANNEL)
    whole = metrics(trainer.run(setting, out="whole"))
    arguments = (*(a for a in SMALL if "save_interval" not in a), setting)
    feeding = fed(arguments)
    monkeypatch.setattr("training.FOLDER", f"{FOLDER}:{Path(channel.__file__).parent}")
    line = "        if save or measure:\n            report.start_clock(step + 1)\n"
    file = edited(
        trainer.folder / "cut", (line, line + "        if step == 4:\n            sys.exit(1)\n")
    )
    monkeypatch.setenv(channel.CHANNEL, str(feeding.socket))
    with pytest.raises(SystemExit):
        trainer.run(setting, file=file, out="cut")
    feeding.close()
    again = fed(arguments)
    monkeypatch.setenv(channel.CHANNEL, str(again.socket))
    rest = metrics(trainer.run(setting, out="cut"))
    assert rest == {step: value for step, value in whole.items() if step >= 2 * save_interval}


class Lying(threading.Thread):
    """A feeder that greets as it should, and then sends something else."""

    def __init__(self, listener: channel.Listener, welcome: Any, answer: bytes) -> None:
        super().__init__()
        self._listener, self._welcome, self._answer = listener, welcome, answer
        self.start()

    def run(self) -> None:
        taken, _ = self._listener._socket.accept()
        line = channel.Connection(taken)
        memory = channel.Memory.create(3 * 17 * 2)
        with taken, contextlib.suppress(channel.ChannelClosed):
            line.receive()
            line.send(self._welcome, [memory.fd])
            if self._welcome == WELCOME:
                line.receive()
                taken.sendall(self._answer)
        memory.close()


def message(text: str) -> bytes:
    return len(text).to_bytes(4, "little") + text.encode()


WELCOME = {"rows": 3, "span": 17}


@pytest.mark.parametrize(
    ("welcome", "answer", "reason"),
    [
        (WELCOME, message('{"index": 1, "rows": 3}'), "the feeder sent {'index': 1, 'rows': 3} fo"),
        (WELCOME, message('{"index": 0, "rows": 2}'), "the feeder sent {'index': 0, 'rows': 2} fo"),
        (WELCOME, message('{"index": 0, "rows": 4}'), "the feeder sent {'index': 0, 'rows': 4} fo"),
        (WELCOME, message('{"index": 0, "rows": [3]}'), "the feeder sent {'index': 0, 'rows': [3"),
        (WELCOME, message("{}"), "the feeder sent {} for micro-batch 0 of train 0."),
        (WELCOME, message('{"end": true}'), "the feeder sent {'end': True} for micro-batch 0 of"),
        (WELCOME, message('{"refused": "no."}'), "the feeder gives no tokens: no."),
        (WELCOME, message("abc"), "the feeder of tokens makes no sense (a message that is no JSO"),
        (WELCOME, b"", "the feeder of tokens is gone ("),
        ({"rows": 3, "span": 18}, b"", "the feeder has {'rows': 3, 'span': 18}, not 3 rows of 17."),
        ({"refused": "no."}, b"", "the feeder gives no tokens: no."),
    ],
)
def test_what_training_does_not_take_from_a_feeder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, welcome: Any, answer: bytes, reason: str
) -> None:
    listener = channel.Listener.bind(tmp_path / "socket")
    monkeypatch.setenv(channel.CHANNEL, str(tmp_path / "socket"))
    lying = Lying(listener, welcome, answer)
    feed = data.StreamFeed(SIZES, 0, 1, torch.device("cpu"))
    with pytest.raises(data.StageError) as error:
        list(feed.train(0))
    assert str(error.value).startswith(reason)
    lying.join()
    listener.close()


def test_no_feeder_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(channel.CHANNEL, str(tmp_path / "socket"))
    with pytest.raises(data.StageError, match=r"^the feeder of tokens is gone \("):
        list(data.StreamFeed(SIZES, 0, 1, torch.device("cpu")).train(0))
