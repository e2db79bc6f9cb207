"""Frames of the parametric face: the painted head, turned and set on its background, and the moving parts on it."""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np

from empatheia_jax.generators.classical.appearance import Appearance, proportions
from empatheia_jax.generators.classical.drawing import SHIFT, framed, to_pixels
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
    frames = np.empty((len(content), size, size, 3), np.uint8)
    for index, frame in enumerate(drawn_frames(look, content, style, size, numbers, layers)):
        frames[index] = frame
    return frames


def drawn_frames(
    look: Appearance,
    content: np.ndarray,
    style: np.ndarray,
    size: int,
    numbers: np.ndarray | None = None,
    layers: StaticFace | None = None,
) -> Iterator[np.ndarray]:
    """As `draw`, a frame uint8 [size, size, 3] at a time."""
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
    strokes = _strokes(moving_shapes(look, v, content, numbers), turn, size)
    for index in range(count):
        turned = cv2.warpAffine(layers.heads[levels[index]], pixel_turn[index], (size, size))
        clear = cv2.bitwise_not(cv2.extractChannel(turned, 3))
        behind = cv2.multiply(layers.background, cv2.merge((clear, clear, clear)), scale=1 / 255)
        frame = cv2.add(behind, cv2.cvtColor(turned, cv2.COLOR_RGBA2RGB))
        for colours, visible, outlines in strokes:
            if visible[index]:
                cv2.fillPoly(frame, [outline[index] for outline in outlines], colours[index], cv2.LINE_AA, SHIFT)
        yield frame


def moving_shapes(look: Appearance, v: dict[str, np.ndarray], content: np.ndarray, numbers: np.ndarray) -> list[Shape]:
    """What is drawn on the head, back to front; features lead the head when it nods."""
    head = proportions(look)
    shift = np.stack([np.zeros(len(content)), 0.012 * v["head_drop"]], axis=-1)[:, None]
    shapes = [*upper_shapes(look, head, v, numbers), *mouth_shapes(look, head, v, content)]
    return [dataclasses.replace(shape, outlines=[outline + shift for outline in shape.outlines]) for shape in shapes]


def _strokes(shapes: list[Shape], turn: np.ndarray, size: int) -> list[tuple[list, list, list[np.ndarray]]]:
    """Of each shape: its colour and whether it is seen, frame by frame, and its outlines in fixed-point pixels."""
    count = len(turn)
    outlines = [np.broadcast_to(o, (count, *o.shape[1:])) for shape in shapes for o in shape.outlines]
    ends = np.cumsum([o.shape[1] for o in outlines])
    points = framed(np.concatenate(outlines, axis=1))
    pixels = to_pixels(points @ turn[:, :, :2].transpose(0, 2, 1) + turn[:, None, :, 2], size)
    placed = iter(np.split(pixels, ends[:-1], axis=1))
    strokes = []
    for shape in shapes:
        strength = np.ones(count) if shape.strength is None else np.broadcast_to(shape.strength, count)[:count]
        faint, full = np.array(shape.faint), np.array(shape.colour)
        colours = np.round(full if shape.strength is None else faint + (full - faint) * strength[:, None])
        colours = np.broadcast_to(colours, (count, 3)).tolist()
        strokes.append((colours, (strength > FAINTEST).tolist(), [next(placed) for _ in shape.outlines]))
    return strokes


def _turns(shift: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Affine maps [F, 2, 3] of picture coordinates: a roll about the neck, then a shift."""
    cos, sin = np.cos(roll), np.sin(roll)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], axis=1)
    offset = NECK + shift - rotation @ NECK
    return np.concatenate([rotation, offset[..., None]], axis=-1)
