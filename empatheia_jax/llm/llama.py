"""The core reasoner (section 4.2): a decoder-only Llama with stacked, scanned layers.

Embeddings go in; states after the final norm, logits and the cache come out: nothing else of it is used elsewhere.
Pre-norm RMSNorm (float32), rotary positions, grouped-query attention, SwiGLU; names follow transformers' checkpoints.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from empatheia_jax.config import LlamaConfig, LoraConfig, RopeScaling
from empatheia_jax.llm import attention
from empatheia_jax.llm.cache import Cache, write_layer
from empatheia_jax.llm.lora import Projection, adapter_dropout, check_targets, down_project, draw_lora_a
from empatheia_jax.llm.quantized import QuantizedKernel
from empatheia_jax.llm.remat import apply_remat
from empatheia_jax.model.initial_values import draw_stacked
from empatheia_jax.model.shapes import Array, Float, Int, PRNGKeyArray
from empatheia_jax.model.sharding import gather_weight, shard_rows

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Return the rotary frequencies, float32 [head_dim / 2] in radians a position, scaled as transformers does.

    "linear" divides all of them by `factor`; "llama3" only those whose wavelength exceeds the original context
    divided by `low_freq_factor`, with a linear blend up to the original context divided by `high_freq_factor`.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is None:
        return frequencies.astype(np.float32)
    if scaling.kind == "linear":
        return (frequencies / scaling.factor).astype(np.float32)
    turns = scaling.original_max_position * frequencies / (2 * math.pi)  # over the original context
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = np.clip(blend, 0.0, 1.0)
    return (frequencies * (keep + (1.0 - keep) / scaling.factor)).astype(np.float32)


def rms_norm(x: Float[Array, "*shape D"], scale: Float[Array, " D"], epsilon: float) -> Float[Array, "*shape D"]:
    """Return x / rms(x) * scale over the last axis, computed in float32, in x's dtype."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + epsilon)
    return (normed * scale.astype(jnp.float32)).astype(x.dtype)


def projection_axes(config: LlamaConfig) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    """Return {projection: (input axes, output axes)}, each {logical axis name: size}."""
    embed, mlp = {"embed": config.width}, {"mlp": config.mlp_width}
    heads = {"heads": config.heads, "head_dim": config.head_dim}
    kv_heads = {"kv_heads": config.kv_heads, "head_dim": config.head_dim}
    inputs_outputs = (
        (embed, heads),
        (embed, kv_heads),
        (embed, kv_heads),
        (heads, embed),
        (embed, mlp),
        (embed, mlp),
        (mlp, embed),
    )
    return dict(zip(PROJECTIONS, inputs_outputs, strict=True))


class Layers(nnx.Module):
    """All decoder layers, every Param with a leading axis L; scanned, it is one layer (see `Llama.__call__`).

    Kernels by their logical axes, and the mesh axis that `model.sharding.RULES` gives each:
      q_proj: [layers, embed/fsdp, heads/tensor, head_dim]
      k_proj, v_proj: [layers, embed/fsdp, kv_heads/tensor, head_dim]
      o_proj: [layers, heads/tensor, head_dim, embed/fsdp]
      gate_proj, up_proj: [layers, embed/fsdp, mlp/tensor]
      down_proj: [layers, mlp/tensor, embed/fsdp]
    """

    def __init__(self, config: LlamaConfig, lora: LoraConfig | None, key: PRNGKeyArray):
        base_key, lora_key = jax.random.split(key)  # the base is the same with and without adapters
        layers, axes = config.layers, projection_axes(config)
        shapes = {name: (*x.values(), *y.values()) for name, (x, y) in axes.items()}
        scales = dict.fromkeys(axes, config.init_std)
        if config.quantization == "none":
            kernels: dict[str, Any] = draw_stacked(
                jax.random.normal, base_key, shapes, scales, layers=layers, dtype=config.param_dtype
            )
        else:  # zeros: a quantised base is always loaded
            kernels = {name: QuantizedKernel(name, layers, x, y, config=config) for name, (x, y) in axes.items()}
        if config.init_match and config.quantization == "none":
            keys = jnp.repeat(kernels["k_proj"], config.heads // config.kv_heads, axis=2)
            mix = config.init_match * keys + (1 - config.init_match**2) ** 0.5 * kernels["q_proj"]
            kernels["q_proj"] = mix.astype(config.param_dtype)
        adapted = {name: tuple(axes[name][0].values()) for name in PROJECTIONS if lora and name in lora.targets}
        lora_a = draw_lora_a(lora_key, layers, adapted, lora.rank) if lora and adapted else {}

        def project(name: str) -> Projection:
            axes_in, axes_out = axes[name]
            adapter = {"lora": lora, "lora_a": lora_a[name]} if name in adapted else {}
            return Projection(kernels[name], tuple(axes_in), tuple(axes_out), **adapter)

        self.q_proj = project("q_proj")
        self.k_proj = project("k_proj")
        self.v_proj = project("v_proj")
        self.o_proj = project("o_proj")
        self.gate_proj = project("gate_proj")
        self.up_proj = project("up_proj")
        self.down_proj = project("down_proj")
        ones = jnp.ones((layers, config.width), jnp.float32)
        self.attention_norm = nnx.Param(ones, out_sharding=("layers", "embed"), eager_sharding=False)
        self.mlp_norm = nnx.Param(ones, out_sharding=("layers", "embed"), eager_sharding=False)


class Llama(nnx.Module):
    """A Llama-architecture decoder. Without `lora` it holds no adapter parameters at all.

    Raises:
      LoraError: a LoRA target names no projection.
      QuantizationError: a kernel that cannot be quantised as configured.
    """

    def __init__(self, config: LlamaConfig, lora: LoraConfig | None = None, *, rngs: nnx.Rngs):
        check_targets(lora, PROJECTIONS)
        self.config, self.lora = config, lora
        embedding_key, head_key, layers_key = jax.random.split(rngs.params(), 3)
        table = (config.vocab_size, config.width)
        embedding = config.init_std * jax.random.normal(embedding_key, table)
        self.embedding = nnx.Param(
            embedding.astype(config.param_dtype), out_sharding=("vocab", "embed"), eager_sharding=False
        )
        self.layers = Layers(config, lora, layers_key)
        self.norm = nnx.Param(jnp.ones((config.width,), jnp.float32), out_sharding=("embed",), eager_sharding=False)
        self.head = nnx.data(None)  # tied embeddings: the head is `embedding`
        if not config.tie_embeddings:
            # Drawn in the embedding's shape, so that one program is compiled for both.
            head = config.init_std * jax.random.normal(head_key, table)
            self.head = nnx.Param(
                head.T.astype(config.param_dtype), out_sharding=("embed", "vocab"), eager_sharding=False
            )

    def embed(self, tokens: Int[Array, "*shape"]) -> Float[Array, "*shape D"]:
        """Return the embeddings of tokens below `vocab_size`, in the compute dtype."""
        embeddings = jnp.take(gather_weight(self.embedding[...], "vocab", "embed"), tokens, axis=0)
        return shard_rows(embeddings.astype(self.config.compute_dtype))

    def logits(self, hidden: Float[Array, "*shape D"]) -> Float[Array, "*shape V"]:
        """Return the float32 logits of hidden states."""
        if self.head is None:
            table = self.embedding[...].astype(hidden.dtype)
            return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)
        table = self.head[...].astype(hidden.dtype)
        return jnp.einsum("...d,dv->...v", hidden, table, preferred_element_type=jnp.float32)

    def __call__(
        self,
        embeddings: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        max_segment_length: int | None = None,
        cache: Cache | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """Run all layers over whole batch rows, or over a chunk that is appended to a cache.

        Args:
          embeddings: of the tokens.
          positions: of the tokens; with a cache, where they are written (see `cache.py`).
          segment_ids: keeps packed Examples apart, 0 is padding. None: one Example in each row, padded on the right.
          max_segment_length: most tokens of an Example (static); None: T.
          cache: to append to; excludes `segment_ids`.
          dropout_key: turns LoRA dropout on.

        Returns:
          States after the final norm, in the compute dtype, and the cache or None.

        Raises:
          ValueError: both `segment_ids` and `cache`.
        """
        if cache is not None and segment_ids is not None:
            raise ValueError("Llama: a cached sequence is not packed; pass segment_ids or a cache, not both")
        x = shard_rows(embeddings.astype(self.config.compute_dtype))
        scan = _LayerScan(
            self.config, self.lora, positions, segment_ids=segment_ids, max_segment_length=max_segment_length
        )
        keys = None
        if dropout_key is not None and self.lora is not None and self.lora.dropout > 0.0:
            keys = jax.random.split(dropout_key, self.config.layers)
        xs = (self.layers, jnp.arange(self.config.layers), keys)
        layer = scan.layer if cache is not None else apply_remat(scan.layer, self.config.remat)
        (x, cache), _ = jax.lax.scan(layer, (x, cache), xs)
        return rms_norm(x, self.norm[...], self.config.norm_epsilon), cache

    def hidden_states(self, embeddings: Float[Array, "B T D"], positions: Int[Array, "B T"]) -> Float[Array, "_ B T D"]:
        """Return the embeddings and every layer's output before the final norm, in the compute dtype.

        Args:
          embeddings: whole rows of one Example each.
          positions: of the tokens.
        """
        x = embeddings.astype(self.config.compute_dtype)
        scan = _LayerScan(self.config, self.lora, positions)

        def body(x, layer):
            (x, _), _ = scan.layer((x, None), (layer, 0, None))
            return x, x

        return jnp.concatenate([x[None], jax.lax.scan(body, x, self.layers)[1]])


class _LayerScan:
    """What the layers of one call share: rotary angles, segments, settings. `layer` is the body of the scan."""

    def __init__(self, config, lora, positions, *, segment_ids=None, max_segment_length=None):
        self.config, self.lora, self.positions = config, lora, positions
        self.segment_ids, self.max_segment_length = segment_ids, max_segment_length
        frequencies = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        self.angles = attention.rotary_angles(positions, frequencies)

    def layer(self, carry, per_layer):
        """Run one decoder layer: x + attention(norm(x)), then x + mlp(norm(x))."""
        (x, cache), (weights, index, key) = carry, per_layer
        epsilon = self.config.norm_epsilon
        keys = (None,) * 4 if key is None else tuple(jax.random.split(key, 4))
        normed = rms_norm(x, weights.attention_norm[...], epsilon)
        attended, cache = self._attention(weights, normed, cache=cache, index=index, keys=keys[:2])
        x = shard_rows(checkpoint_name(x + attended, "mid"))
        x = shard_rows(x + self._mlp(weights, rms_norm(x, weights.mlp_norm[...], epsilon), keys[2:]))
        return (x, cache), None

    def _attention(self, weights: Layers, x: Float[Array, "B T D"], *, cache: Cache | None, index, keys):
        low_q, low_k, low_v = self._down_project(
            x, keys[0], weights.q_proj, weights.k_proj, weights.v_proj
        )  # [B, T, r]
        query = checkpoint_name(attention.rotate(weights.q_proj(x, low_q), self.angles), "q")  # [B, T, H, d]
        key = checkpoint_name(attention.rotate(weights.k_proj(x, low_k), self.angles), "k")  # [B, T, K, d]
        value = checkpoint_name(weights.v_proj(x, low_v), "v")  # [B, T, K, d]
        if cache is None:
            out = attention.attend(
                query,
                key,
                value,
                self.segment_ids,
                implementation=self.config.attention,
                max_segment_length=self.max_segment_length,
            )
        else:
            # Of all S positions that the cache holds: [B, S, K, d].
            cache, key, value = write_layer(cache, index, key, value, positions=self.positions)
            out = attention.attend_cached(query, key, value, self.positions)
        return weights.o_proj(out, *self._down_project(out, keys[1], weights.o_proj)), cache

    def _mlp(self, weights: Layers, x: Float[Array, "B T D"], keys) -> Float[Array, "B T D"]:
        low_gate, low_up = self._down_project(x, keys[0], weights.gate_proj, weights.up_proj)
        gate = checkpoint_name(weights.gate_proj(x, low_gate), "gate")  # [B, T, mlp]
        up = checkpoint_name(weights.up_proj(x, low_up), "up")
        product = jax.nn.silu(gate) * up
        return weights.down_proj(product, *self._down_project(product, keys[1], weights.down_proj))

    def _down_project(self, x, key, *projections):
        """Return `down_project` of x after adapter dropout, whose mask all the projections share."""
        if key is not None and any(projection.adapted for projection in projections):
            x = adapter_dropout(x, self.lora.dropout, key)
        return down_project(x, projections)
