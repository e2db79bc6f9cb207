"""PIRenderer (Ren et al. 2021): one portrait and the motion around each frame -> frames."""

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import RendererConfig
from empatheia_jax.generators.dreamtalk.editing import EditingNet
from empatheia_jax.generators.dreamtalk.grid import warp
from empatheia_jax.generators.dreamtalk.mapping import MappingNet
from empatheia_jax.generators.dreamtalk.warping import WarpingNet


class Renderer(nnx.Module):
    """PIRenderer's three networks under upstream's names."""

    def __init__(self, config: RendererConfig, *, rngs: nnx.Rngs | None = None):
        """Build the networks; `rngs` is not used, since frozen weights are loaded (see `generators.layers`)."""
        self.mapping_net = MappingNet(config)
        self.warpping_net = WarpingNet(config)
        self.editing_net = EditingNet(config)

    def __call__(self, portrait: jax.Array, windows: jax.Array) -> jax.Array:
        """Render frames uint8 [F, 256, 256, 3] of a portrait uint8 [256, 256, 3] and windows of motion [F, 27, 73]."""
        image = jnp.broadcast_to(portrait.astype(jnp.float32) / 127.5 - 1, (len(windows), *portrait.shape))
        return to_uint8(self.draw(image, windows))

    def draw(self, image: jax.Array, windows: jax.Array) -> jax.Array:
        """Render images [F, 256, 256, 3], -1..1, of as many portraits, -1..1, and windows of motion [F, 27, 73]."""
        code = self.mapping_net(windows)
        warped = warp(image, self.warpping_net(image, code))
        return self.editing_net(image, warped, code)


def to_uint8(image: jax.Array) -> jax.Array:
    """Convert -1..1 to uint8 by truncation, as upstream does."""
    return ((jnp.clip(image, -1, 1) + 1) / 2 * 255).astype(jnp.uint8)
