"""Encoders split their batches over all devices of a machine; the features are those of one device."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
import jax
import numpy as np
from empatheia_jax import frozen
from empatheia_jax.config import EncoderConfig
from empatheia_jax.encoders import build_encoders

devices = int(sys.argv[2])
assert len(jax.local_devices()) == devices
config = EncoderConfig(
    kind="hubert_clip", hubert="small", hubert_weights="random", clip="small", clip_weights="random"
)
rng = np.random.default_rng(0)
encoders = build_encoders(config)
audio = [(0.1 * rng.standard_normal(int(n))).astype(np.float32) for n in rng.integers(4000, 30000, 9)]
video = [rng.integers(0, 255, (10, 40, 48, 3), np.uint8) for _ in range(9)]
features = {
    name: encoders[name].encode([encoders[name].preprocess(item) for item in media])
    for name, media in (("audio", audio), ("video", video))
}
np.savez(sys.argv[1], **features)
spread = frozen._spread(np.zeros((4 * devices, 3), np.float32))
if devices > 1:
    assert spread.sharding.num_devices == devices and spread.addressable_shards[0].data.shape == (4, 3)
    weights = jax.tree.leaves(encoders["audio"].network._loaded[1])
    assert all(leaf.sharding.num_devices == devices and leaf.sharding.is_fully_replicated for leaf in weights)
"""


def features(path: Path, devices: int) -> dict[str, np.ndarray]:
    """Return the features that a process with so many devices computes."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(devices)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(path))


@pytest.mark.slow
def test_eight_devices_say_what_one_says(tmp_path):
    single, eight = features(tmp_path / "one.npz", 1), features(tmp_path / "eight.npz", 8)
    for name, array in single.items():
        np.testing.assert_allclose(eight[name], array, rtol=1e-4, atol=1e-5)
