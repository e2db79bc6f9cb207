"""The denoising network: noisy expression, content and style -> noiseless expression (11.9M parameters in all)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig
from empatheia_jax.generators.dreamtalk.content_encoder import ContentEncoder
from empatheia_jax.generators.dreamtalk.style_encoder import StyleEncoder
from empatheia_jax.generators.dreamtalk.transformer import Decoder, position_table
from empatheia_jax.generators.layers import Linear


def linear_stack(*widths: int) -> nnx.Dict:
    """Return linear maps named by the even numbers of torch's Sequential, between whose maps are activations."""
    return nnx.Dict({str(2 * i): Linear(a, b) for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))})


def apply_stack(linears: nnx.Dict, x: jax.Array, activation) -> jax.Array:
    """Apply a `linear_stack` to x with `activation` between its maps."""
    for number, linear in enumerate(linears.values()):
        x = linear(activation(x) if number else x)
    return x


class DisentangledDecoder(nnx.Module):
    """Two decoders, for the upper and the lower face: the style is the query, the content of the window the memory."""

    def __init__(self, config: DreamTalkConfig):
        self.window, self.width = config.window, config.width
        lower = len(config.lower_face)
        sizes = (config.width, config.heads, config.mlp_width, config.layers)
        self.upper_decoder, self.lower_decoder = Decoder(*sizes), Decoder(*sizes)
        tail = (config.width, config.tail_width, config.tail_width)
        self.upper_tail_fc = linear_stack(*tail, config.expression_dim - lower)
        self.lower_tail_fc = linear_stack(*tail, lower)
        upper = [i for i in range(config.expression_dim) if i not in config.lower_face]
        self.order = tuple(int(i) for i in np.argsort([*upper, *config.lower_face]))

    def halves(self, memory: jax.Array, style: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the coefficients of the upper face [N, 51] and of the lower face [N, 13].

        Args:
          memory: fused content and noisy expression [N, 11, 256].
          style: style codes [N, 256].
        """
        query = style[:, None] + position_table(self.window, self.width).astype(memory.dtype)
        coefficients = []
        for decoder, tail in ((self.upper_decoder, self.upper_tail_fc), (self.lower_decoder, self.lower_tail_fc)):
            centre = decoder(query, memory)[:, self.window // 2]
            coefficients.append(apply_stack(tail, centre, jax.nn.relu))
        return coefficients[0], coefficients[1]

    def __call__(self, memory: jax.Array, style: jax.Array) -> jax.Array:
        """Return the expression [N, 64]; arguments as of `halves`."""
        return jnp.concatenate(self.halves(memory, style), axis=-1)[:, jnp.array(self.order)]


class Denoiser(nnx.Module):
    """Upstream's net: both encoders, the fusion and the decoder.

    Frames depend on each other only through their windows of audio features.
    """

    def __init__(self, config: DreamTalkConfig, *, rngs: nnx.Rngs | None = None):
        """Build the networks; `rngs` is unused, since weights are loaded (see `generators.layers`)."""
        width = config.width
        self.config = config
        self.content_encoder = ContentEncoder(config)
        self.style_encoder = StyleEncoder(config)
        self.decoder = DisentangledDecoder(config)
        self.content_xt_to_decoder_input_wo_time = linear_stack(width + config.expression_dim, width, width, width)
        self.time_embed_net = linear_stack(width, width, width)

    def time(self, t: jax.Array) -> jax.Array:
        """Return the embedding [B, 256] of diffusion steps t [B], 1 to 1000."""
        half = self.config.width // 2
        # Computed in float64: in float32 the phase would be off by 5e-5.
        frequency = (10_000.0 ** (-np.arange(half) / half)).astype(np.float32)
        angle = t.astype(jnp.float32)[:, None] * frequency
        return apply_stack(self.time_embed_net, jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1), jax.nn.silu)

    def __call__(self, x: jax.Array, t: jax.Array, content: jax.Array, style: jax.Array) -> jax.Array:
        """Estimate the noiseless expression x0 [B, L, 64].

        Args:
          x: noisy expression [B, L, 64].
          t: diffusion steps [B].
          content: [B, L, 11, 256].
          style: style codes [B, 256].
        """
        batch, frames, window = content.shape[:3]
        expression = jnp.broadcast_to(x[:, :, None], (batch, frames, window, x.shape[-1])).astype(content.dtype)
        fused = jnp.concatenate([content, expression], axis=-1)
        memory = apply_stack(self.content_xt_to_decoder_input_wo_time, fused, jax.nn.relu)
        memory = memory + self.time(t)[:, None, None].astype(memory.dtype)
        flat = memory.reshape(batch * frames, window, -1)
        code = jnp.repeat(style.astype(memory.dtype), frames, axis=0)
        return self.decoder(flat, code).reshape(batch, frames, -1)
