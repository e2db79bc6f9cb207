"""Sets of points in time, as float64 [N, 2] arrays of intervals (start, end): union, difference, length."""

import numpy as np


def union(intervals: np.ndarray) -> np.ndarray:
    """Return the same points as disjoint intervals [M, 2] in order, touching ones merged and empty ones removed."""
    intervals = np.asarray(intervals, float).reshape(-1, 2)
    intervals = intervals[intervals[:, 1] > intervals[:, 0]]
    if not len(intervals):
        return intervals
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reach = np.maximum.accumulate(intervals[:, 1])
    first = np.concatenate([[True], intervals[1:, 0] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([intervals[first, 0], reach[last]], axis=1)


def total(intervals: np.ndarray) -> float:
    """Return the total length of the points; overlaps count once."""
    disjoint = union(intervals)
    return float(np.sum(disjoint[:, 1] - disjoint[:, 0]))


def clip(intervals: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return the points that lie in [start, end]."""
    return union(np.clip(np.asarray(intervals, float).reshape(-1, 2), start, end))


def subtract(intervals: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the points of `intervals` that are not in `others`, as disjoint intervals."""
    disjoint, removed = union(intervals), union(others)
    if not len(disjoint) or not len(removed):
        return disjoint
    pieces = []
    for start, end in disjoint:
        first, last = np.searchsorted(removed[:, 1], start, "right"), np.searchsorted(removed[:, 0], end, "left")
        overlapping = removed[first:last]
        starts, ends = np.append(start, overlapping[:, 1]), np.append(overlapping[:, 0], end)
        pieces.append(np.stack([starts, ends], axis=1))
    return union(np.concatenate(pieces))


def exclusive(intervals: np.ndarray) -> list[np.ndarray]:
    """Return the part of each interval that no interval nested in it covers.

    Args:
      intervals: float64 [N, 2] of one timeline, which nest or follow one another; of two equal ones the later is
        nested.
    Returns:
      N arrays [M, 2], in the order of `intervals`.
    """
    intervals = np.asarray(intervals, float).reshape(-1, 2)
    children: list[list[int]] = [[] for _ in intervals]
    enclosing: list[int] = []
    for index in np.lexsort((np.arange(len(intervals)), -intervals[:, 1], intervals[:, 0])):
        while enclosing and intervals[enclosing[-1], 1] <= intervals[index, 0]:
            enclosing.pop()
        if enclosing:
            children[enclosing[-1]].append(int(index))
        enclosing.append(int(index))
    return [
        subtract(intervals[index : index + 1], intervals[nested]) if nested else union(intervals[index])
        for index, nested in enumerate(children)
    ]
