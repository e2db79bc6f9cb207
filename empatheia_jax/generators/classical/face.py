"""A talking face without weights: a parametric 2-D portrait, drawn frame by frame.

C_video moves jaw and lips, S_video brows, eyes, mouth and head (appendix D.2.2's split of content and style).
"""

import numpy as np

from empatheia_jax.generators.classical.expression import STYLE
from empatheia_jax.generators.classical.face_measure import measure_style
from empatheia_jax.generators.classical.render import draw
from empatheia_jax.generators.classical.visemes import CONTENT, mouth_content
from empatheia_jax.generators.interfaces import VIDEO_FPS, Portrait


class ClassicalFace:
    """`FaceGenerator` that draws.

    Attributes:
      size: side of the frames, pixels (even).
    """

    name = "classical"
    fps = VIDEO_FPS
    content_dim = len(CONTENT)
    style_dim = len(STYLE)

    def __init__(self, size: int = 256):
        if size % 2 or not 32 <= size <= 1024:
            raise ValueError(f"face size must be even and 32..1024 pixels, not {size}")
        self.size = size

    def content(
        self, audio: np.ndarray | None, sample_rate: int, phonemes: np.ndarray, phoneme_frames: np.ndarray
    ) -> np.ndarray:
        """Gold C_video of a recording: float32 [F, content_dim]; see `visemes.mouth_content`."""
        return mouth_content(audio, sample_rate, phonemes, phoneme_frames)

    def style(self, frames: np.ndarray) -> np.ndarray:
        """Gold S_video of a face video uint8 [F, h, w, 3] RGB: float32 [style_dim]; see `face_style.measure_style`."""
        return measure_style(frames)

    def animate(self, content: np.ndarray, style: np.ndarray, portrait: Portrait) -> np.ndarray:
        """Draw a clip.

        Args:
          content: C_video [F, content_dim].
          style: S_video [style_dim].
          portrait: its `appearance`.
        Returns:
          uint8 [F, size, size, 3] RGB.
        """
        look = portrait.appearance
        content, style = np.asarray(content, np.float64), np.asarray(style, np.float64)
        return draw(look, content, style, self.size)
