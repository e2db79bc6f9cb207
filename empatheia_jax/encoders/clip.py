"""CLIP's vision tower (Radford et al. 2021, arXiv:2103.00020) as in transformers, and the video encoder made of it.

Section 4.1: `ClipVideo` gives the pooled features of Nv frames of a clip.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from empatheia_jax.checkpoints.frozen_network import FrozenNetwork, batch_over_devices
from empatheia_jax.config import ConfigError
from empatheia_jax.encoders.contract import evenly_spaced, validate_video
from empatheia_jax.encoders.transformer import Layers, TransformerConfig, convolution_kernel
from empatheia_jax.model.initial_values import INIT_STD
from empatheia_jax.model.layers import LayerNorm
from empatheia_jax.model.shapes import Array
from empatheia_jax.model.sharding import param
from empatheia_jax.runtime.buckets import next_power_of_two

MEAN = (0.48145466, 0.4578275, 0.40821073)

DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of CLIP's training images, RGB in 0..1 (Radford et al. 2021)."""

BATCH_CLIPS = 8  # clips that go through the network at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipVisionConfig(TransformerConfig):
    """The architecture of a vision tower. Images are square, of `image_size` pixels a side."""

    pre_norm: bool = dataclasses.field(default=True, init=False)  # every published tower
    activation: str = "quick_gelu"
    image_size: int = 224
    patch_size: int = 32

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.patch_size <= self.image_size:
            raise ConfigError(f"CLIP patch_size {self.patch_size} does not fit image_size {self.image_size}")

    @classmethod
    def vit_l_14_336(cls) -> "ClipVisionConfig":
        """Return openai/clip-vit-large-patch14-336: 304M parameters."""
        return cls(width=1024, layers=24, heads=16, mlp_width=4096, image_size=336, patch_size=14)

    @classmethod
    def vit_b_32(cls) -> "ClipVisionConfig":
        """Return openai/clip-vit-base-patch32: 87M parameters."""
        return cls(width=768, layers=12, heads=12, mlp_width=3072)

    @classmethod
    def small(cls) -> "ClipVisionConfig":
        """Return a tower of a million parameters for small images; it has no published weights."""
        return cls(width=128, layers=3, heads=4, mlp_width=384, image_size=96, patch_size=16)

    @classmethod
    def tiny(cls) -> "ClipVisionConfig":
        """Return a tower for tests: two layers, 3 x 3 patches."""
        return cls(width=32, layers=2, heads=4, mlp_width=64, image_size=24, patch_size=8)

    @property
    def patches(self) -> int:
        """The number of patches P of one image; a border narrower than a patch is not used."""
        return (self.image_size // self.patch_size) ** 2


class ClipVision(nnx.Module):
    """The inference part of transformers' CLIPVisionModel."""

    def __init__(self, config: ClipVisionConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, dtype = config.width, config.param_dtype
        window = (config.patch_size, config.patch_size, 3, width)
        axes = ("unsharded", "unsharded", "features", "embed")
        self.patch_kernel = convolution_kernel(rngs.params(), window, axes, dtype)
        # Class token and position table have the same scale, so they are drawn together.
        table = (INIT_STD * jax.random.normal(rngs.params(), (2 + config.patches, width))).astype(dtype)
        self.class_embedding = param(table[0], "embed")
        self.position_embedding = param(table[1:], "unsharded", "embed")
        self.pre_norm = LayerNorm((width,), "embed", epsilon=config.norm_epsilon)
        self.layers = Layers(config, rngs.params())
        self.post_norm = LayerNorm((width,), "embed", epsilon=config.norm_epsilon)

    def __call__(self, pixels: jax.Array) -> tuple[Array, Array]:
        """Encode images into patch and image features.

        Args:
          pixels: float32 [B, H, W, 3] RGB with H = W = `image_size`, normalised by CLIP's mean and deviation.

        Returns:
          Last hidden states float32 [B, 1 + P, D], class token first, then patches row by row, without the post norm;
          and pooled float32 [B, D], the class token after the post norm.

        Raises:
          ValueError: the images have another size.
        """
        hidden = self.layers(self._embed(pixels))
        return hidden.astype(jnp.float32), self.post_norm(hidden[:, 0]).astype(jnp.float32)

    def hidden_states(self, pixels: jax.Array) -> Array:
        """Return the first layer's input and every layer's output for images: float32 [1 + L, B, 1 + P, D]."""
        return self.layers.states(self._embed(pixels)).astype(jnp.float32)

    def _embed(self, pixels: jax.Array) -> Array:
        size, stride = self.config.image_size, self.config.patch_size
        if pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"ClipVision: images of shape {pixels.shape[1:]}; wanted ({size}, {size}, 3)")
        x = pixels.astype(self.config.compute_dtype)
        x = jax.lax.conv_general_dilated(
            x,
            self.patch_kernel[...].astype(x.dtype),
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        first = jnp.broadcast_to(self.class_embedding[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1) + self.position_embedding[...].astype(x.dtype)
        return self.pre_norm(x)


@dataclasses.dataclass(frozen=True)
class ClipVideo:
    """The CLIP video encoder: float32 [frames, D], pooled vectors (after the post norm) of evenly spaced frames."""

    config: ClipVisionConfig
    weights: str  # see `empatheia_jax.checkpoints.frozen_network`
    frames: int = 8
    name: str = "clip_video"
    modality: Literal["video"] = "video"
    sample_rate: int = 0
    on_device: bool = True
    faces_missed: int = 0  # always: frames are not cropped to the face

    @property
    def feature_shape(self) -> tuple[int, int]:
        return self.frames, self.config.width

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.frames, self.config.image_size, self.config.image_size, 3

    def settings(self) -> dict:
        return {"name": self.name, "version": 1, "shape": list(self.feature_shape)} | self.network.identity

    def preprocess(self, media: np.ndarray) -> np.ndarray:
        """Resize video uint8 [F, h, w, 3] RGB to uint8 [frames, S, S, 3]: shorter side scaled to S, centre cropped.

        Raises:
          EncoderError: `media` is not a non-empty uint8 RGB video.
        """
        media = validate_video(media)
        return np.stack(
            [_resize_and_crop(media[index], self.config.image_size) for index in evenly_spaced(len(media), self.frames)]
        )

    def encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Encode preprocessed clips: return features float32 [B, frames, D]."""
        features = np.empty((len(batch), *self.feature_shape), np.float32)
        batch_size = batch_over_devices(BATCH_CLIPS)
        for start in range(0, len(batch), batch_size):
            clips = np.stack(batch[start : start + batch_size])
            count = len(clips)
            clips = np.pad(clips, ((0, min(next_power_of_two(count), batch_size) - count), *((0, 0),) * 4))
            features[start : start + count] = self._forward(clips)[:count]
        return features

    @functools.cached_property
    def _forward(self):
        return self.network.compile(_pool_clips)

    @functools.cached_property
    def network(self) -> FrozenNetwork:
        """The frozen network; its weights are loaded on first use."""
        return FrozenNetwork(self.config, ClipVision, self.weights, "encoders.clip_weights")


def _pool_clips(clip: ClipVision, clips: jax.Array) -> Array:
    """Return CLIP's pooled vectors [B, N, D] of clips uint8 [B, N, S, S, 3]."""
    pixels = clips.reshape(-1, *clips.shape[2:]).astype(jnp.float32) / 255.0
    _, pooled = clip((pixels - jnp.array(MEAN)) / jnp.array(DEVIATION))
    return pooled.reshape(*clips.shape[:2], -1)


def _resize_and_crop(frame: np.ndarray, side: int) -> np.ndarray:
    """Return an image uint8 [h, w, 3] as [side, side, 3], as CLIP's published preprocessing (bicubic) does."""
    height, width = frame.shape[:2]
    shorter = min(height, width)
    size = (int(side * width / shorter), int(side * height / shorter))
    scaled = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    return scaled[top : top + side, left : left + side]
