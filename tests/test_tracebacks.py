from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from harness.tracebacks import LIMIT, LINE_LIMIT, describe_exit, failure_reason, without_paths

FILES = ["pkg/model.py"]


def reason(log: str, code: int = 1) -> list[str]:
    return failure_reason(log, FILES, code, ["/srv/my runs/run 1/files", "/srv/my runs/run 1"])


def run(tmp_path: Path, source: str) -> str:
    """What Python prints of a real failure in the editable file."""
    files = tmp_path / "files"
    (files / "pkg").mkdir(parents=True)
    (files / "pkg" / "model.py").write_text(source)
    (files / "loop.py").write_text(
        "import sys\nsys.path.insert(0, 'pkg')\nimport model\nmodel.f(0)\n"
    )
    done = subprocess.run(
        [sys.executable, str(files / "loop.py")], cwd=files, capture_output=True, text=True
    )
    assert done.returncode == 1
    return done.stderr


def test_a_plain_exception(tmp_path: Path) -> None:
    log = run(tmp_path, "def g(x):\n    return 1 / x\n\ndef f(x):\n    return g(x)\n")
    assert reason(f"FIT: step=0\n{log}") == [
        "ZeroDivisionError: division by zero",
        '  File "pkg/model.py", line 5, in f',
        "    return g(x)",
        '  File "pkg/model.py", line 2, in g',
        "    return 1 / x",
    ]


def test_frames_of_other_files_are_left_out(tmp_path: Path) -> None:
    got = reason(run(tmp_path, "import json\ndef f(x):\n    json.loads('{')\n"))
    assert got[0].startswith("json.decoder.JSONDecodeError: Expecting property name")
    assert got[1:] == ['  File "pkg/model.py", line 3, in f', "    json.loads('{')"]


def test_a_file_that_does_not_parse(tmp_path: Path) -> None:
    got = reason(run(tmp_path, "def f(x):\n    return (\n"))
    assert got == [
        "SyntaxError: '(' was never closed",
        '  File "pkg/model.py", line 2',
        "    return (",
    ]
    script = '  File "/a/b/pkg/model.py", line 2\n    return (\n           ^\nSyntaxError: no\n'
    assert reason(script)[0] == "SyntaxError: no"


def test_the_exception_that_was_not_caught_counts(tmp_path: Path) -> None:
    source = (
        "def f(x):\n    try:\n        return 1 / x\n"
        "    except ZeroDivisionError as e:\n        raise KeyError('second') from e\n"
    )
    got = reason(run(tmp_path, source))
    assert got == [
        "KeyError: 'second'",
        '  File "pkg/model.py", line 5, in f',
        "    raise KeyError('second') from e",
    ]


def test_a_deep_recursion_is_cut_to_its_innermost_frames(tmp_path: Path) -> None:
    got = reason(run(tmp_path, "def f(x):\n    return f(x + 1)\n"))
    assert got[0].startswith("RecursionError: maximum recursion depth")
    assert any("Previous line repeated" in line for line in got)
    assert len(got) <= LIMIT
    names = "abcdefghijklmno"
    source = "".join(f"def {a}(x):\n    return {b}(x)\n\n" for a, b in itertools.pairwise(names))
    got = reason(run(tmp_path / "two", source + "def o(x):\n    return 1 / x\n"))
    assert len(got) <= LIMIT
    assert got[-1] == "    return 1 / x"
    assert "more frames" in got[1]


TRACE = """\
Traceback (most recent call last):
  File "/srv/x/files/pkg/model.py", line {line}, in {where}
    {source}
{exception}
"""


def trace(line: int, exception: str, rank: int | None = None) -> str:
    text = TRACE.format(line=line, where="f", source="return x", exception=exception)
    prefix = "" if rank is None else f"[rank{rank}]: "
    return "".join(f"{prefix}{part}\n" for part in text.splitlines())


SUPERVISOR = """\
Traceback (most recent call last):
  File "/opt/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
loop.py FAILED
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-22_10:00:00
  host      : node17
  rank      : 0 (local_rank: 0)
  exitcode  : {code} (pid: 4711)
============================================================
"""


@pytest.mark.parametrize(
    ("log", "first"),
    [
        (trace(1, "ValueError: a") + trace(2, "TypeError: b"), "TypeError: b"),
        (trace(1, "ValueError: mine", 1) + trace(2, "RuntimeError: gone", 0), "ValueError: mine"),
        (trace(1, "ValueError: mine", 0) + SUPERVISOR.format(code=1), "ValueError: mine"),
        (
            trace(1, "ValueError: mine").replace("pkg/model", "pkg/other") + "ERROR: read this",
            "ERROR: read this",
        ),
        (trace(1, "ValueError: mine").replace("pkg/model", "pkg/other"), "ValueError: mine"),
        ("x\nERROR: one\n[rank1]: ERROR: one\nERROR: two\n", "ERROR: one"),
        (SUPERVISOR.format(code=1), "The process ended with exit code 1 and printed no error."),
        (
            SUPERVISOR.format(code=-9),
            "A worker process was killed by SIGKILL, signal 9 and printed no error; running out",
        ),
        ("Traceback (most recent call last):\n", "The process ended with exit code 1"),
        ("", "The process ended with exit code 1"),
    ],
)
def test_which_failure_is_told(log: str, first: str) -> None:
    assert reason(log)[0].startswith(first)


def test_a_failure_inside_a_compiled_function() -> None:
    log = (
        "Traceback (most recent call last):\n"
        '  File "/opt/site-packages/torch/_dynamo/x.py", line 7, in wrap\n    raise e\n'
        "torch._dynamo.exc.TorchRuntimeError: failed on fake tensors\n\n"
        "from user code:\n"
        '   File "/srv/files/pkg/model.py", line 164, in forward\n    x = block(x)\n\n'
        "Set TORCHDYNAMO_VERBOSE=1\n"
    )
    assert reason(log) == [
        "torch._dynamo.exc.TorchRuntimeError: failed on fake tensors",
        '  File "pkg/model.py", line 164, in forward',
        "    x = block(x)",
    ]


def test_a_long_message_is_cut() -> None:
    got = reason(trace(3, "ValueError: 0\n" + "\n".join(f"line {i}" for i in range(50))))
    assert got[0] == "ValueError: 0"
    assert "more lines" in got[7]
    assert got[8] == '  File "pkg/model.py", line 3, in f'
    assert max(map(len, reason(trace(3, "ValueError: " + "x" * 10**6)))) <= LINE_LIMIT


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("No such file: '/home/ann/data/train.bin'", "No such file: 'train.bin'"),
        ("in /home/ann/secrets", "in <path>"),
        ("in /home/ann/secrets/", "in <path>"),
        ("file:///home/ann/x.py", "file://x.py"),
        ("/srv/my runs/run 1/files/pkg/model.py", "pkg/model.py"),
        ("at /srv/my runs/run 1", "at ."),
        ("1.5 / 2, tokens/s, a/b/c", "1.5 / 2, tokens/s, a/b/c"),
        ("(/usr/lib/python3.11/os.py:12)", "(os.py:12)"),
    ],
)
def test_paths_of_the_machine_are_removed(line: str, expected: str) -> None:
    hidden = ["/srv/my runs/run 1/files", "/srv/my runs/run 1"]
    assert without_paths(line, hidden) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (137, "SIGKILL, signal 9"),
        (143, "SIGTERM, signal 15"),
        (3, "exit code 3"),
        (255, "code 255"),
    ],
)
def test_describe_exit(code: int, expected: str) -> None:
    assert expected in describe_exit(code)


def test_a_log_full_of_tracebacks_takes_no_time() -> None:
    log = (trace(1, "ValueError: a") * 4000) + "Traceback (most recent call last):\n" * 20_000
    assert reason(log)[0] == "ValueError: a"
