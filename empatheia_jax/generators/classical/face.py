"""A talking face without weights: a parametric 2-D portrait, drawn frame by frame.

C_video moves jaw and lips, S_video brows, eyes, mouth and head: the split of appendix D.2.2, in named coordinates.
"""

from collections.abc import Iterator

import numpy as np

from empatheia_jax.generators.classical.appearance import Appearance
from empatheia_jax.generators.classical.expression import STYLE_NAMES
from empatheia_jax.generators.classical.face_measure import measure_style
from empatheia_jax.generators.classical.portrait import appearance_from_portrait
from empatheia_jax.generators.classical.render import draw_frames, iterate_frames
from empatheia_jax.generators.classical.visemes import CONTENT_NAMES, mouth_content
from empatheia_jax.generators.interfaces import VIDEO_FPS, Portrait


class ClassicalFace:
    """The `interfaces.FaceGenerator` that draws a parametric face.

    Attributes:
      size: side of the frames, pixels: even, 32 to 1024; 128 is enough for a corpus, 256 or 512 for a viewer.
    """

    name = "classical"
    version = 1
    on_device = False
    fps = VIDEO_FPS
    content_dim = len(CONTENT_NAMES)
    style_dim = len(STYLE_NAMES)

    def __init__(self, size: int = 256):
        if size % 2 or not 32 <= size <= 1024:
            raise ValueError(f"face size must be even and 32..1024 pixels, not {size}")
        self.size = size

    def content(
        self, audio: np.ndarray | None, sample_rate: int, phonemes: np.ndarray, phoneme_frames: np.ndarray
    ) -> np.ndarray:
        """Return the gold C_video of a recording, float32 [F, content_dim]; see `visemes.mouth_content`."""
        return mouth_content(audio, sample_rate, phonemes, phoneme_frames)

    def style(self, frames: np.ndarray) -> np.ndarray:
        """Return the gold S_video float32 [style_dim] of a video uint8 [F, h, w, 3] RGB; see `measure_style`."""
        return measure_style(frames)

    def animate(self, content: np.ndarray, style: np.ndarray, portrait: Portrait) -> np.ndarray:
        """Draw a clip.

        Args:
          content: C_video [F, content_dim]; F may be 0.
          style: S_video [style_dim], or [F, style_dim] to change it over the clip.
          portrait: `appearance` (an `Appearance`), or `image`, whose colours are put on it (or on a default face).

        Returns:
          uint8 [F, size, size, 3] RGB.

        Raises:
          ValueError: wrong shapes, values that are not numbers, an empty portrait.
          PortraitError: the image has no face.
        """
        content, style = self._validate(content, style)
        return draw_frames(_appearance(portrait), content, style, self.size)

    def frames(self, content: np.ndarray, style: np.ndarray, portrait: Portrait) -> Iterator[np.ndarray]:
        """Yield the frames of `animate` (same arguments), each uint8 [size, size, 3] RGB."""
        content, style = self._validate(content, style)
        return iterate_frames(_appearance(portrait), content, style, self.size)

    def _validate(self, content: np.ndarray, style: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        content, style = np.asarray(content, np.float64), np.asarray(style, np.float64)
        if content.ndim != 2 or content.shape[1] != self.content_dim:
            raise ValueError(f"C_video must be [F, {self.content_dim}], not {list(content.shape)}")
        if style.shape not in ((self.style_dim,), (len(content), self.style_dim)):
            raise ValueError(f"S_video must be [{self.style_dim}] or [F, {self.style_dim}], not {list(style.shape)}")
        if not (np.isfinite(content).all() and np.isfinite(style).all()):
            raise ValueError("C_video or S_video holds values that are not numbers")
        return content, style


def _appearance(portrait: Portrait) -> Appearance:
    appearance = portrait.appearance if isinstance(portrait.appearance, Appearance) else None
    if portrait.image is not None:
        return appearance_from_portrait(portrait.image, appearance)[0]
    if appearance is None:
        raise ValueError("the classical face needs a portrait with an appearance or an image")
    return appearance
