"""The feeder: real processes, the batches of the shards, and nothing twice or out of turn."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training import FOLDER, SMALL, Trainer, load, make_data, metrics

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
            stderr=subprocess.PIPE,
            text=True,
        )
        listener.close()

    def line(self, rank: int = 0, world: int = 1, start: int = 0) -> channel.Connection:
        os.environ[channel.CHANNEL] = str(self.socket)
        line = channel.connect()
        self.lines.append(line)
        line.send({"rank": rank, "world": world, "start": start})
        line.receive_with_fd()
        return line

    def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()
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
        sent = data.StreamFeed(rank, world, torch.device("cpu"))
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
    assert ask(feeding.line(), "monitor", 0) == {"refused": "rank 0 has its line already."}


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
    ],
)
def test_who_gets_nothing(fed: Feed, hello: dict[str, Any], reason: str) -> None:
    fed()
    with closing(channel.connect()) as line:
        line.send(hello)
        line.receive_with_fd()
        assert ask(line, "monitor", 0) == {"refused": reason}


def test_the_ranks_of_a_run_start_alike(fed: Feed) -> None:
    feeding = fed()
    feeding.line(rank=0, world=2)
    refused = ask(feeding.line(rank=1, world=3), "monitor", 0)
    assert refused == {"refused": "the ranks of a run start alike."}


@pytest.mark.parametrize(
    "garbage", [b"", b"\x00", b"\xff\xff\xff\xff", b"\x03\x00\x00\x00abc", b"\x02\x00\x00\x00[]"]
)
def test_garbage_harms_nobody_else(fed: Feed, garbage: bytes) -> None:
    feeding = fed()
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(feeding.socket))
        raw.sendall(garbage)
    with closing(feeding.line()) as line:
        assert ask(line, "monitor", 0)["rows"] == 3
    assert feeding.process.poll() is None


def test_an_interrupted_run_goes_on_where_it_can_have_saved(fed: Feed, tmp_path: Path) -> None:
    first = fed()
    with closing(first.line()) as line:
        for step in range(4):
            if step % 2 == 0:
                take(line, "monitor", step)
            take(line, "train", step)
    first.close()
    assert json.loads((tmp_path / "fed/served.json").read_text()) == {"step": 3}
    again = fed()
    assert "refused" in ask(again.line(start=0), "monitor", 0)
    with closing(again.line(start=4)) as line:
        assert take(line, "monitor", 4) == 4
        assert take(line, "train", 4) == 4


@pytest.mark.parametrize(
    ("begun", "interval", "starts"),
    [
        (None, 10, {0}),
        (0, 10, {0}),
        (8, 10, {0}),
        (9, 10, {0, 10}),
        (15, 10, {0, 10}),
        (19, 10, {10, 20}),
        (35, 10, {20, 30}),
        (35, 0, {0}),
    ],
)
def test_where_a_run_may_start(begun: int | None, interval: int, starts: set[int]) -> None:
    assert {s for s in range(60) if feeder.may_start_at(s, begun, interval)} == starts


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
        (lambda f: (f / "monitor.bin").unlink(), "ERROR: no data: monitor.bin is missing"),
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
    np.full(2000, 64, dtype="<u2").tofile(tmp_path / "data/train.bin")
    feeding = fed()
    with closing(feeding.line()) as line:
        take(line, "monitor", 0)
        with pytest.raises(channel.ChannelClosed):
            ask(line, "train", 0)
    assert feeding.process.wait(10) == 1


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


@pytest.mark.parametrize("world", [1, 2])
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
