"""The packing plan: every Example once, no row over its limits, the same plan for the same seed."""

import collections

import numpy as np
import pytest

from empatheia_jax.data.batches import packer
from empatheia_jax.data.batches.packer import (
    ExampleSize,
    Mixture,
    RowLimits,
    RowStream,
    check_fits,
    plan_epoch,
    rows_lower_bound,
)
from empatheia_jax.data.schema import RecordError

LIMITS = RowLimits(tokens=100, targets=40, utterances=6, examples=4)


def sizes(seed, count=150):
    rng = np.random.default_rng(seed)
    return [
        ExampleSize(*map(int, (rng.integers(5, 90), rng.integers(1, 40), rng.integers(0, 6)))) for _ in range(count)
    ]


@pytest.mark.parametrize("epoch", range(3))
def test_each_example_once_and_within_limits(seed, epoch, monkeypatch):
    all_sizes = sizes(seed)
    monkeypatch.setattr(packer, "WINDOW", 12)
    plan = plan_epoch(all_sizes, LIMITS, seed, epoch)
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
        check_fits([ExampleSize(10, 1, 1), ExampleSize(101, 1, 1)], LIMITS, ["train/00001/0", "train/00007/1"])


def test_a_mixture_takes_each_example_as_often_as_its_share(seed):
    mixture = Mixture([(10, 1.0), (7, 0.25), (5, 2.5)], seed)
    epochs = [collections.Counter(mixture.members(epoch)) for epoch in range(8)]
    for counts in epochs:
        assert all(counts[i] == 1 for i in range(10))
        assert all(2 <= counts[i] <= 3 for i in range(17, 22))
    total = sum(epochs, collections.Counter())
    assert [total[i] for i in range(10, 22)] == [2] * 7 + [20] * 5
    assert mixture.members(3) == Mixture([(10, 1.0), (7, 0.25), (5, 2.5)], seed).members(3)


def test_a_mixed_plan_holds_the_mixture(seed):
    all_sizes, mixture = sizes(4, 60), Mixture([(40, 1.0), (20, 1.5)], seed)
    stream = RowStream(all_sizes, LIMITS, seed, mixture)
    rows = [stream.row(n) for n in range(80)]
    for epoch in range(2):
        taken = collections.Counter(i for e, row in rows for i in row if e == epoch)
        if rows[-1][0] > epoch:
            assert taken == collections.Counter(mixture.members(epoch))


def fewest_rows(tokens, capacity):
    """Exact bin packing of a few items, by branch and bound."""
    best = [len(tokens)]

    def place(item, rows):
        if len(rows) >= best[0]:
            return
        if item == len(tokens):
            best[0] = len(rows)
            return
        for i in range(len(rows)):
            if rows[i] >= tokens[item]:
                place(item + 1, rows[:i] + [rows[i] - tokens[item]] + rows[i + 1 :])
        place(item + 1, [*rows, capacity - tokens[item]])

    place(0, [])
    return best[0]


def test_the_bound_is_never_above_what_is_possible_and_the_plan_never_below(seed):
    rng = np.random.default_rng(seed)
    wide = RowLimits(100, 10**6, 10**6, 10**6)
    tight = 0
    for _ in range(30):
        tokens = [int(t) for t in rng.integers(10, 90, 8)]
        bound, exact = rows_lower_bound(tokens, 100), fewest_rows(sorted(tokens, reverse=True), 100)
        planned = len(plan_epoch([ExampleSize(t, 0, 0) for t in tokens], wide, seed, 0))
        assert bound <= exact <= planned <= exact + 1
        tight += bound == exact
    assert tight >= 20
