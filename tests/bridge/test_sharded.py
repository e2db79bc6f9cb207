"""torch inside a sharded step: every device's part by itself, nothing gathered; and nowhere else is torch imported."""

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
seen = []
def function(x, w):
    seen.append(tuple(x.shape))
    return torch.tanh(x @ w)
ours = from_torch(function)
rng = np.random.default_rng(SEED)
x, w = rng.normal(size=(16, 6)).astype(np.float32), rng.normal(size=(6, 5)).astype(np.float32)
rows = P(("data", "fsdp"))
sharded = jax.device_put(x, NamedSharding(mesh, rows))
parts = jax.shard_map(ours, mesh=mesh, in_specs=(rows, P()), out_specs=rows)

@jax.jit
def step(x, w):
    def loss(x, w):
        return (parts(x, w) ** 2).sum()
    return loss(x, w), jax.grad(loss, argnums=(0, 1))(x, w), parts(x, w)

text = step.lower(sharded, w).compile().as_text()
assert "all-gather" not in text, "gathered"
value, (slope_x, slope_w), result = step(sharded, w)
assert set(seen) == {(2, 6)}, set(seen)
assert result.sharding.is_equivalent_to(NamedSharding(mesh, rows), 2)
def plain(x, w):
    return (jnp.tanh(x @ w) ** 2).sum()
wanted, (want_x, want_w) = jax.value_and_grad(plain, argnums=(0, 1))(x, w)
np.testing.assert_allclose(value, wanted, rtol=1e-5)
np.testing.assert_allclose(slope_x, want_x, rtol=1e-4, atol=1e-5)
np.testing.assert_allclose(slope_w, want_w, rtol=1e-4, atol=1e-5)
try:
    from_torch(torch.tanh)(sharded)
except BridgeError as error:
    assert "jax.shard_map" in str(error)
else:
    raise AssertionError("an array in eight parts was gathered")
everywhere = jax.device_put(w, NamedSharding(mesh, P()))
np.testing.assert_array_equal(from_torch(torch.tanh)(everywhere), torch.tanh(torch.from_numpy(w)).numpy())
print("good")
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
    assert done.returncode == 0 and done.stdout.endswith("good\n"), done.stderr[-3000:]


def test_torch_is_imported_by_the_bridge_alone():
    """Every module of the package but the bridge and what is built on it; training, inference and `train.py` too."""
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
    bridged = ("empatheia_jax.generators.bridge", "empatheia_jax.generators.torch_")
    free = [name for name in names if not name.startswith(bridged)]
    assert 100 < len(free) < len(names)
    done = run(program.replace("NAMES", repr(free)))
    assert done.returncode == 0, done.stderr[-2000:]
