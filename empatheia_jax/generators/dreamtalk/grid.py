"""Warping a picture by a flow, with the conventions of the published weights.

The grid is built as if -1 and 1 were the centres of the outermost pixels, and is then scaled up and sampled as if they
were their outer edges: a flow of zero is not the identity, it zooms by 64 / 63 and fades to 0 at the rim. The published
networks were trained so.
"""

import jax
import jax.numpy as jnp


def deformation(flow: jax.Array) -> jax.Array:
    """Flow [B, h, w, 2] in pixels (x, y) -> grid [B, h, w, 2], -1..1."""
    height, width = flow.shape[1:3]
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    return jnp.stack([x, y], axis=-1) + 2 * flow / jnp.array([width - 1, height - 1], flow.dtype)


def resize_bilinear(x: jax.Array, height: int, width: int) -> jax.Array:
    """[B, h, w, C] larger, as torch's bilinear interpolation without aligned corners."""
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[-1]), "bilinear")


def grid_sample(image: jax.Array, grid: jax.Array) -> jax.Array:
    """torch's grid_sample, bilinear, zeros outside, corners not aligned.

    Args:
      image: [B, H, W, C]. grid: [B, h, w, 2], x then y; -1 and 1 are the picture's outer edges.
    Returns:
      [B, h, w, C].
    """
    height, width = image.shape[1:3]
    x = ((grid[..., 0] + 1) * width - 1) / 2
    y = ((grid[..., 1] + 1) * height - 1) / 2
    # Far outside nothing is seen, but indices must stay within int32.
    x, y = jnp.clip(x, -2, width + 1), jnp.clip(y, -2, height + 1)
    left, top = jnp.floor(x), jnp.floor(y)
    rows = jnp.arange(len(image))[:, None, None]

    def tap(column, row):
        seen = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        weight = (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row))
        at = jnp.clip(row, 0, height - 1).astype(jnp.int32), jnp.clip(column, 0, width - 1).astype(jnp.int32)
        return image[rows, *at] * jnp.where(seen, weight, 0)[..., None]

    return sum(tap(left + dx, top + dy) for dy in (0, 1) for dx in (0, 1))


def warp(image: jax.Array, flow: jax.Array) -> jax.Array:
    """Picture [B, H, W, C] bent by a flow [B, h, w, 2] of its own, smaller size -> [B, H, W, C]."""
    return grid_sample(image, resize_bilinear(deformation(flow), *image.shape[1:3]))
