"""What the list of imports opens, tried on the installed torch and numpy."""

from __future__ import annotations

import importlib
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.checks.outward import OUTWARD_MODULES
from harness.constraints import Imports, name_matches
from harness.task import load_task

ROOT = Path(__file__).parents[1]
NAME = "nanoGPT/custom_pretrain.py"
RULES = load_task(ROOT / "tasks" / "llm-pretrain-residual").file(NAME).constraints
FOREIGN = {"torch", "np", "nn", "F", "dist", "math", "random", "inspect", "dataclasses"}
FILES = (torch.load, torch.save, np.load, np.save, np.memmap, np.fromfile, open, exec, eval)


@pytest.fixture(scope="module")
def reached() -> dict[str, object]:
    """All that dotted names of a region lead to, from module to module."""
    imports = RULES.imports
    assert imports is not None
    found: dict[str, object] = {}
    seen: set[int] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        roots = sorted({name.split(".")[0] for name in imports.allowed})
        pending = [(root, importlib.import_module(root)) for root in roots]
        importlib.import_module("torch.utils.checkpoint")
        importlib.import_module("torch._dynamo")
        while pending:
            name, module = pending.pop()
            for attr in dir(module):
                dotted = f"{name}.{attr}"
                if not _is_open(imports, dotted, attr):
                    continue
                found[dotted] = value = getattr(module, attr, None)
                leads_on = imports.direct(dotted + ".x", FOREIGN)
                if isinstance(value, types.ModuleType) and leads_on and id(value) not in seen:
                    seen.add(id(value))
                    pending.append((dotted, value))
    return found


def _is_open(imports: Imports, dotted: str, attr: str) -> bool:
    inner = dotted.split(".")[1:]
    private = any(part.startswith("_") for part in inner)
    return (
        not attr.startswith("__")
        and not OUTWARD_MODULES.intersection(part.strip("_") for part in inner)
        and not any(name_matches(entry, attr) for entry in RULES.forbidden_attributes)
        and imports.permits(dotted, private=private)
        and imports.direct(dotted, FOREIGN)
    )


def test_no_name_leads_to_files_or_to_running_text(reached: dict[str, object]) -> None:
    assert len(reached) > 3000
    assert [n for n, value in reached.items() if any(value is one for one in FILES)] == []


def test_names_lead_through_no_foreign_module(reached: dict[str, object]) -> None:
    imports = RULES.imports
    assert imports is not None
    for name, value in reached.items():
        if issubclass(type(value), types.ModuleType) and imports.direct(name + ".x", FOREIGN):
            root = value.__name__.split(".")[0]
            assert root == name.split(".")[0], f"{name} is {value.__name__}"
            assert value.__name__ != root, f"{name} is all of {root} again"
