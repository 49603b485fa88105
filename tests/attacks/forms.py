"""What a case is made of: the outcomes that may be expected, and texts of regions.

An edit is a text for each region that it changes; `extra` goes below the unedited Block. Words in
`@...@` are replaced by the driver with what exists only when a case is played: CANARY (a file
outside of the run), DATA, STATE, REPOSITORY (folders), PID (a process), PORT (where one listens).
What an edit reaches although it must not, it prints behind the word REACHED.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent, indent

Edit = dict[str, str]

REACHED = "REACHED"
"""Printed by an attack that got somewhere; the driver looks for it in every log."""

LABEL = "gpt-smoke"
"""The stage that trains at the profile at which cases are played."""

VOIDS = ("not causal", "depends on the batch", "changes itself")

# ---- Outcomes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """Refused with this rule before a test was counted; `at` is `text` or `check`."""

    rule: str
    at: str = "text"


@dataclass(frozen=True)
class Honest:
    """Scored, visible and hidden numbers as those of an edit that does not cheat."""

    twin: str = "unedited"


@dataclass(frozen=True)
class Void:
    """Voided by the audit, with one of these categories."""

    categories: tuple[str, ...] = VOIDS


@dataclass(frozen=True)
class Failed:
    """Ended by a limit or an error; the reason that is shown has one of these words, if any."""

    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exposed:
    """Scored; `cost` stands higher in what is reported, or only `final` ranks."""

    what: str


@dataclass(frozen=True)
class Small:
    """Scored, and better than the unedited file by no more than the audit says could pass."""


Outcome = Refused | Honest | Void | Failed | Exposed | Small


@dataclass(frozen=True)
class Case:
    """An attack, and every end that would be no harm."""

    name: str
    row: int | None
    """Of the list of threats in docs/integrity.md; None for what is not in it."""
    group: str
    """Attacks of one group meet the same defence."""
    edit: Edit
    expect: tuple[Outcome, ...]
    again: bool = False
    """Played twice: the second run must find nothing of the first."""
    unread: bool = False
    """Played with the contract, but without the rules on the text, which would refuse it first."""


# ---- Regions -------------------------------------------------------------------------------------

PLAIN = "for block in self.transformer.h:\n    x = block(x)\n"


def text(code: str, blanks: int) -> str:
    return indent(dedent(code).strip("\n") + "\n", " " * blanks)


def loop(code: str) -> Edit:
    """The whole block loop."""
    return {"block-loop": text(code, 8)}


def after(code: str) -> Edit:
    """The unedited block loop, and then some statements."""
    return {"block-loop": text(PLAIN + dedent(code).strip("\n"), 8)}


def init(code: str) -> Edit:
    return {"residual-parameters": text(code, 8)}


def extra(code: str) -> Edit:
    return {"extra": text(code, 0)}


def block(code: str) -> Edit:
    return {"block": text(code, 0)}


def optimizer(code: str) -> Edit:
    head = "def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):\n"
    return {"optimizer": text(head + indent(dedent(code).strip("\n"), "    "), 4)}


def overrides(code: str) -> Edit:
    return {"overrides": code + "\n"}


# ---- Past the rules on the text ------------------------------------------------------------------

DOOR = """
import abc


def reach(thing, name):
    class Door(abc.ABC):
        __match_args__ = (name,)

    Door.register(type(thing))
    match thing:
        case Door(found):
            return found


def world():
    return reach(reach, "__glo" + "bals__")


def library(name):
    return world()["sys"].modules["importlib"].import_module(name)


def serving():
    return "model_server" in world()["sys"].argv[0]


def inside():
    found = library("os").path.isdir("/harness/files")
    if not found:
        print("REACHED", "a place without a sandbox: nothing is tried")
    return found


def variables(name):
    frame = reach(world()["sys"], "_getf" + "rame")(1)
    while frame is not None:
        found = reach(frame, "f_lo" + "cals")
        if name in found:
            return found
        frame = reach(frame, "f_ba" + "ck")
    return {}
"""
"""Any attribute of anything: a class pattern's positional names are not in the text. With it comes
whatever the interpreter has: files, sockets, processes, frames. No rule on a text is a boundary.

Whatever could hurt a machine is tried only `inside` the sandbox."""

REAL = "self.config.n_layer == 2 and self.config.block_size == 64"
"""Only the model that is trained and scored, none of those that the contract builds."""

SCORED = f"{REAL} and not self.training and not torch.is_grad_enabled()"
"""Only where nothing is learned: the monitor windows, and scoring."""


def training(code: str, step: int = 7) -> Edit:
    """Runs `code` once in the middle of training, in a function; what it raises is said."""
    body = indent(dedent(code).strip("\n"), " " * 8)
    said = '    except BaseException as error:\n        print("stopped", type(error).__name__)\n'
    act = f"def act(model, idx):\n    try:\n{body}\n{said}"
    start = f"""
    if self.training and {REAL} and int(self.step) == {step} and not hasattr(self, "acted"):
        self.acted = True
        inside() and act(self, idx)
    """
    return extra(DOOR + "\n\n" + act) | after(start)


def leaving(code: str) -> Edit:
    """Runs `code` when the process that trains ends, and nothing else."""
    body = indent(dedent(code).strip("\n"), " " * 4)
    act = f"def leave(out):\n    os, name = library('os'), '{LABEL}'\n{body}\n"
    start = f"""
    if self.training and {REAL} and int(self.step) == 7 and not hasattr(self, "acted"):
        self.acted = True
        inside() and library("atexit").register(leave, library("os").environ["HARNESS_OUT"])
    """
    return extra(DOOR + "\n\n" + act) | after(start)


def scoring(code: str) -> Edit:
    """Runs `code` in each forward of the model server; `self`, `x`, `idx` are at hand."""
    body = indent(dedent(code).strip("\n"), "    ")
    return (
        extra(DOOR)
        | init("self.calls = 0")
        | after(f"if {SCORED} and serving() and inside():\n{body}")
    )
