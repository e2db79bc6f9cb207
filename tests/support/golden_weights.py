"""The goldens' recipe for regenerating weights: `weights.py` in their folder."""

import importlib.util
from pathlib import Path
from types import ModuleType


def load_recipe(goldens: Path) -> ModuleType:
    """Load the recipe's module, with its functions `fill` and `tensor`."""
    spec = importlib.util.spec_from_file_location("golden_weights_recipe", goldens / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
