"""Frames of the parametric face: the painted head, turned and set on its background, and the moving parts on it."""

import dataclasses

import cv2
import numpy as np

from empatheia_jax.generators.classical.appearance import Appearance, proportions
from empatheia_jax.generators.classical.drawing import SHIFT, framed, mix, to_pixels
from empatheia_jax.generators.classical.expression import Shape, head_pose, jaw, named, upper_shapes
from empatheia_jax.generators.classical.head import StaticFace, static_face
from empatheia_jax.generators.classical.mouth import mouth_shapes

NECK = np.array([0.5, 0.86])  # the head turns about it
FAINTEST = 0.04  # wrinkles weaker than this are not drawn


def draw(
    look: Appearance,
    content: np.ndarray,
    style: np.ndarray,
    size: int,
    numbers: np.ndarray | None = None,
    layers: StaticFace | None = None,
) -> np.ndarray:
    """Draw frames.

    Args:
      look: whose face.
      content: C_video [F, 5].
      style: S_video [style_dim], or [F, style_dim] where it changes over the clip.
      size: side of the frames, pixels.
      numbers: the frames' numbers [F] in their clip (blinks and sway follow them); default 0, 1, 2 ...
      layers: the painted head, where the caller has it; default: painted, or remembered.
    Returns:
      uint8 [F, size, size, 3] RGB.
    """
    count = len(content)
    numbers = np.arange(count) if numbers is None else np.asarray(numbers)
    content = np.clip(content, 0, 1)
    v = {name: np.broadcast_to(value, count) for name, value in named(style).items()}
    layers = layers or static_face(look, size)
    turn = _turns(*head_pose(v, numbers))
    # the same turn between pixel centres instead of shares of the side
    pixel_turn = turn.copy()
    pixel_turn[:, :, 2] = turn[:, :, 2] * size + turn[:, :, :2] @ np.array([0.5, 0.5]) - 0.5
    levels = np.round(jaw(v, content) * (len(layers.heads) - 1)).astype(int)
    strokes = [_stroke(shape, turn, size, count) for shape in moving_shapes(look, v, content, numbers)]
    frames = np.empty((count, size, size, 3), np.uint8)
    for index in range(count):
        turned = cv2.warpAffine(layers.heads[levels[index]], pixel_turn[index], (size, size))
        clear = cv2.bitwise_not(cv2.extractChannel(turned, 3))
        behind = cv2.multiply(layers.background, cv2.merge((clear, clear, clear)), scale=1 / 255)
        frame = cv2.add(behind, cv2.cvtColor(turned, cv2.COLOR_RGBA2RGB))
        for colours, outlines in strokes:
            if colours[index] is not None:
                cv2.fillPoly(frame, [outline[index] for outline in outlines], colours[index], cv2.LINE_AA, SHIFT)
        frames[index] = frame
    return frames


def moving_shapes(look: Appearance, v: dict[str, np.ndarray], content: np.ndarray, numbers: np.ndarray) -> list[Shape]:
    """What is drawn on the head, back to front; features lead the head when it nods."""
    head = proportions(look)
    shift = np.stack([np.zeros(len(content)), 0.012 * v["head_drop"]], axis=-1)[:, None]
    shapes = [*upper_shapes(look, head, v, numbers), *mouth_shapes(look, head, v, content)]
    return [dataclasses.replace(shape, outlines=[outline + shift for outline in shape.outlines]) for shape in shapes]


def _stroke(shape: Shape, turn: np.ndarray, size: int, count: int) -> tuple[list, list[np.ndarray]]:
    """A shape's colour in every frame (None: not drawn) and its outlines in fixed-point pixels."""
    outlines = []
    for outline in shape.outlines:
        points = framed(np.broadcast_to(outline, (count, *outline.shape[1:])))
        moved = points @ turn[:, :, :2].transpose(0, 2, 1) + turn[:, None, :, 2]
        outlines.append(to_pixels(moved, size))
    if shape.strength is None:
        return [shape.colour] * count, outlines
    strength = np.broadcast_to(shape.strength, count)
    return [mix(shape.faint, shape.colour, s) if s > FAINTEST else None for s in strength], outlines


def _turns(shift: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Affine maps [F, 2, 3] of picture coordinates: a roll about the neck, then a shift."""
    cos, sin = np.cos(roll), np.sin(roll)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], axis=1)
    offset = NECK + shift - rotation @ NECK
    return np.concatenate([rotation, offset[..., None]], axis=-1)
