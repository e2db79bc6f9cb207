"""Weights at the published sizes without the published files: by the goldens' recipe, or drawn."""

import importlib.util
import json
from pathlib import Path

import numpy as np
from flax import nnx

GOLDENS = Path(__file__).resolve().parents[1] / "tests" / "goldens"


def manifest(part: str) -> dict:
    """What is known of a published file: its tensors, and settings where it has some."""
    return json.loads((GOLDENS / "dreamtalk_synthetic" / f"manifest_{part}.json").read_text())


def tensors(part: str) -> dict[str, np.ndarray]:
    """A published file of DreamTalk: "denoising_network", "renderer" or "deep3dfacerecon"; computed tables are 0."""
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDENS / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    listed = manifest(part)
    arrays = weights.fill(listed["tensors"])
    return arrays | {name: np.zeros(shape, dtype) for name, shape, dtype, *_ in listed["buffers"]}


def drawn(shapes: nnx.State) -> nnx.State:
    """Every parameter of an abstract network: matrices that keep the scale of what passes, gains of 1, zeros."""
    rng, flat = np.random.default_rng(0), []
    for path, variable in nnx.to_flat_state(shapes):
        shape = variable.shape
        value = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else np.zeros(shape)
        if "alpha" in str(path) or path[-1] == "scale":
            value = np.ones(shape)
        flat.append((path, variable.replace(value.astype(np.float32))))
    return nnx.from_flat_state(flat)
