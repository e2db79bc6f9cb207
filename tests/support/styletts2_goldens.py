"""StyleTTS 2 with the goldens' regenerated weights, converted by the converter's own table."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters import styletts2
from converters.rules import abstract_network
from converters.tensors import wrap_arrays
from empatheia_jax.checkpoints.named_arrays import named_arrays, with_arrays
from empatheia_jax.generators.styletts2.model import StyleTTS2
from support.golden_weights import load_recipe


def state_dict(goldens: Path, manifest: dict) -> dict[str, np.ndarray]:
    """Return {"bert.embeddings...": array} of the published file, without what is for training only and "module."."""
    weights = load_recipe(goldens)
    tensors = {}
    for network, entries in manifest["net"].items():
        if network not in manifest["training_only"]:
            arrays = weights.fill(entries, network + ".", manifest["weights"]["salt"], manifest["alias"])
            tensors |= {f"{network}.{name.removeprefix('module.')}": array for name, array in arrays.items()}
    return tensors


def build(goldens: Path, name: str) -> tuple[StyleTTS2, dict]:
    """Build "libritts" or "ljspeech", check that every tensor is used or known, and return (model, manifest)."""
    manifest = json.loads((goldens / "styletts2" / f"manifest_{name}.json").read_text())
    config = styletts2.parse_config({"model_params": manifest["model_params"]})
    tensors = wrap_arrays(state_dict(goldens, manifest))
    graphdef, shapes = abstract_network(StyleTTS2, config)
    fits = styletts2.FAMILY.fit(config, tensors)
    arrays = {parameter.name: jnp.asarray(parameter.read(tensors)) for parameter in fits}
    assert arrays.keys() == named_arrays(shapes).keys()
    return nnx.merge(graphdef, with_arrays(shapes, arrays)), manifest
