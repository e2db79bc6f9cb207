"""DreamTalk's networks under the goldens' regenerable weights, through the converters' own tables."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from golden_weights import recipe

from converters import dreamtalk, wav2vec2
from converters.readers import Tensor, in_memory
from converters.rules import fit
from converters.source import network_of
from empatheia_jax.states import filled, named
from empatheia_jax.weights import slots

FOLDERS = ("dreamtalk_synthetic", "dreamtalk")


def tensors_of(goldens: Path, folder: Path, part: str, salt: str) -> dict[str, Tensor]:
    """What the published file of a part ("denoiser", "renderer", "face3d") holds, as a reader would give it."""
    manifest = json.loads((folder / f"manifest_{dreamtalk.PARTS[part].MANIFEST}.json").read_text())
    arrays = recipe(goldens).fill(manifest["tensors"], salt=salt)
    arrays |= {name: np.zeros(shape, dtype) for name, shape, dtype, *_ in manifest["buffers"]}
    return in_memory(arrays)


def build(goldens: Path, folder: Path, part: str, salt: str) -> nnx.Module:
    """A network with every tensor used or known."""
    table = dreamtalk.PARTS[part]
    tensors = table.own(tensors_of(goldens, folder, part, salt))
    graphdef, shapes = network_of(table.NETWORK, table.CONFIG)
    fits = fit(table.rules(table.CONFIG), slots(shapes), tensors, table.HARMLESS, table.check(table.CONFIG, tensors))
    arrays = {one.name: jnp.asarray(one.read(tensors)) for one in fits}
    assert arrays.keys() == named(shapes).keys()
    return nnx.merge(graphdef, filled(shapes, arrays))


def build_hearing(goldens: Path, folder: Path) -> nnx.Module:
    """The small wav2vec 2.0 whose settings and tensors the golden itself lists."""
    meta = load(folder, "wav2vec2_small")[1]
    listed = [(name, shape, "float32") for name, shape in meta["tensors"]]
    tensors = in_memory(recipe(goldens).fill(listed, meta["salt"]))
    config = wav2vec2.config_of(meta["config"], None)
    graphdef, shapes = network_of(wav2vec2.NETWORK, config)
    places = slots(shapes)
    fits = fit(wav2vec2.rules(config, wav2vec2.PREFIX), places, tensors, wav2vec2.HARMLESS)
    arrays = {one.name: one.read(tensors) for one in fits}
    stacked = {}  # layers are scanned: one array of all
    for name, (parameter, layer, _) in places.items():
        stacked.setdefault(parameter, {})[layer] = arrays[name]
    whole = {n: a[None] if None in a else np.stack([a[i] for i in range(len(a))]) for n, a in stacked.items()}
    return nnx.merge(graphdef, filled(shapes, {name: jnp.asarray(array) for name, array in whole.items()}))


def load(folder: Path, name: str) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays, meta) of a golden file."""
    with np.load(folder / f"{name}.npz") as found:
        arrays = {key: found[key] for key in found if key != "meta"}
        return arrays, json.loads(str(found["meta"])) if "meta" in found else {}
