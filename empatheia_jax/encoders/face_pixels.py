"""Features of face crops: gradient orientations (Dalal and Triggs, 2005) and colours, scaled to order 1."""

import numpy as np

CROP = 72  # side of a crop in pixels
CELLS = 9  # cells along a side
ORIENTATIONS = 8
COLOUR_GRID = 6


def oriented_gradients(crops: np.ndarray) -> np.ndarray:
    """Return the scaled HOG float32 [F, 648], order (row, column, orientation), of crops uint8 RGB [F, 72, 72, 3]."""
    grey = np.sqrt(
        crops @ np.float32([0.299, 0.587, 0.114]) / 255.0
    )  # the square root reduces differences of illumination
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    strength = np.hypot(across, down)
    angle = (np.arctan2(down, across) % np.pi) * (ORIENTATIONS / np.pi)
    lower = np.floor(angle)
    share = angle - lower
    lower = lower.astype(np.int32) % ORIENTATIONS
    bins = np.empty((len(crops), CELLS, CELLS, ORIENTATIONS), np.float32)
    for index in range(ORIENTATIONS):  # each gradient votes for its two nearest orientations
        votes = strength * (
            np.where(lower == index, 1.0 - share, 0.0) + np.where(lower == (index - 1) % ORIENTATIONS, share, 0.0)
        )
        bins[..., index] = _cell_means(votes)
    return ((_normalise(bins) - 0.08) / 0.11).reshape(len(crops), -1)


def _cell_means(image: np.ndarray) -> np.ndarray:
    return image.reshape(len(image), CELLS, CROP // CELLS, CELLS, CROP // CELLS).mean(axis=(2, 4))


def _normalise(bins: np.ndarray) -> np.ndarray:
    """Return each cell divided by the norms of the four 2 x 2 blocks it belongs to, clipped at 0.4 and averaged."""
    energy = np.pad(np.square(bins).sum(axis=-1), ((0, 0), (1, 1), (1, 1)), mode="edge")
    block = energy[:, :-1, :-1] + energy[:, :-1, 1:] + energy[:, 1:, :-1] + energy[:, 1:, 1:]
    norm = np.sqrt(block + 1e-4)
    total = np.zeros_like(bins)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        total += np.minimum(bins / norm[:, row : row + CELLS, column : column + CELLS, None], 0.4)
    return total / 4.0


def colour_grid(crops: np.ndarray) -> np.ndarray:
    """Return scaled mean Y, Cr, Cb of 6 x 6 cells, float32 [F, 108], of crops uint8 RGB [F, 72, 72, 3]."""
    cell = CROP // COLOUR_GRID
    mean = crops.reshape(len(crops), COLOUR_GRID, cell, COLOUR_GRID, cell, 3).mean(axis=(2, 4), dtype=np.float32)
    luma = mean @ np.float32([0.299, 0.587, 0.114])
    red, blue = (mean[..., 0] - luma) * 0.713, (mean[..., 2] - luma) * 0.564
    return np.stack([(luma - 128.0) / 64.0, (red - 10.0) / 20.0, blue / 20.0], axis=-1).reshape(len(crops), -1)
