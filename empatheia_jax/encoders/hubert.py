"""HuBERT (Hsu et al. 2021, arXiv:2106.07447), section 4.1's speech encoder: waveform in, one vector every 20 ms out.

Both published architectures of transformers' HubertModel: base (group norm after the first convolution, post-norm
layers) and large (layer norm after every convolution, pre-norm layers). SpecAugment's mask embedding is for training
HuBERT itself and is not here.

`HubertAudio` is the encoder of speech (section 4.1): Na segment means of an utterance's last hidden states.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.checkpoints.frozen_network import FrozenNetwork, batch_over_devices
from empatheia_jax.config import ConfigError
from empatheia_jax.encoders.contract import validate_audio
from empatheia_jax.encoders.transformer import (
    ACTIVATIONS,
    Affine,
    Layers,
    TransformerConfig,
    convolution_kernel,
)
from empatheia_jax.model.layers import LayerNorm
from empatheia_jax.model.shapes import Array
from empatheia_jax.model.sharding import param
from empatheia_jax.runtime.buckets import next_power_of_two

SAMPLE_RATE = 16_000
BATCH_SECONDS = 64  # seconds of padded speech that go through the network at once, per device


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


class Convolution(nnx.Module):
    """A strided layer of the feature extractor: convolution, the norm if it has one, GELU."""

    def __init__(self, config: HubertConfig, index: int, *, rngs: nnx.Rngs):
        self.stride, self.norm_kind = config.conv_stride[index], config.feat_extract_norm
        width = config.conv_dim[index]
        shape = (config.conv_kernel[index], config.conv_dim[index - 1] if index else 1, width)
        axes = ("unsharded", "features", "features")
        self.kernel = convolution_kernel(rngs.params(), shape, axes, config.param_dtype)
        self.bias, self.norm = nnx.data(None), nnx.data(None)
        if config.conv_bias:
            self.bias = param(jnp.zeros(width, config.param_dtype), "features")
        if config.feat_extract_norm == "layer" or index == 0:
            self.norm = LayerNorm((width,), "features")  # torch's epsilon: no checkpoint's config sets another

    def __call__(self, x: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Convolve sequences [B, S, C] of valid `lengths` int [B]: return ([B, S', C'], lengths').

        Windows are taken without padding, so a frame within lengths' never reads past `lengths`.
        """
        y = jax.lax.conv_general_dilated(
            x, self.kernel[...].astype(x.dtype), (self.stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )
        if self.bias is not None:
            y = y + self.bias[...].astype(y.dtype)
        lengths = _window_count(lengths, self.kernel.shape[0], self.stride)
        if self.norm is not None:
            y = self.norm(y) if self.norm_kind == "layer" else _norm_over_time(y, lengths, self.norm)
        return ACTIVATIONS["gelu"](y), lengths


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

    def _embed(self, waveform: jax.Array, lengths: jax.Array) -> tuple[Array, jax.Array]:
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


@dataclasses.dataclass(frozen=True)
class HubertAudio:
    """The HuBERT speech encoder: float32 [segments, D], 20 ms frames averaged over equal parts of the utterance."""

    config: HubertConfig
    weights: str  # see `empatheia_jax.checkpoints.frozen_network`
    segments: int = 32
    name: str = "hubert_audio"
    modality: Literal["audio"] = "audio"
    sample_rate: int = SAMPLE_RATE
    on_device: bool = True
    faces_missed: int = 0

    @property
    def feature_shape(self) -> tuple[int, int]:
        return self.segments, self.config.width

    @property
    def input_shape(self) -> tuple[None]:
        return (None,)

    def settings(self) -> dict:
        return {"name": self.name, "version": 1, "shape": list(self.feature_shape)} | self.network.identity

    def preprocess(self, media: np.ndarray) -> np.ndarray:
        """Scale audio float32 [samples] at 16 kHz to zero mean and unit variance (as published).

        Audio too short for one frame is padded with zeros.

        Raises:
          EncoderError: `media` is not a non-empty vector of finite floats.
        """
        scaled = normalise_waveform(validate_audio(media).astype(np.float32))
        return np.pad(scaled, (0, max(0, self._min_samples - len(scaled))))

    def encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Encode preprocessed waveforms: return features float32 [B, segments, D].

        Utterances of similar length go through the network together, padded to the next power of two seconds; padding
        does not change the features (`Hubert`).
        """
        features = np.empty((len(batch), *self.feature_shape), np.float32)
        by_length: dict[int, list[int]] = {}
        for index, waveform in enumerate(batch):
            by_length.setdefault(padded_samples(len(waveform)), []).append(index)
        for length, indices in by_length.items():
            batch_size = max(1, batch_over_devices(BATCH_SECONDS * SAMPLE_RATE) // length)
            for start in range(0, len(indices), batch_size):
                chosen = indices[start : start + batch_size]
                waveform = np.zeros((min(next_power_of_two(len(chosen)), batch_size), length), np.float32)
                lengths = np.zeros(len(waveform), np.int32)
                for i, index in enumerate(chosen):
                    waveform[i, : len(batch[index])] = batch[index]
                    lengths[i] = len(batch[index])
                features[chosen] = self._forward(waveform, lengths)[: len(chosen)]
        return features

    @functools.cached_property
    def _forward(self):
        return self.network.compile(self._encode_waveforms)

    @functools.cached_property
    def network(self) -> FrozenNetwork:
        """The frozen network; its weights are loaded on first use."""
        return FrozenNetwork(self.config, Hubert, self.weights, "encoders.hubert_weights")

    def _encode_waveforms(self, hubert: Hubert, waveform: jax.Array, lengths: jax.Array) -> jax.Array:
        hidden, mask = hubert(waveform, lengths)
        return segment_means(hidden, jnp.sum(mask, axis=1), self.segments)

    @functools.cached_property
    def _min_samples(self) -> int:
        """The number of samples that give one frame."""
        samples = 1
        pairs = zip(reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True)
        for kernel, stride in pairs:
            samples = (samples - 1) * stride + kernel
        return samples


def weight_norm(gain: jax.Array, direction: jax.Array) -> jax.Array:
    """Return the positional convolution's kernel float32 [K, D / groups, D]: taps of `direction` with norms `gain` [K].

    torch's weight_norm over dim 2: gain is original0 (weight_g in older checkpoints), direction original1 (weight_v).
    """
    direction = direction.astype(jnp.float32)
    norm = jnp.sqrt(jnp.sum(jnp.square(direction), axis=(1, 2), keepdims=True))
    return gain.astype(jnp.float32)[:, None, None] * direction / norm


def normalise_waveform(audio: np.ndarray) -> np.ndarray:
    """Return audio float32 [samples] scaled to zero mean and unit variance, the input of HuBERT and wav2vec 2.0."""
    return (audio - audio.mean()) / np.sqrt(audio.var() + 1e-7)


def padded_samples(samples: int) -> int:
    """Return the samples that a recording at 16 kHz is padded to: the next power of two seconds."""
    return SAMPLE_RATE * next_power_of_two(-(-samples // SAMPLE_RATE))


def segment_means(hidden: jax.Array, frames: jax.Array, segments: int) -> jax.Array:
    """Return means over equal parts [B, segments, D] of hidden states [B, F, D] with `frames` int [B] valid ones.

    Part i has the frames from floor(i n / N) to before ceil((i + 1) n / N), so where frames are fewer than parts they
    are used more than once. No frames give zeros.
    """
    part = jnp.arange(segments)
    first = part * frames[:, None] // segments  # [B, N]
    after = -(-(part + 1) * frames[:, None] // segments)
    frame = jnp.arange(hidden.shape[1])
    inside = (frame >= first[..., None]) & (frame < after[..., None])  # [B, N, F]
    weight = inside / jnp.maximum(inside.sum(axis=-1, keepdims=True), 1)
    return jnp.einsum("bnf,bfd->bnd", weight, hidden.astype(jnp.float32), precision="highest")


def _window_count(length: Any, kernel: int, stride: int) -> Any:
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
