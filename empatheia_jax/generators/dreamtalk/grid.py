"""Warping an image by a flow, with the conventions of the published weights.

The grid is built as if -1 and 1 were the centres of the outermost pixels, but resized and sampled as if they were their
outer edges. So a flow of zero is not the identity: it zooms by 64 / 63 and fades to 0 at the border. The published
networks were trained this way.
"""

import jax
import jax.numpy as jnp


def deformation(flow: jax.Array) -> jax.Array:
    """Return the sampling grid [B, h, w, 2], -1..1, of a flow [B, h, w, 2] in pixels (x, y)."""
    height, width = flow.shape[1:3]
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    return jnp.stack([x, y], axis=-1) + 2 * flow / jnp.array([width - 1, height - 1], flow.dtype)


def resize_bilinear(x: jax.Array, height: int, width: int) -> jax.Array:
    """Enlarge [B, h, w, C] as torch's bilinear interpolation with `align_corners=False`."""
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[-1]), "bilinear")


def grid_sample(image: jax.Array, grid: jax.Array) -> jax.Array:
    """Sample an image as torch's grid_sample: bilinear, zeros outside, `align_corners=False`.

    Args:
      image: [B, H, W, C].
      grid: [B, h, w, 2], x then y; -1 and 1 are the image's outer edges.

    Returns:
      [B, h, w, C].
    """
    height, width = image.shape[1:3]
    x = ((grid[..., 0] + 1) * width - 1) / 2
    y = ((grid[..., 1] + 1) * height - 1) / 2
    # Points far outside sample zeros; clip them so that indices fit in int32.
    x, y = jnp.clip(x, -2, width + 1), jnp.clip(y, -2, height + 1)
    left, top = jnp.floor(x), jnp.floor(y)
    batch = jnp.arange(len(image))[:, None, None]

    def corner(column, row):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        weight = (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row))
        index = jnp.clip(row, 0, height - 1).astype(jnp.int32), jnp.clip(column, 0, width - 1).astype(jnp.int32)
        return image[batch, *index] * jnp.where(inside, weight, 0)[..., None]

    return sum(corner(left + dx, top + dy) for dy in (0, 1) for dx in (0, 1))


def warp(image: jax.Array, flow: jax.Array) -> jax.Array:
    """Warp an image [B, H, W, C] by a flow [B, h, w, 2] of lower resolution; the result has the image's shape."""
    return grid_sample(image, resize_bilinear(deformation(flow), *image.shape[1:3]))
