"""Stage 4 on 8 simulated devices, mesh 2 x 2 x 2: the same step as on one, with the arrays where the table says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json
import absl.flags
absl.flags.FLAGS.mark_as_parsed()
import jax, numpy as np, optax
from flax import nnx
from small import FAST, WIDTHS, leaves, make_examples, make_model, make_store, make_tokenizer, small_config, sub
from empatheia_jax import sharding
from empatheia_jax.config import MeshConfig
from empatheia_jax.data.pipeline import Rows, training_batches
from empatheia_jax.training import step as step_module
from empatheia_jax.training.run import _global, abstract_model
from empatheia_jax.training.stages import stage

config = sub(small_config(), "data", rows=4)
# Sampling draws by device layout on some backends: compare at the posteriors' means.
terms = step_module.stage_terms
step_module.stage_terms = lambda m, s, batch, key, most: terms(m, s, batch, None, most)
examples, current, model = make_examples(6), stage(4, config), make_model(config)
rows = Rows(examples, "all", config, make_tokenizer(), make_store(examples), WIDTHS, train=False, seed=3)
local = next(iter(training_batches(rows, 0, 1, threads=1)))
found = {"devices": len(jax.devices())}
tx, results = optax.sgd(1.0), []
for mesh in (
    sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]), sharding.make_mesh(MeshConfig(2, 2, 2)),
):
    graphdef, trainable, frozen = step_module.split(model, current)
    trainable, frozen = sharding.place(trainable, mesh), sharding.place(frozen, mesh)
    with jax.set_mesh(mesh):
        batch = _global(local, mesh)
        step = jax.jit(step_module.make_step(graphdef, current, tx, 448), compiler_options=FAST)
        new, _, metrics = step(trainable, tx.init(trainable), frozen, batch, jax.random.key(0))
    results.append((leaves(new), {name: float(v) for name, v in metrics.items()}))
(one, metrics_one), (eight, metrics_eight) = results
before = leaves(trainable)
found["loss"] = [metrics_one["loss"], metrics_eight["loss"]]
found["metrics"] = max(abs(metrics_eight[n] - v) / max(abs(v), 1e-3) for n, v in metrics_one.items())
worst = {n: float(np.abs(eight[n] - v).max() / (np.abs(v - before[n]).max() + 1e-3)) for n, v in one.items()}
found["update"] = max(worst.items(), key=lambda pair: pair[1])
places = {}
for state in (trainable, frozen):
    for path, variable in nnx.to_flat_state(state):
        array = variable.get_value()
        shard = array.sharding.shard_shape(array.shape)
        split = [whole // part for whole, part in zip(array.shape, shard)]
        places["/".join(map(str, path))] = [list(map(str, array.sharding.spec)), split]
found["places"] = places
found["batch"] = [x.sharding.shard_shape(x.shape)[1] * 4 == x.shape[1] for x in batch.values()]
try:
    odd = small_config()
    import dataclasses
    abstract_model(sub(odd, "llm", kv_heads=1, heads=4), WIDTHS, mesh)
except sharding.ShardingError as error:
    found["indivisible"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_one_step_on_eight_devices_is_the_step_on_one(found):
    assert found["devices"] == 8
    assert found["loss"][1] == pytest.approx(found["loss"][0], rel=1e-5)
    assert found["metrics"] < 1e-4
    assert found["update"][1] < 2e-3, found["update"]


def test_tensor_splits_heads_and_mlp_and_vocabulary(found):
    layers = "llm/layers/"
    expected = {
        f"{layers}q_proj/kernel": (2, "tensor"),  # [L, embed, heads, head_dim]
        f"{layers}k_proj/kernel": (2, "tensor"),
        f"{layers}v_proj/kernel": (2, "tensor"),
        f"{layers}o_proj/kernel": (1, "tensor"),  # [L, heads, head_dim, embed]
        f"{layers}gate_proj/kernel": (2, "tensor"),
        f"{layers}up_proj/kernel": (2, "tensor"),
        f"{layers}down_proj/kernel": (1, "tensor"),
        "llm/embedding": (0, "tensor"),
        "style_disentangler/ffn_speech/up/kernel": (1, "tensor"),
        "content_synchronizer/speech/encoder/attention/query/kernel": (2, "tensor"),
    }
    for name, (axis, mesh_axis) in expected.items():
        spec, split = found["places"][name]
        assert spec[axis] == mesh_axis and split[axis] == 2, (name, spec, split)
    embed = found["places"][f"{layers}q_proj/kernel"]
    assert embed[0][1] == "fsdp" and embed[1][1] == 2
    assert all(found["batch"])  # rows, and what belongs to rows, over data x fsdp


def test_a_dimension_that_does_not_divide_is_named(found):
    assert "k_proj/kernel" in found["indivisible"] and "'kv_heads' of 1" in found["indivisible"]
