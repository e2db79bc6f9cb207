"""CLIP's vision tower as the encoder of faces (section 4.1): a clip -> pooled features of Nv frames."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from empatheia_jax.buckets import power_of_two
from empatheia_jax.encoders.clip import ClipVision, ClipVisionConfig
from empatheia_jax.encoders.contract import checked_video, spaced
from empatheia_jax.frozen import FrozenNetwork, spread_batch

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained on, RGB in 0..1 (Radford et al. 2021)."""
BATCH_CLIPS = 8  # that go through the network at once


@dataclasses.dataclass(frozen=True)
class ClipVideo:
    """Video -> float32 [frames, D]: CLIP's pooled vector, with its post norm, of evenly spaced frames."""

    config: ClipVisionConfig
    weights: str  # see `empatheia_jax.frozen`
    frames: int = 8
    name: str = "clip_video"
    modality: str = "video"
    sample_rate: int = 0
    on_device: bool = True
    faces_missed: int = 0  # faces are not looked for: frames are taken whole

    @property
    def feature_shape(self) -> tuple[int, int]:
        return self.frames, self.config.width

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.frames, self.config.image_size, self.config.image_size, 3

    def settings(self) -> dict:
        return {"name": self.name, "version": 1, "shape": list(self.feature_shape)} | self.network.identity

    def preprocess(self, media: np.ndarray) -> np.ndarray:
        """Video uint8 [F, h, w, 3] RGB -> uint8 [frames, S, S, 3]: the shorter side scaled to S, the middle cut out.

        Raises:
          EncoderError: when `media` is not a non-empty uint8 RGB video.
        """
        media = checked_video(media)
        return np.stack([_square(media[index], self.config.image_size) for index in spaced(len(media), self.frames)])

    def encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Preprocessed clips -> features float32 [B, frames, D]."""
        features = np.empty((len(batch), *self.feature_shape), np.float32)
        most = spread_batch(BATCH_CLIPS)
        for start in range(0, len(batch), most):
            clips = np.stack(batch[start : start + most])
            count = len(clips)
            clips = np.pad(clips, ((0, min(power_of_two(count), most) - count), *((0, 0),) * 4))
            features[start : start + count] = self._forward(clips)[:count]
        return features

    @functools.cached_property
    def _forward(self):
        return self.network.compiled(_pooled)

    @functools.cached_property
    def network(self) -> FrozenNetwork:
        """The network itself, not loaded yet."""
        return FrozenNetwork(self.config, ClipVision, self.weights, "encoders.clip_weights")


def _pooled(clip: ClipVision, clips: jax.Array) -> jax.Array:
    """uint8 [B, N, S, S, 3] -> [B, N, D]."""
    pixels = clips.reshape(-1, *clips.shape[2:]).astype(jnp.float32) / 255.0
    _, pooled = clip((pixels - jnp.array(MEAN)) / jnp.array(DEVIATION))
    return pooled.reshape(*clips.shape[:2], -1)


def _square(frame: np.ndarray, side: int) -> np.ndarray:
    """Picture uint8 [h, w, 3] -> [side, side, 3], as CLIP's published preprocessing (bicubic)."""
    height, width = frame.shape[:2]
    shorter = min(height, width)
    size = (int(side * width / shorter), int(side * height / shorter))
    scaled = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    return scaled[top : top + side, left : left + side]
