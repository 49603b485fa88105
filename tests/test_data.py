"""The order of sequences, and what is said of data that does not fit."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training import load, make_data, write_split

import shards

data = load().data


SIZES = {
    "block_size": 16,
    "vocab_size": 64,
    "global_batch": 12,
    "micro_batch": 3,
    "eval_windows": 100,
}


def feed(folder: Path, rank: int = 0, world: int = 1, **changes: int):
    sizes = types.SimpleNamespace(**(SIZES | changes))
    return data.ShardFeed(folder, 1, sizes, rank, world)


def rows(batches: Any) -> dict[int, torch.Tensor]:
    return {batch.index: batch.inputs for batch in batches}


def test_targets_follow_inputs(tmp_path: Path):
    for batch in feed(make_data(tmp_path)).train(5):
        assert batch.inputs.shape == batch.targets.shape == (3, 16)
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("part", ["train", "monitor"])
def test_ranks_share_what_one_rank_reads(tmp_path: Path, world: int, part: str):
    folder = make_data(tmp_path)

    def read(**place: int) -> dict[int, torch.Tensor]:
        own = feed(folder, **place)
        return rows(own.train(7) if part == "train" else own.monitor(7))

    alone = read()
    shares = [read(rank=rank, world=world) for rank in range(world)]
    assert sorted(i for share in shares for i in share) == sorted(alone)
    for share in shares:
        for index, inputs in share.items():
            assert torch.equal(inputs, alone[index])


def test_a_step_is_the_same_whatever_was_read_before(tmp_path: Path):
    fresh, used = feed(make_data(tmp_path)), feed(tmp_path)
    for step in range(3):
        list(used.train(step))
    list(used.monitor(3))
    one, other = rows(fresh.train(9)), rows(used.train(9))
    assert all(torch.equal(one[i], other[i]) for i in one)


def test_sequence_starts_depend_on_seed_and_step_and_fill_the_span():
    same = shards.sequence_starts(3, 4, 50, 1000)
    assert np.array_equal(same, shards.sequence_starts(3, 4, 50, 1000))
    assert np.array_equal(same[:20], shards.sequence_starts(3, 4, 20, 1000))
    assert not np.array_equal(same, shards.sequence_starts(3, 5, 50, 1000))
    assert not np.array_equal(same, shards.sequence_starts(4, 4, 50, 1000))
    assert set(shards.sequence_starts(0, 0, 500, 4)) == {0, 1, 2, 3}


def test_the_order_is_the_same_in_every_version():
    """A changed order would break comparisons between runs, and resuming."""
    assert shards.sequence_starts(42, 0, 4, 10**9).tolist() == STARTS


STARTS = [320379406, 592278910, 917231875, 533373529]


def test_monitor_windows_follow_each_other(tmp_path: Path):
    folder = make_data(tmp_path)
    tokens = np.fromfile(folder / "monitor-00000.bin", dtype="<u2").astype(np.int64)
    batches = list(feed(folder).monitor(0))
    inputs = torch.cat([b.inputs for b in batches]).flatten().numpy()
    assert len(inputs) == 12 * 16  # of 200 tokens: as many whole windows as have a next token
    assert np.array_equal(inputs, tokens[: len(inputs)])
    assert sum(len(b.inputs) for b in feed(folder, eval_windows=5).monitor(0)) == 5


def set_meta(folder: Path, text: str) -> None:
    (folder / "meta.json").write_text(text)


def cut(folder: Path, file: str, size: int) -> None:
    path = folder / file
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: (f / "meta.json").unlink(), "no data: meta.json is missing"),
        (lambda f: (f / "monitor-00000.bin").unlink(), "no data: monitor-00000.bin is missing"),
        (lambda f: set_meta(f, "{"), "meta.json is not JSON"),
        (lambda f: set_meta(f, '{"vocab_size": "64"}'), "meta.json has no whole number"),
        (lambda f: set_meta(f, '{"vocab_size": 65}'), "the data has 65 token ids, the model kno"),
        # The layout before there were numbered shards.
        (
            lambda f: set_meta(f, '{"vocab_size": 64, "splits": {"train": {"tokens": 9}}}'),
            "meta.json lists no shards of train. Prepare it with",
        ),
        (
            lambda f: cut(f, "train-00000.bin", 1800),
            "train-00000.bin holds 900 tokens where meta.json says 2000.",
        ),
        (
            lambda f: cut(f, "train-00000.bin", 3999),
            "train-00000.bin holds 1999 tokens where meta.json says 2000.",
        ),
        (
            lambda f: write_split(f, "monitor", range(16)),
            "the split monitor holds 16 tokens, a sequence needs 17.",
        ),
    ],
)
def test_unfit_data(tmp_path: Path, spoil: Any, reason: str):
    folder = make_data(tmp_path)
    spoil(folder)
    with pytest.raises(data.StageError) as error:
        feed(folder)
    assert str(error.value).startswith(reason)


def test_a_token_beyond_the_vocabulary(tmp_path: Path):
    folder = make_data(tmp_path)
    write_split(folder, "train", [64] * 2000)
    with pytest.raises(data.StageError, match="train holds token id 64, beyond the model's"):
        list(feed(folder).train(0))


@pytest.mark.parametrize("ends", [[700], [1, 3, 16, 17, 40, 1999], [0, 5, 5, 900, 2000]])
def test_where_a_shard_ends_changes_nothing(tmp_path: Path, ends: list[int]):
    """Sequences cross the ends of files, also over several of them and over empty ones."""
    whole = make_data(tmp_path / "whole")
    tokens = np.fromfile(whole / "train-00000.bin", dtype="<u2")
    pieces = make_data(tmp_path / "pieces")
    write_split(pieces, "train", *np.split(tokens, ends))
    assert len(list(pieces.glob("train-*.bin"))) == len(ends) + 1
    for step in range(20):
        one, other = rows(feed(whole).train(step)), rows(feed(pieces).train(step))
        assert len(one) == 4
        assert all(torch.equal(one[i], other[i]) for i in one)


def test_a_split_is_read_from_any_place_to_any_other(tmp_path: Path):
    write_split(tmp_path, "train", range(5), [], range(5, 6), range(6, 10))
    split = shards.Split(tmp_path, "train", shards.read_meta(tmp_path))
    assert len(split) == 10
    for start in range(10):
        for stop in range(start, 12):
            assert split.read(start, stop).tolist() == list(range(start, min(stop, 10)))


def test_a_digest_is_compared_with_the_content(tmp_path: Path):
    write_split(tmp_path, "train", range(100), range(100))
    path = tmp_path / "train-00001.bin"
    raw = bytearray(path.read_bytes())
    raw[50] ^= 1
    path.write_bytes(raw)
    good, bad = shards.Split(tmp_path, "train", shards.read_meta(tmp_path)).digests()
    shards.check_digest(*good)
    with pytest.raises(shards.ShardError, match=r"^train-00001\.bin is not the shard that meta"):
        shards.check_digest(*bad)
