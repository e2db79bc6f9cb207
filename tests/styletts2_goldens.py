"""StyleTTS 2 under the goldens' regenerable weights, through the converter's own table."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from golden_weights import recipe

from converters import styletts2
from converters.readers import in_memory
from converters.rules import fit
from converters.source import network_of
from empatheia_jax.generators.styletts2.model import StyleTTS2
from empatheia_jax.states import filled, named
from empatheia_jax.weights import slots


def state_dict(goldens: Path, manifest: dict) -> dict[str, np.ndarray]:
    """{"bert.embeddings...": array}: what the published file holds, less what only trains and less "module."."""
    weights = recipe(goldens)
    found = {}
    for network, entries in manifest["net"].items():
        if network not in manifest["training_only"]:
            arrays = weights.fill(entries, network + ".", manifest["weights"]["salt"], manifest["alias"])
            found |= {f"{network}.{name.removeprefix('module.')}": array for name, array in arrays.items()}
    return found


def build(goldens: Path, name: str) -> tuple[StyleTTS2, dict]:
    """(the model, its manifest) of "libritts" or "ljspeech"; every tensor is used or known."""
    manifest = json.loads((goldens / "styletts2" / f"manifest_{name}.json").read_text())
    config = styletts2.config_of({"model_params": manifest["model_params"]})
    tensors = in_memory(state_dict(goldens, manifest))
    graphdef, shapes = network_of(StyleTTS2, config)
    problems = styletts2.check(config, tensors)
    fits = fit(styletts2.rules(config), slots(shapes), tensors, styletts2.HARMLESS, problems)
    arrays = {one.name: jnp.asarray(one.read(tensors)) for one in fits}
    assert arrays.keys() == named(shapes).keys()
    return nnx.merge(graphdef, filled(shapes, arrays)), manifest
