"""The two interfaces behind which every generator stands (appendix D.2), and the values that pass through them.

The latents read their widths (`content_dim`, `style_dim`) from the generator; nowhere else are they literals.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from empatheia_jax.data.schema import Profile

PHONEME_FRAME_SECONDS = 0.025
"""Seconds in one unit of `phoneme_frames`: StyleTTS 2's duration frame (600 samples at 24 kHz)."""

VIDEO_FPS = 25


@dataclasses.dataclass(frozen=True)
class Speech:
    """What a speech generator returns."""

    audio: np.ndarray  # float32 [samples], -1..1
    sample_rate: int
    phoneme_frames: np.ndarray  # int32 [P] units of PHONEME_FRAME_SECONDS


@dataclasses.dataclass(frozen=True)
class Portrait:
    """The face to animate: either an image, or an avatar's appearance for the parametric face."""

    image: np.ndarray | None = None  # uint8 [h, w, 3] RGB
    appearance: object | None = None


class SpeechGenerator(Protocol):
    """Frozen text-to-speech, split where the content synchronizer and the style disentangler enter.

    Attributes:
      name: of the generator, in settings and on disk.
      version: incremented when the same recording and words give other gold targets than before.
      sample_rate: of the speech, Hz.
      content_dim: width of C_speech.
      style_dim: width of S_speech.
      on_device: whether its networks use the accelerator: such a generator is an `OnDeviceSpeechGenerator`.
    """

    name: str
    version: int
    sample_rate: int
    content_dim: int
    style_dim: int
    on_device: bool

    def phonemes(self, text: str, /) -> np.ndarray:
        """Return the symbol ids of a text: int32 [P], leading 0 included."""
        ...

    def content(self, phonemes: np.ndarray) -> np.ndarray:
        """Return gold C_speech, the generator's own text encoding of `phonemes` [P]: float32 [P, content_dim]."""
        ...

    def style(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> np.ndarray:
        """Return gold S_speech, the style of a recording whose words are known: float32 [style_dim]."""
        ...

    def align(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> np.ndarray:
        """Return how long each phoneme lasts in a recording: int32 [P], units of 25 ms that sum to its length."""
        ...

    def agreement(self, content: np.ndarray, phonemes: np.ndarray) -> float:
        """Return the share (0..1) of positions of C_speech [P, content_dim] that encode the symbols `phonemes` [P]."""
        ...

    def speak(self, content: np.ndarray, style: np.ndarray, phonemes: np.ndarray) -> Speech:
        """Synthesize speech from C_speech [P, content_dim] and S_speech [style_dim]."""
        ...


@runtime_checkable
class OnDeviceSpeechGenerator(SpeechGenerator, Protocol):
    """A speech generator that computes the gold targets of many recordings at once.

    It also has `identity`, the values that its gold targets depend on (the weights' hash), as JSON values.

    Attributes:
      references_padded: recordings so far that were shorter than the network needs, and were padded.
    """

    references_padded: int

    def prepare(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return the input of `golds` for a recording [samples]; runs in a worker, without weights or a device."""
        ...

    def golds(
        self, prepared: Sequence[np.ndarray], phonemes: Sequence[np.ndarray], seconds: Sequence[float]
    ) -> list[dict[str, np.ndarray]]:
        """Return content_speech, style_speech and phoneme_frames of recordings.

        Args:
          prepared: result of `prepare` for each recording.
          phonemes: symbol ids [P] of each recording's words.
          seconds: length of each recording.
        """
        ...


@runtime_checkable
class ConstructsStyle(Protocol):
    """A speech generator whose gold S_speech is known by construction: no recording is measured for it.

    The input of its `golds` is such a style in the place of what `prepare` returns.
    """

    def style_for(self, profile: Profile, emotion: str) -> np.ndarray:
        """Return S_speech float32 [style_dim] of an avatar that expresses one of the 7 avatar emotions."""
        ...

    def notes_on_style(self, style: np.ndarray) -> list[str]:
        """Return what of a predicted S_speech [style_dim] is not spoken as it stands, for the user."""
        ...


class FaceGenerator(Protocol):
    """Frozen talking-face generator, split where the content synchronizer and the style disentangler enter.

    Attributes:
      name: of the generator, in settings and on disk.
      version: as a speech generator's.
      fps: frames per second of what it renders.
      content_dim: width of C_video.
      style_dim: width of S_video.
      on_device: whether its networks use the accelerator: such a generator is an `OnDeviceFaceGenerator`.
    """

    name: str
    version: int
    fps: int
    content_dim: int
    style_dim: int
    on_device: bool

    def content(
        self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray, phoneme_frames: np.ndarray
    ) -> np.ndarray:
        """Return gold C_video: float32 [F, content_dim], F = `video_frame_count(phoneme_frames)`."""
        ...

    def style(self, frames: np.ndarray) -> np.ndarray:
        """Return gold S_video, the style of a face video uint8 [F, h, w, 3] RGB: float32 [style_dim]."""
        ...

    def animate(self, content: np.ndarray, style: np.ndarray, portrait: Portrait) -> np.ndarray:
        """Render frames uint8 [F, h, w, 3] RGB from C_video [F, content_dim] and S_video [style_dim]."""
        ...

    def frames(self, content: np.ndarray, style: np.ndarray, portrait: Portrait) -> Iterator[np.ndarray]:
        """Yield the frames of `animate`, uint8 [h, w, 3], each as soon as it is rendered."""
        ...


@runtime_checkable
class OnDeviceFaceGenerator(FaceGenerator, Protocol):
    """A face generator that reads the styles of many clips at once; it also has `identity`, as a speech generator's.

    Attributes:
      style_frames: how many frames of a clip a style is read from.
    """

    style_frames: int

    def prepare(self, frames: np.ndarray) -> np.ndarray:
        """Return the input of `styles` for a clip uint8 [F, h, w, 3]; runs in a worker, without weights or a device."""
        ...

    def styles(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return `style` of many clips, each the result of `prepare`."""
        ...


def video_frame_count(phoneme_frames: np.ndarray) -> int:
    """Return how many video frames (25 fps, 40 ms) cover `phoneme_frames` [P] of 25 ms: their duration rounded up."""
    total = int(np.sum(phoneme_frames))
    return -(-total * 5 // 8)


def phoneme_of_video_frame(phoneme_frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the phoneme that is active at the middle of each 25 fps frame, and how much of it has elapsed.

    Args:
      phoneme_frames: int32 [P], units of 25 ms.

    Returns:
      index: int32 [F] into the P axis.
      fraction: float32 [F] in [0, 1), the elapsed share of that phoneme.
    """
    frames = np.asarray(phoneme_frames, np.int64)
    ends = np.cumsum(frames) * 5  # integers of 5 ms, so that `active_phoneme` on the device agrees at every tie
    count = video_frame_count(frames)
    middle = (2 * np.arange(count) + 1) * 4
    last = int(np.nonzero(frames)[0][-1]) if np.any(frames) else 0
    index = np.minimum(np.searchsorted(ends, middle, side="right"), last).astype(np.int32)
    length = 5 * frames[index]
    fraction = np.clip((middle - ends[index] + length) / np.maximum(length, 1), 0.0, 0.999)
    return index, fraction.astype(np.float32)
