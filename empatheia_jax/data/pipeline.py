"""Examples and stored features -> packed batches (Grain): sharded by process, addressable by step.

Grain fetches and decodes; the order is the packing plan's. Step s of a stage takes rows s*A*B .. (s+1)*A*B - 1 of it,
so resuming means starting at a step, on any number of processes.
"""

from collections.abc import Iterator

import grain
import numpy as np

from empatheia_jax.data.packing import plan_epoch
from empatheia_jax.data.rows import Rows
from empatheia_jax.data.schema import SYMBOL_COUNT, Example, Widths


def widths_of(store) -> Widths:
    """The widths that a feature store's encoders and generators set."""
    speech, face = store.settings["speech"], store.settings["face"]
    return Widths(
        audio=tuple(store.feature_shape("audio")),
        video=tuple(store.feature_shape("video")),
        symbols=SYMBOL_COUNT,
        content_speech=speech["content_dim"],
        content_video=face["content_dim"],
        style_speech=speech["style_dim"],
        style_video=face["style_dim"],
    )


def feature_statistics(store, examples: list[Example], most: int = 2000) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation [D] of each modality's features over the Examples' utterances (at most `most`)."""
    keys = sorted({e.utterance_key(u) for e in examples for u in e.history})
    chosen = keys[:: max(1, len(keys) // most)]
    found = [record for key in chosen if (record := store.get(key, content=False)) is not None]
    statistics = {}
    for modality in ("audio", "video"):
        features = [record[modality] for record in found if modality in record]
        if features:
            stacked = np.concatenate(features).astype(np.float32)
            statistics[modality] = (stacked.mean(axis=0), stacked.std(axis=0))
    return statistics


class _Steps:
    """Grain's random access: element e is this process's share of a step."""

    def __init__(self, rows: Rows, first_step: int, steps: int, held: range):
        self._rows, self._first, self._steps, self._held = rows, first_step, steps, held

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, element: int) -> dict[str, np.ndarray]:
        rows, held = self._rows, self._held
        accumulate, size = rows.config.optim.accumulate, rows.config.data.rows
        first = (self._first + int(element)) * accumulate * size
        plan = rows.at(first + micro * size + row for micro in range(accumulate) for row in held)
        return rows.batch(plan, held[0], accumulate)


def training_batches(
    rows: Rows, first_step: int, steps: int, *, held: range | None = None, threads: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Steps first_step .. first_step + steps - 1: arrays [A, ...] of the rows that this process holds.

    Args:
      held: which rows of a micro-batch those are (`processes.local_rows`); None: all.
      threads: that read and collate, a step each. More than one wait for Python's lock where Examples are small: one
        gives ten times what a 7B model takes (`benchmarks/data.py`).
    """
    held = range(rows.config.data.rows) if held is None else held
    dataset = grain.MapDataset.source(_Steps(rows, first_step, steps, held))
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))


def step_ids(rows: Rows, step: int) -> list[str]:
    """Ids of the Examples that all processes together learn from in a step of a stage."""
    per_step = rows.config.optim.accumulate * rows.config.data.rows
    plan = rows.at(range(step * per_step, (step + 1) * per_step))
    return [rows.examples[i].id for _, members in plan for i in members]


def evaluation_plan(rows: Rows) -> list[list[tuple[int, list[int]]]]:
    """All Examples once, as micro-batches that `Rows.batch` takes; the last is filled with empty rows."""
    plan = [(0, members) for members in plan_epoch(rows.sizes, rows.limits, rows.seed, 0)]
    size = rows.config.data.rows
    plan += [(0, [])] * (-len(plan) % size)
    return [plan[start : start + size] for start in range(0, len(plan), size)]


def evaluation_batches(rows: Rows, held: range | None = None) -> Iterator[dict[str, np.ndarray]]:
    """The micro-batches of `evaluation_plan`; `held` as for `training_batches`."""
    held = range(rows.config.data.rows) if held is None else held
    for plan in evaluation_plan(rows):
        yield rows.batch([plan[row] for row in held], held[0])


def steps_for(rows: Rows, epochs: float) -> int:
    """Steps that `epochs` over the Examples take."""
    per_step = rows.config.optim.accumulate * rows.config.data.rows
    return max(1, round(epochs * rows.stream.rows_per_epoch / per_step))
