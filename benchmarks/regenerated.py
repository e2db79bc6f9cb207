"""Weights that follow from the names of published tensors: the goldens' recipe, at the published sizes."""

import importlib.util
import json
from pathlib import Path

import numpy as np

GOLDENS = Path(__file__).resolve().parents[1] / "tests" / "goldens"


def tensors(part: str) -> dict[str, np.ndarray]:
    """A published file of DreamTalk: "denoising_network", "renderer" or "deep3dfacerecon"; computed tables are 0."""
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDENS / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    manifest = json.loads((GOLDENS / "dreamtalk_synthetic" / f"manifest_{part}.json").read_text())
    arrays = weights.fill(manifest["tensors"])
    return arrays | {name: np.zeros(shape, dtype) for name, shape, dtype, *_ in manifest["buffers"]}
