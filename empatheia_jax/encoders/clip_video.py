"""CLIP's vision tower as the encoder of video (section 4.1): pooled features of Nv frames of a clip."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from empatheia_jax.checkpoints.frozen_network import FrozenNetwork, batch_over_devices
from empatheia_jax.encoders.clip import ClipVision, ClipVisionConfig
from empatheia_jax.encoders.contract import evenly_spaced, validate_video
from empatheia_jax.runtime.buckets import next_power_of_two

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of CLIP's training images, RGB in 0..1 (Radford et al. 2021)."""
BATCH_CLIPS = 8  # clips that go through the network at once


@dataclasses.dataclass(frozen=True)
class ClipVideo:
    """The CLIP video encoder: float32 [frames, D], pooled vectors (after the post norm) of evenly spaced frames."""

    config: ClipVisionConfig
    weights: str  # see `empatheia_jax.checkpoints.frozen_network`
    frames: int = 8
    name: str = "clip_video"
    modality: str = "video"
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


def _pool_clips(clip: ClipVision, clips: jax.Array) -> jax.Array:
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
