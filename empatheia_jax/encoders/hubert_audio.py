"""HuBERT as the encoder of speech (section 4.1): Na segment means of an utterance's last hidden states."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from empatheia_jax.checkpoints.frozen_network import FrozenNetwork, batch_over_devices
from empatheia_jax.encoders.contract import validate_audio
from empatheia_jax.encoders.hubert import Hubert, HubertConfig
from empatheia_jax.runtime.buckets import next_power_of_two

SAMPLE_RATE = 16_000
BATCH_SECONDS = 64  # seconds of padded speech that go through the network at once, per device


@dataclasses.dataclass(frozen=True)
class HubertAudio:
    """The HuBERT speech encoder: float32 [segments, D], 20 ms frames averaged over equal parts of the utterance."""

    config: HubertConfig
    weights: str  # see `empatheia_jax.checkpoints.frozen_network`
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
