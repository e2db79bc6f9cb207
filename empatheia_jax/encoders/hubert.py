"""HuBERT (Hsu et al. 2021, arXiv:2106.07447), section 4.1's speech encoder: waveform in, one vector every 20 ms out.

Both published architectures of transformers' HubertModel: base (group norm after the first convolution, post-norm
layers) and large (layer norm after every convolution, pre-norm layers). SpecAugment's mask embedding is for training
HuBERT itself and is not here.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import ConfigError
from empatheia_jax.encoders.transformer import (
    ACTIVATIONS,
    Affine,
    Layers,
    TransformerConfig,
    convolution_kernel,
)
from empatheia_jax.model.layers import LayerNorm
from empatheia_jax.model.sharding import param


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubertConfig(TransformerConfig):
    """The architecture of a HuBERT. Fields have transformers' names; `pre_norm` is its do_stable_layer_norm."""

    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)  # samples, then frames
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)  # product 320: 20 ms at 16 kHz
    conv_bias: bool = False
    feat_extract_norm: Literal["group", "layer"] = "group"
    feat_proj_layer_norm: bool = True
    num_conv_pos_embeddings: int = 128  # width of the positional convolution, in frames
    num_conv_pos_embedding_groups: int = 16

    def __post_init__(self):
        super().__post_init__()
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) > 0:
            raise ConfigError(
                f"HuBERT conv_dim {self.conv_dim}, conv_kernel {self.conv_kernel} and conv_stride {self.conv_stride} "
                "must be of one length, at least 1"
            )
        if self.feat_extract_norm not in ("group", "layer"):
            raise ConfigError(f"HuBERT feat_extract_norm {self.feat_extract_norm!r} is not 'group' or 'layer'")
        if self.width % self.num_conv_pos_embedding_groups:
            raise ConfigError(
                f"HuBERT width {self.width} is not a multiple of num_conv_pos_embedding_groups "
                f"{self.num_conv_pos_embedding_groups}"
            )

    @classmethod
    def base(cls) -> "HubertConfig":
        """Return facebook/hubert-base-ls960: 95M parameters."""
        return cls(width=768, layers=12, heads=12, mlp_width=3072, pre_norm=False)

    @classmethod
    def large(cls) -> "HubertConfig":
        """Return facebook/hubert-large-ll60k: 316M parameters."""
        return cls(
            width=1024, layers=24, heads=16, mlp_width=4096, pre_norm=True, conv_bias=True, feat_extract_norm="layer"
        )

    @classmethod
    def small(cls) -> "HubertConfig":
        """Return a base of a million parameters with the published hop of 20 ms; it has no published weights."""
        return cls(width=128, layers=3, heads=4, mlp_width=384, pre_norm=False, conv_dim=(64,) * 7)

    @classmethod
    def tiny(cls) -> "HubertConfig":
        """Return a base for tests: two layers, a frame every 20 samples."""
        return cls(
            width=32,
            layers=2,
            heads=4,
            mlp_width=64,
            pre_norm=False,
            conv_dim=(16, 16, 16),
            conv_kernel=(10, 3, 2),
            conv_stride=(5, 2, 2),
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=4,
        )

    def frame_count(self, samples):
        """Return the number of frames of `samples` (an int or an integer array); 0 where there are too few for one."""
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            samples = _window_count(samples, kernel, stride)
        return samples


def weight_norm(gain: jax.Array, direction: jax.Array) -> jax.Array:
    """Return the positional convolution's kernel float32 [K, D / groups, D]: taps of `direction` with norms `gain` [K].

    torch's weight_norm over dim 2: gain is original0 (weight_g in older checkpoints), direction original1 (weight_v).
    """
    direction = direction.astype(jnp.float32)
    norm = jnp.sqrt(jnp.sum(jnp.square(direction), axis=(1, 2), keepdims=True))
    return gain.astype(jnp.float32)[:, None, None] * direction / norm


class Convolution(nnx.Module):
    """A strided layer of the feature extractor: convolution, the norm if it has one, GELU."""

    def __init__(self, config: HubertConfig, index: int, *, rngs: nnx.Rngs):
        self.stride, self.norm_kind = config.conv_stride[index], "none"
        width = config.conv_dim[index]
        shape = (config.conv_kernel[index], config.conv_dim[index - 1] if index else 1, width)
        axes = ("unsharded", "features", "features")
        self.kernel = convolution_kernel(rngs.params(), shape, axes, config.param_dtype)
        self.bias, self.norm = nnx.data(None), nnx.data(None)
        if config.conv_bias:
            self.bias = param(jnp.zeros(width, config.param_dtype), "features")
        if config.feat_extract_norm == "layer" or index == 0:
            self.norm_kind = config.feat_extract_norm
            self.norm = LayerNorm((width,), "features")  # torch's epsilon: no checkpoint's config sets another

    def __call__(self, x: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Convolve sequences [B, S, C] of valid `lengths` int [B]: return ([B, S', C'], lengths').

        Windows are taken without padding, so a frame within lengths' never reads past `lengths`.
        """
        x = jax.lax.conv_general_dilated(
            x, self.kernel[...].astype(x.dtype), (self.stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )
        if self.bias is not None:
            x = x + self.bias[...].astype(x.dtype)
        lengths = _window_count(lengths, self.kernel.shape[0], self.stride)
        if self.norm_kind == "layer":
            x = self.norm(x)
        elif self.norm_kind == "group":
            x = _norm_over_time(x, lengths, self.norm)
        return ACTIVATIONS["gelu"](x), lengths


class Hubert(nnx.Module):
    """The inference part of transformers' HubertModel."""

    def __init__(self, config: HubertConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.convolutions = nnx.List([Convolution(config, index, rngs=rngs) for index in range(len(config.conv_dim))])
        features, width, dtype = config.conv_dim[-1], config.width, config.param_dtype
        self.feature_norm = nnx.data(None)
        if config.feat_proj_layer_norm:
            self.feature_norm = LayerNorm((features,), "features", epsilon=config.norm_epsilon)
        kernel = jax.random.normal(rngs.params(), (features, width)) / math.sqrt(features)
        self.feature_projection = Affine(kernel.astype(dtype), ("features",), ("embed",))
        window = (config.num_conv_pos_embeddings, width // config.num_conv_pos_embedding_groups, width)
        axes = ("unsharded", "features", "embed")
        self.position_direction = convolution_kernel(rngs.params(), window, axes, dtype)
        direction = self.position_direction[...].astype(jnp.float32)
        self.position_gain = param(jnp.sqrt(jnp.sum(jnp.square(direction), axis=(1, 2))), "unsharded")
        self.position_bias = param(jnp.zeros(width, dtype), "embed")
        self.norm = LayerNorm((width,), "embed", epsilon=config.norm_epsilon)
        self.layers = Layers(config, rngs.params())

    def __call__(self, waveform: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encode speech into hidden states; each utterance's are those of a batch of its own.

        Args:
          waveform: float32 [B, S] at 16 kHz, scaled as the checkpoint's preprocessor does (published ones: zero mean
            and unit variance over the valid samples); values past an utterance's end have no influence.
          lengths: int32 [B], valid samples.

        Returns:
          Hidden states float32 [B, F, D], 0 past an utterance's end; mask bool [B, F], true on the utterance's frames.
          An utterance too short for one frame has none.

        Raises:
          ValueError: S is too short for one frame.
        """
        x, mask = self._embed(waveform, lengths)
        x = self.layers(x, mask)
        if self.config.pre_norm:
            x = self.norm(x)
        return jnp.where(mask[..., None], x, 0).astype(jnp.float32), mask

    def hidden_states(self, waveform: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the first layer's input and every layer's output for `__call__`'s arguments: float32 [1 + L, B, F, D].

        A pre-norm model's last output is before the final norm.
        """
        x, mask = self._embed(waveform, lengths)
        return jnp.where(mask[..., None], self.layers.states(x, mask), 0).astype(jnp.float32), mask

    def _embed(self, waveform, lengths):
        """Return the first layer's input [B, F, D] and the frame mask."""
        if not self.config.frame_count(waveform.shape[1]):
            raise ValueError(f"Hubert: {waveform.shape[1]} samples are too few for one frame")
        # Zeros past the end, because a mask by multiplication would keep NaN.
        past_end = jnp.arange(waveform.shape[1]) >= lengths[:, None]
        x = jnp.where(past_end, 0, waveform).astype(self.config.compute_dtype)[..., None]
        for convolution in self.convolutions:
            x, lengths = convolution(x, lengths)
        mask = jnp.arange(x.shape[1]) < lengths[:, None]
        if self.feature_norm is not None:
            x = self.feature_norm(x)
        # The positional convolution reads past the end, where an utterance alone has zero padding.
        x = jnp.where(mask[..., None], self.feature_projection(x), 0)
        x = x + self._positions(x)
        return (x if self.config.pre_norm else self.norm(x)), mask

    def _positions(self, x):
        window = self.config.num_conv_pos_embeddings
        kernel = weight_norm(self.position_gain[...], self.position_direction[...])
        # torch pads window // 2 on both sides and drops the last frame of an even window.
        x = jax.lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (1,),
            [(window // 2, (window - 1) // 2)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.config.num_conv_pos_embedding_groups,
        )
        return ACTIVATIONS["gelu"](x + self.position_bias[...].astype(x.dtype))


def _window_count(length, kernel, stride):
    """Return how many windows of `kernel` every `stride` fit into `length` (an int or an integer array)."""
    count = (length - kernel) // stride + 1
    return max(count, 0) if isinstance(count, int) else jnp.maximum(count, 0)


def _norm_over_time(x: jax.Array, lengths: jax.Array, norm: LayerNorm) -> jax.Array:
    """Apply group norm with one channel a group: [B, S, C] by each channel's moments over the valid frames.

    torch's moments include padding; here the result must not depend on the length of the batch.
    """
    mask = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]
    count = jnp.maximum(lengths, 1)[:, None, None].astype(jnp.float32)
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.sum(jnp.where(mask, x32, 0), axis=1, keepdims=True) / count
    variance = jnp.sum(jnp.where(mask, jnp.square(x32), 0), axis=1, keepdims=True) / count
    normed = x32 * jax.lax.rsqrt(variance + norm.epsilon)
    return (normed * norm.scale[...] + norm.bias[...]).astype(x.dtype)
