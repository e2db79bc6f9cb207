"""A talking face without weights: a parametric 2-D portrait, drawn frame by frame.

C_video moves jaw and lips, S_video brows, eyes, mouth and head (appendix D.2.2's split of content and style).
"""

import cv2
import numpy as np

from empatheia_jax.generators.classical.appearance import Appearance, proportions
from empatheia_jax.generators.classical.drawing import FRAMING, FRAMING_CENTRE, SHIFT, to_pixels
from empatheia_jax.generators.classical.expression import STYLE, feature_shapes, head_pose, jaw, named
from empatheia_jax.generators.classical.face_measure import measure_style
from empatheia_jax.generators.classical.head import JAW_LEVELS, static_face
from empatheia_jax.generators.classical.visemes import CONTENT, mouth_content
from empatheia_jax.generators.interfaces import VIDEO_FPS, Portrait

NECK = np.array([0.5, 0.86])  # the head turns about it


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


def draw(look: Appearance, content: np.ndarray, style: np.ndarray, size: int, start: int = 0) -> np.ndarray:
    """Frames uint8 [F, size, size, 3] of a face with `style` that speaks `content` [F, 5]."""
    layers = static_face(look, size)
    v = named(style)
    shift, roll = head_pose(v, np.arange(start, start + len(content)))
    turn = _turns(shift, roll)
    levels = np.round(jaw(v, np.clip(content, 0, 1)) * (JAW_LEVELS - 1)).astype(int)
    shapes = []
    for colour, outlines in feature_shapes(look, proportions(look), style, content, start):
        moved = [_move((o - FRAMING_CENTRE) * FRAMING + FRAMING_CENTRE, turn) for o in outlines]
        shapes.append((colour, [to_pixels(outline, size) for outline in moved]))
    frames = np.empty((len(content), size, size, 3), np.uint8)
    for index in range(len(content)):
        matrix = turn[index].copy()
        # the same turn between pixel centres instead of shares of the side
        matrix[:, 2] = turn[index][:, 2] * size + turn[index][:, :2] @ [0.5, 0.5] - 0.5
        head = cv2.warpAffine(layers.heads[levels[index]], matrix, (size, size), flags=cv2.INTER_LINEAR)
        clear = cv2.warpAffine(
            layers.clear[levels[index]], matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(255, 255, 255)
        )
        frame = cv2.add(cv2.multiply(layers.background, clear, scale=1 / 255), head)
        for colour, outlines in shapes:
            cv2.fillPoly(frame, [outline[index] for outline in outlines], colour, cv2.LINE_AA, SHIFT)
        frames[index] = frame
    return frames


def _turns(shift: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Affine maps [F, 2, 3] of picture coordinates: a roll about the neck, then a shift."""
    cos, sin = np.cos(roll), np.sin(roll)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], axis=1)
    offset = NECK + shift - rotation @ NECK
    return np.concatenate([rotation, offset[..., None]], axis=-1)


def _move(points: np.ndarray, turn: np.ndarray) -> np.ndarray:
    return np.einsum("fij,fnj->fni", turn[:, :, :2], points) + turn[:, None, :, 2]
