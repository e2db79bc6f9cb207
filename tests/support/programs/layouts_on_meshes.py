"""Print size, sharding and split of every parameter of a 7B model on meshes: ... MESHES (JSON)."""

import json
import sys

import numpy as np
from flax import nnx

from empatheia_jax.config import MeshConfig
from empatheia_jax.config.load import load_config
from empatheia_jax.model import sharding
from empatheia_jax.model.construct import abstract_model
from empatheia_jax.planning.local import config_widths
from support.programs import ROOT

config = load_config(str(ROOT / "configs" / "vicuna_7b.py"))
layouts = {}
for shape in json.loads(sys.argv[1]):
    _, abstract = abstract_model(config, config_widths(config), sharding.make_mesh(MeshConfig(*shape)))
    layouts[str(shape)] = {
        "/".join(map(str, path)): [
            int(np.prod(v.shape)) * v.dtype.itemsize,
            list(map(str, v.sharding.spec)),
            [a // b for a, b in zip(v.shape, v.sharding.shard_shape(v.shape), strict=True)],
        ]
        for path, v in nnx.to_flat_state(abstract)
    }
print(json.dumps(layouts))
