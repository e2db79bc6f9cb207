"""The speech encoder without weights: acoustic measures of an utterance.

`ClassicalAudio`: F0, voicing, energy, tilt, flux and log-mel shape in Na equal segments, and statistics of the whole
utterance repeated in every segment, all from the frames every 10 ms of `voice_frames`. Scales are fixed round numbers
for speech at a usual level, so that a feature means the same in every recording; nothing is fitted to data.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from empatheia_jax.encoders.contract import validate_audio
from empatheia_jax.encoders.voice_frames import MELS, SAMPLE_RATE, VoiceFrames, mel_centres, voice_frames

LOCAL_DIMS = 10  # measures of a segment
CLIP_DIMS = 13  # measures of the utterance
LTAS_BANDS = 20  # bands of the long-term average spectrum
DIMS = LOCAL_DIMS + MELS + CLIP_DIMS + LTAS_BANDS


@dataclasses.dataclass(frozen=True)
class ClassicalAudio:
    """The speech encoder without weights: features float32 [segments, 83].

    Dimensions of a segment (raw unit; scaled to order 1 by `(raw - offset) / scale`):
      0 F0, log2 Hz (interpolated where unvoiced)      1 F0 less the utterance's median, semitones
      2 F0 change to the next segments, semitones      3 voiced share of the segment
      4 periodicity                                    5 energy, dB of full scale
      6 energy less the utterance's mean, dB           7 energy change, dB
      8 spectral tilt, dB/octave                       9 spectral flux, dB per 10 ms
      10..49 log-mel shape: dB under the frame's energy, 40 bands 60-7600 Hz
    The same in all segments (the whole utterance):
      50 median F0, log2 Hz    51, 52 10th and 90th percentile of F0 about it, semitones    53 their distance, log2
      54 F0 movement, semitones a frame    55 energy of active frames, dB    56 its spread, dB
      57 tilt of voiced frames, dB/octave  58 spread of tilt    59 flux of active frames, dB per 10 ms
      60 syllable nuclei a second of active speech, log2        61 voiced share of active frames
      62 modulation rate of the spectrum's shape, log2 Hz
      63..82 long-term average spectrum of voiced frames, 20 bands, dB under the energy
    """

    segments: int = 32
    name: str = "classical_audio"
    modality: Literal["audio"] = "audio"
    sample_rate: int = SAMPLE_RATE
    on_device: bool = False
    network: None = None
    faces_missed: int = 0

    @property
    def feature_shape(self) -> tuple[int, int]:
        return self.segments, DIMS

    @property
    def input_shape(self) -> tuple[int, int]:
        return self.feature_shape

    def settings(self) -> dict:
        return {"name": self.name, "version": 1, "shape": list(self.feature_shape), "sample_rate": self.sample_rate}

    def preprocess(self, media: np.ndarray) -> np.ndarray:
        """Measure audio float32 [samples] at 16 kHz: return float32 [segments, 83] in the units listed above.

        Raises:
          EncoderError: `media` is not a non-empty vector of finite floats.
        """
        return voice_measures(voice_frames(validate_audio(media)), self.segments)

    def encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Scale raw measures [..., segments, 83] to features of order 1, the same shape."""
        offset, scale = scaling()
        return np.clip((np.asarray(batch) - offset) / scale, -5.0, 5.0).astype(np.float32)


def voice_measures(frames: VoiceFrames, segments: int) -> np.ndarray:
    """Return raw measures float32 [segments, DIMS]; `ClassicalAudio` lists the dimensions and their units."""
    pool = segment_weights(len(frames.energy), segments)
    clip = clip_measures(frames)
    local = local_measures(frames, pool, clip)
    return np.concatenate([local, pool @ frames.mel, np.tile(clip, (segments, 1))], axis=1).astype(np.float32)


@functools.cache
def scaling() -> tuple[np.ndarray, np.ndarray]:
    """Return offsets and scales [DIMS]: round numbers for adult and child speech recorded at a usual level."""
    local = [(7.6, 0.6), (0, 3), (0, 1.5), (0.5, 0.4), (0.6, 0.3), (-35, 15), (-5, 12), (0, 10), (-4, 6), (3, 2)]
    clip = [
        (7.6, 0.6),
        (-3, 2),
        (3, 2),
        (2.3, 0.5),
        (0.3, 0.15),
        (-27, 5),
        (8, 1.5),
        (-3, 3),
        (5, 1),
        (3.5, 0.8),
        (2.2, 0.3),
        (0.7, 0.1),
        (2.3, 0.2),
    ]
    # The spectrum of an average voice is about flat up to 500 Hz and falls above.
    shape = -22.0 - 3.0 * np.maximum(0.0, np.log2(mel_centres() / 500.0))
    mel = [(offset, 12.0) for offset in shape]
    ltas = [(offset, 8.0) for offset in shape.reshape(LTAS_BANDS, -1).mean(axis=1)]
    table = np.asarray(local + mel + clip + ltas, np.float32)
    return table[:, 0], table[:, 1]


def segment_weights(frames: int, segments: int) -> np.ndarray:
    """Return averaging weights float32 [segments, frames] of equal segments; a frame on a border counts in both.

    Fractional weights make this independent of length: a clip and the same clip with every frame doubled have the same
    averages, and clips of fewer frames than segments need no special case.
    """
    edges = np.linspace(0.0, frames, segments + 1)
    start = np.arange(frames)
    overlap = np.minimum(edges[1:, None], start + 1) - np.maximum(edges[:-1, None], start)
    overlap = np.maximum(overlap, 0.0)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def local_measures(frames: VoiceFrames, pool: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """Return measures 0..9 of each segment [segments, 10].

    Args:
      frames: of the utterance.
      pool: weights of `segment_weights`.
      clip: the utterance's `clip_measures`.
    """
    median = 2.0 ** clip[0] if frames.voiced.any() else 0.0
    pitch = pool @ _semitones(frames.f0, median)
    energy = pool @ frames.energy
    level = float(frames.energy[frames.active].mean()) if frames.active.any() else float(frames.energy.mean())
    return np.stack(
        [
            clip[0] + pitch / 12.0,
            pitch,
            _central_difference(pitch),
            pool @ frames.voiced.astype(np.float32),
            pool @ frames.periodicity,
            energy,
            energy - level,
            _central_difference(energy),
            pool @ frames.tilt,
            pool @ _flux(frames.mel),
        ],
        axis=1,
    )


def clip_measures(frames: VoiceFrames) -> np.ndarray:
    """Return measures of the full utterance [33]; without voice they are the scale's offset (a feature of 0)."""
    measures = scaling()[0][LOCAL_DIMS + MELS :].astype(np.float64)
    active, voiced = frames.active, frames.voiced
    if active.any():
        first, last = np.nonzero(active)[0][[0, -1]]
        measures[5], measures[6] = frames.energy[active].mean(), frames.energy[active].std()
        measures[9] = _flux(frames.mel)[active].mean()
        nuclei = syllable_nuclei(frames.energy, voiced) / (active.sum() * 0.01)
        measures[10] = np.log2(max(nuclei, 0.5))
        measures[11] = voiced.sum() / active.sum()
        if last - first >= 10:
            measures[12] = np.log2(modulation_rate(frames.mel[first : last + 1]))
    if voiced.any():
        median = float(np.median(frames.f0[voiced]))
        pitch = _semitones(frames.f0, median)
        low, high = np.percentile(pitch[voiced], [10, 90])
        voiced_pairs = voiced[1:] & voiced[:-1]
        measures[:4] = np.log2(median), low, high, np.log2(high - low + 0.5)
        measures[4] = np.abs(np.diff(pitch))[voiced_pairs].mean() if voiced_pairs.any() else 0.0
        measures[7], measures[8] = frames.tilt[voiced].mean(), frames.tilt[voiced].std()
        measures[CLIP_DIMS:] = frames.mel[voiced].mean(axis=0).reshape(LTAS_BANDS, -1).mean(axis=1)
    return measures


def modulation_rate(mel: np.ndarray) -> float:
    """Return how fast the spectrum's shape changes, in Hz: the mean frequency of its cosine coefficients over time.

    A rate of articulation that needs no peak picking: the deviation of a sine's derivative is 2 pi f times the sine's.

    Args:
      mel: log-mel shape [T >= 4, MELS], 10 ms apart.
    """
    basis = np.cos(np.pi * np.arange(1, MELS // 2 + 1)[:, None] * (np.arange(MELS) + 0.5) / MELS)
    shape = np.lib.stride_tricks.sliding_window_view(mel @ basis.T, 3, axis=0).mean(axis=-1)
    speed = np.diff(shape, axis=0)
    ratio = np.sqrt(np.mean(speed**2, axis=0).sum() / max(shape.var(axis=0).sum(), 1e-6))
    return float(np.clip(ratio / (2 * np.pi * 0.01), 0.5, 20.0))


def syllable_nuclei(energy: np.ndarray, voiced: np.ndarray, prominence: float = 2.0) -> int:
    """Count the voiced peaks of the smoothed energy contour that stand out by `prominence` dB.

    After de Jong and Wempe (2009), who count syllables this way without a transcript.

    Args:
      energy: [T] in dB, 10 ms apart.
      voiced: bool [T].
      prominence: in dB.
    """
    kernel = np.hanning(9)[1:-1]
    kernel /= kernel.sum()
    contour = np.convolve(np.pad(energy, 3, mode="edge"), kernel, mode="valid")
    count, is_rising, extreme, peak = 0, False, contour[0], 0
    for index, value in enumerate(contour):
        if (value > extreme) == is_rising:  # the direction is unchanged
            extreme, peak = (value, index) if value != extreme else (extreme, peak)
        elif abs(value - extreme) > prominence:  # the direction has changed by more than the prominence
            count += is_rising and bool(voiced[max(0, peak - 2) : peak + 3].any())
            is_rising, extreme, peak = not is_rising, value, index
    return count + (is_rising and bool(voiced[max(0, peak - 2) : peak + 3].any()))


def _semitones(f0: np.ndarray, median: float) -> np.ndarray:
    return 12.0 * np.log2(np.maximum(f0, 1.0) / median) if median > 0 else np.zeros_like(f0)


def _flux(mel: np.ndarray) -> np.ndarray:
    """Return the mean absolute change of the mel shape to the next frame, dB [T]."""
    if len(mel) < 2:
        return np.zeros(len(mel), np.float32)
    change = np.abs(np.diff(mel, axis=0)).mean(axis=1)
    return np.concatenate([change, change[-1:]])


def _central_difference(segments: np.ndarray) -> np.ndarray:
    """Return the central difference [segments] along the segments."""
    return np.gradient(segments) if len(segments) > 1 else np.zeros_like(segments)
