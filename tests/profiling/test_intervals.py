"""Sets of intervals against the same sets as points on a grid."""

import numpy as np
import pytest

from empatheia_jax.profiling.intervals import clip, own, subtract, total, union

SPAN = 60


def points(intervals) -> set[int]:
    """The unit cells that intervals with whole ends cover."""
    return {cell for start, end in intervals for cell in range(int(start), int(end))}


@pytest.fixture(params=range(20))
def rng(request, seed):
    return np.random.default_rng([seed, request.param])


def draw(rng, count):
    starts = rng.integers(0, SPAN, count)
    return np.stack([starts, starts + rng.integers(0, 12, count)], axis=1)


def test_they_cover_the_same_points(rng):
    one, other = draw(rng, rng.integers(0, 12)), draw(rng, rng.integers(0, 12))
    assert total(one) == len(points(one))
    assert points(union(one)) == points(one)
    assert points(subtract(one, other)) == points(one) - points(other)
    assert points(clip(one, 10, 40)) == points(one) & set(range(10, 40))
    for joined in (union(one), subtract(one, other), clip(one, 10, 40)):
        assert np.all(joined[:, 1] > joined[:, 0]) and np.all(joined[1:, 0] >= joined[:-1, 1])


def nested(rng, start, end, depth) -> list[tuple[int, int]]:
    """A timeline of calls within [start, end)."""
    found = []
    while start < end:
        length = int(rng.integers(1, end - start + 1))
        found.append((start, start + length))
        if depth:
            found += nested(rng, start, start + length, depth - 1)
        start += length + int(rng.integers(0, 4))
    return found


def test_own_time_is_what_no_inner_interval_covers(rng):
    timeline = nested(rng, 0, SPAN, 2)
    order = rng.permutation(len(timeline))
    shuffled = [timeline[i] for i in sorted(order, key=lambda i: timeline[i][0])]
    shuffled.sort(key=lambda one: (one[0], -one[1]))
    pieces = own(np.array(shuffled))
    covered = [points(piece) for piece in pieces]
    assert sum(map(len, covered)) == len(points(timeline))  # every point belongs to exactly one
    for (start, end), cells in zip(shuffled, covered, strict=True):
        assert cells <= set(range(start, end))
        inside = [one for one in timeline if start <= one[0] and one[1] <= end and one != (start, end)]
        if (start, end) not in inside and timeline.count((start, end)) == 1:
            assert cells == set(range(start, end)) - points(inside)
