"""Encoders without weights: acoustic measures of speech, gradients and colours of faces (DESIGN decision 4).

`ClassicalAudio`: F0, voicing, energy, tilt, flux and log-mel shape in Na equal segments, and statistics of the whole
utterance repeated in every segment. `ClassicalVideo`: histograms of oriented gradients and a colour grid of the face
in Nv frames. All scalings are fixed constants, chosen once for speech and faces in general; nothing is fitted to data.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from empatheia_jax.encoders.contract import evenly_spaced, validate_audio, validate_video
from empatheia_jax.encoders.face_crop import crop_faces
from empatheia_jax.encoders.face_pixels import CELLS, COLOUR_GRID, CROP, ORIENTATIONS, colour_grid, oriented_gradients
from empatheia_jax.encoders.voice_frames import SAMPLE_RATE, voice_frames
from empatheia_jax.encoders.voice_measures import DIMS, scaling, voice_measures


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
    modality: str = "audio"
    sample_rate: int = SAMPLE_RATE
    on_device: bool = False

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


@dataclasses.dataclass
class ClassicalVideo:
    """The face encoder without weights: float32 [frames, 756], edges and colours of evenly spaced frames.

    Dimensions: 0..647 histograms of 8 unsigned gradient orientations in 9 x 9 cells of the 72 px face crop
    (normalised over neighbouring cells: Dalal and Triggs, 2005); 648..755 mean Y, Cr, Cb of a 6 x 6 grid.
    """

    frames: int = 8
    name: str = "classical_video"
    modality: str = "video"
    sample_rate: int = 0
    on_device: bool = False
    faces_missed: int = 0  # clips without a detected face since this object was made

    @property
    def feature_shape(self) -> tuple[int, int]:
        return self.frames, CELLS * CELLS * ORIENTATIONS + 3 * COLOUR_GRID**2

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.frames, CROP, CROP, 3

    def settings(self) -> dict:
        return {"name": self.name, "version": 1, "shape": list(self.feature_shape), "crop": CROP}

    def preprocess(self, media: np.ndarray) -> np.ndarray:
        """Crop the face of video uint8 [F, h, w, 3] RGB: return uint8 [frames, 72, 72, 3], evenly spaced frames.

        A clip in which no face is found is used uncropped and counted in `faces_missed`.

        Raises:
          EncoderError: `media` is not a non-empty uint8 RGB video.
        """
        media = validate_video(media)
        crops, has_face = crop_faces(media[evenly_spaced(len(media), self.frames)], CROP)
        self.faces_missed += not has_face
        return crops

    def encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Encode face crops uint8 [..., frames, 72, 72, 3]: return features float32 [..., frames, 756] of order 1."""
        batch = np.asarray(batch)
        flat = batch.reshape(-1, CROP, CROP, 3)
        features = np.concatenate([oriented_gradients(flat), colour_grid(flat)], axis=1)
        return features.reshape(*batch.shape[:-3], -1)
