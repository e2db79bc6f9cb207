"""The two interfaces behind which every generator stands (appendix D.2), and what passes through them.

Widths (`content_dim`, `style_dim`) are read from the generator by the latents; they are literals nowhere else.
"""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np

PHONEME_FRAME_SECONDS = 0.025
"""One unit of `phoneme_frames`: StyleTTS 2's duration frame (600 samples at 24 kHz)."""

VIDEO_FPS = 25


@dataclasses.dataclass(frozen=True)
class Speech:
    """What a speech generator returns."""

    audio: np.ndarray  # float32 [samples], -1..1
    sample_rate: int
    phoneme_frames: np.ndarray  # int32 [P] units of PHONEME_FRAME_SECONDS


@dataclasses.dataclass(frozen=True)
class Portrait:
    """Who the face generator animates: either an image, or an avatar's appearance for the parametric face."""

    image: np.ndarray | None = None  # uint8 [h, w, 3] RGB
    appearance: object | None = None


class SpeechGenerator(Protocol):
    """Frozen text-to-speech, split where the content synchronizer and the style disentangler enter."""

    name: str
    version: int  # grows when the same recording and words give other golds than before
    sample_rate: int
    content_dim: int  # width of C_speech
    style_dim: int  # width of S_speech
    on_device: bool  # whether its networks want the accelerator: then it has `prepare`, `golds` (many recordings at
    # once, see `styletts2.voice`) and `identity`, what its golds depend on

    def phonemes(self, text: str) -> np.ndarray:
        """Text -> symbol ids int32 [P], leading 0 included."""

    def content(self, phonemes: np.ndarray) -> np.ndarray:
        """The generator's own text encoding, gold C_speech: [P] -> float32 [P, content_dim]."""

    def style(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> np.ndarray:
        """Style of a recording whose words are known, gold S_speech: -> float32 [style_dim]."""

    def align(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> np.ndarray:
        """How long each phoneme lasts in a recording: int32 [P] units of 25 ms; the sum covers the recording."""

    def agreement(self, content: np.ndarray, phonemes: np.ndarray) -> float:
        """Share of positions of C_speech [P, content_dim] that say the symbols `phonemes` [P], 0..1."""

    def speak(self, content: np.ndarray, style: np.ndarray, phonemes: np.ndarray) -> Speech:
        """C_speech [P, content_dim] and S_speech [style_dim] -> speech."""


class FaceGenerator(Protocol):
    """Frozen talking-face generator, split where the content synchronizer and the style disentangler enter."""

    name: str
    version: int  # as a speech generator's
    fps: int
    content_dim: int  # width of C_video
    style_dim: int  # width of S_video
    on_device: bool  # whether its networks want the accelerator: then it has `prepare` (frames of a clip -> what
    # `styles` takes, many at once), `identity`, and `style_frames`, how many frames on end a style is read from

    def content(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray, phoneme_frames: np.ndarray):
        """Gold C_video: float32 [F, content_dim], F = `video_frame_count(phoneme_frames)`."""

    def style(self, frames: np.ndarray) -> np.ndarray:
        """Style of a face video uint8 [F, h, w, 3] RGB, gold S_video: float32 [style_dim]."""

    def animate(self, content: np.ndarray, style: np.ndarray, portrait: Portrait) -> np.ndarray:
        """C_video [F, content_dim] and S_video [style_dim] -> frames uint8 [F, h, w, 3] RGB."""

    def frames(self, content: np.ndarray, style: np.ndarray, portrait: Portrait) -> Iterator[np.ndarray]:
        """As `animate`, a frame uint8 [h, w, 3] as soon as it is there."""


def video_frame_count(phoneme_frames: np.ndarray) -> int:
    """Video frames (25 fps, 40 ms) that cover `phoneme_frames` [P] of 25 ms: the ceiling of their duration."""
    total = int(np.sum(phoneme_frames))
    return -(-total * 5 // 8)


def phoneme_of_video_frame(phoneme_frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which phoneme is active at the middle of each 25 fps frame, and how far it has gone.

    Args:
      phoneme_frames: int32 [P], units of 25 ms.
    Returns:
      index: int32 [F] into the P axis; fraction: float32 [F] in [0, 1), share of that phoneme elapsed.
    """
    frames = np.asarray(phoneme_frames, np.int64)
    ends = np.cumsum(frames) * 5  # whole numbers of 5 ms decide, so that the device's twin agrees at every tie
    count = video_frame_count(frames)
    middle = (2 * np.arange(count) + 1) * 4
    last = int(np.nonzero(frames)[0][-1]) if np.any(frames) else 0
    index = np.minimum(np.searchsorted(ends, middle, side="right"), last).astype(np.int32)
    length = 5 * frames[index]
    fraction = np.clip((middle - ends[index] + length) / np.maximum(length, 1), 0.0, 0.999)
    return index, fraction.astype(np.float32)
