from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import render
from harness.edits import apply_edit
from harness.regions import EditableFile

NAME = "nanoGPT/custom_pretrain.py"
REGIONS = [
    ("block", 88, 99),
    ("parameters", 128, 130),
    ("loop", 162, 164),
    ("optimizer", 175, 192),
    ("overrides", 251, 251),
]
BLOCK = [
    "class Block(nn.Module):",
    "    def __init__(self, config):",
    "        super().__init__()",
    "        self.ln_1 = LayerNorm(config.n_embd, bias=config.bias)",
    "        self.attn = CausalSelfAttention(config)",
    "        self.ln_2 = LayerNorm(config.n_embd, bias=config.bias)",
    "        self.mlp = MLP(config)",
    "",
    "    def forward(self, x):",
    "        x = x + self.attn(self.ln_1(x))",
    "        x = x + self.mlp(self.ln_2(x))",
    "        return x",
]


def big_file() -> EditableFile:
    lines = [f"line {number}" for number in range(1, 442)]
    lines[87:99] = BLOCK
    lines[125:127] = ["        self.apply(self._init_weights)", ""]
    lines[250] = "CONFIG_OVERRIDES = {}"
    return EditableFile.from_text(NAME, "\n".join(lines) + "\n", REGIONS)


def small_file(before: int, region: int, after: int) -> EditableFile:
    lines = [f"l{n}" for n in range(1, before + region + after + 1)]
    return EditableFile.from_text(
        "f.py", "".join(f"{line}\n" for line in lines), [("r", before + 1, before + region)]
    )


def test_the_view_after_an_edit() -> None:
    content = "\n".join(
        ["        # ── Token-wise Dynamic Attention Residuals (TDAR) ──"] + ["x"] * 10
    )
    args = {"op": "replace", "start_line": 128, "end_line": 130, "content": content}
    result = apply_edit({NAME: big_file()}, {**args, "filename": NAME})
    assert result.summary == (
        "OK: Replaced lines 128..130 with 11 line(s) in nanoGPT/custom_pretrain.py. "
        "Editable range: 88–99, 128–138, 170–172, 183–200, 259–259."
    )
    assert render.current_file_view(result.after, result.region) == (
        """\
[Current file: nanoGPT/custom_pretrain.py | editable: 88–99, 128–138, 170–172, 183–200, 259–259 \
| total: 449 lines]
    88  class Block(nn.Module):
    89      def __init__(self, config):
    90          super().__init__()
       ... (6 more lines) ...
    97          x = x + self.attn(self.ln_1(x))
    98          x = x + self.mlp(self.ln_2(x))
    99          return x
    ...
   126|         self.apply(self._init_weights)
   127|\x20
   128          # ── Token-wise Dynamic Attention Residuals (TDAR) ──
   129  x
   130  x
   131  x
   132  x
   133  x
   134  x
   135  x
   136  x
   137  x
   138  x
   139| line 131
   140| line 132
    ...
   170  line 162
   171  line 163
   172  line 164
    ...
   183  line 175
   184  line 176
   185  line 177
       ... (12 more lines) ...
   198  line 190
   199  line 191
   200  line 192
    ...
   259  CONFIG_OVERRIDES = {}"""
    )


def test_the_view_without_an_edited_region() -> None:
    assert render.current_file_view(big_file()).split("\n")[:14] == [
        "[Current file: nanoGPT/custom_pretrain.py | editable: 88–99, 128–130, 162–164, 175–192, "
        "251–251 | total: 441 lines]",
        "    88  class Block(nn.Module):",
        "    89      def __init__(self, config):",
        "    90          super().__init__()",
        "       ... (6 more lines) ...",
        "    97          x = x + self.attn(self.ln_1(x))",
        "    98          x = x + self.mlp(self.ln_2(x))",
        "    99          return x",
        "    ...",
        "   128  line 128",
        "   129  line 129",
        "   130  line 130",
        "    ...",
        "   162  line 162",
    ]


@pytest.mark.parametrize(
    ("count", "edited", "shown"),
    [
        (6, False, "r1 r2 r3 r4 r5 r6"),
        (7, False, "r1 r2 r3 ... (1 more lines) ... r5 r6 r7"),
        (8, False, "r1 r2 r3 ... (2 more lines) ... r6 r7 r8"),
        (7, True, "l1 l2 r1 r2 r3 r4 r5 r6 r7 l10 l11"),
        (60, True, "l1 l2 " + " ".join(f"r{n}" for n in range(1, 61)) + " l63 l64"),
    ],
)
def test_how_much_of_a_region_is_shown(count: int, edited: bool, shown: str) -> None:
    text = "".join(f"l{n}\n" for n in (1, 2)) + "".join(f"r{n}\n" for n in range(1, count + 1))
    text += f"l{count + 3}\nl{count + 4}\nl{count + 5}\n"
    file = EditableFile.from_text("f.py", text, [("r", 3, count + 2)])
    view = render.current_file_view(file, 0 if edited else None).split("\n")[1:]
    assert " ".join(line[8:] if line[5].isdigit() else line.strip() for line in view) == shown


def test_an_edited_region_of_more_than_60_lines_is_shown_by_its_ends() -> None:
    view = render.current_file_view(small_file(2, 61, 2), 0).split("\n")
    assert view[33] == "       ... (1 more lines) ..."
    assert view[32] == "    32  l32"
    assert view[34] == "    34  l34"
    assert len(view) == 1 + 2 + 30 + 1 + 30 + 2


def test_an_empty_region() -> None:
    assert render.current_file_view(small_file(3, 0, 3), 0) == (
        """\
[Current file: f.py | editable: 4–3 | total: 6 lines]
     2| l2
     3| l3
       (empty region 4–3: insert with after_line=3)
     4| l4
     5| l5"""
    )


def test_locked_lines_between_close_regions_are_shown_once() -> None:
    text = "".join(f"l{n}\n" for n in range(1, 10))
    regions = [("a", 2, 2), ("b", 4, 4), ("c", 7, 7)]
    file = EditableFile.from_text("f.py", text, regions)
    assert render.current_file_view(file, 1).split("\n")[1:] == [
        "     2  l2",
        "     3| l3",
        "     4  l4",
        "     5| l5",
        "     6| l6",
        "     7  l7",
    ]


def test_context_stops_at_the_ends_of_the_file() -> None:
    assert render.current_file_view(small_file(0, 1, 1), 0).split("\n")[1:] == [
        "     1  l1",
        "     2| l2",
    ]


def test_a_page_names_the_next_one() -> None:
    page = render.file_page(small_file(1, 2, 397), 1, 400).split("\n")
    assert page[:4] == [
        "[Current file: f.py | editable: 2–3 | total: 400 lines]",
        "     1| l1",
        "     2  l2",
        "     3  l3",
    ]
    assert page[-2:] == [
        "   150| l150",
        "    ... (250 more lines: call view with filename='f.py', start_line=151)",
    ]
    assert len(page) == 152
    last = render.file_page(small_file(1, 2, 397), 301, 400).split("\n")
    assert (last[1], last[-1], len(last)) == ("   301| l301", "   400| l400", 101)


def test_a_page_of_a_read_only_file() -> None:
    file = EditableFile.from_text("data.py", "a\nb\n", [])
    assert render.file_page(file, 1, 2) == (
        "[Current file: data.py | read-only | total: 2 lines]\n     1| a\n     2| b"
    )


@given(st.lists(st.text(st.sampled_from("ab"), max_size=400)), st.integers(100, 2000))
def test_a_clipped_answer_is_its_head_and_its_tail(lines: list[str], limit: int) -> None:
    text = "\n".join(lines)
    clipped = render.clip(text, limit)
    assert len(clipped) <= max(limit, 0)
    if len(text) <= limit:
        assert clipped == text
        return
    head, _, rest = clipped.partition("\n[... ")
    count, _, tail = rest.partition(" characters left out ...]\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert int(count) == len(text) - len(head) - len(tail)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-3, "0 s"),
        (0, "0 s"),
        (40.4, "40 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (720, "12 min"),
        (3599, "1 h 00 min"),
        (3 * 3600 + 300, "3 h 05 min"),
        (28 * 3600, "28 h 00 min"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert render.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 tests remaining"), (1, "1 test remaining"), (2, "2 tests remaining")],
)
def test_tests_remaining(count: int, shown: str) -> None:
    assert render.tests_remaining(count) == shown
