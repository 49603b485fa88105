"""Documents to shards: what is in which split, what is dropped, and that nothing else matters."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mirror
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared import PREPARE, shakespeare_dir

import prepare_data
from corpus.build import HELD_OUT, Division
from harness import sandbox
from shards import Split, read_meta
from tokenizer import GPT2_EOT, Vocabulary

PARTS = {"train": "run", "monitor": "run", "development": "score", "final": "score"}
SMALL = ("--any-size", "--piece-bytes", "60000", "--workers", "1")
# A tenth of the documents for each held-out split, however many documents there are.
MOST_HELD_OUT = ("--held-out", "1000000000")
TENTH = Division(int(0.1 * 2.0**64))


@pytest.fixture(scope="module")
def downloads() -> Path:
    return shakespeare_dir().parent / "downloads"


@pytest.fixture
def data(tmp_path: Path, downloads: Path) -> Path:
    """A data folder to which GPT-2's encoding was downloaded already."""
    folder = tmp_path / "data"
    (folder / "downloads").mkdir(parents=True)
    for wheel in downloads.glob("*.whl"):
        (folder / "downloads" / wheel.name).symlink_to(wheel)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror with 400 documents and the evaluation sets."""
    folder = tmp_path_factory.mktemp("mirror")
    mirror.fineweb(list(mirror.documents()[:400]), folder)
    mirror.evaluation_sets(folder)
    return folder


def prepare(dataset: str, out: Path, hub: Path, *arguments: str) -> Path:
    code = prepare_data.main(
        [dataset, *arguments, "--out", str(out), "--mirror", str(hub), *SMALL, *MOST_HELD_OUT]
    )
    assert code == 0
    return out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a refused preparation says."""
    capsys.readouterr()
    assert prepare_data.main(list(arguments)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def vocabulary(folder: Path) -> Vocabulary:
    return Vocabulary.load(folder / "score" / "vocab.json", folder / "score" / "bpe")


def texts_of(folder: Path, split: str) -> list[str]:
    """A split's documents, by its shards and the document starts beside them."""
    part = folder / PARTS[split]
    words = vocabulary(folder)
    found = []
    for shard in read_meta(part)["splits"][split]["shards"]:
        tokens = np.fromfile(part / shard["file"], dtype="<u2")
        starts = np.load(part / shard["file"].replace(".bin", ".docs.npy"))
        assert len(starts) == shard["documents"]
        for document in np.split(tokens, starts[1:]):
            assert document[-1] == GPT2_EOT
            assert GPT2_EOT not in document[:-1]
            found.append(words.decode(document[:-1].tolist()))
    return found


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(hub: Path, tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "downloads").mkdir()
    for wheel in downloads.glob("*.whl"):
        (folder / "downloads" / wheel.name).symlink_to(wheel)
    return prepare("fineweb", folder / "fineweb", hub)


# -----------------------------------------------------------------------------
# what comes out


def test_every_document_is_in_the_split_that_its_text_says(made: Path) -> None:
    expected: dict[str, list[str]] = {split: [] for split in PARTS}
    for text in mirror.documents()[:400]:
        expected[TENTH.split(text.encode())].append(text)
    for split in PARTS:
        assert texts_of(made, split) == expected[split]
        assert expected[split]


def test_the_split_does_not_depend_on_the_place(data: Path, tmp_path: Path, made: Path) -> None:
    mixed = list(mirror.documents()[:400])
    random.Random(1).shuffle(mixed)
    mirror.fineweb(mixed, tmp_path / "mirror", files=3)
    mirror.evaluation_sets(tmp_path / "mirror")
    other = prepare("fineweb", data / "fineweb", tmp_path / "mirror")
    for split in PARTS:
        assert sorted(texts_of(other, split)) == sorted(texts_of(made, split))


def test_held_out_splits_are_about_as_large_as_asked_for() -> None:
    pieces = [(pa_span(1_000_000_000),)]
    division = Division.of(pieces, 2_000_000)
    rng = np.random.default_rng(0)
    found = [division.split(rng.bytes(8)) for _ in range(30_000)]
    for split in HELD_OUT:
        # of 227M tokens 2M, so 0.88% of the documents
        assert 0.006 < found.count(split) / len(found) < 0.012


def pa_span(size: int) -> Any:
    from corpus.documents import Span

    return Span("x.parquet", 0, 1, size)


def test_meta_and_manifest_tell_of_every_file(made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    digest = hashlib.sha256((made / "manifest.json").read_bytes()).hexdigest()
    own = digests(made)
    for part in ("run", "score"):
        meta = json.loads((made / part / "meta.json").read_text())
        assert meta["manifest"] == digest
        assert (meta["vocab_size"], meta["eot"]) == (50257, GPT2_EOT)
        for name, split in meta["splits"].items():
            assert PARTS[name] == part
            assert split["tokens"] == len(Split(made / part, name, meta))
            for shard in split["shards"]:
                assert own[f"{part}/{shard['file']}"] == shard["sha256"]
    named = {name: said["sha256"] for name, said in manifest["files"].items()}
    assert named == {k: v for k, v in own.items() if not k.endswith(("meta.json", "manifest.json"))}
    assert len(manifest["splits"]["train"]["shards"]) > 3  # or nothing was cut
    source = manifest["sources"][0]
    assert source["repository"] == "HuggingFaceFW/fineweb"
    assert "ODC-By" in source["licence"]
    assert [f["name"] for f in source["files"]] == [
        "sample/10BT/000_00000.parquet",
        "sample/10BT/001_00000.parquet",
    ]
    assert manifest["documents"]["documents"] == 400


def test_training_may_read_nothing_that_is_scored(made: Path) -> None:
    assert {path.name.split("-")[0] for path in (made / "run").iterdir()} == {
        "train",
        "monitor",
        "meta.json",
    }
    assert "texts" not in json.loads((made / "run" / "meta.json").read_text())


def test_a_complete_folder_is_left_alone(made: Path, hub: Path, capsys: Any) -> None:
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    (made.parent / ".fineweb.work" / "old-1").mkdir(parents=True)  # killed at the very end
    prepare("fineweb", made, hub)
    assert capsys.readouterr().out.endswith("is complete\n")
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*")} == before
    assert sorted(p.name for p in made.parent.iterdir()) == ["downloads", "fineweb"]


# -----------------------------------------------------------------------------
# interruptions, workers


def start(out: Path, hub: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PREPARE), "fineweb", "--out", str(out), "--mirror", str(hub)]
    return subprocess.Popen(
        [*command, *SMALL, *MOST_HELD_OUT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_killed_and_started_again_with_other_workers_it_comes_to_the_same(
    data: Path, hub: Path, made: Path
) -> None:
    out = data / "fineweb"
    records = data / ".fineweb.work" / "pieces"
    first = start(out, hub, "--workers", "2")
    deadline = time.monotonic() + 100
    while not list(records.glob("*.json")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    time.sleep(0.5)  # its workers end with it
    done = {path.name: path.stat().st_mtime_ns for path in records.glob("*.json")}
    pieces = read_meta(made / "run")["splits"]["train"]["shards"]
    assert 0 < len(done) < len(pieces)
    again = start(out, hub, "--workers", "3")
    said, errors = again.communicate(timeout=100)
    assert again.returncode == 0, errors
    assert f"going on: {len(done)} of " in said
    assert digests(out) == digests(made)
    assert sorted(p.name for p in data.iterdir()) == ["downloads", "fineweb"]


def test_what_another_plan_left_is_not_used(data: Path, hub: Path, made: Path) -> None:
    stale = data / ".fineweb.work" / "pieces"
    stale.mkdir(parents=True)
    (stale / "00000.json").write_text('{"shard": {"tokens": 0}, "near_duplicates": 0}')
    (data / ".fineweb.work" / "plan.json").write_text('{"version": 0}')
    assert digests(prepare("fineweb", data / "fineweb", hub)) == digests(made)


def test_two_at_once_are_refused(data: Path, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    (data / ".fineweb.work").mkdir()
    with (data / ".fineweb.work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        line = refusal(
            capsys, "fineweb", "--out", str(data / "fineweb"), "--mirror", str(hub), *SMALL
        )
    assert line == f"ERROR: another process is making {data / 'fineweb'}; wait for it"


# -----------------------------------------------------------------------------
# near-duplicates


def every_fortieth_word_changed(text: str) -> str:
    words = text.split(" ")
    words[::40] = ["zounds"] * len(words[::40])
    return " ".join(words)


NEAR: dict[str, Callable[[str], str]] = {
    "edited": every_fortieth_word_changed,
    "set in capitals, without stops": lambda t: t.upper().replace(",", "").replace(".", " "),
    "with more around it": lambda t: f"{mirror.documents()[900]}\n{t}\n{mirror.documents()[901]}",
    "half of it": lambda t: t[: len(t) // 2],
}
FAR: dict[str, Callable[[str], str]] = {
    "a line quoted": lambda t: mirror.documents()[902] + "\n" + t.split("\n")[3],
    "the same words in another order": lambda t: " ".join(sorted(t.split())),
}


def test_near_duplicates_of_held_out_documents_are_dropped_and_others_kept(
    data: Path, tmp_path: Path, made: Path
) -> None:
    near, far = [], []
    for split in HELD_OUT:
        text = texts_of(made, split)[0]
        near += [change(text) for change in NEAR.values()]
        far += [change(text) for change in FAR.values()]
    # Only what would be trained on can be dropped from training.
    near = [text for text in near if TENTH.split(text.encode()) == "train"]
    far = [text for text in far if TENTH.split(text.encode()) == "train"]
    assert len(near) >= 6
    assert len(far) >= 3
    planted = list(mirror.documents()[:400])
    for number, text in enumerate([*near, *far]):
        planted.insert(number * 20, text)
    mirror.fineweb(planted, tmp_path / "mirror")
    mirror.evaluation_sets(tmp_path / "mirror")
    out = prepare("fineweb", data / "fineweb", tmp_path / "mirror")
    trained = texts_of(out, "train")
    assert not set(near) & set(trained)
    assert set(far) <= set(trained)
    assert set(texts_of(made, "train")) <= set(trained)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["duplicates"]["dropped_from_train"] == len(near)
    assert manifest["duplicates"]["shingle_words"] == 8


def test_texts_of_the_evaluation_sets_are_not_trained_on(
    data: Path, tmp_path: Path, made: Path
) -> None:
    folder = tmp_path / "mirror"
    mirror.evaluation_sets(folder)
    lines = (folder / "EleutherAI/lambada_openai/data/lambada_test.jsonl").read_text().splitlines()
    page = (
        pq.read_table(
            folder / "EleutherAI/wikitext_document_level/wikitext-2-raw-v1/"
            "test-00000-of-00001.parquet"
        )
        .column("page")[0]
        .as_py()
    )
    around = mirror.documents()[910:914]
    leaks = [
        f"{around[0]} {json.loads(lines[0])['text']} {around[1]}",
        f"{around[2]} {page.replace(' @-@ ', '-').replace(' , ', ', ')}",
    ]
    for number in range(2):  # any word will do that makes it a training document
        while TENTH.split(leaks[number].encode()) != "train":
            leaks[number] += " indeed"
    mirror.fineweb([*mirror.documents()[:400], *leaks], folder)
    trained = texts_of(prepare("fineweb", data / "fineweb", folder), "train")
    assert trained == texts_of(made, "train")


def test_copies_among_held_out_documents_stand_once(data: Path, tmp_path: Path, made: Path) -> None:
    """An edited copy may be in another split than what it is a copy of."""
    edited = [every_fortieth_word_changed(text) for text in mirror.documents()[:400]]
    held = [
        (text, copy)
        for text, copy in zip(mirror.documents()[:400], edited, strict=True)
        if "train" not in (TENTH.split(text.encode()), TENTH.split(copy.encode()))
    ]
    assert len(held) > 10
    copies = [copy for _, copy in held]
    whole = [text for text, _ in held]
    folder = tmp_path / "mirror"
    mirror.fineweb([*mirror.documents()[:400], *copies, *whole], folder)
    mirror.evaluation_sets(folder)
    out = prepare("fineweb", data / "fineweb", folder)
    for split in HELD_OUT:
        assert texts_of(out, split) == texts_of(made, split)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["duplicates"]["dropped_from_held_out"] == 2 * len(held)


# -----------------------------------------------------------------------------
# other files


def as_parquet(texts: Sequence[str], path: Path) -> None:
    pq.write_table(pa.table({"body": list(texts), "n": range(len(texts))}), path)


def as_lines(texts: Sequence[str], path: Path) -> None:
    path.write_text("".join(json.dumps({"n": 1, "body": text}) + "\n" for text in texts))


def as_text(texts: Sequence[str], path: Path) -> None:
    path.write_text("\n<|endoftext|>\n".join(texts))


@pytest.mark.parametrize(
    ("write", "suffix"), [(as_parquet, "parquet"), (as_lines, "jsonl"), (as_text, "txt")]
)
def test_local_files_give_the_same_documents(
    data: Path, tmp_path: Path, hub: Path, write: Callable[[Sequence[str], Path], None], suffix: str
) -> None:
    texts = [*mirror.documents()[:150], "caf\u00e9 \u2014 \U0001f451 " + "na\u00efve " * 20]
    texts += ["told of <|endoftext|> in the middle of a line", "   \n", ""]
    (tmp_path / "in").mkdir()
    write(texts[:100], tmp_path / f"in/a.{suffix}")
    write(texts[100:], tmp_path / f"in/b.{suffix}")
    out = prepare("text", data / "own", hub, str(tmp_path / "in"), "--text-key", "body")
    found = [text.strip() for split in PARTS for text in texts_of(out, split)]
    assert sorted(found) == sorted(text.strip() for text in texts if text.strip())
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["documents"]["empty"] == 2
    assert [f["name"] for f in manifest["sources"][0]["files"]] == [f"a.{suffix}", f"b.{suffix}"]


def test_half_a_surrogate_pair_is_replaced(data: Path, tmp_path: Path, hub: Path) -> None:
    texts = [*mirror.documents()[:40], "half a pair: \ud83d and more words behind it"]
    as_lines(texts, tmp_path / "a.jsonl")
    out = prepare("text", data / "own", hub, str(tmp_path / "a.jsonl"), "--text-key", "body")
    found = [text for split in PARTS for text in texts_of(out, split)]
    assert "half a pair: \ufffd and more words behind it" in found
    assert len(found) == 41


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_climbmix_comes_tokenised_or_as_text(
    data: Path, tmp_path: Path, made: Path, kind: str
) -> None:
    words = vocabulary(made)
    rows = [
        {"tokens": words.encode(text), "token_count": 1, "cluster_id": 7}
        for text in mirror.documents()[:120]
    ]
    rows[3]["tokens"].append(GPT2_EOT)  # some of them end so
    tokenised = tmp_path / "mirror" / "nvidia" / "Nemotron-ClimbMix"
    tokenised.mkdir(parents=True)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tokenised / "part_0.parquet", row_group_size=9)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tokenised / "part_0.jsonl").write_text(lines)
    plain = tmp_path / "mirror" / "karpathy" / "climbmix-400b-shuffle"
    plain.mkdir(parents=True)
    table = pa.table({"text": mirror.documents()[:120]})
    pq.write_table(table, plain / "shard_00000.parquet", row_group_size=9)
    mirror.evaluation_sets(tmp_path / "mirror")
    hub = tmp_path / "mirror"
    from_ids = prepare("climbmix", data / "ids", hub, "--repository", "nvidia/Nemotron-ClimbMix")
    from_text = prepare("climbmix", data / "text", hub)
    found = [text for split in PARTS for text in texts_of(from_ids, split)]
    assert sorted(found) == sorted(mirror.documents()[:120])
    assert sorted(found) == sorted(t for split in PARTS for t in texts_of(from_text, split))
    for folder in (from_ids, from_text):
        source = json.loads((folder / "manifest.json").read_text())["sources"][0]
        assert source["licence"].startswith("CC BY-NC 4.0")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (
            "a.jsonl",
            b'{"text": "good"}\n{"text": "bad\n',
            "a.jsonl: the line at byte 17 is no JSON",
        ),
        ("a.jsonl", b'{"body": "good"}\n', "(no 'text'). Name the key with --text-key"),
        ("a.jsonl", b'{"text": 7}\n', "the line at byte 0 has no text in 'text'"),
        ("a.txt", b"\xff\xfe\x00", "a.txt cannot be read ('utf-8' codec can't decode byte 0xff"),
        ("a.parquet", b"PAR1 nothing else", "a.parquet cannot be read ("),
        ("a.csv", b"text\n", "a.csv is none of .parquet, .jsonl, .txt"),
        ("a.txt", b"", "the files hold no documents"),
        ("a.txt", b"one document", "no document came into the split"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    data: Path,
    tmp_path: Path,
    hub: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: bytes,
    reason: str,
) -> None:
    (tmp_path / file).write_bytes(content)
    given = ("--out", str(data / "own"), "--mirror", str(hub), *SMALL)
    line = refusal(capsys, "text", str(tmp_path / file), *given)
    assert line.startswith("ERROR: ")
    assert reason in line
    assert not (data / "own").exists()


def test_damage_inside_a_file_is_said_by_whichever_worker_meets_it(
    data: Path, tmp_path: Path, hub: Path
) -> None:
    folder = Path(shutil.copytree(hub, tmp_path / "mirror"))
    path = folder / "HuggingFaceFW/fineweb/sample/10BT/001_00000.parquet"
    content = bytearray(path.read_bytes())
    content[5000:9000] = bytes(4000)
    path.write_bytes(content)
    run = start(data / "fineweb", folder, "--workers", "2")
    _, said = run.communicate(timeout=100)
    assert run.returncode == 1
    assert said.startswith(f"ERROR: {path} cannot be read (")
    assert len(said.splitlines()) == 1


def test_a_file_that_changed_since_is_refused(
    data: Path, tmp_path: Path, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(hub, tmp_path / "mirror"))
    prepare("fineweb", data / "fineweb", folder)
    shutil.rmtree(data / "fineweb")
    mirror.fineweb(list(mirror.documents()[1:401]), folder)
    given = ("--out", str(data / "fineweb"), "--mirror", str(folder), *SMALL)
    line = refusal(capsys, "fineweb", *given)
    assert "is not the sample/10BT/000_00000.parquet of HuggingFaceFW/fineweb that was" in line
    assert "take HuggingFaceFW/fineweb out of" in line


def test_a_mirror_that_lacks_a_repository_says_how_to_bring_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mirror").mkdir()
    given = ("--out", str(data / "fineweb"), "--mirror", str(tmp_path / "mirror"))
    line = refusal(capsys, "fineweb", *given)
    assert "hf download HuggingFaceFW/fineweb --repo-type dataset --local-dir" in line


# A filler leaves less of the disk than is needed, and more each time until some pieces are done.
FULL_DISK = """
ln -s "$DOWNLOADS" "$DISK/downloads"
pieces() { ls "$DISK/.fineweb.work/pieces" 2> /dev/null | grep -c json; }
until [ "$(pieces)" -gt 0 ]; do
  head -c $((SIZE - ROOM)) /dev/zero > "$DISK/filler"
  "$@" && exit 9
  ROOM=$((ROOM + 150000))
done
echo "stopped after $(pieces)"
rm "$DISK/filler"
"$@" && cp -r "$DISK/fineweb" "$COPY"
"""


def test_a_full_disk_is_told_and_a_second_start_goes_on(
    data: Path, hub: Path, made: Path, tmp_path: Path
) -> None:
    program = sandbox.find()
    if isinstance(program, sandbox.Problem):
        pytest.skip(f"a small disk is made with bubblewrap: {program.reason}")
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    shards = sum(path.stat().st_size for path in made.rglob("train-*.bin"))
    whole = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    room = whole - shards + (1 << 20)  # less than is needed beside the shards
    size = room + (64 << 20)
    done = subprocess.run(
        [
            program, "--dev-bind", "/", "/", "--size", str(size), "--tmpfs", str(disk), "--",
            "bash", "-u", "-c", FULL_DISK, "-", sys.executable, str(PREPARE), "fineweb",
            "--out", str(disk / "fineweb"), "--mirror", str(hub), *SMALL, *MOST_HELD_OUT,
        ],
        env=os.environ
        | {"DOWNLOADS": str(data / "downloads"), "DISK": str(disk), "COPY": str(copy)}
        | {"SIZE": str(size), "ROOM": str(room)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    assert told
    for line in told:
        assert line.startswith("ERROR: the disk is full")
        assert line.endswith(". Make room and run this again: it goes on where it stopped")
    pieces = re.search(r"stopped after (\d+)\n", done.stdout)
    assert pieces is not None
    assert f"going on: {pieces[1]} of " in done.stdout[pieces.end() :]
    assert digests(copy) == digests(made)
