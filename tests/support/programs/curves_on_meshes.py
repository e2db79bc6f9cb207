"""Print the loss and gradient norm of three steps of a stage, on one device and on meshes: ... STAGE MESHES (JSON)."""

import dataclasses
import json
import sys

import jax
import numpy as np
import optax

from empatheia_jax.config import MeshConfig
from empatheia_jax.model import sharding
from empatheia_jax.testing.tiny import make_examples, make_model, replace_fields, small_config
from empatheia_jax.training.stages import resolve_stages
from support.sharded import make_batches, train, use_posterior_means

use_posterior_means()
# Widths that 8 divides, so that every mesh can hold them.
config = replace_fields(replace_fields(small_config(), "data", rows=8), "llm", heads=8, kv_heads=8, layers=1)
config = replace_fields(config, "latents", encoder_layers=1, decoder_layers=1, heads=8, width=32)
config = dataclasses.replace(config, cache_states=False)  # stage 2 through the LLM
examples, model, tx = make_examples(24), make_model(config), optax.adamw(1e-3)
stage = resolve_stages(config)[int(sys.argv[1])]
batches, curves = make_batches(config, stage, examples, 3), {}
for shape in [(1, 1, 1), *json.loads(sys.argv[2])]:
    mesh = sharding.make_mesh(MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
    _, metrics = train(model, stage, batches, mesh=mesh, tx=tx)
    curves[str(list(shape))] = [[values["loss"], values["grad_norm"]] for values in metrics]
print(json.dumps(curves))
