"""The edited training file as a module: for confined processes only."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

_numbers = itertools.count()


def import_file(path: Path) -> ModuleType:
    """Imports one file by its path, its own folder first on the path while it is imported.

    Each time it is a new module, with a name of its own. What the file raises passes through.
    """
    spec = importlib.util.spec_from_file_location(f"edited_file_{next(_numbers)}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
