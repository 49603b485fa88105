"""Plays a case through the whole path, as an agent would, and says what came of it.

Edits, then `test`, which checks, trains and scores, over the API in process, at the profile
`smoke`. What an agent sees comes from its answers, hidden numbers from the store. Beside the runs
stand a file, a process and a listening socket that no attack may touch.

Attacks are played in a sandbox only: without one `Arena` refuses to start.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Player, new_player
from fastapi.testclient import TestClient

from attacks.forms import (
    REACHED,
    Case,
    Edit,
    Exposed,
    Failed,
    Honest,
    Outcome,
    Refused,
    Small,
    Void,
)
from attacks.honest import HONEST
from harness import sandbox
from harness.edits import split_lines
from harness.events import TestFinished
from harness.jobs.plan import Surroundings, make_plan, prepare_run_dir, snapshot
from harness.jobs.processes import run_mark
from harness.jobs.runner import Command, Runner
from harness.regions import EditableFile
from harness.store import Store
from harness.task import Role, Task
from harness.transport.channel import sandboxed
from harness.workspace import RunPaths, StatePaths, read_regular, remove_tree

TASK = "llm-pretrain-residual"
PROFILE = "smoke"
TOLERANCE = 1e-4
LOSS = ".val_loss"
"""Metrics in nats."""
LONGEST_S = 1500
LOG_BYTES = 64 << 20
ANSWER_CHARS = 60_000
"""No answer is longer, whatever is printed or raised."""


def to_edits(task: Task, edit: Edit) -> list[dict[str, Any]]:
    """The same as calls of `edit`, from the last region to the first, so that lines stay."""
    [declared] = task.files
    text = task.read_file(declared.name)
    file = EditableFile.from_text(declared.name, text, declared.region_tuples())
    known = {region.name for region in file.regions} | {"extra"}
    assert edit.keys() <= known, edit.keys() - known
    calls = []
    for region in reversed(file.regions):
        content = edit.get(region.name)
        if region.name == "block" and "extra" in edit:
            kept = split_lines(content) if content is not None else region.lines
            content = "\n".join([*kept, "", edit["extra"]])
        if content is not None:
            calls.append(
                {
                    "op": "replace",
                    "filename": file.name,
                    "start_line": region.first,
                    "end_line": region.last,
                    "content": content,
                }
            )
    return calls


@dataclass
class Played:
    """How a case ended."""

    kind: str
    """refused, scored, void, failed"""
    rules: list[str] = field(default_factory=list)
    """of a refusal"""
    at: str = ""
    """text: before anything ran; check: after that"""
    reason: str = ""
    """of a void or failed test"""
    numbers: dict[str, float] = field(default_factory=dict)
    """visible and hidden, by their path"""
    cost: dict[str, float] = field(default_factory=dict)
    """parameters, operations and seconds that are reported beside a score"""
    undetected: float = 0.0
    """the largest gain in a loss that could pass, as the audit says, in nats"""
    used: int = 0
    said: str = ""
    """all that the agent was told"""
    seconds: float = 0.0
    """from the first edit to the end"""
    troubles: list[str] = field(default_factory=list)
    """what happened that must not, however the case ended"""


@dataclass
class Play:
    """A case under way: one session."""

    name: str
    player: Player
    answers: list[dict[str, Any]]
    began: float = field(default_factory=time.monotonic)


class Arena:
    """A server with a state folder of its own, and what no attack may touch.

    Raises AssertionError if agents' code would not run in a sandbox.
    """

    def __init__(self, client: TestClient, task: Task, state: Path, data: Path, out: Path) -> None:
        program = sandbox.find()
        assert isinstance(program, str), f"attacks are played in a sandbox only: {program}"
        self.client, self.task, self.state, self.data = client, task, state, data
        self.secret = secrets.token_hex(16)
        self.canary = out / "canary"
        self.canary.write_text(self.secret)
        sleep = [sys.executable, "-c", "import time; time.sleep(7200)"]
        self.process = subprocess.Popen(sleep)
        self.listeners = [socket.create_server(("127.0.0.1", 0))]
        self.listeners.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.listeners[1].bind(self.listeners[0].getsockname())
        self.heard: list[str] = []
        self.words = {
            "@CANARY@": str(self.canary),
            "@DATA@": str(data / "shakespeare"),
            "@STATE@": str(state),
            "@REPOSITORY@": str(Path(__file__).parents[2]),
            "@PID@": str(self.process.pid),
            "@PORT@": str(self.listeners[0].getsockname()[1]),
        }
        for listener in self.listeners:
            threading.Thread(target=self._hear, args=(listener,), daemon=True).start()
        self.record = out / "ended.jsonl"
        """A line for each case that was played: how it ended, whether that was expected."""
        self._twins: dict[str, Played] = {}
        self._under_way: dict[str, Play] = {}

    def _hear(self, listener: socket.socket) -> None:
        try:
            while True:
                if listener.type == socket.SOCK_STREAM:
                    line, _ = listener.accept()
                    line.close()
                else:
                    listener.recv(9999)
                self.heard.append("the listening socket was reached")
        except OSError:
            return

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for listener in self.listeners:
            listener.close()
        # What a run leaves may be too deep for pytest, which clears up after some sessions.
        for session in StatePaths(self.state).sessions.glob("*"):
            for run in session.glob("runs/*"):
                remove_tree(run / "out")

    # -- playing -----------------------------------------------------------------------------------

    def begin(self, name: str, edit: Edit) -> None:
        """Edits and asks for a test; its checks and stages then go on by themselves."""
        if name not in self._under_way:
            player = new_player(self.client, task=TASK, profile=PROFILE)
            play = Play(name, player, [])
            for call in to_edits(self.task, self._filled(edit)):
                answer = player.call("edit", **call)
                assert answer["ok"], answer["text"]
                play.answers.append(answer)
            play.answers.append(player.call("test", wait_s=0))
            self._under_way[name] = play

    def play(self, name: str, edit: Edit) -> Played:
        """Plays to the end."""
        self.begin(name, edit)
        play = self._under_way.pop(name)
        answer = play.answers[-1]
        refused_at_once = not answer["ok"]
        deadline = time.monotonic() + LONGEST_S
        while answer["ok"] and answer["data"].get("state") != "finished":
            assert time.monotonic() < deadline, f"{name} does not end:\n{answer['text']}"
            # A running test is joined; one that a check refused is asked for again, and answers so.
            answer = play.player.call("test", wait_s=50)
        play.answers.append(answer)
        played = self._refused(answer) if not answer["ok"] else self._finished(play, answer)
        played.at = "text" if refused_at_once else "check"
        played.used = play.player.call("status", wait_s=0)["budget"]["used"]
        # An edit's own answer shows the edit, and so every path that it was given.
        play.answers = play.answers[-2:]
        played.said = _all_text(play.answers) + json.dumps(play.answers)
        played.troubles += self._troubles(play, played)
        played.seconds = time.monotonic() - play.began
        return played

    def twin(self, name: str) -> Played:
        """What an honest edit came to, played once."""
        if name not in self._twins:
            self._twins[name] = self.play(f"twin: {name}", HONEST[name])
        return self._twins[name]

    def begin_twin(self, name: str) -> None:
        if name not in self._twins:
            self.begin(f"twin: {name}", HONEST[name])

    def _filled(self, edit: Edit) -> Edit:
        filled = {}
        for region, text in edit.items():
            for word, value in self.words.items():
                text = text.replace(word, value)
            filled[region] = text
        return filled

    def _refused(self, answer: Mapping[str, Any]) -> Played:
        findings = (answer.get("data") or {}).get("findings") or []
        rules = [finding["rule"] for finding in findings]
        # A refusal of the text says its rules in brackets; `syntax` has none.
        rules += [part.split("]")[0] for part in answer["text"].split("[")[1:]]
        if "line" in answer["text"] and not rules:
            rules.append("syntax")
        return Played("refused", rules=rules)

    def _finished(self, play: Play, answer: Mapping[str, Any]) -> Played:
        stages = answer["data"]["stages"]
        result = self._result(play)
        cost: dict[str, float] = {}
        undetected = 0.0
        numbers = _numbers("visible", answer["data"]["metrics"])
        if result.private is not None:
            for stage, values in result.private["values"].items():
                # What the audit measured differs with its seed, what was opened with the edit.
                shown = {k: part for k, part in values.items() if k not in ("audit", "conduct")}
                numbers |= _numbers(f"hidden.{stage}", shown)
                audit = values.get("audit", {})  # a stage that failed has none
                cost |= _numbers(stage, audit.get("cost", {}))
                undetected = max(undetected, audit.get("undetected", 0.0))
        reasons = [stage["state"] + ": " + " ".join(stage["reason"]) for stage in stages]
        limits = [f"{stage['limit_s']:.0f} s" for stage in stages if stage["state"] == "timeout"]
        bad = {stage["state"] for stage in stages} - {"done", "skipped"}
        kind = "void" if "void" in bad else "failed" if bad or not result.scored else "scored"
        return Played(
            kind,
            reason="\n".join([*reasons, *limits]),
            numbers=numbers,
            cost=cost,
            undetected=undetected,
        )

    def _result(self, play: Play) -> TestFinished:
        store = Store(f"sqlite:///{StatePaths(self.state).database.absolute()}")
        try:
            loaded = store.load(play.player.id)
        finally:
            store.close()
        assert loaded is not None
        return next(e for e in reversed(loaded[1]) if isinstance(e, TestFinished))

    # -- what must not happen ----------------------------------------------------------------------

    def _troubles(self, play: Play, played: Played) -> list[str]:
        found = [*self.heard]
        self.heard.clear()
        if not self.canary.is_file() or self.canary.read_text() != self.secret:
            found.append("the file outside was changed")
            self.canary.unlink(missing_ok=True)
            self.canary.write_text(self.secret)
        if self.process.poll() is not None:
            found.append("the process outside was ended")
        told = {"the file outside": self.secret, "a path": str(self.state)}
        for what, text in told.items():
            if text in played.said:
                found.append(f"{what} is in an answer")
        if len(played.said) > ANSWER_CHARS * max(1, len(play.answers)):
            found.append(f"answers of {len(played.said)} characters")
        if set("\x1b\x00\x07\x9b\u202e") & set(_all_text(play.answers)):
            found.append("control characters in an answer")
        root = StatePaths(self.state).session(play.player.id).root
        # Nothing that looks into the run's own folder: it may be too deep.
        for log in [*root.glob("*/*/steps/*/log.txt"), *root.glob("*/*/runner.log")]:
            said = read_regular(log, LOG_BYTES) or b""
            lines = [line for line in said.splitlines() if line.startswith(REACHED.encode())]
            found += [f"{log.parent.name}: {line[:200]!r}" for line in lines[:5]]
        marks = {
            run_mark(RunPaths(path)) for path in [*root.glob("runs/*"), *root.glob("checks/*")]
        }
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("HARNESS_RUN") in marks:
                found.append(f"process {process.pid} is left over")
        hidden = _hidden_only(played.numbers)
        if played.kind == "scored" and any(text in played.said for text in hidden):
            found.append("a hidden number is in an answer")
        return found

    # -- looking around ----------------------------------------------------------------------------

    def probe(self, role: Role, *args: str) -> dict[str, Any]:
        """What probes.py reaches in the sandbox of a role of the first stage."""
        paths = RunPaths(self.canary.parent / f"probe-{role}-{secrets.token_hex(4)}")
        around = Surroundings(paths, self.data, paths.root / "cache")
        plan = make_plan(self.task, PROFILE, 1, 1, around)
        text = Path(__file__).with_name("probes.py").read_text()
        more = {"probes.py": text, "asked": "\n".join(args) + "\n"}
        prepare_run_dir(paths, plan, snapshot(self.task, {}) | more)
        stage = plan.stages[0]
        processes = [*stage.steps, *(step.companion for step in stage.steps)]
        [process] = [p for p in processes if p is not None and p.role == role]
        assert process.confinement is not None
        for mount in process.confinement.mounts:
            if mount.writable:  # as the runner makes it
                Path(mount.source).mkdir(parents=True, exist_ok=True)
        command = Command.of(Runner(paths, plan), stage, process)
        assert command.sandbox is not None
        inside = sandbox.limited(process.confinement, ["python", "probes.py", "@asked"])
        argv, fd = sandboxed(command.sandbox[1:], inside)
        try:
            done = subprocess.run(
                argv,
                executable=command.sandbox[0],
                cwd=command.cwd,
                env=command.env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=[fd],
                timeout=200,
                check=False,
            )
        finally:
            os.close(fd)
        assert done.returncode == 0, done.stderr.decode()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    # -- judging -----------------------------------------------------------------------------------

    def misses(self, played: Played, outcome: Outcome) -> list[str]:
        """What differs from an expected outcome; nothing if it is met."""
        match outcome:
            case Refused(rule=rule, at=at):
                if played.kind != "refused" or rule not in played.rules or played.at != at:
                    return [f"not refused at {at} with {rule}"]
                return [f"{played.used} tests were counted"] if played.used else []
            case Honest(twin=twin):
                if played.kind != "scored":
                    return ["not scored"]
                return _different(played.numbers, self.twin(twin).numbers)
            case Void(categories=categories):
                if played.kind != "void" or not any(c in played.reason for c in categories):
                    return [f"not voided with {' or '.join(categories)}"]
                return [] if played.used == 1 else ["a voided test was not counted"]
            case Failed(words=words):
                if played.kind != "failed":
                    return ["not failed"]
                told = not words or any(word in played.reason for word in words)
                return [] if told else [f"the reason has none of: {', '.join(words)}"]
            case Small():
                if played.kind != "scored":
                    return ["not scored"]
                plain = self.twin("unedited").numbers
                losses = [name for name in plain if name.endswith(LOSS)]
                gains = {name: plain[name] - played.numbers[name] for name in losses}
                high = [f"{k} is better by {v}" for k, v in gains.items() if v > played.undetected]
                return high if losses else ["there is no loss"]
            case Exposed(what="final"):
                hidden = any(".final." in name for name in played.numbers)
                return [] if played.kind == "scored" and hidden else ["no number of `final`"]
            case Exposed(what=what):
                if played.kind != "scored":
                    return ["not scored"]
                plain = self.twin("unedited").cost
                mine = {k: v for k, v in played.cost.items() if what in k}
                more = [k for k, v in mine.items() if v > 1.01 * plain.get(k, v)]
                return [] if more else [f"the reported {what} is not above the unedited file's"]
        raise AssertionError(outcome)

    def judge(self, case: Case) -> str:
        """Plays a case; empty if it met one of its ends and touched nothing, else what it did."""
        for _ in range(2 if case.again else 1):
            played = self.play(case.name, case.edit)
            missed = [self.misses(played, outcome) for outcome in case.expect]
            met = [o for o, some in zip(case.expect, missed, strict=True) if not some]
            self.note(case.name, case.row, played, type(met[0]).__name__ if met else None)
            if played.troubles or all(missed):
                wanted = "; or ".join(", ".join(some[:5]) for some in missed if some)
                touched = "; ".join(played.troubles)
                ended = f"{played.kind} {played.rules} {played.reason}"
                return f"{case.name}: ended {ended}\nwanted: {wanted}\ntouched: {touched}"
        return ""

    def note(self, name: str, row: int | None, played: Played, met: str | None) -> None:
        """Adds to the record; `met` is the expected end that it met, if any."""
        line = {
            "name": name,
            "row": row,
            "ended": played.kind,
            "at": played.at,
            "rules": played.rules,
            "reason": played.reason,
            "met": met,
            "troubles": played.troubles,
            "seconds": round(played.seconds, 1),
        }
        with self.record.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _numbers(path: str, value: Any) -> dict[str, float]:
    """All numbers below `value`, by their path."""
    if isinstance(value, bool) or value is None:
        return {}
    if isinstance(value, int | float):
        return {path: float(value)}
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return {k: v for key, part in items for k, v in _numbers(f"{path}.{key}", part).items()}


def _different(mine: Mapping[str, float], other: Mapping[str, float]) -> list[str]:
    if not other:
        return ["the honest twin has no numbers"]
    if mine.keys() != other.keys():
        return [f"other numbers: {sorted(mine.keys() ^ other.keys())[:5]}"]
    return [
        f"{name} is {mine[name]}, not {other[name]}"
        for name in mine
        if mine[name] != pytest.approx(other[name], rel=TOLERANCE, abs=TOLERANCE)
    ]


def _hidden_only(numbers: Mapping[str, float]) -> list[str]:
    """Hidden losses as they might be written; a short number could stand there by chance."""
    visible = {f"{v:.4f}" for k, v in numbers.items() if k.startswith("visible")}
    hidden = {f"{v:.4f}" for k, v in numbers.items() if ".final." in k and v != int(v)}
    return sorted(hidden - visible)


def _all_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "".join(_all_text(part) for part in value.values())
    if isinstance(value, list | tuple):
        return "".join(_all_text(part) for part in value)
    return ""
