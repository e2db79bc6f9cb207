"""Sets of points in time as float [N, 2] arrays of (start, end): joined, subtracted, measured."""

import numpy as np


def union(intervals: np.ndarray) -> np.ndarray:
    """The same points as disjoint intervals [M, 2] in order; touching ones are one, empty ones none."""
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
    """How long the points last together; overlaps count once."""
    joined = union(intervals)
    return float(np.sum(joined[:, 1] - joined[:, 0]))


def clip(intervals: np.ndarray, start: float, end: float) -> np.ndarray:
    """What of them lies in [start, end]."""
    return union(np.clip(np.asarray(intervals, float).reshape(-1, 2), start, end))


def subtract(intervals: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The points of `intervals` that are not in `others`, as disjoint intervals."""
    left, taken = union(intervals), union(others)
    if not len(left) or not len(taken):
        return left
    pieces = []
    for start, end in left:
        first, last = np.searchsorted(taken[:, 1], start, "right"), np.searchsorted(taken[:, 0], end, "left")
        between = taken[first:last]
        starts, ends = np.append(start, between[:, 1]), np.append(between[:, 0], end)
        pieces.append(np.stack([starts, ends], axis=1))
    return union(np.concatenate(pieces))


def own(intervals: np.ndarray) -> list[np.ndarray]:
    """What of each of a timeline's intervals, which nest or follow one another, lies in none that begins inside it.

    Returns:
      one array [M, 2] an interval, in the order given. Of two equal ones the later is inside.
    """
    intervals = np.asarray(intervals, float).reshape(-1, 2)
    inside: list[list[int]] = [[] for _ in intervals]
    open_: list[int] = []
    for index in np.lexsort((np.arange(len(intervals)), -intervals[:, 1], intervals[:, 0])):
        while open_ and intervals[open_[-1], 1] <= intervals[index, 0]:
            open_.pop()
        if open_:
            inside[open_[-1]].append(int(index))
        open_.append(int(index))
    return [
        subtract(intervals[index : index + 1], intervals[children]) if children else union(intervals[index])
        for index, children in enumerate(inside)
    ]
