"""The packing plan: which Examples share a row, and in what order, a pure function of (lengths, seed, epoch).

The iterator's whole state is (epoch, next row), so any number of processes resumes it. A row closes when one of its
capacities (tokens, target tokens, Examples, utterances) is full.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from empatheia_jax.data.schema import RecordError

WINDOW = 64
"""Examples of the shuffled order among which a row is put together."""


@dataclasses.dataclass(frozen=True)
class ExampleSize:
    """The share of a row that one Example takes, by each of the row's capacities."""

    tokens: int
    targets: int
    utterances: int


@dataclasses.dataclass(frozen=True)
class RowLimits:
    """The capacities of a row."""

    tokens: int
    targets: int  # positions with loss
    utterances: int
    examples: int


class Bounds(NamedTuple):
    """Upper bounds over all rows of a training set, known before the step is compiled: smaller ones save compute."""

    targets: int  # positions with loss
    max_segment_length: int | None = None  # tokens of an Example; None: as many as a row has


def check_fits(sizes: list[ExampleSize], limits: RowLimits, names: list[str]) -> None:
    """Raise RecordError naming the first Examples that no row can hold."""
    too_large = [
        f"{name} ({size.tokens} tokens, {size.targets} targets, {size.utterances} utterances)"
        for name, size in zip(names, sizes, strict=True)
        if size.tokens > limits.tokens or size.targets > limits.targets or size.utterances > limits.utterances
    ]
    if too_large:
        raise RecordError(
            f"{len(too_large)} Examples do not fit a row of {limits}: {', '.join(too_large[:3])}; raise "
            "data.row_tokens, data.row_targets or data.row_utterances",
            field="length",
        )


def plan_epoch(
    sizes: Sequence[ExampleSize], limits: RowLimits, seed: int, epoch: int, *, members: Sequence[int] | None = None
) -> list[list[int]]:
    """Return the rows of one epoch, as lists of Example positions.

    Examples are shuffled by (seed, epoch). Each row takes the Example that waits longest and, of the next `WINDOW`,
    those that fill it best (`_fill`); so rows are nearly full and stay close to the shuffle. They are shuffled once
    more at the end, since the last ones are emptier.

    Args:
      sizes: of every Example.
      limits: of a row.
      seed: of the run.
      epoch: counted from 0.
      members: positions of the epoch's Examples, each as often as it occurs; None: all, once.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(np.arange(len(sizes)) if members is None else np.asarray(members, np.int64)).tolist()
    rows: list[list[int]] = []
    waiting: list[int] = []
    while order or waiting:
        take = WINDOW - len(waiting)
        waiting += order[:take]
        del order[:take]
        row = _fill(waiting, sizes, limits)
        rows.append(row)
        for example in row:
            waiting.remove(example)
    return [rows[i] for i in rng.permutation(len(rows))]


def _fill(waiting: list[int], sizes: Sequence[ExampleSize], limits: RowLimits) -> list[int]:
    """Return the first of `waiting` and those of the others that leave the fewest tokens of a row unused.

    A subset-sum by bit sets: one integer for each number of Examples, in which bit t is set where some choice of that
    many sums to t tokens. Where the best choice has too many targets or utterances for a row, the row is filled
    greedily by the longest that fit.
    """
    first, others = waiting[0], waiting[1:]
    room = limits.tokens - sizes[first].tokens
    fitting = [i for i in others if sizes[i].tokens <= room]
    shortest = max(1, min((sizes[i].tokens for i in fitting), default=1))
    most = min(limits.examples - 1, len(fitting), room // shortest)
    if fitting and most > 0:
        mask = (1 << (room + 1)) - 1
        reachable = [[1] + [0] * most]  # before the i-th of `fitting`, by number of Examples
        for example in fitting:
            before, tokens = reachable[-1], sizes[example].tokens
            reachable.append([before[0], *(b | (a << tokens) & mask for a, b in itertools.pairwise(before))])
        total = max(bits.bit_length() for bits in reachable[-1]) - 1
        count = next(n for n, bits in enumerate(reachable[-1]) if bits >> total & 1)
        chosen = [first]
        for i in range(len(fitting), 0, -1):
            if not reachable[i - 1][count] >> total & 1:
                chosen.append(fitting[i - 1])
                count, total = count - 1, total - sizes[fitting[i - 1]].tokens
        if _has_room(chosen, sizes, limits):
            return chosen
    return _fill_longest_first(first, fitting, sizes, limits)


def _has_room(members: list[int], sizes: Sequence[ExampleSize], limits: RowLimits) -> bool:
    """Return whether a row has the targets and utterances for `members`; tokens are the caller's to count."""
    return (
        sum(sizes[i].targets for i in members) <= limits.targets
        and sum(sizes[i].utterances for i in members) <= limits.utterances
    )


def _fill_longest_first(first: int, others: list[int], sizes: Sequence[ExampleSize], limits: RowLimits) -> list[int]:
    """Return `first` and, one after the other, the longest of the others that fit."""
    chosen, tokens = [first], sizes[first].tokens
    for example in sorted(others, key=lambda i: -sizes[i].tokens):
        if len(chosen) == limits.examples:
            break
        if tokens + sizes[example].tokens <= limits.tokens and _has_room([*chosen, example], sizes, limits):
            chosen.append(example)
            tokens += sizes[example].tokens
    return chosen


class Mixture:
    """The choice of an epoch's Examples where several corpora are mixed.

    A corpus of share 1 occurs completely in every epoch. One of share 0.25 gives a quarter of itself, the next quarter
    in the next epoch, and is shuffled anew after each pass; of share 2.5 every Example occurs two or three times.
    """

    def __init__(self, corpora: Sequence[tuple[int, float]], seed: int):
        """Set what is mixed.

        Args:
          corpora: (number of Examples, share) of each; their Examples follow one another.
          seed: of the order within a corpus.
        """
        self._corpora, self._seed = list(corpora), seed

    def members(self, epoch: int) -> list[int]:
        """Return the positions of the epoch's Examples, not shuffled."""
        positions, offset = [], 0
        for number, (count, share) in enumerate(self._corpora):
            first, last = (round(e * share * count) for e in (epoch, epoch + 1))
            orders: dict[int, np.ndarray] = {}  # of the Examples, by cycle through the corpus
            for drawn in range(first, last):
                cycle, index = divmod(drawn, count)
                if cycle not in orders:
                    orders[cycle] = np.random.default_rng([self._seed, 2, number, cycle]).permutation(count)
                positions.append(offset + int(orders[cycle][index]))
            offset += count
        return positions


@dataclasses.dataclass(frozen=True)
class PackingEfficiency:
    """The fill of an epoch's rows."""

    rows: int
    tokens: int  # real ones, without padding
    capacity: int  # tokens that the rows hold
    lower_bound: int  # rows below which the tokens do not fit, however they are packed

    @property
    def fill_ratio(self) -> float:
        """The share of real tokens among all that a step computes."""
        return self.tokens / self.capacity

    def __str__(self) -> str:
        best = self.tokens / (self.lower_bound * self.capacity / self.rows)
        return f"{self.rows:,} an epoch, {self.fill_ratio:.1%} full (by tokens alone at most {best:.1%})"


class RowStream:
    """The rows of all epochs one after another, addressed by a running number. Two epochs' plans are kept."""

    def __init__(self, sizes: list[ExampleSize], limits: RowLimits, seed: int, mixture: Mixture | None = None):
        self._sizes, self._limits, self._seed, self._mixture = sizes, limits, seed, mixture
        self._plans: dict[int, list[list[int]]] = {}
        self._starts = [0]

    def _plan(self, epoch: int) -> list[list[int]]:
        if epoch not in self._plans:
            # A prefetching thread may still read the epoch before.
            self._plans = {e: plan for e, plan in self._plans.items() if e == epoch - 1}
            members = self._mixture.members(epoch) if self._mixture else None
            self._plans[epoch] = plan_epoch(self._sizes, self._limits, self._seed, epoch, members=members)
        return self._plans[epoch]

    def row(self, number: int) -> tuple[int, list[int]]:
        """Return (epoch, Example positions) of row `number`."""
        while self._starts[-1] <= number:
            self._starts.append(self._starts[-1] + len(self._plan(len(self._starts) - 1)))
        epoch = int(np.searchsorted(self._starts, number, side="right")) - 1
        return epoch, self._plan(epoch)[number - self._starts[epoch]]

    @property
    def rows_per_epoch(self) -> int:
        """The number of rows of the first epoch; others differ by a few."""
        return len(self._plan(0))

    @property
    def efficiency(self) -> PackingEfficiency:
        """The packing efficiency of the first epoch."""
        plan = self._plan(0)
        tokens = sum(self._sizes[i].tokens for row in plan for i in row)
        lower_bound = rows_lower_bound([self._sizes[i].tokens for row in plan for i in row], self._limits.tokens)
        return PackingEfficiency(len(plan), tokens, len(plan) * self._limits.tokens, lower_bound)


def rows_lower_bound(tokens: Sequence[int], capacity: int) -> int:
    """Return a number of rows that no packing of Examples of `tokens` into rows of `capacity` can go below.

    The larger of two classes of bounds for bin packing. By dual feasible functions (Fekete and Schepers, 2001): a share
    x of a row counts floor((k + 1) x) / k, or x itself where (k + 1) x is whole; what fits a row never counts above 1.
    By thresholds (Martello and Toth's L2, 1990): a size above the row less a threshold counts 1, one below the
    threshold nothing.
    """
    sizes = np.sort(np.asarray(tokens, np.int64))
    best = -(-int(sizes.sum()) // capacity)
    for k in range(1, 33):
        scaled = (k + 1) * sizes
        is_whole = scaled % capacity == 0
        # All in units of 1 / (k * capacity), so that nothing is rounded.
        counted = np.where(is_whole, k * sizes, scaled // capacity * capacity)
        best = max(best, -(-int(counted.sum()) // (k * capacity)))
    for threshold in np.unique(sizes[2 * sizes <= capacity]).tolist():
        alone = sizes > capacity - threshold
        counted = int(alone.sum()) * capacity + int(sizes[~alone & (sizes >= threshold)].sum())
        best = max(best, -(-counted // capacity))
    return int(best)
