"""PIRenderer (Ren et al. 2021): one portrait and the motion around each frame -> pictures."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import RendererConfig
from empatheia_jax.generators.dreamtalk.editing import EditingNet
from empatheia_jax.generators.dreamtalk.grid import warp
from empatheia_jax.generators.dreamtalk.mapping import MappingNet
from empatheia_jax.generators.dreamtalk.warping import WarpingNet


class Renderer(nnx.Module):
    """Its three networks under upstream's names."""

    def __init__(self, config: RendererConfig, *, rngs: nnx.Rngs | None = None):
        """`rngs` is not used: frozen weights are loaded (see `generators.layers`)."""
        self.mapping_net = MappingNet(config)
        self.warpping_net = WarpingNet(config)
        self.editing_net = EditingNet(config)

    def __call__(self, portrait: jax.Array, windows: jax.Array) -> jax.Array:
        """Portrait uint8 [256, 256, 3] and windows of motion [F, 27, 73] -> pictures uint8 [F, 256, 256, 3]."""
        image = jnp.broadcast_to(portrait.astype(jnp.float32) / 127.5 - 1, (len(windows), *portrait.shape))
        return levels(self.draw(image, windows))

    def draw(self, image: jax.Array, windows: jax.Array) -> jax.Array:
        """Portraits [F, 256, 256, 3], -1..1 -> pictures, -1..1."""
        code = self.mapping_net(windows)
        bent = warp(image, self.warpping_net(image, code))
        return self.editing_net(image, bent, code)


def levels(image: jax.Array) -> jax.Array:
    """-1..1 -> uint8, cut off and not rounded, as upstream's."""
    return ((jnp.clip(image, -1, 1) + 1) / 2 * 255).astype(jnp.uint8)
