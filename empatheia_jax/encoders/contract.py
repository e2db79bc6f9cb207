"""The interface of encoders (section 4.1): preprocess (host) -> static shape -> encode -> [N, D] features."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np


class ModalityEncoder(Protocol):
    """A frozen network (or fixed computation) that turns one utterance's speech or video into N vectors.

    The work has two parts: `preprocess` runs on the host, in worker processes; `encode` takes the preprocessed arrays
    of many utterances and batches them in a few static shapes. Features have the same shape for every utterance,
    whatever its length.
    """

    @property
    def name(self) -> str:
        """Name of the encoder, e.g. "classical_audio"; part of the feature store's identity."""
        ...

    @property
    def modality(self) -> Literal["audio", "video"]:
        """What it encodes."""
        ...

    @property
    def sample_rate(self) -> int:
        """Rate of the audio that `preprocess` takes, in Hz; 0 for video."""
        ...

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of the result of `preprocess`; None where it depends on the utterance's length."""
        ...

    @property
    def feature_shape(self) -> tuple[int, int]:
        """(N, D)."""
        ...

    @property
    def faces_missed(self) -> int:
        """The number of clips so far in which it looked for a face and found none."""
        ...

    @property
    def on_device(self) -> bool:
        """Whether `encode` runs a network on the accelerator, so that one process should call it."""
        ...

    @property
    def network(self) -> Any:
        """Its `checkpoints.frozen_network.FrozenNetwork`, whose size `plan` reports; None where there is none."""
        ...

    def preprocess(self, media: np.ndarray) -> np.ndarray:
        """Prepare one utterance: return an array of `input_shape`.

        Args:
          media: audio float32 [samples] in -1..1 at `sample_rate`, or video uint8 [F, h, w, 3] RGB; any length >= 1.

        Raises:
          EncoderError: `media` is empty or has another rank or dtype.
        """
        ...

    def encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Encode the preprocessed arrays of B utterances: return features float32 [B, N, D]."""
        ...

    def settings(self) -> dict:
        """Return all that the features depend on, as JSON values: equal settings give equal features."""
        ...


class EncoderError(ValueError):
    """Media cannot be encoded; the message says what was given and what is expected."""


def validate_audio(media: np.ndarray) -> np.ndarray:
    """Return `media` as an array.

    Raises:
      EncoderError: it is not a non-empty vector of finite floats.
    """
    media = np.asarray(media)
    if media.ndim != 1 or media.size == 0 or not np.issubdtype(media.dtype, np.floating):
        raise EncoderError(f"audio must be a non-empty float vector, not {media.dtype} {list(media.shape)}")
    if not np.isfinite(media).all():
        raise EncoderError("audio holds NaN or infinite samples")
    return media


def validate_video(media: np.ndarray) -> np.ndarray:
    """Return `media` as an array.

    Raises:
      EncoderError: it is not a non-empty uint8 RGB video.
    """
    media = np.asarray(media)
    if media.ndim != 4 or media.shape[-1] != 3 or media.dtype != np.uint8 or 0 in media.shape:
        raise EncoderError(f"video must be uint8 [F, h, w, 3] with F >= 1, not {media.dtype} {list(media.shape)}")
    return media


def evenly_spaced(available: int, count: int) -> np.ndarray:
    """Return indices [count] of the middles of equal parts of `available` items; they repeat when there are too few."""
    return np.minimum(((np.arange(count) + 0.5) * available / count).astype(int), available - 1)
