"""Code up to formatting, and how far it is from a baseline's."""

from __future__ import annotations

import pytest

from harness.likeness import UNEDITED, form_of, likeness

UNEDITED_TEXT = "def f(x):\n    return x\n\n\nclass A:\n    rate = 0.1\n"
BASELINE = UNEDITED_TEXT.replace("return x", "y = 2 * x\n    return y")
OTHER = UNEDITED_TEXT.replace("0.1", "0.2")


def like(text: str) -> object:
    baselines = {"doubled": form_of({"a.py": BASELINE}), "faster": form_of({"a.py": OTHER})}
    return likeness(form_of({"a.py": text}), form_of({"a.py": UNEDITED_TEXT}), baselines)


@pytest.mark.parametrize(
    "text",
    [
        UNEDITED_TEXT,
        UNEDITED_TEXT.replace("\n\n\n", "\n\n\n\n# a word\n"),
        UNEDITED_TEXT.replace("return x", "return (x)  # as before"),
        UNEDITED_TEXT.replace("    return", '    """What it does."""\n    return'),
        UNEDITED_TEXT.replace("0.1", "1e-1").replace("f(x)", "f( x )"),
    ],
)
def test_formatting_is_no_edit(text: str) -> None:
    found = like(text)
    assert (found.same_as, found.changed, found.distance) == (UNEDITED, 0, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        BASELINE,
        BASELINE.replace("    y = 2 * x", "    # twice\n    y = (\n        2\n        * x\n    )"),
    ],
)
def test_a_baseline_in_other_clothes_is_that_baseline(text: str) -> None:
    found = like(text)
    assert (found.same_as, found.nearest, found.distance) == ("doubled", "doubled", 0.0)
    assert found.changed == 3


def test_distance_grows_from_the_same_code_to_nothing_in_common() -> None:
    near = like(BASELINE.replace("2 * x", "2.5 * x"))
    far = like(UNEDITED_TEXT.replace("return x", "return -x"))
    assert (near.same_as, near.nearest) == (None, "doubled")
    assert 0 < near.distance < far.distance <= 1
    renamed = like(BASELINE.replace("y", "z"))
    assert renamed.same_as is None


def test_what_is_no_python_is_compared_by_lines() -> None:
    broken = "def f(:\n    pass\n"
    forms = [form_of({"a.py": text}) for text in (broken, "def f(:  \n\n    pass\n", "def g(:\n")]
    assert likeness(forms[1], forms[0], {}).same_as == UNEDITED
    assert likeness(forms[2], forms[0], {}).changed == 3
    deep = "(" * 5000 + ")" * 5000
    assert form_of({"a.py": deep}) == (("a.py", (deep,)),)
    assert form_of({"a.py": "x = " + "9" * 5000})[0][1]


def test_a_file_more_or_less_is_a_change() -> None:
    one = form_of({"a.py": "x = 1\n"})
    two = form_of({"a.py": "x = 1\n", "b.py": "y = 2\n"})
    assert likeness(two, one, {}).changed == 1
    assert likeness(two, one, {"empty": one}).nearest == UNEDITED
