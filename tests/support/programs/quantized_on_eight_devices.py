"""Compare four steps on a quantised base on 8 devices with those on one: ... KIND..."""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx

from empatheia_jax.checkpoints.runs import load_base
from empatheia_jax.checkpoints.weights import save_weights
from empatheia_jax.config import MeshConfig
from empatheia_jax.model import sharding
from empatheia_jax.model.construct import abstract_model
from empatheia_jax.model.parameter_groups import ADAPTED, in_groups
from empatheia_jax.testing.tiny import leaves, make_examples, make_model, replace_fields, small_config
from empatheia_jax.training.stages import resolve_stages
from support.sharded import make_batches, train

config = replace_fields(dataclasses.replace(small_config(), modalities=()), "llm", mlp_width=64, remat="lora")
config = replace_fields(config, "data", rows=4)
model, stage, report = make_model(config, widths=None), resolve_stages(config)[1], {}
adapted = nnx.filter_state(nnx.state(model), in_groups(ADAPTED))
batches = 4 * make_batches(config, stage, make_examples(6), 1)
meshes = (sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]), sharding.make_mesh(MeshConfig(2, 2, 2)))
with tempfile.TemporaryDirectory() as name:
    folder = Path(name) / "base"
    save_weights(folder, config.llm, nnx.state(model.llm, nnx.Not(nnx.LoRAParam)))
    for kind in sys.argv[1:]:
        quantized, results = replace_fields(config, "llm", quantization=kind, quantization_tile=16), []
        for mesh in meshes:
            graphdef, abstract = abstract_model(quantized, None, mesh)
            base = load_base(folder, nnx.filter_state(abstract, in_groups(("base",))))
            merged = nnx.merge(graphdef, nnx.merge_state(base, sharding.place(adapted, mesh)))
            _, metrics = train(merged, stage, batches, mesh=mesh, tx=optax.adam(1e-2))
            results.append((leaves(base), [values["loss"] for values in metrics]))
        (single, losses_single), (eight, losses_eight) = results
        same = all(np.array_equal(eight[name], value) for name, value in single.items())
        kernel = base["llm"]["layers"]["gate_proj"]["kernel"]
        parts = {name: kernel[name].get_value() for name in ("codes", "scales")}
        report[kind] = {
            "same_bits": same and len(single) == 18,
            "losses": [losses_single, losses_eight],
            "split": {
                name: [size // part for size, part in zip(a.shape, a.sharding.shard_shape(a.shape), strict=True)]
                for name, a in parts.items()
            },
        }
try:
    abstract_model(replace_fields(config, "llm", quantization="nf4", quantization_tile=16, mlp_width=48), None, mesh)
except sharding.ShardingError as error:
    report["indivisible"] = str(error)
print(json.dumps(report))
