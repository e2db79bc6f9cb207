"""The regressor of Deep3DFaceRecon (Deng et al. 2019): a face -> 257 coefficients of a 3D morphable model (24M
parameters).

It is a ResNet-50; the morphable model itself is only needed to render coefficients, not to read them.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import Face3DConfig
from empatheia_jax.generators.layers import Conv, zero_param

EXPANSION = 4


class BatchNorm(nnx.Module):
    """Batch norm with the running statistics of training."""

    def __init__(self, width: int):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), zero_param(width)
        self.running_mean, self.running_var = zero_param(width), nnx.Param(jnp.ones(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        gain = self.scale[...] * jax.lax.rsqrt(self.running_var[...] + 1e-5)
        return x * gain + (self.bias[...] - self.running_mean[...] * gain)


class Bottleneck(nnx.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 with a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int):
        out = EXPANSION * width
        self.conv1, self.bn1 = Conv(width_in, width, (1, 1), bias=False), BatchNorm(width)
        self.conv2, self.bn2 = Conv(width, width, (3, 3), stride=stride, padding=1, bias=False), BatchNorm(width)
        self.conv3, self.bn3 = Conv(width, out, (1, 1), bias=False), BatchNorm(out)
        self.downsample = nnx.data(None)
        if stride != 1 or width_in != out:
            projection = Conv(width_in, out, (1, 1), stride=stride, bias=False)
            self.downsample = nnx.Dict({"0": projection, "1": BatchNorm(out)})

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.downsample is None else self.downsample["1"](self.downsample["0"](x))
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = jax.nn.relu(self.bn2(self.conv2(x)))
        return jax.nn.relu(self.bn3(self.conv3(x)) + shortcut)


def bottlenecks(width_in: int, width: int, count: int, stride: int) -> nnx.List:
    """Return `count` blocks in a row, the first of which widens and strides."""
    return nnx.List(
        [Bottleneck(width_in, width, stride), *(Bottleneck(EXPANSION * width, width, 1) for _ in range(count - 1))]
    )


class Backbone(nnx.Module):
    """ResNet-50 without its classifier."""

    def __init__(self, config: Face3DConfig):
        self.conv1 = Conv(3, config.width, (7, 7), stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm(config.width)
        widths = [config.width * 2**number for number in range(4)]
        widths_in = (config.width, *(EXPANSION * width for width in widths[:-1]))
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            bottlenecks(width_in, width, count, stride)
            for width_in, width, count, stride in zip(widths_in, widths, config.blocks, (1, 2, 2, 2), strict=True)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return features [B, 2048] of images [B, 224, 224, 3], 0..1."""
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        )
        for block in itertools.chain(self.layer1, self.layer2, self.layer3, self.layer4):
            x = block(x)
        return x.mean(axis=(1, 2))


class Face3D(nnx.Module):
    """The regressor, upstream's net_recon."""

    def __init__(self, config: Face3DConfig, *, rngs: nnx.Rngs | None = None):
        """Build the network; `rngs` is not used, since frozen weights are loaded (see `generators.layers`)."""
        self.backbone = Backbone(config)
        width = EXPANSION * config.width * 2 ** (len(config.blocks) - 1)
        self.final_layers = nnx.List([Conv(width, out, (1, 1)) for out in config.heads])

    def __call__(self, faces: jax.Array) -> jax.Array:
        """Return the coefficients [B, 257] of aligned faces [B, 224, 224, 3], RGB 0..1.

        In order: identity 80, expression 64, texture 80, angles 3, light 27, translation 3.
        """
        x = self.backbone(faces)[:, None, None]
        return jnp.concatenate([head(x)[:, 0, 0] for head in self.final_layers], axis=-1)
