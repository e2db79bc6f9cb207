"""Every mesh of 8 devices: the loss curve of one device in every stage, and no large parameter left unsharded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MESHES = [(d, f, 8 // (d * f)) for d in (1, 2, 4, 8) for f in (1, 2, 4, 8) if d * f <= 8]

CURVES = """
import dataclasses
import json
import os
import absl.flags
absl.flags.FLAGS.mark_as_parsed()
import jax, numpy as np, optax
from small import FAST, WIDTHS, make_examples, make_model, make_store, make_tokenizer, small_config, replace_fields
from empatheia_jax import sharding
from empatheia_jax.config import MeshConfig
from empatheia_jax.data.batches.packing import Bounds
from empatheia_jax.data.batches.pipeline import training_batches
from empatheia_jax.data.batches.rows import Rows
from empatheia_jax.runtime.processes import global_batch
from empatheia_jax.training import step as step_module
from empatheia_jax.training.stages import stage

# Widths that 8 divides, so that every mesh can hold them.
config = replace_fields(replace_fields(small_config(), "data", rows=8), "llm", heads=8, kv_heads=8, layers=1)
config = replace_fields(config, "latents", encoder_layers=1, decoder_layers=1, heads=8, width=32)
config = dataclasses.replace(config, cache_states=False)  # stage 2 through the LLM
# Sampling draws by device layout on some backends: compare at the posteriors' means.
terms = step_module.stage_terms
step_module.stage_terms = lambda model, s, batch, key, *, bounds: terms(model, s, batch, None, bounds=bounds)
examples, model, tx = make_examples(24), make_model(config), optax.adamw(1e-3)
steps, curves = 3, {}
for number in map(int, os.environ["STAGES"]):
    current = stage(number, config)
    rows = Rows(
        examples, current.prompt_kind, config, make_tokenizer(), store=make_store(examples), widths=WIDTHS,
        train=False, seed=3, learn_text="emp" in current.weights, learn_profile=number == 0,
    )
    batches = list(training_batches(rows, 0, steps, threads=1))
    for shape in [(1, 1, 1), *json.loads(os.environ["MESHES"])]:
        mesh = sharding.make_mesh(MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
        graphdef, trainable, frozen = step_module.split(model, current)
        trainable, frozen = sharding.place(trainable, mesh), sharding.place(frozen, mesh)
        with jax.set_mesh(mesh):
            opt_state = tx.init(trainable)
            step = jax.jit(step_module.make_step(graphdef, current, tx, Bounds(448)), compiler_options=FAST)
            curve = []
            for index, local in enumerate(batches):
                batch = global_batch(local, mesh, 8)
                trainable, opt_state, values = step(trainable, opt_state, frozen, batch, jax.random.key(index))
                curve.append([float(values["loss"]), float(values["grad_norm"])])
        curves[f"{number} {list(shape)}"] = curve
print(json.dumps(curves))
"""

LAYOUTS = """
import json
import os
import numpy as np
from flax import nnx
from empatheia_jax import sharding
from empatheia_jax.config import MeshConfig
from empatheia_jax.config.load import load_config
from empatheia_jax.planning.local import config_widths
from empatheia_jax.training.loop import abstract_model
config = load_config(os.environ["VICUNA"])
layouts = {}
for shape in json.loads(os.environ["MESHES"]):
    _, abstract = abstract_model(config, config_widths(config), sharding.make_mesh(MeshConfig(*shape)))
    layouts[str(shape)] = {
        "/".join(map(str, path)): [
            int(np.prod(v.shape)) * v.dtype.itemsize, list(map(str, v.sharding.spec)),
            [a // b for a, b in zip(v.shape, v.sharding.shard_shape(v.shape))],
        ]
        for path, v in nnx.to_flat_state(abstract)
    }
print(json.dumps(layouts))
"""


def run(program: str, meshes: list, stages: str = "") -> dict:
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "STAGES": stages,
        "MESHES": json.dumps(meshes),
        "VICUNA": str(ROOT / "configs" / "vicuna_7b.py"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("stage", "01234")
def test_every_mesh_gives_the_curve_of_one_device(stage):
    curves = run(CURVES, MESHES, stage)
    assert len(curves) == 11
    single = curves.pop(f"{stage} [1, 1, 1]")
    assert single[0][0] != single[2][0]  # it learns
    for mesh, curve in curves.items():
        for values, expected in zip(curve, single, strict=True):
            assert values == pytest.approx(expected, rel=1e-3), mesh


def test_large_parameters_of_a_7b_model_are_split_on_every_mesh():
    """`tensor` splits heads, MLP and vocabulary, `fsdp` the model's width; no large parameter is left unsharded."""
    layouts = run(LAYOUTS, MESHES)
    layers = "llm/layers/"
    tensor = {f"{layers}{name}_proj/kernel": 2 for name in ("q", "k", "v", "gate", "up")}
    tensor |= {f"{layers}o_proj/kernel": 1, f"{layers}down_proj/kernel": 1, "llm/embedding": 0}
    fsdp = {f"{layers}{name}_proj/kernel": 1 for name in ("q", "k", "v", "gate", "up")}
    fsdp |= {f"{layers}o_proj/kernel": 3, f"{layers}down_proj/kernel": 2, "llm/embedding": 1}
    for data, fsdp_size, tensor_size in MESHES:
        layout = layouts[str([data, fsdp_size, tensor_size])]
        for axis, name, count in [(tensor, "tensor", tensor_size), (fsdp, "fsdp", fsdp_size)]:
            for parameter, dimension in axis.items():
                _, spec, split = layout[parameter]
                assert spec[dimension] == name and split[dimension] == count, (parameter, spec, split)
        large = {name: size for name, (size, _, split) in layout.items() if size > 2**20 and max(split) == 1}
        if fsdp_size > 1 and tensor_size > 1:
            assert not large, (data, fsdp_size, tensor_size, large)
        elif fsdp_size > 1 or tensor_size > 1:
            # With one of the two, parameters that only the other would split are on all devices: few, no base kernel.
            assert sum(large.values()) < 0.02 * sum(size for size, _, _ in layout.values()), large
            assert not any(name.startswith("llm/") and name.endswith("kernel") for name in large), large
