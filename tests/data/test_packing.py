"""The packing plan: every Example once, nothing over a row's limits, the same for the same seed."""

import collections

import numpy as np
import pytest

from empatheia_jax.data.packing import RowLimits, RowStream, Size, check_fits, plan_epoch
from empatheia_jax.data.schema import RecordError

LIMITS = RowLimits(tokens=100, targets=40, utterances=6, examples=4)


def sizes(seed, count=150):
    rng = np.random.default_rng(seed)
    return [Size(*map(int, (rng.integers(5, 90), rng.integers(1, 40), rng.integers(0, 6)))) for _ in range(count)]


@pytest.mark.parametrize("epoch", range(3))
def test_each_example_once_and_within_limits(seed, epoch):
    all_sizes = sizes(seed)
    plan = plan_epoch(all_sizes, LIMITS, seed, epoch, window=8)
    assert collections.Counter(i for row in plan for i in row) == collections.Counter(range(len(all_sizes)))
    for row in plan:
        assert len(row) <= LIMITS.examples
        for name in ("tokens", "targets", "utterances"):
            assert sum(getattr(all_sizes[i], name) for i in row) <= getattr(LIMITS, name)


def test_pure_function_of_seed_and_epoch(seed):
    assert plan_epoch(sizes(1), LIMITS, seed, 2) == plan_epoch(sizes(1), LIMITS, seed, 2)
    assert plan_epoch(sizes(1), LIMITS, seed, 2) != plan_epoch(sizes(1), LIMITS, seed, 3)


def test_stream_is_addressable_in_any_order(seed):
    forward, jumping = (RowStream(sizes(2), LIMITS, seed) for _ in range(2))
    rows = [forward.row(n) for n in range(200)]
    assert jumping.row(170) == rows[170]
    assert [jumping.row(n) for n in (3, 199, 0)] == [rows[3], rows[199], rows[0]]
    assert sorted(i for epoch, row in rows if epoch == 0 for i in row) == list(range(150))


def test_too_long_is_named():
    with pytest.raises(RecordError, match="train/00007/1.*row_tokens"):
        check_fits([Size(10, 1, 1), Size(101, 1, 1)], LIMITS, ["train/00001/0", "train/00007/1"])
