"""What commands without a server make of the state folder and of the database, and don't."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Harness

from harness.store import Store

READING = [
    ("review", "abc", "--verdict", "clean"),
    ("end", "abc"),
    ("regrade", "two-files"),
    ("confirm", "abc"),
    ("export", "abc"),
]


def modes(folder: Path) -> dict[str, str]:
    """What others may do with the folder and with what is in it, where that is anything."""
    found = [folder, *folder.rglob("*")]
    wide = {path: stat.S_IMODE(path.lstat().st_mode) & 0o077 for path in found}
    return {str(path): f"{mode:o}" for path, mode in wide.items() if mode}


@pytest.fixture
def wide_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("wide_umask")
def test_what_commands_make_in_the_state_folder_is_closed(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARNESS_DATA_DIR")
    assert harness("data", "prepare", "two-files")[0] == 0
    state = tmp_path / "state"
    assert (state / "data/points/manifest.json").is_file()
    assert modes(state) == {}
    edits = tmp_path / "edits.json"
    edits.write_text("[]")
    assert harness("check", "vetted-line", "--edits", str(edits))[0] == 0
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


@pytest.mark.usefixtures("wide_umask")
def test_a_data_folder_elsewhere_is_as_its_owner_has_it(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert harness("data", "prepare", "two-files")[0] == 0
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o755
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("args", [*READING, ("leaderboard", "two-files"), ("doctor",), ("gc",)])
def test_reading_makes_nothing(harness: Harness, tmp_path: Path, args: tuple[str, ...]) -> None:
    code, output = harness(*args)
    assert not (tmp_path / "state").exists()
    if args in READING:
        assert (code, output.count("\n")) == (2, 1)
        assert "HARNESS_STATE_DIR leads to no database: there is no file " in output
        assert str(tmp_path / "state" / "harness.sqlite3") in output
    else:
        assert code == 0, output
    if args[0] == "leaderboard":
        assert "Nothing was measured yet" in output
    if args[0] == "doctor":
        assert f"there is no file {tmp_path}/state/harness.sqlite3 yet" in output


@pytest.mark.parametrize("args", [*READING, ("leaderboard", "two-files"), ("gc",)])
def test_a_database_that_is_not_there_is_one_line(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    file = tmp_path / "other" / "journal.sqlite3"
    monkeypatch.setenv("HARNESS_DATABASE_URL", f"sqlite:///{file}")
    (tmp_path / "state" / "sessions").mkdir(parents=True)
    code, output = harness(*args)
    assert (code, output.count("\n")) == (2, 1)
    assert f"HARNESS_DATABASE_URL leads to no database: there is no file {file}" in output
    assert not file.parent.exists()


def test_export_does_not_make_tables_anew(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    Store(f"sqlite:///{tmp_path}/state/harness.sqlite3").close()
    code, output = harness("export", "abc")
    assert (code, "there is no file and no session abc" in output) == (2, True)


@pytest.mark.parametrize(
    "args",
    [
        ("leaderboard", "two-files"),
        ("data", "prepare", "two-files"),
        ("demo",),
        ("baseline", "run", "two-files", "unedited"),
        ("check", "two-files", "--edits", "edits.json"),
    ],
)
def test_a_state_folder_that_is_a_file_is_one_line(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    monkeypatch.delenv("HARNESS_DATA_DIR")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edits.json").write_text("[]")
    (tmp_path / "state").touch()
    code, output = harness(*args)
    errors = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    assert code in (1, 2)
    assert len(errors) == 1
    assert f"HARNESS_STATE_DIR {'leads to' if args[0] == 'leaderboard' else 'cannot'}" in errors[0]
    assert str(tmp_path / "state") in errors[0]


def test_task_check_names_a_state_folder_that_is_a_file(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").touch()
    code, output = harness("task", "check", "two_files")
    assert code == 1
    assert f"HARNESS_STATE_DIR cannot be used: {tmp_path / 'state'}: " in output
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "state" / "data"))
    monkeypatch.setenv("HARNESS_STATE_DIR", str(tmp_path / "elsewhere"))
    code, output = harness("data", "prepare", "two-files")
    assert (code, output) == (
        1,
        f"ERROR: HARNESS_DATA_DIR cannot be used: {tmp_path}/state/data: Not a directory\n",
    )
