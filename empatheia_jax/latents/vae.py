"""The VAE block of Fig. 4: a Transformer-based variational auto-encoder (section 4.3, Eqs. 1-6).

    z   = Enc(FFN(r), q)        self-attention over FFN(r), then a mean and a log-variance a token
    out = Dec(FFN(z), q)        queries q attend to each other and to FFN(z)

Table 8: four encoder and four decoder layers at full size. The KL term is not in the paper's losses; it is a mean over
dimensions with a small weight, and inference uses the posterior's mean.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import LatentConfig
from empatheia_jax.model.initial_values import Normals, NormalSource, count_normals
from empatheia_jax.model.layers import Attention, FeedForward, LayerNorm, Linear
from empatheia_jax.model.shapes import Array, Bool, Float, PRNGKeyArray


def _dropout(x: Float[Array, "..."], rate: float, key: PRNGKeyArray | None) -> Float[Array, "..."]:
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)


class EncoderLayer(nnx.Module):
    """Pre-norm self-attention and FFN."""

    def __init__(self, config: LatentConfig, *, rngs: NormalSource):
        self.dropout = config.dropout
        self.norm_attention, self.norm_mlp = LayerNorm((config.width,), "latent"), LayerNorm((config.width,), "latent")
        self.attention = Attention(config.width, config.heads, rngs=rngs)
        self.mlp = FeedForward(config.width, config.mlp_width, config.width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "K S D"], mask: Bool[Array, "K S"], key: PRNGKeyArray | None
    ) -> Float[Array, "K S D"]:
        """Apply the layer to x where `mask` is true; `key` turns dropout on."""
        attention_key, mlp_key = (None, None) if key is None else jax.random.split(key)
        y = self.norm_attention(x)
        x = x + _dropout(self.attention(y, y, mask), self.dropout, attention_key)
        return x + _dropout(self.mlp(self.norm_mlp(x)), self.dropout, mlp_key)


class DecoderLayer(nnx.Module):
    """Pre-norm self-attention among the queries, cross-attention to z, FFN."""

    def __init__(self, config: LatentConfig, *, rngs: NormalSource):
        self.dropout = config.dropout
        self.norm_self, self.norm_cross, self.norm_mlp = (LayerNorm((config.width,), "latent") for _ in range(3))
        self.self_attention = Attention(config.width, config.heads, rngs=rngs)
        self.cross_attention = Attention(config.width, config.heads, rngs=rngs)
        self.mlp = FeedForward(config.width, config.mlp_width, config.width, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "K Q D"],
        query_mask: Bool[Array, "K Q"],
        memory: Float[Array, "K S D"],
        memory_mask: Bool[Array, "K S"],
        *,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "K Q D"]:
        """Apply the layer to queries x that read `memory`, FFN(z); `key` turns dropout on."""
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        y = self.norm_self(x)
        x = x + _dropout(self.self_attention(y, y, query_mask), self.dropout, keys[0])
        x = x + _dropout(self.cross_attention(self.norm_cross(x), memory, memory_mask), self.dropout, keys[1])
        return x + _dropout(self.mlp(self.norm_mlp(x)), self.dropout, keys[2])


def stack_layers(layers: int, create: Callable[[NormalSource], nnx.Module], rngs: NormalSource) -> nnx.Module:
    """Create `layers` modules as one whose parameters have a leading "layers" axis, for `scan_layers`."""

    @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: "layers"})
    def make(values):
        return create(Normals(values))

    return make(rngs.normal((layers, count_normals(create))))


def scan_layers(
    layers: nnx.Module, count: int, call: Callable, x: Float[Array, "K S D"], *, key: PRNGKeyArray | None
) -> Float[Array, "K S D"]:
    """Apply stacked layers one after another.

    Args:
      layers: of `stack_layers`.
      count: how many.
      call: (layer, x, layer's key) -> x of the same shape.
      x: the first layer's input.
      key: split for the layers; None gives every layer None (no dropout).

    Returns:
      The last layer's output.
    """
    keys = None if key is None else jax.random.split(key, count)

    def body(x, layer_and_key):
        layer, layer_key = layer_and_key
        return call(layer, x, layer_key), None

    return jax.lax.scan(body, x, (layers, keys), length=count)[0]


@dataclasses.dataclass(frozen=True)
class Latent:
    """What a VAE block returns: the decoder's output and the posterior."""

    output: Float[Array, "K Q D"]
    mean: Float[Array, "K S D"]
    log_variance: Float[Array, "K S D"]

    def kl(self) -> Float[Array, "K S"]:
        """Return KL(q(z|r) || N(0, 1)), a mean over dimensions."""
        variance = jnp.exp(self.log_variance)
        return 0.5 * jnp.mean(variance + self.mean**2 - 1.0 - self.log_variance, axis=-1)


class VaeBlock(nnx.Module):
    """One VAE block of Fig. 4: encoder layers over FFN(r), z, decoder layers over the queries; all float32.

    The log-variance is kept within -12..6.
    """

    def __init__(self, config: LatentConfig, *, rngs: NormalSource):
        width = config.width
        self.config = config
        self.encoder = stack_layers(config.encoder_layers, lambda rngs: EncoderLayer(config, rngs=rngs), rngs)
        self.decoder = stack_layers(config.decoder_layers, lambda rngs: DecoderLayer(config, rngs=rngs), rngs)
        self.encoder_norm, self.decoder_norm = LayerNorm((width,), "latent"), LayerNorm((width,), "latent")
        self.mean = Linear(width, width, "latent", "latent_mlp", rngs=rngs)
        self.log_variance = Linear(width, width, "latent", "latent_mlp", rngs=rngs, scale=0.01)
        self.log_variance.bias[...] = jnp.full(width, config.log_variance_init)
        self.ffn_z = FeedForward(width, config.mlp_width, width, rngs=rngs)

    def __call__(
        self,
        inputs: Float[Array, "K S D"],
        input_mask: Bool[Array, "K S"],
        queries: Float[Array, "K Q D"],
        query_mask: Bool[Array, "K Q"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Latent:
        """Encode the inputs and decode at the queries.

        Args:
          inputs: FFN(r).
          input_mask: where there is one.
          queries: q.
          query_mask: where there is one.
          key: samples z and turns dropout on; None takes the mean.

        Returns:
          Output and posterior; their values at padded queries or inputs have no meaning.
        """
        encode_key, sample_key, decode_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        config = self.config
        x = scan_layers(
            self.encoder,
            config.encoder_layers,
            lambda layer, x, layer_key: layer(x, input_mask, layer_key),
            inputs,
            key=encode_key,
        )
        x = self.encoder_norm(x)
        mean, log_variance = self.mean(x), jnp.clip(self.log_variance(x), -12.0, 6.0)  # [K, S, D]
        z = mean
        if sample_key is not None:
            z = z + jnp.exp(0.5 * log_variance) * jax.random.normal(sample_key, mean.shape)
        memory = self.ffn_z(z)
        y = scan_layers(
            self.decoder,
            config.decoder_layers,
            lambda layer, y, layer_key: layer(y, query_mask, memory, input_mask, key=layer_key),
            queries,
            key=decode_key,
        )
        return Latent(self.decoder_norm(y), mean, log_variance)
