"""DreamTalk's networks with the goldens' regenerated weights, converted by the converters' own tables."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters import dreamtalk, speech_encoders
from converters.rules import abstract_network
from converters.tensors import Tensor, wrap_arrays
from empatheia_jax.checkpoints.named_arrays import named_arrays, with_arrays
from empatheia_jax.checkpoints.weights import stored_arrays
from support.golden_weights import load_recipe

FOLDERS = ("dreamtalk_synthetic", "dreamtalk")


def published_tensors(goldens: Path, folder: Path, part: str, salt: str) -> dict[str, Tensor]:
    """Return the tensors of the published file of a part ("denoiser", "renderer", "face3d"), as a reader gives them."""
    manifest = json.loads((folder / f"manifest_{dreamtalk.PARTS[part].manifest}.json").read_text())
    arrays = load_recipe(goldens).fill(manifest["tensors"], salt=salt)
    arrays |= {name: np.zeros(shape, dtype) for name, shape, dtype, *_ in manifest["buffers"]}
    return wrap_arrays(arrays)


def build(goldens: Path, folder: Path, part: str, salt: str) -> nnx.Module:
    """Build a network of a part, and check that every tensor is used or known."""
    table = dreamtalk.PARTS[part]
    tensors = table.select(published_tensors(goldens, folder, part, salt))
    graphdef, shapes = abstract_network(table.network, table.config)
    fits = table.family.fit(table.config, tensors)
    arrays = {parameter.name: jnp.asarray(parameter.read(tensors)) for parameter in fits}
    assert arrays.keys() == named_arrays(shapes).keys()
    return nnx.merge(graphdef, with_arrays(shapes, arrays))


def build_wav2vec(goldens: Path, folder: Path) -> nnx.Module:
    """Build the small wav2vec 2.0 whose settings and tensors the golden lists."""
    meta = load(folder, "wav2vec2_small")[1]
    listed = [(name, shape, "float32") for name, shape in meta["tensors"]]
    tensors = wrap_arrays(load_recipe(goldens).fill(listed, meta["salt"]))
    family = speech_encoders.WAV2VEC2
    config = family.parse_config(meta["config"], None)
    graphdef, shapes = abstract_network(family.network, config)
    places = stored_arrays(shapes)
    fits = family.fit(config, tensors, family.prefix)
    arrays = {parameter.name: parameter.read(tensors) for parameter in fits}
    layers = {}  # {parameter: {layer, or None: array}}; the layers of a network are stacked
    for name, (parameter, layer, _) in places.items():
        layers.setdefault(parameter, {})[layer] = arrays[name]
    stacked = {n: a[None] if None in a else np.stack([a[i] for i in range(len(a))]) for n, a in layers.items()}
    return nnx.merge(graphdef, with_arrays(shapes, {name: jnp.asarray(array) for name, array in stacked.items()}))


def load(folder: Path, name: str) -> tuple[dict[str, np.ndarray], dict]:
    """Load a golden file and return (arrays, meta)."""
    with np.load(folder / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file if key != "meta"}
        return arrays, json.loads(str(file["meta"])) if "meta" in file else {}
