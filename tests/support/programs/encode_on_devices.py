"""Encode random sound and pictures on all devices, and write the features: ... FILE DEVICES."""

import sys

import jax
import numpy as np

from empatheia_jax.checkpoints import frozen_network
from empatheia_jax.config import EncoderConfig
from empatheia_jax.encoders import build_encoders

devices = int(sys.argv[2])
assert len(jax.local_devices()) == devices
config = EncoderConfig(
    audio="hubert", video="clip", hubert="small", hubert_weights="random", clip="small", clip_weights="random"
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
spread = frozen_network._spread(np.zeros((4 * devices, 3), np.float32))
if devices > 1:
    assert spread.sharding.num_devices == devices and spread.addressable_shards[0].data.shape == (4, 3)
    weights = jax.tree.leaves(encoders["audio"].network._loaded)
    assert all(leaf.sharding.num_devices == devices and leaf.sharding.is_fully_replicated for leaf in weights)
