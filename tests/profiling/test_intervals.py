"""Sets of intervals, compared with the same sets as points on a grid."""

import numpy as np
import pytest

from empatheia_jax.profiling.summary import clip, exclusive, subtract, total, union

SPAN = 60


def points(intervals) -> set[int]:
    """Return the unit cells that intervals with integer ends cover."""
    return {cell for start, end in intervals for cell in range(int(start), int(end))}


@pytest.fixture(params=range(20))
def rng(request, seed):
    return np.random.default_rng([seed, request.param])


def draw(rng, count):
    starts = rng.integers(0, SPAN, count)
    return np.stack([starts, starts + rng.integers(0, 12, count)], axis=1)


def test_they_cover_the_same_points(rng):
    first, second = draw(rng, rng.integers(0, 12)), draw(rng, rng.integers(0, 12))
    assert total(first) == len(points(first))
    assert points(union(first)) == points(first)
    assert points(subtract(first, second)) == points(first) - points(second)
    assert points(clip(first, 10, 40)) == points(first) & set(range(10, 40))
    for joined in (union(first), subtract(first, second), clip(first, 10, 40)):
        assert np.all(joined[:, 1] > joined[:, 0]) and np.all(joined[1:, 0] >= joined[:-1, 1])


def nested(rng, start, end, depth) -> list[tuple[int, int]]:
    """Draw a timeline of nested calls within [start, end)."""
    calls = []
    while start < end:
        length = int(rng.integers(1, end - start + 1))
        calls.append((start, start + length))
        if depth:
            calls += nested(rng, start, start + length, depth - 1)
        start += length + int(rng.integers(0, 4))
    return calls


def test_own_time_is_what_no_inner_interval_covers(rng):
    timeline = nested(rng, 0, SPAN, 2)
    order = rng.permutation(len(timeline))
    shuffled = [timeline[i] for i in sorted(order, key=lambda i: timeline[i][0])]
    shuffled.sort(key=lambda call: (call[0], -call[1]))
    pieces = exclusive(np.array(shuffled))
    covered = [points(piece) for piece in pieces]
    assert sum(map(len, covered)) == len(points(timeline))  # every point belongs to exactly one interval
    for (start, end), cells in zip(shuffled, covered, strict=True):
        assert cells <= set(range(start, end))
        inside = [call for call in timeline if start <= call[0] and call[1] <= end and call != (start, end)]
        if (start, end) not in inside and timeline.count((start, end)) == 1:
            assert cells == set(range(start, end)) - points(inside)
