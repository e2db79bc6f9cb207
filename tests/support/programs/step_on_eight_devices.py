"""Compare a step of each stage on 8 devices with the step on one, and print where arrays lie: ... STAGES (as "01")."""

import dataclasses
import json
import sys

import jax
import numpy as np
import optax
from flax import nnx

from empatheia_jax.config import MeshConfig
from empatheia_jax.config.load import load_config
from empatheia_jax.model import sharding
from empatheia_jax.model.construct import abstract_model
from empatheia_jax.planning.local import config_widths
from empatheia_jax.runtime.processes import global_batch
from empatheia_jax.testing.tiny import WIDTHS, leaves, make_examples, make_model, replace_fields, small_config
from empatheia_jax.training.stages import resolve_stages
from empatheia_jax.training.step import split
from support.programs import ROOT
from support.sharded import make_batches, train, use_posterior_means

use_posterior_means()
config = replace_fields(replace_fields(small_config(), "data", rows=4), "latents", encoder_layers=1, decoder_layers=1)
config = dataclasses.replace(config, cache_states=False)  # stage 2 through the LLM
examples, model, tx = make_examples(6), make_model(config), optax.sgd(1.0)
report = {"devices": len(jax.devices()), "stages": {}}
one_device = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
for number in map(int, sys.argv[1]):
    stage = resolve_stages(config)[number]
    (batch,) = batches = make_batches(config, stage, examples, 1)
    (single, (metrics_single,)), (eight, (metrics_eight,)) = (
        train(model, stage, batches, mesh=devices, tx=tx) for devices in (one_device, mesh)
    )
    _, trainable, frozen = split(model, stage)
    before, single, eight = leaves(trainable), leaves(single), leaves(eight)
    worst = {n: float(np.abs(eight[n] - v).max() / (np.abs(v - before[n]).max() + 1e-3)) for n, v in single.items()}
    report["stages"][number] = {
        "loss": [metrics_single["loss"], metrics_eight["loss"]],
        "metrics": max(abs(metrics_eight[n] - v) / max(abs(v), 1e-3) for n, v in metrics_single.items()),
        "update": max(worst.items(), key=lambda pair: pair[1]),
        "moved": float(np.mean([np.abs(v - before[n]).max() > 0 for n, v in single.items()])),
    }
report["places"] = {}
for state in (trainable, frozen):
    for path, variable in nnx.to_flat_state(sharding.place(state, mesh)):
        array = variable.get_value()
        shard = array.sharding.shard_shape(array.shape)
        split_by = [size // part for size, part in zip(array.shape, shard, strict=True)]
        report["places"]["/".join(map(str, path))] = [list(map(str, array.sharding.spec)), split_by]
with jax.set_mesh(mesh):
    arrays = jax.tree.leaves(global_batch(batch, mesh, 4))
report["batch"] = [x.sharding.shard_shape(x.shape)[1] * 4 == x.shape[1] for x in arrays]
vicuna = load_config(str(ROOT / "configs" / "vicuna_7b.py"))
_, abstract = abstract_model(vicuna, config_widths(vicuna), mesh)
report["unsharded"] = [
    ["/".join(map(str, path)), size]
    for path, v in nnx.to_flat_state(abstract)
    if (size := int(np.prod(v.shape)) * v.dtype.itemsize) > 2**20 and v.sharding.shard_shape(v.shape) == v.shape
]
try:
    abstract_model(replace_fields(small_config(), "llm", kv_heads=1, heads=4), WIDTHS, mesh)
except sharding.ShardingError as error:
    report["indivisible"] = str(error)
print(json.dumps(report))
