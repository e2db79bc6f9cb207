"""A quantised base on 8 simulated devices: the same bits and losses as on one, sharded as plain kernels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a minute: two programs are compiled for eight devices

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import dataclasses, json, sys, tempfile
from pathlib import Path
import absl.flags
absl.flags.FLAGS.mark_as_parsed()
import jax, numpy as np, optax
from flax import nnx
from small import (
    FAST, WIDTHS, leaves, make_examples, make_model, make_store, make_tokenizer, replace_fields, small_config,
)
from empatheia_jax import sharding
from empatheia_jax.checkpoints.runs import load_base
from empatheia_jax.data.batches.packing import Bounds
from empatheia_jax.config import MeshConfig
from empatheia_jax.data.batches.pipeline import training_batches
from empatheia_jax.data.batches.rows import Rows
from empatheia_jax.runtime.processes import global_batch
from empatheia_jax.training import step as step_module
from empatheia_jax.training.loop import abstract_model
from empatheia_jax.training.stages import ADAPTED, stage
from empatheia_jax.checkpoints.weights import save_weights

config = replace_fields(dataclasses.replace(small_config(), modalities=()), "llm", mlp_width=64, remat="lora")
config = replace_fields(config, "data", rows=4)
folder, model = Path(tempfile.mkdtemp()) / "base", make_model(config, widths=None)
save_weights(folder, config.llm, nnx.state(model.llm, nnx.Not(nnx.LoRAParam)))
adapted = nnx.filter_state(nnx.state(model), step_module.in_groups(ADAPTED))
current, tx, examples = stage(1, config), optax.adam(1e-2), make_examples(6)
rows = Rows(
    examples, current.prompt_kind, config, make_tokenizer(), store=make_store(examples), widths=WIDTHS,
    train=False, seed=3, learn_text=True,
)
local, report = next(iter(training_batches(rows, 0, 1, threads=1))), {}
for kind in sys.argv[1:]:
    quantized, results = replace_fields(config, "llm", quantization=kind, quantization_tile=16), []
    for mesh in (
        sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]), sharding.make_mesh(MeshConfig(2, 2, 2)),
    ):
        graphdef, abstract = abstract_model(quantized, None, mesh)
        base = load_base(folder, nnx.filter_state(abstract, step_module.in_groups(("base",))))
        merged = nnx.merge(graphdef, nnx.merge_state(base, sharding.place(adapted, mesh)))
        step_graph, trainable, frozen = step_module.split(merged, current)
        losses = []
        with jax.set_mesh(mesh):
            batch = global_batch(local, mesh, 4)
            step = jax.jit(step_module.make_step(step_graph, current, tx, Bounds(448)), compiler_options=FAST)
            state = tx.init(trainable)
            for number in range(4):
                trainable, state, metrics = step(trainable, state, frozen, batch, jax.random.key(0))
                losses.append(float(metrics["loss"]))
        results.append((leaves(base), losses))
    (single, losses_single), (eight, losses_eight) = results
    kernel = base["llm"]["layers"]["gate_proj"]["kernel"]
    report[kind] = {
        "same_bits": all(np.array_equal(eight[name], value) for name, value in single.items()) and len(single) == 18,
        "losses": [losses_single, losses_eight],
        "split": {
            name: [size // part for size, part in zip(a.shape, a.sharding.shard_shape(a.shape))]
            for name, a in ((name, kernel[name].get_value()) for name in ("codes", "scales"))
        },
    }
try:
    abstract_model(replace_fields(config, "llm", quantization="nf4", quantization_tile=16, mlp_width=48), None, mesh)
except sharding.ShardingError as error:
    report["indivisible"] = str(error)
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report():
    pytest.importorskip("qwix")
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    command = [sys.executable, "-c", PROGRAM, "int8", "nf4"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_eight_devices_train_on_a_quantised_base_as_one_does(report, kind):
    assert report[kind]["same_bits"]
    single, eight = report[kind]["losses"]
    assert eight == pytest.approx(single, rel=1e-4)
    assert all(later < earlier for earlier, later in zip(single, single[1:], strict=False))


def test_codes_and_scales_are_split_as_the_kernel(report):
    kernel = [1, 2, 2]  # [L, embed over fsdp, mlp over tensor]
    assert report["nf4"]["split"] == {"codes": kernel, "scales": kernel}
    assert report["int8"]["split"] == {"codes": kernel, "scales": [1, 1, 2]}  # a scale a channel of the output


def test_tiles_that_the_mesh_does_not_divide_are_named(report):
    assert "down_proj/kernel/scales" in report["indivisible"] and "'mlp' of 3" in report["indivisible"]
