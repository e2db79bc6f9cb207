"""Which Examples share a row, and in what order: the epoch's packing plan, a pure function of (lengths, seed, epoch).

The iterator's whole state is (epoch, next row), so any number of processes resumes it. A row closes when one of its
capacities (tokens, target tokens, Examples, utterances) is full.
"""

import dataclasses

import numpy as np

from empatheia_jax.data.schema import RecordError


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


def plan_epoch(sizes: list[Size], limits: RowLimits, seed: int, epoch: int, window: int = 64) -> list[list[int]]:
    """Rows of Example positions for one epoch; each Example occurs exactly once.

    Examples are shuffled by (seed, epoch); each goes into the first open row that holds it. At most `window` rows are
    open: the fullest closes first, so the order stays close to the shuffle and memory is bounded. The closed rows are
    shuffled once more, since early rows are fuller.
    """
    rng = np.random.default_rng([seed, epoch])
    open_rows: list[tuple[list[int], np.ndarray]] = []
    closed: list[list[int]] = []
    capacity = np.array([limits.tokens, limits.targets, limits.utterances, limits.examples])
    for example in rng.permutation(len(sizes)):
        size = sizes[example]
        need = np.array([size.tokens, size.targets, size.utterances, 1])
        for members, left in open_rows:
            if np.all(left >= need):
                members.append(int(example))
                left -= need
                break
        else:
            if len(open_rows) == window:
                fullest = min(range(window), key=lambda i: open_rows[i][1][0])
                closed.append(open_rows.pop(fullest)[0])
            open_rows.append(([int(example)], capacity - need))
    closed += [members for members, _ in open_rows]
    return [closed[i] for i in rng.permutation(len(closed))]


class RowStream:
    """Rows of all epochs one after another, addressable by a single running number.

    `row(n)` is the n-th row of training: (epoch, members). Plans are cached one epoch at a time.
    """

    def __init__(self, sizes: list[Size], limits: RowLimits, seed: int):
        self._sizes, self._limits, self._seed = sizes, limits, seed
        self._plans: dict[int, list[list[int]]] = {}
        self._starts = [0]

    def _plan(self, epoch: int) -> list[list[int]]:
        if epoch not in self._plans:
            self._plans = {
                e: plan for e, plan in self._plans.items() if e == epoch - 1
            }  # the epoch before may still be read by a prefetching thread
            self._plans[epoch] = plan_epoch(self._sizes, self._limits, self._seed, epoch)
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
