"""The seam between media and model (section 4.1): preprocess (host) -> static shape -> encode -> [N, D] features."""

from typing import Literal, Protocol

import numpy as np


class ModalityEncoder(Protocol):
    """A frozen network (or fixed computation) that turns one utterance's speech or video into N vectors.

    Work is cut in two: `preprocess` takes media of any length to an array of one fixed shape, so that `encode` can be
    compiled once and batched. What comes out has the same shape for every utterance, however long it was.
    """

    name: str  # e.g. "classical_audio"; part of the feature store's identity
    modality: Literal["audio", "video"]
    sample_rate: int  # of the audio that `preprocess` takes, in Hz; 0 for video
    input_shape: tuple[int, ...]  # of what `preprocess` returns
    feature_shape: tuple[int, int]  # (N, D)

    def preprocess(self, media: np.ndarray) -> np.ndarray:
        """One utterance -> array of `input_shape`.

        Args:
          media: audio float32 [samples] in -1..1 at `sample_rate`, or video uint8 [F, h, w, 3] RGB; any length >= 1.
        Raises:
          EncoderError: when `media` is empty or has another rank or dtype.
        """

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """Preprocessed arrays [..., *input_shape] -> features float32 [..., N, D], of order 1 in every dimension."""

    def settings(self) -> dict:
        """What the features depend on, as JSON values: two encoders with equal settings give equal features."""


class EncoderError(ValueError):
    """Media that cannot be encoded: says what was given and what is wanted."""
