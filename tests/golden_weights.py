"""The goldens' recipe for weights, `weights.py` in their folder."""

import importlib.util
from pathlib import Path
from types import ModuleType


def recipe(goldens: Path) -> ModuleType:
    """The module, with `fill` and `tensor`."""
    spec = importlib.util.spec_from_file_location("golden_weights_recipe", goldens / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
