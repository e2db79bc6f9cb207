"""The seam between media and model (section 4.1): preprocess (host) -> static shape -> encode -> [N, D] features."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np


class ModalityEncoder(Protocol):
    """A frozen network (or fixed computation) that turns one utterance's speech or video into N vectors.

    Work is cut in two: `preprocess` is the host's part, done in worker processes; `encode` takes what many utterances
    gave and batches it in a few static shapes. What comes out has the same shape for every utterance, however long it
    was.
    """

    name: str  # e.g. "classical_audio"; part of the feature store's identity
    modality: Literal["audio", "video"]
    sample_rate: int  # of the audio that `preprocess` takes, in Hz; 0 for video
    input_shape: tuple[int | None, ...]  # of what `preprocess` returns; None: as long as the utterance
    feature_shape: tuple[int, int]  # (N, D)
    faces_missed: int  # of a video encoder: clips in which it looked for a face and found none, so far
    on_device: bool  # whether `encode` is a network that wants the accelerator, so one process should run it

    def preprocess(self, media: np.ndarray) -> np.ndarray:
        """One utterance -> array of `input_shape`.

        Args:
          media: audio float32 [samples] in -1..1 at `sample_rate`, or video uint8 [F, h, w, 3] RGB; any length >= 1.
        Raises:
          EncoderError: when `media` is empty or has another rank or dtype.
        """

    def encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """What `preprocess` gave for B utterances -> their features float32 [B, N, D]."""

    def settings(self) -> dict:
        """What the features depend on, as JSON values: two encoders with equal settings give equal features."""


class EncoderError(ValueError):
    """Media that cannot be encoded: says what was given and what is wanted."""


def checked_audio(media: np.ndarray) -> np.ndarray:
    """`media` itself.

    Raises:
      EncoderError: when it is not a non-empty vector of finite floats.
    """
    media = np.asarray(media)
    if media.ndim != 1 or media.size == 0 or not np.issubdtype(media.dtype, np.floating):
        raise EncoderError(f"audio must be a non-empty float vector, not {media.dtype} {list(media.shape)}")
    if not np.isfinite(media).all():
        raise EncoderError("audio holds NaN or infinite samples")
    return media


def checked_video(media: np.ndarray) -> np.ndarray:
    """`media` itself.

    Raises:
      EncoderError: when it is not a non-empty uint8 RGB video.
    """
    media = np.asarray(media)
    if media.ndim != 4 or media.shape[-1] != 3 or media.dtype != np.uint8 or 0 in media.shape:
        raise EncoderError(f"video must be uint8 [F, h, w, 3] with F >= 1, not {media.dtype} {list(media.shape)}")
    return media


def spaced(available: int, wanted: int) -> np.ndarray:
    """Indices [wanted] of the middles of equal parts of `available` items; repeats when there are too few."""
    return np.minimum(((np.arange(wanted) + 0.5) * available / wanted).astype(int), available - 1)
