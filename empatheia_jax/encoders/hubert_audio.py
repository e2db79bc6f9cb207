"""HuBERT as the encoder of voices (section 4.1): an utterance -> Na segment means of its last hidden states."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from empatheia_jax.buckets import power_of_two
from empatheia_jax.encoders.contract import checked_audio
from empatheia_jax.encoders.hubert import Hubert, HubertConfig
from empatheia_jax.frozen import FrozenNetwork, spread_batch

SAMPLE_RATE = 16_000
BATCH_SECONDS = 64  # of padded speech that goes through the network at once, a device


@dataclasses.dataclass(frozen=True)
class HubertAudio:
    """Speech -> float32 [segments, D]: frames of 20 ms, averaged over `segments` equal parts of the utterance."""

    config: HubertConfig
    weights: str  # see `empatheia_jax.frozen`
    segments: int = 32
    name: str = "hubert_audio"
    modality: str = "audio"
    sample_rate: int = SAMPLE_RATE
    on_device: bool = True

    @property
    def feature_shape(self) -> tuple[int, int]:
        return self.segments, self.config.width

    @property
    def input_shape(self) -> tuple[None]:
        return (None,)

    def settings(self) -> dict:
        return {"name": self.name, "version": 1, "shape": list(self.feature_shape)} | self.network.identity

    def preprocess(self, media: np.ndarray) -> np.ndarray:
        """Audio float32 [samples] at 16 kHz -> float32 [samples] of zero mean and unit variance (as published).

        What is too short for one frame is filled up with silence.

        Raises:
          EncoderError: when `media` is not a non-empty vector of finite floats.
        """
        scaled = normalised(checked_audio(media).astype(np.float32))
        return np.pad(scaled, (0, max(0, self._shortest - len(scaled))))

    def encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Preprocessed waveforms -> features float32 [B, segments, D].

        Utterances of like length go through the network together, padded to the next power of two seconds; padding
        changes nothing (`Hubert`).
        """
        features = np.empty((len(batch), *self.feature_shape), np.float32)
        by_length: dict[int, list[int]] = {}
        for place, waveform in enumerate(batch):
            by_length.setdefault(padded_samples(len(waveform)), []).append(place)
        for length, places in by_length.items():
            most = max(1, spread_batch(BATCH_SECONDS * SAMPLE_RATE) // length)
            for start in range(0, len(places), most):
                chosen = places[start : start + most]
                waveform = np.zeros((min(power_of_two(len(chosen)), most), length), np.float32)
                lengths = np.zeros(len(waveform), np.int32)
                for row, place in enumerate(chosen):
                    waveform[row, : len(batch[place])] = batch[place]
                    lengths[row] = len(batch[place])
                features[chosen] = self._forward(waveform, lengths)[: len(chosen)]
        return features

    @functools.cached_property
    def _forward(self):
        return self.network.compiled(self._means)

    @functools.cached_property
    def network(self) -> FrozenNetwork:
        """The network itself, not loaded yet."""
        return FrozenNetwork(self.config, Hubert, self.weights, "encoders.hubert_weights")

    def _means(self, hubert: Hubert, waveform: jax.Array, lengths: jax.Array) -> jax.Array:
        hidden, mask = hubert(waveform, lengths)
        return segment_means(hidden, jnp.sum(mask, axis=1), self.segments)

    @functools.cached_property
    def _shortest(self) -> int:
        """Samples that give one frame."""
        samples = 1
        pairs = zip(reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True)
        for kernel, stride in pairs:
            samples = (samples - 1) * stride + kernel
        return samples


def normalised(audio: np.ndarray) -> np.ndarray:
    """A recording float32 [samples] with zero mean and unit variance, as HuBERT and wav2vec 2.0 are given it."""
    return (audio - audio.mean()) / np.sqrt(audio.var() + 1e-7)


def padded_samples(samples: int) -> int:
    """How long a recording at 16 kHz is made: the next power of two seconds."""
    return SAMPLE_RATE * power_of_two(-(-samples // SAMPLE_RATE))


def segment_means(hidden: jax.Array, frames: jax.Array, segments: int) -> jax.Array:
    """Means over equal parts: hidden [B, F, D] of true `frames` int [B] -> [B, segments, D].

    Part i has the frames from floor(i n / N) to before ceil((i + 1) n / N), so where frames are fewer than parts they
    are used again. No frames give zeros.
    """
    part = jnp.arange(segments)
    first = part * frames[:, None] // segments  # [B, N]
    after = -(-(part + 1) * frames[:, None] // segments)
    frame = jnp.arange(hidden.shape[1])
    inside = (frame >= first[..., None]) & (frame < after[..., None])  # [B, N, F]
    weight = inside / jnp.maximum(inside.sum(axis=-1, keepdims=True), 1)
    return jnp.einsum("bnf,bfd->bnd", weight, hidden.astype(jnp.float32), precision="highest")
