"""Style encoder: log-mel -> style vector of 128, one for acoustics, one for prosody (upstream's StyleEncoder, 13.8M
parameters each)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.layers import Conv, Linear, leaky_relu
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.layers import length_mask

MIN_FRAMES = 65  # leave one column after four halvings and a window of 5


class DownSample(nnx.Module):
    """Depthwise convolution of stride 2 (upstream's downsample_res)."""

    def __init__(self, width: int):
        self.conv = Conv(width, width, (3, 3), stride=2, padding=1, groups=width)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


def column_mask(lengths: jax.Array, size: int) -> jax.Array:
    """Return bool [B, 1, size, 1], true at the frames below `lengths` int [B]."""
    return length_mask(lengths, size)[:, None]


class ResBlk(nnx.Module):
    """Residual block that halves both axes, [B, mel, T, C] -> [B, mel / 2, ceil(T / 2), C']; 0 on padding."""

    def __init__(self, width_in: int, width_out: int):
        self.conv1 = Conv(width_in, width_in, (3, 3), padding=1)
        self.conv2 = Conv(width_in, width_out, (3, 3), padding=1)
        self.downsample_res = DownSample(width_in)
        self.conv1x1 = nnx.data(None)
        if width_in != width_out:
            self.conv1x1 = Conv(width_in, width_out, (1, 1), bias=False)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the halved x and its true frames [B], for x [B, mel, T, C], T even, with true frames `lengths` [B]."""
        mask, half_lengths = column_mask(lengths, x.shape[2]), (lengths + 1) // 2
        half_mask = column_mask(half_lengths, x.shape[2] // 2)
        shortcut = x if self.conv1x1 is None else self.conv1x1(x)
        # Before halving an odd length, upstream repeats the last column.
        column = jnp.arange(x.shape[2])[None, None, :, None]
        end = lengths[:, None, None, None]
        shortcut = jnp.where((column == end) & (end % 2 == 1), jnp.roll(shortcut, 1, axis=2), shortcut)
        batch, mels, frames, width = shortcut.shape
        shortcut = shortcut.reshape(batch, mels // 2, 2, frames // 2, 2, width).mean(axis=(2, 4))
        x = self.downsample_res(jnp.where(mask, self.conv1(jnp.where(mask, leaky_relu(x), 0)), 0))
        x = self.conv2(jnp.where(half_mask, leaky_relu(x), 0))
        return jnp.where(half_mask, (shortcut + x) / math.sqrt(2), 0), half_lengths


class StyleEncoder(nnx.Module):
    """Convolutions without norms, the mean over time, a linear map."""

    def __init__(self, config: StyleTTS2Config):
        widths = [min(config.dim_in * 2**power, config.max_conv_dim) for power in range(5)]
        blocks = [ResBlk(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        # upstream's Sequential: 0 the first convolution, 1 to 4 blocks, 5 and 8 activations, 6 the last convolution
        self.shared = nnx.Dict(
            {"0": Conv(1, widths[0], (3, 3), padding=1)}
            | {str(number): block for number, block in enumerate(blocks, 1)}
            | {"6": Conv(widths[-1], widths[-1], (5, 5))}
        )
        self.unshared = Linear(widths[-1], config.style_dim)

    def __call__(self, mel: jax.Array, lengths: jax.Array) -> jax.Array:
        """Return the style [B, 128] of log-mels [B, T, 80] with true frames `lengths` [B] >= 65."""
        padding = -mel.shape[1] % 16  # so that the number of columns is even at every halving
        mel = jnp.pad(jnp.where(length_mask(lengths, mel.shape[1]), mel, 0), ((0, 0), (0, padding), (0, 0)))
        x = self.shared["0"](jnp.swapaxes(mel, 1, 2)[..., None])  # [B, 80, T, C]
        x = jnp.where(column_mask(lengths, x.shape[2]), x, 0)
        for number in range(1, 5):
            x, lengths = self.shared[str(number)](x, lengths)
        x = self.shared["6"](leaky_relu(x))
        count = lengths - 4  # a window of 5 without padding
        x = jnp.where(column_mask(count, x.shape[2]), x, 0)
        mean = jnp.sum(x, axis=(1, 2)) / (x.shape[1] * count[:, None]).astype(x.dtype)
        return self.unshared(leaky_relu(mean))
