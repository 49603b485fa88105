"""A task's folder as types: task.yaml, the files that it names, its baselines.

Guaranteed of a loaded `Task`: every name refers to something that is there, regions fit their
files, and what the folder held at loading time is what `read_file`, `read_instruction` and the
baselines give for as long as the object lives. Scripts are not read: a stage runs the file.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from harness.constraints import Constraints
from harness.metrics import CurvePoint, Scores, read_curve, read_scores
from harness.regions import EditableFile, locked_digest
from harness.workspace import SAFE_NAME

Role = Literal["contract", "reference", "preflight", "feed", "run", "serve", "score"]
HALVES: tuple[Role, ...] = ("run", "score")
"""The halves of a stage, in the order in which they run."""
ROLES: tuple[Role, ...] = ("reference", "preflight", "feed", "run", "serve", "score")
"""What a stage's script may be called with, in this order."""
COMPANIONS: Mapping[Role, Role] = {"feed": "run", "serve": "score"}
"""Roles that work beside another one and end with it; the others are steps of a test."""
UNCOUNTED: frozenset[Role] = frozenset({"contract", "reference", "preflight"})
"""Checks: a test that one of them refuses is not counted."""
CONFINED: frozenset[Role] = frozenset({"contract", "preflight", "run", "serve"})
"""Roles whose processes import the edited files: they run in the sandbox."""
RECORDED: frozenset[Role] = frozenset({"preflight", "run"})
"""Roles whose processes keep a record of what they open and start, in their HARNESS_OUT."""

Model = TypeVar("Model", bound=BaseModel)

Loc = tuple[int | str, ...]
"""Where a field stands: keys and indexes from the document's root."""


class TaskError(ValueError):
    """A task that can't be loaded: one line ``file:line: field: what`` for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


# ---------------------------------------------------------------------------------------------
# task.yaml


def _relative(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or str(PurePosixPath(path)) != path:
        raise ValueError("must be a plain relative path (no '..', no './', not absolute)")
    return path


def _safe(name: str) -> str:
    if SAFE_NAME.fullmatch(name) is None:
        raise ValueError("must be letters, digits, '.', '_' and '-', at most 100 of them")
    return name


def _one_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as e:
        raise ValueError(f"is not a regular expression: {e}") from None
    if groups != 1:
        raise ValueError(f"must have exactly one group, has {groups}")
    return pattern


RelativePath = Annotated[str, AfterValidator(_relative)]
Name = Annotated[str, AfterValidator(_safe)]
Pattern = Annotated[str, AfterValidator(_one_group)]
Count = Annotated[int, Field(strict=True, ge=0)]
PositiveCount = Annotated[int, Field(strict=True, ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Region(_Part):
    """An editable run of lines of the file as it is shipped."""

    name: Name
    """Names the region in messages and checks; unique in its file."""
    title: str = ""
    """What people and agents read; the name if left out."""
    lines: tuple[PositiveCount, Count]
    """First and last line, from 1; the last is one less than the first if the region is empty."""

    @property
    def first(self) -> int:
        return self.lines[0]

    @property
    def last(self) -> int:
        return self.lines[1]


class File(_Part):
    """A file that agents edit."""

    name: RelativePath
    """Its path below `root`, and below the snapshot of a test."""
    regions: tuple[Region, ...] = Field(min_length=1)
    """In the order of the file, with at least one locked line between two."""
    constraints: Constraints = Constraints()
    """What the regions may hold; only the structure of the file is kept if left out."""

    def region_tuples(self) -> list[tuple[str, int, int]]:
        """(name, first line, last line) of each region, in order."""
        return [(region.name, region.first, region.last) for region in self.regions]


class Sibling(_Part):
    """A locked file that stands beside the editable ones in a snapshot."""

    name: RelativePath
    """Its path below `root`, and below the snapshot of a test."""
    show: bool = False
    """Whether agents may view it; it is then named in the prompt."""


class Feedback(_Part):
    """How the lines that a `run` half prints are read."""

    prefix: str = Field(min_length=1)
    """What such a line begins with."""
    step: Pattern
    """Finds the optimizer step in such a line; one group."""


class Metric(_Part):
    """One number of a test."""

    name: Name
    """Unique among the metrics of its kind in a profile."""
    kind: Literal["feedback", "scored"]
    """`feedback` is read from what `run` prints, `scored` from what `score` writes."""
    stage: str
    """The stage's name."""
    direction: Literal["lower", "higher"]
    """Which way is better."""
    unit: str = ""
    """As shown to people."""
    decimals: Annotated[int, Field(strict=True, ge=0, le=12)] = 4
    """Digits after the point wherever the value is shown."""
    pattern: Pattern | None = None
    """Feedback only: finds the value in a line; one group."""
    primary: bool = False
    """The one scored metric of a profile by which results are ranked."""
    ranked: bool = False
    """Whether `score` also measures it on the hidden `final` split; a primary always is."""
    hidden: bool = False
    """Whether agents never see it."""
    profiles: tuple[str, ...] | None = None
    """The profiles that have it; all if left out."""

    @property
    def on_final(self) -> bool:
        """Whether ``hidden.final`` must have it."""
        return self.kind == "scored" and (self.primary or self.ranked)


class Limits(_Part):
    """What ends a step of a stage by force."""

    run_s: Seconds | None = None
    """Wall clock of the `run` half, in seconds."""
    score_s: Seconds | None = None
    """Wall clock of the `score` half, in seconds."""
    preflight_s: Seconds | None = None
    """Wall clock of the uncounted first steps at full size, in seconds."""
    reference_s: Seconds | None = None
    """Wall clock of measuring the unedited files, in seconds."""
    log_bytes: PositiveCount = 16 << 20
    """Most that one step may print."""
    disk_bytes: PositiveCount = 64 << 30
    """Most that `run` and `preflight` may write, caches and checkpoints included."""
    memory_bytes: PositiveCount | None = None
    """Most memory that a step's processes may hold together; nine tenths of the machine's if left
    out."""
    processes: PositiveCount = 512
    """Most processes that a step may have at once."""

    def seconds(self, role: Role) -> float | None:
        """The wall clock limit of a role."""
        by_role = {
            "reference": self.reference_s,
            "preflight": self.preflight_s,
            "run": self.run_s,
            "score": self.score_s,
        }
        return by_role.get(role)


class Keep(_Part):
    """A file that `run` leaves for scoring."""

    file: Name
    """Its name in HARNESS_OUT."""
    bytes: PositiveCount
    """The largest that it may be."""


class Stage(_Part):
    """One script of a test."""

    name: Name
    """What metrics and needs refer to; the same in every profile that has it."""
    label: Name
    """What agents see; unique in the profile."""
    script: RelativePath
    """A bash script below the task's folder, called with its role as only argument."""
    roles: tuple[Role, ...] = Field(default=HALVES, min_length=1)
    """What its script is called with: its halves, before them perhaps `reference` and `preflight`,
    and beside them perhaps `feed` and `serve`."""
    keeps: tuple[Keep, ...] = ()
    """What of `run`'s output is hashed, put out of reach, and given to `serve` and `score`."""
    needs: tuple[str, ...] = ()
    """Names of earlier stages without whose success this one is skipped."""
    gpus: Count = 0
    """How many GPUs it is given."""
    limits: Limits
    """A limit for each of its roles."""


class SandboxContents(_Part):
    """What the sandbox holds besides the run's files, the stages' scripts and the interpreter."""

    packages: tuple[str, ...] = ()
    """Installed distributions; what they require comes along."""
    code: tuple[RelativePath, ...] = ()
    """Files and folders of the task's own code, below `root`, that confined roles run."""


class Contract(_Part):
    """The check that runs the edited files at a small size, on a CPU, before anything is spent."""

    script: RelativePath
    """A bash script below the task's folder, called with `contract`; it leaves findings.json."""
    limit_s: Seconds = 60
    """Seconds of processor time, and a third of the longest wall clock."""
    memory_bytes: PositiveCount | None = None
    """Most memory that its processes may hold together; nine tenths of the machine's if left
    out."""


class Data(_Part):
    """The dataset of a profile."""

    name: Name
    """Its folder below the data folder."""
    prepare: tuple[str, ...] | None = Field(default=None, min_length=1)
    """A Python script below `root` and its arguments, which makes it; None: made by hand."""


class Profile(_Part):
    """One scale of the task."""

    title: str = ""
    """One line on its size and cost, for people."""
    details: str = ""
    """What its tests run (sizes, steps), for agents, who cannot see the scripts."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 42
    """HARNESS_SEED of every test."""
    data: Data
    """What it trains and scores on."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """In the order in which they run."""

    def stage(self, name: str) -> Stage:
        """The stage of that name; KeyError if there is none."""
        return next((s for s in self.stages if s.name == name), None) or _absent(name)

    @property
    def gpus(self) -> int:
        """The most that any of its stages is given."""
        return max(stage.gpus for stage in self.stages)


class Published(_Part):
    """A result that others published: shown as such, never ranked with ours."""

    name: str
    """As its authors call it."""
    metrics: dict[str, FiniteFloat]
    """By the names of scored metrics."""
    note: str = ""
    """Where it comes from and on what it was measured."""
    profile: str | None = None
    """The profile that it is comparable in scale with."""


class Baseline(_Part):
    """A named list of edits, applied as an agent's would be (``baselines/<name>.yaml``)."""

    name: Name
    """The same as the file's name."""
    title: str
    """As shown in tables."""
    paper: str = ""
    """Where the idea comes from."""
    description: str = ""
    """The idea in words."""
    edits: tuple[dict[str, Any], ...]
    """Arguments of `edit` calls, in order; none for the unedited files."""


class Task(_Part):
    """A task.yaml, with what it names."""

    name: Name
    """Identifies the task in sessions and addresses."""
    version: PositiveCount
    """Raised with every change after which results are no longer comparable."""
    title: str
    """One line for people."""
    instruction: RelativePath = "instruction.md"
    """What opens the prompt; below the task's folder."""
    root: str = "."
    """The folder, from the task's, below which files, siblings and data scripts are named."""
    files: tuple[File, ...] = Field(min_length=1)
    """What agents edit."""
    siblings: tuple[Sibling, ...] = ()
    """What stands beside it, locked."""
    tests: PositiveCount = 3
    """Tests in a session's budget."""
    feedback: Feedback | None = None
    """How `run` reports while it works; needed if there are feedback metrics."""
    metrics: tuple[Metric, ...]
    """In the order in which they are shown."""
    profiles: dict[Name, Profile] = Field(min_length=1)
    """By name."""
    contract: Contract | None = None
    """The check that runs the edited files; none if left out."""
    sandbox: SandboxContents = SandboxContents()
    """What confined roles find in the sandbox."""
    max_step_ratio: Annotated[float, Field(gt=0)] = 2.0
    """How many times as long as the unedited files' a training step may take."""
    baselines: tuple[Name, ...] = ()
    """Names of files in ``baselines/``, in the order in which they are shown."""
    published: tuple[Published, ...] = ()
    """Results from elsewhere."""

    _folder: Path = PrivateAttr()
    _contents: dict[str, bytes] = PrivateAttr(default_factory=dict)
    _instruction: str = PrivateAttr(default="")
    _baselines: dict[str, Baseline] = PrivateAttr(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The task's folder, absolute."""
        return self._folder

    @property
    def root_folder(self) -> Path:
        """The folder below which files, siblings and data scripts are named, absolute."""
        return (self._folder / self.root).resolve()

    def file(self, name: str) -> File:
        """The editable file of that name; KeyError if there is none."""
        return next((f for f in self.files if f.name == name), None) or _absent(name)

    def read_file(self, name: str) -> str:
        """The text of an editable file or sibling as shipped; KeyError if it is neither."""
        return self._contents[name].decode("utf-8")

    def shipped(self) -> dict[str, EditableFile]:
        """The editable files, unedited, in the task's order."""
        return {
            file.name: EditableFile.from_text(
                file.name, self.read_file(file.name), file.region_tuples()
            )
            for file in self.files
        }

    def constraints(self) -> dict[str, Constraints]:
        """What the regions of each editable file may hold."""
        return {file.name: file.constraints for file in self.files}

    def locked_digest(self) -> str:
        """Over every locked byte of the editable files and the whole of their siblings."""
        return locked_digest(list(self.shipped().values()), self.sibling_contents())

    def sibling_contents(self) -> list[tuple[str, bytes]]:
        """(name, content) of each locked sibling, in the task's order."""
        return [(sibling.name, self._contents[sibling.name]) for sibling in self.siblings]

    def read_instruction(self) -> str:
        """The instruction's text."""
        return self._instruction

    def script_path(self, stage: Stage) -> Path:
        """The stage's script, absolute."""
        return self._folder / stage.script

    def baseline(self, name: str) -> Baseline:
        """The baseline of that name; KeyError if there is none."""
        return self._baselines[name]

    def all_baselines(self) -> list[Baseline]:
        """In the task's order."""
        return [self._baselines[name] for name in self.baselines]

    def profile(self, name: str) -> Profile:
        """The profile of that name; KeyError if there is none."""
        return self.profiles[name]

    def metrics_of(
        self,
        profile: str,
        stage: str | None = None,
        *,
        kind: Literal["feedback", "scored"] | None = None,
        hidden: bool | None = None,
    ) -> list[Metric]:
        """A profile's metrics in the task's order, narrowed by what is given."""
        return [
            metric
            for metric in self.metrics
            if (metric.profiles is None or profile in metric.profiles)
            and (stage is None or metric.stage == stage)
            and (kind is None or metric.kind == kind)
            and (hidden is None or metric.hidden == hidden)
        ]

    def primary(self, profile: str) -> Metric:
        """The metric by which the profile's results are ranked."""
        return next(m for m in self.metrics_of(profile, kind="scored") if m.primary)

    def read_scores(self, profile: str, stage: str, text: str | bytes) -> Scores:
        """A stage's metrics.json, checked; raises metrics.MetricsError."""
        scored = self.metrics_of(profile, stage, kind="scored")
        return read_scores(
            text,
            visible=[m.name for m in scored if not m.hidden],
            hidden=[m.name for m in scored if m.hidden],
            ranked=[m.name for m in scored if m.on_final],
        )

    def read_curve(self, profile: str, stage: str, log: str) -> list[CurvePoint]:
        """The feedback metrics of a stage, from the log of its `run` half."""
        if self.feedback is None:
            return []
        metrics = self.metrics_of(profile, stage, kind="feedback")
        patterns = {m.name: m.pattern for m in metrics if m.pattern is not None}
        return read_curve(log, self.feedback.prefix, self.feedback.step, patterns)

    def prepare_command(
        self, profile: str, out: Path, python: str = sys.executable
    ) -> list[str] | None:
        """The command that makes the profile's dataset at `out`; None if there is none."""
        argv = self.profiles[profile].data.prepare
        if argv is None:
            return None
        return [python, str(self.root_folder / argv[0]), *argv[1:], "--out", str(out)]


def _absent(name: str) -> Any:
    raise KeyError(name)


# ---------------------------------------------------------------------------------------------
# Loading


def load_task(folder: Path) -> Task:
    """The task in a folder. Raises TaskError with every problem found."""
    folder = folder.resolve()
    document = _Document.read(folder / "task.yaml")
    task = document.parse(Task)
    task._folder = folder
    problems = list(document.place(_check(task)))
    problems += _load_contents(task, document)
    problems += _load_baselines(task, document)
    if problems:
        raise TaskError(problems)
    return task


def find_tasks(root: Path) -> dict[str, Task]:
    """Every folder of `root` that has a task.yaml, by the task's name, sorted.

    Raises TaskError with the problems of all of them.
    """
    problems: list[str] = []
    tasks: dict[str, Task] = {}
    for path in sorted(root.glob("*/task.yaml")):
        try:
            task = load_task(path.parent)
        except TaskError as e:
            problems += e.problems
            continue
        if task.name in tasks:
            problems.append(f"{path}:1: name: {task.name!r} is also {tasks[task.name].folder}")
        tasks[task.name] = task
    if problems:
        raise TaskError(problems)
    return dict(sorted(tasks.items()))


def line_of(path: Path, loc: Loc) -> int:
    """The line of a field of a YAML file, as an error about it names it; 1 if it can't be read."""
    try:
        return _Document.read(path).line(loc)
    except TaskError:
        return 1


def schema() -> dict[str, Any]:
    """The JSON Schema of task.yaml."""
    found = Task.model_json_schema(by_alias=True)
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    found["title"] = "task.yaml"
    return found


# libyaml's reads a task ten times as fast; PyYAML can be built without it.
_Loader: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Document:
    """A YAML file whose fields know their lines."""

    def __init__(self, path: Path, node: yaml.Node, value: Any) -> None:
        self.path, self.node, self.value = path, node, value

    @classmethod
    def read(cls, path: Path) -> _Document:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as e:
            raise TaskError([f"{path}:1: (file): {e.strerror}"]) from None
        except UnicodeDecodeError:
            raise TaskError([f"{path}:1: (file): is not UTF-8"]) from None
        try:
            loader = _Loader(text)
            try:
                node = loader.get_single_node()
                if node is None:
                    raise TaskError([f"{path}:1: (file): is empty"])
                repeated = [
                    f"{path}:{line}: {_dotted(loc)}: is given twice" for loc, line in _twice(node)
                ]
                if repeated:
                    raise TaskError(repeated)
                value = loader.construct_document(node)
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as e:
            line = e.problem_mark.line + 1 if e.problem_mark else 1
            raise TaskError([f"{path}:{line}: (file): {e.problem or e.context}"]) from None
        except yaml.YAMLError as e:
            raise TaskError([f"{path}:1: (file): {e}"]) from None
        return cls(path, node, value)

    def parse(self, model: type[Model]) -> Model:
        try:
            return model.model_validate(self.value)
        except ValidationError as e:
            found = [(error["loc"], _said(error)) for error in e.errors()]
            raise TaskError(list(self.place(found))) from None

    def place(self, found: Iterable[tuple[Loc, str]]) -> Iterator[str]:
        for loc, what in found:
            yield f"{self.path}:{self.line(loc)}: {_dotted(loc)}: {what}"

    def line(self, loc: Loc) -> int:
        """The line of a field, or of the innermost part of the document that would hold it."""
        node, line = self.node, self.node.start_mark.line
        for part in loc:
            if isinstance(node, yaml.MappingNode):
                pair = next((p for p in node.value if p[0].value == str(part)), None)
                if pair is None:
                    break
                line, node = pair[0].start_mark.line, pair[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                if part >= len(node.value):
                    break
                node = node.value[part]
                line = node.start_mark.line
            else:
                break
        return int(line) + 1


def _twice(node: yaml.Node, loc: Loc = ()) -> Iterator[tuple[Loc, int]]:
    """The keys that a mapping has twice: YAML lets the last one win without a word."""
    if isinstance(node, yaml.MappingNode):
        counts: Counter[str] = Counter()
        for key, value in node.value:
            name = str(key.value)
            counts[name] += 1
            if counts[name] == 2:
                yield (*loc, name), key.start_mark.line + 1
            yield from _twice(value, (*loc, name))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _twice(value, (*loc, index))


def _said(error: Mapping[str, Any]) -> str:
    match error["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is not a known field"
        case "value_error":
            return str(error["ctx"]["error"])
    message = str(error["msg"])
    return message[:1].lower() + message[1:]


def _dotted(loc: Loc) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(file)"


# ---------------------------------------------------------------------------------------------
# What one field says about another


def _check(task: Task) -> Iterator[tuple[Loc, str]]:
    yield from _unique(("files",), [f.name for f in task.files], "name")
    siblings = [s.name for s in task.siblings]
    yield from _unique(("siblings",), siblings, "name")
    for index, name in enumerate(siblings):
        if name in {f.name for f in task.files}:
            yield ("siblings", index, "name"), f"{name!r} is an editable file"
    for index, file in enumerate(task.files):
        names = [r.name for r in file.regions]
        yield from _unique(("files", index, "regions"), names, "name")
        for unknown in file.constraints.unknown_regions(names):
            loc = ("files", index, "constraints", "regions")
            yield loc, f"{unknown!r} is no region of the file; there are {_listed(names)}"
    if not (task.folder / task.instruction).is_file():
        yield ("instruction",), f"no such file: {task.instruction}"
    if task.contract and not (task.folder / task.contract.script).is_file():
        yield ("contract", "script"), f"no such file: {task.contract.script}"
    for position, path in enumerate(task.sandbox.code):
        if not (task.root_folder / path).exists():
            yield ("sandbox", "code", position), f"no such file or folder: {path}"
    for name, profile in task.profiles.items():
        yield from _check_profile(task, name, profile)
    yield from _check_metrics(task)
    for index, published in enumerate(task.published):
        scored = {m.name for m in task.metrics if m.kind == "scored"}
        for metric in published.metrics.keys() - scored:
            loc = ("published", index, "metrics", metric)
            yield loc, f"no scored metric has this name; there are {_listed(scored)}"
        if published.profile is not None and published.profile not in task.profiles:
            yield ("published", index, "profile"), _unknown("profile", task.profiles)


def _check_profile(task: Task, name: str, profile: Profile) -> Iterator[tuple[Loc, str]]:
    at: Loc = ("profiles", name)
    yield from _unique((*at, "stages"), [s.name for s in profile.stages], "name")
    yield from _unique((*at, "stages"), [s.label for s in profile.stages], "label")
    if profile.data.prepare and not (task.root_folder / profile.data.prepare[0]).is_file():
        yield (*at, "data", "prepare", 0), f"no such file: {profile.data.prepare[0]}"
    for index, stage in enumerate(profile.stages):
        here: Loc = (*at, "stages", index)
        if not task.script_path(stage).is_file():
            yield (*here, "script"), f"no such file: {stage.script}"
        if list(stage.roles) != [role for role in ROLES if role in stage.roles]:
            yield (*here, "roles"), f"must be some of {', '.join(ROLES)}, each once, in this order"
        for role in stage.roles:
            if role not in COMPANIONS and stage.limits.seconds(role) is None:
                yield (*here, "limits"), f"{role}_s is missing"
            if role in COMPANIONS and COMPANIONS[role] not in stage.roles:
                yield (
                    (*here, "roles"),
                    f"`{role}` works beside `{COMPANIONS[role]}`, which is missing",
                )
        if stage.keeps and "run" not in stage.roles:
            yield (*here, "keeps"), "is what `run` leaves, and there is no `run`"
        earlier = [s.name for s in profile.stages[:index]]
        for position, need in enumerate(stage.needs):
            if need not in earlier:
                what = f"names no earlier stage; there are {_listed(earlier)}"
                yield (*here, "needs", position), what


def _check_metrics(task: Task) -> Iterator[tuple[Loc, str]]:
    for index, metric in enumerate(task.metrics):
        at: Loc = ("metrics", index)
        if metric.kind == "feedback":
            if metric.pattern is None:
                yield (*at, "pattern"), "is missing (a feedback metric is read from a line)"
            for field in ("primary", "hidden", "ranked"):
                if getattr(metric, field):
                    yield (*at, field), "only a scored metric can be that"
            if task.feedback is None:
                yield (*at, "kind"), "the task has no `feedback:` to read it from"
        elif metric.pattern is not None:
            yield (*at, "pattern"), "a scored metric has none: it comes from metrics.json"
        for position, profile in enumerate(metric.profiles or ()):
            if profile not in task.profiles:
                yield (*at, "profiles", position), _unknown("profile", task.profiles)
        for name in metric.profiles or task.profiles:
            if name not in task.profiles:
                continue
            stages = {s.name: s for s in task.profiles[name].stages}
            role: Role = "run" if metric.kind == "feedback" else "score"
            if metric.stage not in stages:
                what = f"profile {name} has no such stage; it has {_listed(stages)}"
                yield (*at, "stage"), what
            elif role not in stages[metric.stage].roles:
                yield (*at, "stage"), f"has no `{role}` half in profile {name}"
    for profile in task.profiles:
        for kind in ("feedback", "scored"):
            named = [
                (index, m.name)
                for index, m in enumerate(task.metrics)
                if m.kind == kind and (m.profiles is None or profile in m.profiles)
            ]
            counts = Counter(name for _, name in named)
            for index, name in named:
                if counts[name] > 1:
                    what = f"{name!r} is there more than once in profile {profile}"
                    yield ("metrics", index, "name"), what
        primaries = [m.name for m in task.metrics_of(profile, kind="scored") if m.primary]
        if len(primaries) != 1:
            what = f"profile {profile} needs exactly one primary scored metric, "
            yield ("metrics",), what + f"has {_listed(primaries)}"


def _unique(at: Loc, names: Sequence[str], field: str) -> Iterator[tuple[Loc, str]]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (*at, index, field), f"{name!r} is there twice"


def _unknown(what: str, known: Iterable[str]) -> str:
    return f"is no {what} of this task; there are {_listed(known)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


# ---------------------------------------------------------------------------------------------
# The files behind the names


def _load_contents(task: Task, document: _Document) -> Iterator[str]:
    """Keeps the content of all files; yields what is wrong with them."""
    named = [(("files", i, "name"), f.name) for i, f in enumerate(task.files)]
    named += [(("siblings", i, "name"), s.name) for i, s in enumerate(task.siblings)]
    for loc, name in named:
        path = task.root_folder / name
        try:
            task._contents[name] = path.read_bytes()
        except OSError as e:
            yield from document.place([(loc, f"{path}: {e.strerror}")])
    for i, file in enumerate(task.files):
        if file.name in task._contents:
            yield from document.place(_check_regions(i, file, task._contents[file.name]))
    instruction = task.folder / task.instruction
    if instruction.is_file():
        try:
            task._instruction = instruction.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            yield from document.place([(("instruction",), str(e))])


def _check_regions(index: int, file: File, content: bytes) -> Iterator[tuple[Loc, str]]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        yield ("files", index, "name"), f"{file.name} is not UTF-8"
        return
    if "\r" in text or "\0" in text:
        yield ("files", index, "name"), f"{file.name} has carriage returns or NULs in it"
    total = text.count("\n") + (not text.endswith("\n") and text != "")
    before: Region | None = None
    for position, region in enumerate(file.regions):
        loc: Loc = ("files", index, "regions", position, "lines")
        if region.last < region.first - 1:
            yield loc, f"{region.first}–{region.last} ends before it begins"
        elif region.last > total or region.first > total + 1:
            yield loc, f"{region.first}–{region.last} is outside {file.name} ({total} lines)"
        elif before is not None and region.first <= before.last + 1:
            what = f"{region.first}–{region.last} needs a locked line between itself and "
            yield loc, what + f"{before.name} ({before.first}–{before.last}) above it"
        before = region


def _load_baselines(task: Task, document: _Document) -> Iterator[str]:
    """Keeps the baselines; yields what is wrong with them."""
    for index, name in enumerate(task.baselines):
        path = task.folder / "baselines" / f"{name}.yaml"
        loc: Loc = ("baselines", index)
        if name in task.baselines[:index]:
            yield from document.place([(loc, f"{name!r} is there twice")])
            continue
        if not path.is_file():
            yield from document.place([(loc, f"no such file: baselines/{name}.yaml")])
            continue
        try:
            own = _Document.read(path)
            baseline = own.parse(Baseline)
        except TaskError as e:
            yield from e.problems
            continue
        if baseline.name != name:
            yield from own.place([(("name",), f"must be {name!r}, the file's name")])
        task._baselines[name] = baseline
