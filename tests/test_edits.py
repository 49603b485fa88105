from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.edits import MAX_TEXT, EditResult, apply_edit, resolve_file, split_lines
from harness.errors import (
    AgentError,
    BadArguments,
    EditRefused,
    NotEditable,
    NoUniqueMatch,
    OutsideRegions,
)
from harness.regions import EditableFile

# Lines 1..12; 3..5 and 8..9 are editable, and so is an empty place after line 11.
LINES = ["a1", "a2", "b3", "  b4", "b5", "a6", "a7", "b8", "b9", "a10", "a11", "a12"]
ONLY = "You may only edit lines 3–5, 8–9, 12–11."


def file(name: str = "src/f.py", lines: list[str] = LINES) -> EditableFile:
    text = "".join(line + "\n" for line in lines)
    return EditableFile.from_text(name, text, [("a", 3, 5), ("b", 8, 9), ("c", 12, 11)])


def edit(**args: Any) -> tuple[str, str]:
    """The answer's first line, and the editable lines after it, `|` between two regions."""
    result = apply_edit({"src/f.py": file()}, {"filename": "src/f.py", **args})
    return result.summary, " | ".join(",".join(r.lines) for r in result.after.regions)


@pytest.mark.parametrize(
    ("args", "summary", "editable"),
    [
        (
            {"op": "replace", "start_line": 3, "end_line": 5, "content": "x"},
            "OK: Replaced lines 3..5 with 1 line(s) in src/f.py. Editable range: 3–3, 6–7, 10–9.",
            "x | b8,b9 | ",
        ),
        (
            {"op": "replace", "start_line": 4, "end_line": 4, "content": "x\ny\n"},
            "OK: Replaced lines 4..4 with 2 line(s) in src/f.py. Editable range: 3–6, 9–10, 13–12.",
            "b3,x,y,b5 | b8,b9 | ",
        ),
        (
            {"op": "replace", "start_line": 8, "end_line": 9, "content": ""},
            "OK: Replaced lines 8..9 with 0 line(s) in src/f.py. Editable range: 3–5, 8–7, 10–9.",
            "b3,  b4,b5 |  | ",
        ),
        (
            {"op": "replace", "start_line": 8, "end_line": 8, "content": "\n"},
            "OK: Replaced lines 8..8 with 1 line(s) in src/f.py. Editable range: 3–5, 8–9, 12–11.",
            "b3,  b4,b5 | ,b9 | ",
        ),
        (
            {"op": "replace", "start_line": "8", "end_line": 8.0, "content": "x", "after_line": 1},
            "OK: Replaced lines 8..8 with 1 line(s) in src/f.py. Editable range: 3–5, 8–9, 12–11.",
            "b3,  b4,b5 | x,b9 | ",
        ),
        (
            {"op": "replace", "start_line": "8.0", "end_line": " 8 ", "content": "x\r\ny\rz"},
            "OK: Replaced lines 8..8 with 3 line(s) in src/f.py. Editable range: 3–5, 8–11, 14–13.",
            "b3,  b4,b5 | x,y,z,b9 | ",
        ),
        (
            {"op": "replace", "start_line": 4, "end_line": 3, "content": "x\n"},
            "OK: Inserted 1 line(s) after line 3 in src/f.py. Editable range: 3–6, 9–10, 13–12.",
            "b3,x,  b4,b5 | b8,b9 | ",
        ),
        (
            {"op": "replace", "start_line": 12, "end_line": 11, "content": "x"},
            "OK: Inserted 1 line(s) after line 11 in src/f.py. Editable range: 3–5, 8–9, 12–12.",
            "b3,  b4,b5 | b8,b9 | x",
        ),
        (
            {"op": "insert", "after_line": 2, "content": "x\ny", "start_line": 99, "old_str": None},
            "OK: Inserted 2 line(s) after line 2 in src/f.py. Editable range: 3–7, 10–11, 14–13.",
            "x,y,b3,  b4,b5 | b8,b9 | ",
        ),
        (
            {"op": "insert", "after_line": 5, "content": "x"},
            "OK: Inserted 1 line(s) after line 5 in src/f.py. Editable range: 3–6, 9–10, 13–12.",
            "b3,  b4,b5,x | b8,b9 | ",
        ),
        (
            {"op": "insert", "after_line": 7, "content": "x"},
            "OK: Inserted 1 line(s) after line 7 in src/f.py. Editable range: 3–5, 8–10, 13–12.",
            "b3,  b4,b5 | x,b8,b9 | ",
        ),
        (
            {"op": "insert", "after_line": 11, "content": "\tx\u2028y"},
            "OK: Inserted 1 line(s) after line 11 in src/f.py. Editable range: 3–5, 8–9, 12–12.",
            "b3,  b4,b5 | b8,b9 | \tx\u2028y",
        ),
        (
            {"op": "str_replace", "old_str": "b4", "new_str": "x\ny"},
            "OK: Replaced 1 occurrence (lines 4..4) with 2 line(s) in src/f.py. "
            "Editable range: 3–6, 9–10, 13–12.",
            "b3,  x,y,b5 | b8,b9 | ",
        ),
        (
            {"op": "str_replace", "old_str": "b3\n  b4\n", "new_str": ""},
            "OK: Replaced 1 occurrence (lines 3..4) with 0 line(s) in src/f.py. "
            "Editable range: 3–3, 6–7, 10–9.",
            "b5 | b8,b9 | ",
        ),
        (
            {"op": "str_replace", "old_str": "b8\r\nb9", "new_str": "b8\r\nx\r\nb9"},
            "OK: Replaced 1 occurrence (lines 8..9) with 3 line(s) in src/f.py. "
            "Editable range: 3–5, 8–10, 13–12.",
            "b3,  b4,b5 | b8,x,b9 | ",
        ),
        (
            {"op": "str_replace", "old_str": "b9\n", "new_str": "x\n"},
            "OK: Replaced 1 occurrence (lines 9..9) with 1 line(s) in src/f.py. "
            "Editable range: 3–5, 8–9, 12–11.",
            "b3,  b4,b5 | b8,x | ",
        ),
    ],
)
def test_accepted(args: dict[str, Any], summary: str, editable: str) -> None:
    assert edit(**args) == (summary, editable)


REPLACE = {"op": "replace", "start_line": 4, "end_line": 4, "content": "x"}


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        ({}, BadArguments, "ERROR: 'op' is required. Use 'replace', 'insert' or 'str_replace'."),
        (
            {"op": "rewrite"},
            BadArguments,
            "ERROR: Unknown op 'rewrite'. Use 'replace', 'insert' or 'str_replace'.",
        ),
        (
            {"op": ["replace"]},
            BadArguments,
            "ERROR: Unknown op ['replace']. Use 'replace', 'insert' or 'str_replace'.",
        ),
        (
            {"op": "create", "content": "x"},
            EditRefused,
            "ERROR: allow_create is false; cannot create new files",
        ),
        (
            {**REPLACE, "filename": None},
            BadArguments,
            "ERROR: 'filename' is required. Editable files: src/f.py.",
        ),
        (
            {**REPLACE, "filename": 3},
            BadArguments,
            "ERROR: 'filename' must be a string. Editable files: src/f.py.",
        ),
        (
            {**REPLACE, "filename": "src/data.py"},
            NotEditable,
            "ERROR: File not editable: src/data.py. Editable files: src/f.py.",
        ),
        (
            {"op": "replace", "content": "x"},
            BadArguments,
            "ERROR: 'start_line' and 'end_line' are required for op='replace'",
        ),
        (
            {**REPLACE, "end_line": None, "after_line": 3},
            BadArguments,
            "ERROR: 'start_line' and 'end_line' are required for op='replace'",
        ),
        (
            {**REPLACE, "content": None},
            BadArguments,
            "ERROR: 'content' is required for op='replace'",
        ),
        (
            {"op": "insert", "content": "x", "start_line": 3},
            BadArguments,
            "ERROR: 'after_line' is required for op='insert'",
        ),
        (
            {"op": "insert", "after_line": 3},
            BadArguments,
            "ERROR: 'content' is required for op='insert'",
        ),
        (
            {"op": "str_replace", "old_str": "x"},
            BadArguments,
            "ERROR: 'old_str' and 'new_str' are required for op='str_replace'",
        ),
        (
            {**REPLACE, "start_line": 5, "end_line": 8},
            OutsideRegions,
            f"ERROR: Lines 5..8 exceed the editable range. {ONLY}",
        ),
        (
            {**REPLACE, "start_line": 2, "end_line": 3},
            OutsideRegions,
            f"ERROR: Lines 2..3 exceed the editable range. {ONLY}",
        ),
        (
            {**REPLACE, "start_line": 9, "end_line": 10**9},
            OutsideRegions,
            f"ERROR: Lines 9..1000000000 exceed the editable range. {ONLY}",
        ),
        (
            {**REPLACE, "start_line": 12, "end_line": 12},
            OutsideRegions,
            f"ERROR: Lines 12..12 exceed the editable range. {ONLY}",
        ),
        (
            {**REPLACE, "start_line": -1, "end_line": 0},
            OutsideRegions,
            f"ERROR: Lines -1..0 exceed the editable range. {ONLY}",
        ),
        (
            {**REPLACE, "start_line": 5, "end_line": 3},
            BadArguments,
            "ERROR: start_line (5) is after end_line (3). To insert before line 5, use end_line=4.",
        ),
        (
            {**REPLACE, "start_line": 7, "end_line": 6},
            OutsideRegions,
            "ERROR: Cannot insert before line 7: that is outside the editable range. "
            f"{ONLY} An insert may follow lines 2–5, 7–9, 11–11.",
        ),
        (
            {"op": "insert", "after_line": 6, "content": "x"},
            OutsideRegions,
            "ERROR: Cannot insert after line 6: that is outside the editable range. "
            f"{ONLY} An insert may follow lines 2–5, 7–9, 11–11.",
        ),
        (
            {"op": "str_replace", "old_str": "b", "new_str": "x"},
            NoUniqueMatch,
            "ERROR: old_str occurs 5 times in the editable range (lines 3, 4, 5, 8, 9). "
            "Add context so that it occurs once.",
        ),
        (
            {"op": "str_replace", "old_str": "a10", "new_str": "x"},
            NoUniqueMatch,
            f"ERROR: old_str occurs only in locked lines (line 10). {ONLY}",
        ),
        (
            {"op": "str_replace", "old_str": "a6\na7", "new_str": "x"},
            NoUniqueMatch,
            f"ERROR: old_str occurs only in locked lines (lines 6..7). {ONLY}",
        ),
        (
            {"op": "str_replace", "old_str": "a1", "new_str": "x"},
            NoUniqueMatch,
            f"ERROR: old_str occurs only in locked lines (lines 1, 10, 11, 12). {ONLY}",
        ),
        (
            {"op": "str_replace", "old_str": "b5\na6", "new_str": "x"},
            NoUniqueMatch,
            "ERROR: old_str crosses a border between locked and editable lines (lines 5..6). "
            + ONLY,
        ),
        (
            {"op": "str_replace", "old_str": "b3\nb4", "new_str": "x"},
            NoUniqueMatch,
            "ERROR: old_str does not occur in src/f.py. "
            "Lines 3..4 differ from it in white space only; copy them exactly.",
        ),
        (
            {"op": "str_replace", "old_str": "zzz", "new_str": "x"},
            NoUniqueMatch,
            "ERROR: old_str does not occur in src/f.py. Call view to see the file as it is now.",
        ),
        (
            {"op": "str_replace", "old_str": "", "new_str": "x"},
            BadArguments,
            "ERROR: 'old_str' must not be empty. To add lines, use op='insert'.",
        ),
        (
            {"op": "str_replace", "old_str": "b3", "new_str": "b3"},
            BadArguments,
            "ERROR: 'old_str' and 'new_str' are the same: nothing would change",
        ),
        (
            {**REPLACE, "content": "x\ny\0z"},
            BadArguments,
            "ERROR: 'content' holds the control character U+0000 in its line 2. "
            "Remove it; only tabs and line feeds are accepted.",
        ),
        (
            {**REPLACE, "content": ["x"]},
            BadArguments,
            "ERROR: 'content' must be a string, not ['x']",
        ),
        (
            {**REPLACE, "content": "x" * (MAX_TEXT + 1)},
            BadArguments,
            "ERROR: 'content' has 400001 characters; at most 400000 are accepted in one edit",
        ),
        (
            {**REPLACE, "content": "     4  x\n     5| \n     6  y"},
            BadArguments,
            "ERROR: Every line of 'content' begins with a line number (4, …, 6). "
            "Send the text alone, without the numbers that the view shows.",
        ),
        (
            {**REPLACE, "content": "     4  x"},
            BadArguments,
            "ERROR: Every line of 'content' begins with a line number (4). "
            "Send the text alone, without the numbers that the view shows.",
        ),
        (
            {"op": "str_replace", "old_str": "     3  b3\n     4    b4", "new_str": "x"},
            NoUniqueMatch,
            "ERROR: Every line of 'old_str' begins with a line number (3, …, 4). "
            "Send the text alone, without the numbers that the view shows.",
        ),
    ],
)
def test_refused(args: dict[str, Any], error: type[AgentError], text: str) -> None:
    files = {"src/f.py": file()}
    with pytest.raises(AgentError) as raised:
        apply_edit(files, {"filename": "src/f.py", **args})
    assert raised.value.text == text
    assert type(raised.value) is error
    assert files == {"src/f.py": file()}


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x0b", "\x0c", "\x1b", "\x7f", "\x85"])
@pytest.mark.parametrize("where", ["content", "new_str", "old_str"])
def test_control_characters_are_refused(where: str, character: str) -> None:
    args = {**REPLACE, "old_str": "b4", "new_str": "x", where: f"x{character}"}
    args["op"] = "replace" if where == "content" else "str_replace"
    with pytest.raises(BadArguments, match=rf"control character U\+{ord(character):04X}"):
        edit(**args)


@pytest.mark.parametrize(
    "value", [True, False, 4.5, "four", "4.5", "", [4], {}, float("nan"), float("inf"), "4e0"]
)
def test_what_is_no_line_number(value: object) -> None:
    with pytest.raises(BadArguments, match="'start_line' must be a whole number, not "):
        edit(**{**REPLACE, "start_line": value})


@pytest.mark.parametrize(
    "content",
    ["1  x\n2  y\n4  z", "1  x\n  y", "10 green bottles\n11 green bottles", "2024  x"],
)
def test_text_that_merely_begins_with_numbers_is_accepted(content: str) -> None:
    assert edit(**{**REPLACE, "content": content})[0].startswith("OK: ")


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("src/f.py", "src/f.py"),
        ("f.py", "src/f.py"),
        ("./src/f.py", "src/f.py"),
        (" src/f.py ", "src/f.py"),
        ("src\\f.py", "src/f.py"),
        ("/work/src/f.py", "src/f.py"),
        ("../run/src/f.py", "src/f.py"),
        ("a/g.py", "a/g.py"),
        ("x/b/g.py", "b/g.py"),
        ("h.py", "h.py"),
        ("./h.py", "h.py"),
        ("./c/h.py", "c/h.py"),
    ],
)
def test_paths_that_name_one_file(asked: str, name: str) -> None:
    names = ["src/f.py", "a/g.py", "b/g.py", "h.py", "c/h.py"]
    assert resolve_file({name: file(name) for name in names}, asked).name == name


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("g.py", "ERROR: g.py names several editable files: a/g.py, b/g.py. Give the path."),
        ("", "ERROR: File not editable: . Editable files: src/f.py, a/g.py, b/g.py."),
        ("py", "ERROR: File not editable: py. Editable files: src/f.py, a/g.py, b/g.py."),
        ("/", "ERROR: File not editable: /. Editable files: src/f.py, a/g.py, b/g.py."),
        (
            "other/f.py",
            "ERROR: File not editable: other/f.py. Editable files: src/f.py, a/g.py, b/g.py.",
        ),
        (
            "src/f.py/x",
            "ERROR: File not editable: src/f.py/x. Editable files: src/f.py, a/g.py, b/g.py.",
        ),
        (
            "src/F.py",
            "ERROR: File not editable: src/F.py. Editable files: src/f.py, a/g.py, b/g.py.",
        ),
    ],
)
def test_paths_that_name_none_or_several(asked: str, text: str) -> None:
    with pytest.raises(NotEditable) as raised:
        resolve_file({name: file(name) for name in ["src/f.py", "a/g.py", "b/g.py"]}, asked)
    assert raised.value.text == text


def test_only_the_named_file_is_edited() -> None:
    files = {name: file(name) for name in ["a/g.py", "b/g.py"]}
    result = apply_edit(files, {**REPLACE, "filename": "b/g.py"})
    assert result.before is files["b/g.py"]
    assert (result.after.name, result.region) == ("b/g.py", 0)


@pytest.mark.timeout(20)
def test_text_that_overlaps_itself_takes_no_time() -> None:
    lines = ["x", "a" * 300_000, "y"]
    big = EditableFile.from_text("f.py", "\n".join(lines) + "\n", [("r", 2, 2)])
    args = {"op": "str_replace", "filename": "f.py", "old_str": "a" * 150_000, "new_str": ""}
    with pytest.raises(NoUniqueMatch, match="occurs 2 times"):
        apply_edit({"f.py": big}, args)


def test_overlapping_occurrences_are_not_one() -> None:
    lines = [*LINES]
    lines[2] = "aaa"
    with pytest.raises(NoUniqueMatch, match=r"occurs 2 times in the editable range \(lines 3, 3\)"):
        apply_edit(
            {"f.py": file("f.py", lines)},
            {"op": "str_replace", "filename": "f.py", "old_str": "aa", "new_str": "b"},
        )


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ()),
        ("\n", ("",)),
        ("a", ("a",)),
        ("a\n", ("a",)),
        ("a\n\n", ("a", "")),
        ("\na", ("", "a")),
    ],
)
def test_text_as_lines(text: str, lines: tuple[str, ...]) -> None:
    assert split_lines(text) == lines


# ── any sequence of edits ─────────────────────────────────────────────────────────────────────

SNIPPET = st.text(st.sampled_from("ab1 \t\n\r\0|é\u2028"), max_size=8)
NUMBER = st.one_of(
    st.integers(-1, 16), st.integers(0, 14).map(str), st.sampled_from([None, 2.0, 1.5])
)
CALL = st.fixed_dictionaries(
    {
        "op": st.sampled_from(["replace", "replace", "insert", "str_replace", "create", None]),
        "filename": st.sampled_from(["f.py", "f.py", "./f.py", "g.py", None]),
    },
    optional={
        "start_line": NUMBER,
        "end_line": NUMBER,
        "after_line": NUMBER,
        "content": st.one_of(SNIPPET, st.none()),
        "old_str": SNIPPET,
        "new_str": SNIPPET,
    },
)
# Well-formed far more often than CALL, so that regions do grow, shrink and empty.
GOOD_CALL = st.one_of(
    st.fixed_dictionaries(
        {
            "op": st.just("replace"),
            "filename": st.just("f.py"),
            "start_line": st.integers(1, 12),
            "end_line": st.integers(1, 12),
            "content": SNIPPET,
        }
    ),
    st.fixed_dictionaries(
        {
            "op": st.just("insert"),
            "filename": st.just("f.py"),
            "after_line": st.integers(0, 12),
            "content": SNIPPET,
        }
    ),
    st.fixed_dictionaries(
        {
            "op": st.just("str_replace"),
            "filename": st.just("f.py"),
            "old_str": st.sampled_from(["a", "b", "b\n", "\nb", "ab", "1", "b3", "a6\n"]),
            "new_str": SNIPPET,
        }
    ),
)


def expected_lines(before: EditableFile, args: dict[str, Any]) -> list[str] | None:
    """The whole file after a replace or insert that is accepted, without regions or segments."""
    if args["op"] == "str_replace":
        return None
    content = args["content"].replace("\r\n", "\n").replace("\r", "\n")
    new = content.split("\n")
    if new[-1] == "":
        new.pop()
    if args["op"] == "insert":
        start = int(args["after_line"]) + 1
        end = start - 1
    else:
        start, end = int(args["start_line"]), int(args["end_line"])
    return [*before.lines[: start - 1], *new, *before.lines[end:]]


def attempt(files: dict[str, EditableFile], args: dict[str, Any]) -> EditResult | AgentError:
    try:
        return apply_edit(files, args)
    except AgentError as error:
        return error


def locked_text(version: EditableFile) -> list[tuple[str, ...]]:
    return [segment.lines for segment in version.segments if segment.region is None]


@settings(max_examples=300)
@given(st.lists(st.one_of(CALL, GOOD_CALL, GOOD_CALL), max_size=12))
def test_any_sequence_of_edits(calls: list[dict[str, Any]]) -> None:
    start = file("f.py")
    files = {"f.py": start}
    undo: list[EditableFile] = []
    texts: list[str] = []
    for args in calls:
        before = files["f.py"]
        text = before.text
        result = attempt(files, args)
        if isinstance(result, AgentError):
            assert result.text.startswith("ERROR: ")
            assert "\n" not in result.text
            assert files == {"f.py": before}
            assert before.text == text
            continue
        assert result.summary.startswith("OK: ")
        assert result.before is before
        assert before.text == text
        after = result.after
        expected = expected_lines(before, args)
        if expected is not None:
            assert list(after.lines) == expected
        check(start, after)
        undo.append(before)
        texts.append(text)
        files["f.py"] = after
    while undo:
        files["f.py"] = undo.pop()
        assert files["f.py"].text == texts.pop()
        check(start, files["f.py"])
    assert files["f.py"] == start


def check(start: EditableFile, version: EditableFile) -> None:
    """What holds of every version of a file."""
    assert locked_text(version) == locked_text(start)
    assert version.locked_digest == start.locked_digest
    assert version.text == "".join(
        line + "\n" for segment in version.segments for line in segment.lines
    )
    assert version.text.split("\n")[:-1] == list(version.lines)
    assert [region.name for region in version.regions] == ["a", "b", "c"]
    for region in version.regions:
        assert version.lines[region.first - 1 : region.last] == region.lines
    for one, next_one in zip(version.regions, version.regions[1:], strict=False):
        assert next_one.first > one.last + 1
    regions = [(region.name, region.first, region.last) for region in version.regions]
    assert EditableFile.from_text(version.name, version.text, regions) == version


@given(st.integers(1, 12), st.integers(0, 6), SNIPPET.filter(lambda text: "\0" not in text))
def test_exactly_the_ranges_inside_one_region_are_accepted(
    first: int, length: int, content: str
) -> None:
    last = first + length - 1
    before = file("f.py")
    inside = any(
        (region.first <= first and last <= region.last)
        or (length == 0 and region.first - 1 <= last <= region.last)
        for region in before.regions
    )
    args = {"op": "replace", "filename": "f.py", "start_line": first, "end_line": last}
    result = attempt({"f.py": before}, {**args, "content": content})
    if isinstance(result, BadArguments):
        assert "begins with a line number" in result.text
    else:
        assert isinstance(result, EditResult if inside else OutsideRegions)


@given(st.text(st.sampled_from("ab\n"), min_size=1, max_size=4), st.text("ab\n", max_size=4))
def test_str_replace_is_the_replacement_of_the_only_occurrence(old: str, new: str) -> None:
    before = EditableFile.from_text("f.py", "x\nab\nba\n\naa\nx\n", [("r", 2, 5)])
    body = "ab\nba\n\naa\n"
    places = [i for i in range(len(body)) if body.startswith(old, i)]
    args = {"op": "str_replace", "filename": "f.py", "old_str": old, "new_str": new}
    try:
        after = apply_edit({"f.py": before}, args).after
    except AgentError:
        assert len(places) != 1 or old == new
        return
    assert len(places) == 1
    changed = body.replace(old, new)
    # The region's last line is terminated whatever the replacement says.
    if changed and not changed.endswith("\n"):
        changed += "\n"
    assert after.text == "x\n" + changed + "x\n"
