"""torch in a sharded step, where every device processes its own shard; and torch is imported by the bridge only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import jax, numpy as np, jax.numpy as jnp, torch
from jax.sharding import NamedSharding, PartitionSpec as P
from empatheia_jax.generators.bridge import BridgeError, from_torch

assert len(jax.devices()) == 8
mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
shapes = []
def function(x, w):
    shapes.append(tuple(x.shape))
    return torch.tanh(x @ w)
bridged = from_torch(function)
rng = np.random.default_rng(SEED)
x, w = rng.normal(size=(16, 6)).astype(np.float32), rng.normal(size=(6, 5)).astype(np.float32)
batch_spec = P(("data", "fsdp"))
sharded = jax.device_put(x, NamedSharding(mesh, batch_spec))
per_shard = jax.shard_map(bridged, mesh=mesh, in_specs=(batch_spec, P()), out_specs=batch_spec)

@jax.jit
def step(x, w):
    def loss(x, w):
        return (per_shard(x, w) ** 2).sum()
    return loss(x, w), jax.grad(loss, argnums=(0, 1))(x, w), per_shard(x, w)

text = step.lower(sharded, w).compile().as_text()
assert "all-gather" not in text, "gathered"
value, (slope_x, slope_w), result = step(sharded, w)
assert set(shapes) == {(2, 6)}, set(shapes)
assert result.sharding.is_equivalent_to(NamedSharding(mesh, batch_spec), 2)
def plain(x, w):
    return (jnp.tanh(x @ w) ** 2).sum()
expected, (expected_x, expected_w) = jax.value_and_grad(plain, argnums=(0, 1))(x, w)
np.testing.assert_allclose(value, expected, rtol=1e-5)
np.testing.assert_allclose(slope_x, expected_x, rtol=1e-4, atol=1e-5)
np.testing.assert_allclose(slope_w, expected_w, rtol=1e-4, atol=1e-5)
try:
    from_torch(torch.tanh)(sharded)
except BridgeError as error:
    assert "jax.shard_map" in str(error)
else:
    raise AssertionError("an array in eight parts was gathered")
everywhere = jax.device_put(w, NamedSharding(mesh, P()))
np.testing.assert_array_equal(from_torch(torch.tanh)(everywhere), torch.tanh(torch.from_numpy(w)).numpy())
print("passed")
"""


def run(program: str, **env) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | env,
    )


def test_on_eight_devices_every_part_by_itself(seed):
    pytest.importorskip("torch")
    done = run(PROGRAM.replace("SEED", str(seed)), XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert done.returncode == 0 and done.stdout.endswith("passed\n"), done.stderr[-3000:]


def test_torch_is_imported_by_the_bridge_alone():
    """Imports every module of the package but the bridge and `torch_backend`, and runs `train.py --help`."""
    program = """
import importlib, runpy, sys
for name in NAMES:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name
sys.argv = ["train.py", "--help"]
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit:
    pass
assert "torch" not in sys.modules, "train.py"
"""
    files = sorted((ROOT / "empatheia_jax").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    torch_packages = ("empatheia_jax.generators.bridge", "empatheia_jax.generators.torch_")
    torch_free = [name for name in names if not name.startswith(torch_packages)]
    assert 100 < len(torch_free) < len(names)
    done = run(program.replace("NAMES", repr(torch_free)))
    assert done.returncode == 0, done.stderr[-2000:]
