"""The denoising network: noisy expression, content and style -> the expression under the noise (11.9M in all)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig
from empatheia_jax.generators.dreamtalk.content_encoder import ContentEncoder
from empatheia_jax.generators.dreamtalk.style_encoder import StyleEncoder
from empatheia_jax.generators.dreamtalk.transformer import Decoder, position_table
from empatheia_jax.generators.layers import Linear


def stack(*widths: int) -> nnx.Dict:
    """Linear maps under the even numbers of torch's Sequential; what stands between is the caller's."""
    return nnx.Dict({str(2 * i): Linear(a, b) for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))})


def through(linears: nnx.Dict, x: jax.Array, activation) -> jax.Array:
    """x through a `stack` with `activation` between its maps."""
    for number, linear in enumerate(linears.values()):
        x = linear(activation(x) if number else x)
    return x


class DisentangledDecoder(nnx.Module):
    """Upper and lower face apart: each asks the content of its window in the manner of the style."""

    def __init__(self, config: DreamTalkConfig):
        self.window, self.width = config.window, config.width
        lower = len(config.lower_face)
        sizes = (config.width, config.heads, config.mlp_width, config.layers)
        self.upper_decoder, self.lower_decoder = Decoder(*sizes), Decoder(*sizes)
        tail = (config.width, config.tail_width, config.tail_width)
        self.upper_tail_fc = stack(*tail, config.expression_dim - lower)
        self.lower_tail_fc = stack(*tail, lower)
        upper = [i for i in range(config.expression_dim) if i not in config.lower_face]
        self.order = tuple(int(i) for i in np.argsort([*upper, *config.lower_face]))

    def halves(self, memory: jax.Array, style: jax.Array) -> tuple[jax.Array, jax.Array]:
        """memory [N, 11, 256], style [N, 256] -> (upper face [N, 51], lower face [N, 13])."""
        query = style[:, None] + position_table(self.window, self.width).astype(memory.dtype)
        found = []
        for decoder, tail in ((self.upper_decoder, self.upper_tail_fc), (self.lower_decoder, self.lower_tail_fc)):
            centre = decoder(query, memory)[:, self.window // 2]
            found.append(through(tail, centre, jax.nn.relu))
        return found[0], found[1]

    def __call__(self, memory: jax.Array, style: jax.Array) -> jax.Array:
        """As `halves` -> expression [N, 64]."""
        return jnp.concatenate(self.halves(memory, style), axis=-1)[:, jnp.array(self.order)]


class Denoiser(nnx.Module):
    """upstream's net: both encoders, the fusion, the decoder. Frames see each other only through their windows."""

    def __init__(self, config: DreamTalkConfig, *, rngs: nnx.Rngs | None = None):
        """`rngs` is not used: frozen weights are loaded (see `generators.layers`)."""
        width = config.width
        self.config = config
        self.content_encoder = ContentEncoder(config)
        self.style_encoder = StyleEncoder(config)
        self.decoder = DisentangledDecoder(config)
        self.content_xt_to_decoder_input_wo_time = stack(width + config.expression_dim, width, width, width)
        self.time_embed_net = stack(width, width, width)

    def time(self, t: jax.Array) -> jax.Array:
        """Steps t, 1 to 1000, [B] -> embedding [B, 256]."""
        half = self.config.width // 2
        frequency = (10_000.0 ** (-np.arange(half) / half)).astype(np.float32)  # of float64: 5e-5 of phase otherwise
        angle = t.astype(jnp.float32)[:, None] * frequency
        return through(self.time_embed_net, jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1), jax.nn.silu)

    def __call__(self, x: jax.Array, t: jax.Array, content: jax.Array, style: jax.Array) -> jax.Array:
        """Noisy expression x [B, L, 64] at steps t [B], content [B, L, 11, 256], style [B, 256] -> x0 [B, L, 64]."""
        rows, frames, window = content.shape[:3]
        beside = jnp.broadcast_to(x[:, :, None], (rows, frames, window, x.shape[-1])).astype(content.dtype)
        fused = jnp.concatenate([content, beside], axis=-1)
        memory = through(self.content_xt_to_decoder_input_wo_time, fused, jax.nn.relu)
        memory = memory + self.time(t)[:, None, None].astype(memory.dtype)
        flat = memory.reshape(rows * frames, window, -1)
        code = jnp.repeat(style.astype(memory.dtype), frames, axis=0)
        return self.decoder(flat, code).reshape(rows, frames, -1)
