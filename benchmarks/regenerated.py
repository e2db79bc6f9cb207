"""Weights of the published sizes without the published files: by the goldens' recipe, or random."""

import importlib.util
import json
from pathlib import Path

import numpy as np
from flax import nnx

GOLDENS = Path(__file__).resolve().parents[1] / "tests" / "goldens"


def read_manifest(part: str) -> dict:
    """Read the goldens' manifest of a published file of DreamTalk: its tensors, and settings where it has some."""
    return json.loads((GOLDENS / "dreamtalk_synthetic" / f"manifest_{part}.json").read_text())


def make_tensors(part: str) -> dict[str, np.ndarray]:
    """Return the tensors of a published file of DreamTalk, by the goldens' recipe; tables that are computed are 0.

    Args:
      part: "denoising_network", "renderer" or "deep3dfacerecon".
    """
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDENS / "weights.py")
    assert spec is not None and spec.loader is not None
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    manifest = read_manifest(part)
    arrays = weights.fill(manifest["tensors"])
    return arrays | {name: np.zeros(shape, dtype) for name, shape, dtype, *_ in manifest["buffers"]}


def draw_parameters(shapes: nnx.State) -> nnx.State:
    """Return random parameters of an abstract network: matrices that keep the scale of activations, gains 1, else 0."""
    rng, flat = np.random.default_rng(0), []
    for path, variable in nnx.to_flat_state(shapes):
        shape = variable.shape
        value = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else np.zeros(shape)
        if "alpha" in str(path) or path[-1] == "scale":
            value = np.ones(shape)
        flat.append((path, variable.replace(value.astype(np.float32))))
    return nnx.from_flat_state(flat)
