"""Diffusion over expression coefficients: noise, content and style -> the expression of every frame."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig
from empatheia_jax.generators.dreamtalk.encoders import ContentEncoder, StyleEncoder
from empatheia_jax.generators.dreamtalk.transformer import Decoder, position_table
from empatheia_jax.generators.layers import Linear

STEPS = 1000  # of diffusion in training


# Denoising network ----------------------------------------------------------------------------------------------------


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
    """Upstream's net: both encoders, the fusion and the decoder (11.9M parameters in all).

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


# Samplers: DDIM in 10 steps (the script's), DDPM in 1000 (the paper's) ------------------------------------------------


def betas() -> np.ndarray:
    """Return the noise variance beta of every step t, float64 [1001]; 0 at t = 0."""
    return np.concatenate([[0.0], np.linspace(1e-4, 0.02, STEPS)])


def alpha_bars() -> np.ndarray:
    """Return alpha bar, the signal's share of the variance at every step t, float64 [1001]; 1 at t = 0."""
    return np.exp(np.cumsum(np.log(1 - betas())))


def ddim_steps(steps: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps t that DDIM's updates start from and lead to, int [steps]: 901, 801, ..., 1 and 801, ..., 1, 0.

    Raises:
      ValueError: `steps` does not divide 1000.
    """
    if steps < 1 or STEPS % steps:
        raise ValueError(f"{steps} steps of diffusion: give a divisor of {STEPS}")
    start = np.arange(1, STEPS + 1, STEPS // steps)[::-1]
    return start, np.append(start[1:], 0)


def ddim(denoise: Callable, noise: jax.Array, steps: int = 10) -> tuple[jax.Array, jax.Array]:
    """Sample expressions by DDIM, without added noise (eta 0).

    Args:
      denoise: (x [B, L, 64], t [] int) -> x0.
      noise: normal [B, L, 64].
      steps: number of updates.

    Returns:
      The expression [B, L, 64], and x before every update [steps, B, L, 64].
    """
    bars = alpha_bars()
    start, end = ddim_steps(steps)
    levels = jnp.asarray(np.stack([bars[start], bars[end]], axis=1), jnp.float32)

    def update(x, per_step):
        t, (current, following) = per_step
        x0 = denoise(x, t)
        direction = (x - jnp.sqrt(current) * x0) / jnp.sqrt(1 - current)
        return jnp.sqrt(following) * x0 + jnp.sqrt(1 - following) * direction, x

    return jax.lax.scan(update, noise, (jnp.asarray(start), levels))


def ddpm(denoise: Callable, noise: jax.Array, step_noise: Callable) -> jax.Array:
    """Sample expressions [B, L, 64] by DDPM's ancestral sampling in 1000 steps (Ho et al. 2020, predicting x0).

    Args:
      denoise: as in `ddim`.
      noise: normal [B, L, 64].
      step_noise: (t [] int) -> normal noise of x's shape; not used at t = 1.
    """
    bars, variances = alpha_bars(), betas()
    t = np.arange(STEPS, 0, -1)
    # mean = a x0 + b x, standard deviation s
    a = np.sqrt(bars[t - 1]) * variances[t] / (1 - bars[t])
    b = np.sqrt(1 - variances[t]) * (1 - bars[t - 1]) / (1 - bars[t])
    s = np.sqrt(variances[t] * (1 - bars[t - 1]) / (1 - bars[t]))
    levels = jnp.asarray(np.stack([a, b, s], axis=1), jnp.float32)

    def update(x, per_step):
        t, (a, b, s) = per_step
        return a * denoise(x, t) + b * x + s * jnp.where(t > 1, step_noise(t), 0.0), None

    return jax.lax.scan(update, noise, (jnp.asarray(t), levels))[0]


def guided_denoiser(network: Callable, null: jax.Array, style: jax.Array, scale: float) -> Callable:
    """Return a denoiser (x, t) -> x0 with classifier-free guidance by the style.

    Args:
      network: (x, t [B], style [B, 256]) -> x0.
      null: style code of no style, [1 or B, 256].
      style: style codes [B, 256].
      scale: strength of guidance; at 1 the unconditional pass, which would cancel out, is not computed.
    """

    def denoise(x, t):
        steps = jnp.broadcast_to(t, x.shape[:1])
        conditional = network(x, steps, style)
        if scale == 1.0:
            return conditional
        unconditional = network(x, steps, jnp.broadcast_to(null, style.shape))
        return unconditional + scale * (conditional - unconditional)

    return denoise
