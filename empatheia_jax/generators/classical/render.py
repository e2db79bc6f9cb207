"""Frames of the parametric face: the painted head, posed and set on its background, and the moving parts on it."""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np

from empatheia_jax.generators.classical.appearance import Appearance, proportions
from empatheia_jax.generators.classical.drawing import SHIFT, to_picture, to_pixels
from empatheia_jax.generators.classical.expression import (
    Shape,
    head_pose,
    jaw_opening,
    mouth_shapes,
    style_by_name,
    upper_shapes,
)
from empatheia_jax.generators.classical.head import StaticFace, static_face

NECK = np.array([0.5, 0.86])  # the head rolls about it
FAINTEST = 0.04  # wrinkles weaker than this are not drawn


def draw_frames(
    appearance: Appearance,
    content: np.ndarray,
    style: np.ndarray,
    size: int,
    *,
    frame_numbers: np.ndarray | None = None,
    layers: StaticFace | None = None,
) -> np.ndarray:
    """Draw the frames of a clip.

    Args:
      appearance: whose face.
      content: C_video [F, 5].
      style: S_video [style_dim], or [F, style_dim] where it changes over the clip.
      size: side of the frames, pixels.
      frame_numbers: the frames' numbers [F] in their clip (blinks and sway follow them); default 0, 1, 2 ...
      layers: the painted head and background, by default those of `static_face`.

    Returns:
      uint8 [F, size, size, 3] RGB.
    """
    frames = np.empty((len(content), size, size, 3), np.uint8)
    for index, frame in enumerate(
        iterate_frames(appearance, content, style, size, frame_numbers=frame_numbers, layers=layers)
    ):
        frames[index] = frame
    return frames


def iterate_frames(
    appearance: Appearance,
    content: np.ndarray,
    style: np.ndarray,
    size: int,
    *,
    frame_numbers: np.ndarray | None = None,
    layers: StaticFace | None = None,
) -> Iterator[np.ndarray]:
    """Yield the frames of `draw_frames` (same arguments), each uint8 [size, size, 3] RGB."""
    count = len(content)
    frame_numbers = np.arange(count) if frame_numbers is None else np.asarray(frame_numbers)
    content = np.clip(content, 0, 1)
    named_style = {name: np.broadcast_to(value, count) for name, value in style_by_name(style).items()}
    layers = layers or static_face(appearance, size)
    transform = _head_transforms(*head_pose(named_style, frame_numbers))
    # the same transform between pixel centres instead of shares of the side
    pixel_transform = transform.copy()
    pixel_transform[:, :, 2] = transform[:, :, 2] * size + transform[:, :, :2] @ np.array([0.5, 0.5]) - 0.5
    levels = np.round(jaw_opening(named_style, content) * (len(layers.heads) - 1)).astype(int)
    strokes = _strokes(_moving_shapes(appearance, named_style, content, frame_numbers), transform, size)
    for index in range(count):
        head = cv2.warpAffine(layers.heads[levels[index]], pixel_transform[index], (size, size))
        uncovered = cv2.bitwise_not(cv2.extractChannel(head, 3))
        behind = cv2.multiply(layers.background, cv2.merge((uncovered, uncovered, uncovered)), scale=1 / 255)
        frame = cv2.add(behind, cv2.cvtColor(head, cv2.COLOR_RGBA2RGB))
        for colours, visible, outlines in strokes:
            if visible[index]:
                cv2.fillPoly(frame, [outline[index] for outline in outlines], colours[index], cv2.LINE_AA, SHIFT)
        yield frame


def _moving_shapes(
    appearance: Appearance, named_style: dict[str, np.ndarray], content: np.ndarray, frame_numbers: np.ndarray
) -> list[Shape]:
    """Return what is drawn on the head, back to front; features lead the head when it nods."""
    head = proportions(appearance)
    shift = np.stack([np.zeros(len(content)), 0.012 * named_style["head_drop"]], axis=-1)[:, None]
    shapes = [
        *upper_shapes(appearance, head, named_style, frame_numbers),
        *mouth_shapes(appearance, head, named_style, content),
    ]
    return [dataclasses.replace(shape, outlines=[outline + shift for outline in shape.outlines]) for shape in shapes]


def _strokes(shapes: list[Shape], transform: np.ndarray, size: int) -> list[tuple[list, list, list[np.ndarray]]]:
    """Return each shape's colour and visibility, frame by frame, and its outlines in fixed-point pixels."""
    count = len(transform)
    outlines = [np.broadcast_to(outline, (count, *outline.shape[1:])) for shape in shapes for outline in shape.outlines]
    ends = np.cumsum([outline.shape[1] for outline in outlines])
    points = to_picture(np.concatenate(outlines, axis=1))
    pixels = to_pixels(points @ transform[:, :, :2].transpose(0, 2, 1) + transform[:, None, :, 2], size)
    pixel_outlines = iter(np.split(pixels, ends[:-1], axis=1))
    strokes = []
    for shape in shapes:
        strength = np.ones(count) if shape.strength is None else np.broadcast_to(shape.strength, count)[:count]
        faint, full = np.array(shape.faint), np.array(shape.colour)
        colours = np.round(full if shape.strength is None else faint + (full - faint) * strength[:, None])
        colours = np.broadcast_to(colours, (count, 3)).tolist()
        strokes.append((colours, (strength > FAINTEST).tolist(), [next(pixel_outlines) for _ in shape.outlines]))
    return strokes


def _head_transforms(shift: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Return affine maps [F, 2, 3] of picture coordinates: a roll about the neck, then a shift."""
    cos, sin = np.cos(roll), np.sin(roll)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], axis=1)
    offset = NECK + shift - rotation @ NECK
    return np.concatenate([rotation, offset[..., None]], axis=-1)
