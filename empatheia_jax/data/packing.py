"""Which Examples share a row, and in what order: the epoch's packing plan, a pure function of (lengths, seed, epoch).

The iterator's whole state is (epoch, next row), so any number of processes resumes it. A row closes when one of its
capacities (tokens, target tokens, Examples, utterances) is full.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from empatheia_jax.data.schema import RecordError

WINDOW = 2048
"""Examples of the shuffled order that are packed together."""


@dataclasses.dataclass(frozen=True)
class Size:
    """What one Example takes of a row."""

    tokens: int
    targets: int
    utterances: int


@dataclasses.dataclass(frozen=True)
class RowLimits:
    """What a row holds."""

    tokens: int
    targets: int
    utterances: int
    examples: int


def check_fits(sizes: list[Size], limits: RowLimits, names: list[str]) -> None:
    """Raise RecordError naming the first Examples that no row can hold."""
    bad = [
        f"{name} ({size.tokens} tokens, {size.targets} targets, {size.utterances} utterances)"
        for name, size in zip(names, sizes, strict=True)
        if size.tokens > limits.tokens or size.targets > limits.targets or size.utterances > limits.utterances
    ]
    if bad:
        raise RecordError(
            f"{len(bad)} Examples do not fit a row of {limits}: {', '.join(bad[:3])}; raise data.row_tokens, "
            "data.row_targets or data.row_utterances",
            field="length",
        )


def plan_epoch(
    sizes: Sequence[Size], limits: RowLimits, seed: int, epoch: int, members: Sequence[int] | None = None
) -> list[list[int]]:
    """Rows of Example positions for one epoch; each of `members` (default: all) occurs exactly as often as there.

    Examples are shuffled by (seed, epoch) and packed window by window of that order, the longest first, each into the
    fullest row that still holds it (best fit decreasing): rows come out nearly full, and what shares a row stays close
    to the shuffle. The rows are then shuffled, since the last of a window are emptier.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(np.arange(len(sizes)) if members is None else np.asarray(members, np.int64))
    need = np.array([[s.tokens, s.targets, s.utterances, 1] for s in sizes], np.int64).reshape(-1, 4)
    rows: list[list[int]] = []
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        rows += _best_fit(window[np.argsort(-need[window, 0], kind="stable")], need, limits)
    return [rows[i] for i in rng.permutation(len(rows))]


def _best_fit(order: np.ndarray, need: np.ndarray, limits: RowLimits) -> list[list[int]]:
    """Pack Examples in the order given, each into the row with the fewest tokens left that holds it."""
    whole = np.array([limits.tokens, limits.targets, limits.utterances, limits.examples])
    rows: list[list[int]] = []
    left = np.empty((len(order), 4), np.int64)  # of rows that are open, in `places`
    places: list[int] = []
    for example in order:
        fits = np.all(left[: len(places)] >= need[example], axis=1)
        if fits.any():
            at = int(np.where(fits, left[: len(places), 0], np.iinfo(np.int64).max).argmin())
        else:
            at = len(places)
            left[at] = whole
            places.append(len(rows))
            rows.append([])
        rows[places[at]].append(int(example))
        left[at] -= need[example]
        if left[at, 3] == 0:  # full: not looked at again
            last = len(places) - 1
            left[at] = left[last]
            places[at] = places[last]
            places.pop()
    return rows


class Mixture:
    """Which Examples an epoch holds, where several corpora are mixed.

    A corpus of share 1 occurs whole in every epoch. One of share 0.25 gives a quarter of itself, the next quarter in
    the next epoch, in an order shuffled anew when it is through; of share 2.5 every Example occurs two or three times.
    """

    def __init__(self, corpora: Sequence[tuple[int, float]], seed: int):
        """`corpora`: (number of Examples, share) of each; their Examples follow one another."""
        self._corpora, self._seed = list(corpora), seed

    def members(self, epoch: int) -> list[int]:
        """Positions of the epoch's Examples, not shuffled."""
        found, offset = [], 0
        for number, (count, share) in enumerate(self._corpora):
            first, last = (round(e * share * count) for e in (epoch, epoch + 1))
            passes: dict[int, np.ndarray] = {}
            for place in range(first, last):
                turn, at = divmod(place, count)
                if turn not in passes:
                    passes[turn] = np.random.default_rng([self._seed, 2, number, turn]).permutation(count)
                found.append(offset + int(passes[turn][at]))
            offset += count
        return found


@dataclasses.dataclass(frozen=True)
class Efficiency:
    """How full the rows of an epoch are."""

    rows: int
    tokens: int  # real ones
    capacity: int  # tokens that the rows hold
    bound: int  # rows below which the tokens do not fit, however they are packed

    @property
    def share(self) -> float:
        """Real tokens among all that a step computes."""
        return self.tokens / self.capacity

    def __str__(self) -> str:
        best = self.tokens / (self.bound * self.capacity / self.rows)
        return f"{self.rows:,} an epoch, {self.share:.1%} full (by tokens alone at most {best:.1%})"


class RowStream:
    """Rows of all epochs one after another, addressable by a single running number.

    `row(n)` is the n-th row of training: (epoch, members). Plans are cached two epochs at a time.
    """

    def __init__(self, sizes: list[Size], limits: RowLimits, seed: int, mixture: Mixture | None = None):
        self._sizes, self._limits, self._seed, self._mixture = sizes, limits, seed, mixture
        self._plans: dict[int, list[list[int]]] = {}
        self._starts = [0]

    def _plan(self, epoch: int) -> list[list[int]]:
        if epoch not in self._plans:
            self._plans = {
                e: plan for e, plan in self._plans.items() if e == epoch - 1
            }  # the epoch before may still be read by a prefetching thread
            members = self._mixture.members(epoch) if self._mixture else None
            self._plans[epoch] = plan_epoch(self._sizes, self._limits, self._seed, epoch, members)
        return self._plans[epoch]

    def row(self, number: int) -> tuple[int, list[int]]:
        """(epoch, Example positions) of row `number`."""
        while self._starts[-1] <= number:
            self._starts.append(self._starts[-1] + len(self._plan(len(self._starts) - 1)))
        epoch = int(np.searchsorted(self._starts, number, side="right")) - 1
        return epoch, self._plan(epoch)[number - self._starts[epoch]]

    @property
    def rows_per_epoch(self) -> int:
        """Rows of the first epoch; others differ by a few."""
        return len(self._plan(0))

    @property
    def efficiency(self) -> Efficiency:
        """Of the first epoch."""
        plan = self._plan(0)
        tokens = sum(self._sizes[i].tokens for row in plan for i in row)
        bound = least_rows([self._sizes[i].tokens for row in plan for i in row], self._limits.tokens)
        return Efficiency(len(plan), tokens, len(plan) * self._limits.tokens, bound)


def least_rows(tokens: Sequence[int], capacity: int) -> int:
    """A number of rows that no packing can go below: the bound L2 of Martello and Toth (1990) for bin packing.

    For a threshold k: Examples above capacity - k are alone but for what is below k, those above half need a row each,
    and what the rest has over the room left beside these takes rows of its own.
    """
    sizes = np.sort(np.asarray(tokens, np.int64))
    sums = np.concatenate([[0], np.cumsum(sizes)])
    best = -(-int(sums[-1]) // capacity)
    half = np.searchsorted(sizes, capacity / 2, side="right")
    for k in np.unique(sizes[: half]).tolist():
        alone = len(sizes) - np.searchsorted(sizes, capacity - k, side="right")
        last = len(sizes) - alone
        middle = last - half
        small = sums[half] - sums[np.searchsorted(sizes, k, side="left")]
        room = middle * capacity - (sums[last] - sums[half])
        best = max(best, alone + middle + max(0, -(-int(small - room) // capacity)))
    return int(best)
