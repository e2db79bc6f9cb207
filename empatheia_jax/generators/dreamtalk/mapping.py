"""Mapping network: the motion around a frame -> the descriptor that conditions the other two networks (0.7M
parameters)."""

import jax
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import RendererConfig
from empatheia_jax.generators.layers import Conv, leaky_relu

SLOPE = 0.1  # negative slope of every leaky ReLU of the renderer


class MappingNet(nnx.Module):
    """Convolutions over 27 frames that leave 3 positions, and their mean."""

    def __init__(self, config: RendererConfig):
        self.first = nnx.Dict({"0": Conv(config.motion_dim, config.descriptor, 7)})
        self.encoder0, self.encoder1, self.encoder2 = (
            nnx.Dict({"1": Conv(config.descriptor, config.descriptor, 3, dilation=3)}) for _ in range(3)
        )

    def __call__(self, motion: jax.Array) -> jax.Array:
        """Return descriptors [B, 256] of windows of motion [B, 27, 73]."""
        x = self.first["0"](motion)
        for block in (self.encoder0, self.encoder1, self.encoder2):
            x = block["1"](leaky_relu(x, SLOPE)) + x[:, 3:-3]
        return x.mean(axis=1)
