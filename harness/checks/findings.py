"""What a check found: by us from a file's text, or by a task's own script that ran it.

A script's findings.json is written beside code that the agent wrote, so it is read with care and
only ever costs that agent: a finding refuses a test, and no finding makes a score.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.printable import printable
from harness.regions import EditableFile

FINDINGS_NAME = "findings.json"
FINDINGS_BYTES = 1 << 18
MAX_FINDINGS = 50
MAX_MESSAGE = 600


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with an edited file; a test is refused while it stands."""

    rule: str
    file: str
    line: int
    """In the edited file, in a region where one is to blame; 0 if no line is."""
    message: str
    """What is wrong and what to do, without a full stop."""
    region: str = ""
    """The region's name; empty if none is to blame."""

    def describe(self, *, several_files: bool) -> str:
        """`line 135 [rule]: message`, with the file's name where there are several."""
        parts = [self.file] if several_files and self.file else []
        parts += [f"line {self.line}"] if self.line else []
        parts += [f"[{self.rule}]"] if self.rule != "syntax" else []
        return f"{' '.join(parts)}: {self.message}" if parts else self.message

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class FindingsError(ValueError):
    """A script left no findings.json that can be read: the check itself has failed."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore")

    rule: str = Field(max_length=60)
    file: str = Field(default="", max_length=300)
    line: int | None = None
    message: str


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore")

    findings: list[_Entry] = []
    warnings: list[_Entry] = []
    facts: dict[str, Any] = {}


@dataclass(frozen=True)
class Report:
    """What the checks of one set of files came to."""

    findings: tuple[Finding, ...] = ()
    """each of them refuses a test"""
    warnings: tuple[Finding, ...] = ()
    """shown, and refuse nothing"""
    facts: Mapping[str, float] | None = None
    """what a check measured"""

    @property
    def ok(self) -> bool:
        return not self.findings

    def __add__(self, other: Report) -> Report:
        return Report(
            self.findings + other.findings,
            self.warnings + other.warnings,
            {**(self.facts or {}), **(other.facts or {})},
        )


def read_findings(content: bytes, files: Mapping[str, EditableFile]) -> Report:
    """A script's findings.json. Raises FindingsError with what is wrong with it."""
    try:
        document = _Document.model_validate(json.loads(content))
    except ValidationError as error:
        raise FindingsError(f"{FINDINGS_NAME}: {error.errors()[0]['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise FindingsError(f"{FINDINGS_NAME}: {error}") from None
    return Report(
        _findings(document.findings, files),
        _findings(document.warnings, files),
        {
            name[:60]: float(value)
            for name, value in list(document.facts.items())[:50]
            if isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value)
        },
    )


def _findings(entries: Sequence[_Entry], files: Mapping[str, EditableFile]) -> tuple[Finding, ...]:
    found = []
    for entry in entries[:MAX_FINDINGS]:
        message = _one_line(entry.message)[:MAX_MESSAGE].strip().removesuffix(".")
        rule, file = _one_line(entry.rule), _one_line(entry.file)
        finding = Finding(rule, file, max(0, entry.line or 0), message)
        found.append(replace(finding, region=region_at(files, finding)))
    return tuple(found)


def region_at(files: Mapping[str, EditableFile], finding: Finding) -> str:
    """The name of the region that the finding's line stands in, or nothing."""
    file = files.get(finding.file)
    for region in file.regions if file else ():
        if region.first <= finding.line <= region.last:
            return region.name
    return ""


def _one_line(text: str) -> str:
    return " ".join(printable(text, " ").split("\n")).replace("\t", " ")
