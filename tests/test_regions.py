from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.regions import EditableFile, RegionError, format_ranges, locked_digest

TEXT = "a\nb\nc\nd\ne\nf\n"

# Everything that str.splitlines, unlike the protocol, takes for the end of a line.
LINE = st.text(st.sampled_from("ab 1\t\r\x0b\x0c\x1c\x85\u2028é–🙂"), max_size=6)


@st.composite
def cut_files(draw: st.DrawFn) -> tuple[str, list[tuple[str, int, int]]]:
    """A text and its regions, of which any may be empty, and may stand at either end."""
    lines: list[str] = []
    regions = []
    for index in range(draw(st.integers(1, 4))):
        lines += draw(st.lists(LINE, min_size=1 if index else 0, max_size=3))
        first = len(lines) + 1
        lines += draw(st.lists(LINE, max_size=3))
        regions.append((f"region {index}", first, len(lines)))
    tail = draw(st.lists(LINE, max_size=3))
    lines += tail
    text = "".join(line + "\n" for line in lines)
    unterminated = tail and tail[-1] and draw(st.booleans())
    return (text[:-1] if unterminated else text), regions


@given(cut_files())
def test_segments_rejoin_byte_for_byte(cut: tuple[str, list[tuple[str, int, int]]]) -> None:
    text, regions = cut
    file = EditableFile.from_text("f.py", text, regions)
    assert file.text == text
    assert file.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert file.lines == tuple(text.removesuffix("\n").split("\n") if text else ())
    assert tuple(line for segment in file.segments for line in segment.lines) == file.lines


@given(cut_files())
def test_region_numbers_agree_with_the_text(cut: tuple[str, list[tuple[str, int, int]]]) -> None:
    text, regions = cut
    file = EditableFile.from_text("f.py", text, regions)
    assert [(r.name, r.first, r.last) for r in file.regions] == regions
    editable = set()
    for region in file.regions:
        assert file.lines[region.first - 1 : region.last] == region.lines
        editable |= set(range(region.first, region.last + 1))
    everything = range(1, len(file.lines) + 1)
    assert set(file.locked_lines(1, len(file.lines))) == set(everything) - editable


@given(cut_files(), st.data())
def test_a_new_region_shares_the_locked_segments(
    cut: tuple[str, list[tuple[str, int, int]]], data: st.DataObject
) -> None:
    file = EditableFile.from_text("f.py", *cut)
    index = data.draw(st.integers(0, len(file.regions) - 1))
    lines = tuple(data.draw(st.lists(LINE, max_size=4)))
    after = file.with_region(index, lines)
    assert after.regions[index].lines == lines
    for old, new in zip(file.segments, after.segments, strict=True):
        if old.region is None:
            assert new is old
    assert after.locked_digest == file.locked_digest
    assert after.with_region(index, file.regions[index].lines) == file


@pytest.mark.parametrize(
    ("text", "lines", "final_newline"),
    [
        ("", (), True),
        ("\n", ("",), True),
        ("a", ("a",), False),
        ("a\n", ("a",), True),
        ("a\n\n", ("a", ""), True),
        ("a\r\nb\u2028c\n", ("a\r", "b\u2028c"), True),
    ],
)
def test_lines_end_at_line_feeds_only(
    text: str, lines: tuple[str, ...], final_newline: bool
) -> None:
    file = EditableFile.from_text("f.py", text, [])
    assert (file.lines, file.final_newline, file.text) == (lines, final_newline, text)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([("r", 0, 1)], "does not fit a file of 6 lines"),
        ([("r", 1, 7)], "does not fit a file of 6 lines"),
        ([("r", 8, 7)], "does not fit a file of 6 lines"),
        ([("r", 4, 2)], "does not fit a file of 6 lines"),
        ([("r", 1, 2), ("s", 3, 4)], "overlaps or touches"),
        ([("r", 1, 3), ("s", 3, 4)], "overlaps or touches"),
        ([("r", 5, 6), ("s", 1, 2)], "overlaps or touches"),
        ([("r", 3, 2), ("s", 3, 4)], "overlaps or touches"),
    ],
)
def test_regions_that_do_not_fit(regions: list[tuple[str, int, int]], message: str) -> None:
    with pytest.raises(RegionError, match=message):
        EditableFile.from_text("f.py", TEXT, regions)


def test_a_region_may_not_reach_an_unterminated_end() -> None:
    with pytest.raises(RegionError, match="without a line feed"):
        EditableFile.from_text("f.py", "a\nb", [("r", 2, 2)])
    assert EditableFile.from_text("f.py", "a\nb", [("r", 1, 1)]).text == "a\nb"


def test_ranges_as_people_read_them() -> None:
    file = EditableFile.from_text("f.py", TEXT, [("r", 1, 2), ("s", 4, 3), ("t", 5, 5)])
    assert format_ranges(file.regions) == "1–2, 4–3, 5–5"


@pytest.mark.parametrize(
    ("text", "regions"),
    [
        ("A\nb\nc\nd\ne\nf\n", [("r", 2, 3)]),  # a locked byte
        ("a\nb\nc\nd\ne\nf", [("r", 2, 3)]),  # the last line feed
        (TEXT, [("r", 2, 4)]),  # one more line editable
        (TEXT, [("r", 2, 3), ("s", 5, 4)]),  # one more place to insert
    ],
)
def test_the_locked_digest_notices(text: str, regions: list[tuple[str, int, int]]) -> None:
    file = EditableFile.from_text("f.py", TEXT, [("r", 2, 3)])
    assert EditableFile.from_text("f.py", text, regions).locked_digest != file.locked_digest


def test_the_locked_digest_overlooks_what_is_editable() -> None:
    file = EditableFile.from_text("f.py", TEXT, [("r", 2, 3)])
    other = EditableFile.from_text("f.py", "a\nx\nd\ne\nf\n", [("r", 2, 2)])
    assert other.locked_digest == file.locked_digest


def test_one_digest_over_files_and_siblings() -> None:
    file = EditableFile.from_text("f.py", TEXT, [("r", 2, 3)])
    digests = {
        locked_digest([file], []),
        locked_digest([file], [("g.py", b"1")]),
        locked_digest([file], [("g.py", b"2")]),
        locked_digest([file], [("h.py", b"1")]),
    }
    assert len(digests) == 4
    assert locked_digest([file.with_region(0, ["x"])], []) == locked_digest([file], [])
