"""Iterators over packed batches (Grain), from Examples and stored features: sharded by process, addressable by step.

Grain fetches and decodes; the order is the packing plan's. Step s of a stage takes rows s*A*B .. (s+1)*A*B - 1 of it,
so resuming means starting at a step, on any number of processes.
"""

from collections.abc import Iterator
from typing import SupportsIndex

import grain
import numpy as np

from empatheia_jax.data.batches.batch import Batch
from empatheia_jax.data.batches.builder import BatchBuilder
from empatheia_jax.data.batches.packer import plan_epoch
from empatheia_jax.data.schema import SYMBOL_COUNT, Example, Widths


def store_widths(store) -> Widths:
    """Return the widths that a feature store's encoders and generators set."""
    return settings_widths(store.settings)


def settings_widths(settings: dict) -> Widths:
    """Return the widths that the settings of a feature store name (`data.features.store.store_settings`)."""
    speech, face, encoders = settings["speech"], settings["face"], settings["encoders"]
    audio, video = (tuple(encoders[modality]["shape"]) for modality in ("audio", "video"))
    return Widths(
        audio=audio,
        video=video,
        symbols=SYMBOL_COUNT,
        content_speech=speech["content_dim"],
        content_video=face["content_dim"],
        style_speech=speech["style_dim"],
        style_video=face["style_dim"],
    )


def feature_statistics(
    store, examples: list[Example], max_utterances: int = 2000
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (mean, standard deviation) [D] of each modality's features over the Examples' histories.

    Args:
      store: the feature store to read.
      examples: whose utterances are read.
      max_utterances: about how many of them at most, spread evenly.
    """
    keys = sorted({e.utterance_key(u) for e in examples for u in e.history})
    chosen = keys[:: max(1, len(keys) // max_utterances)]
    records = [record for key in chosen if (record := store.get(key, content=False)) is not None]
    statistics = {}
    for modality in ("audio", "video"):
        features = [record[modality] for record in records if modality in record]
        if features:
            stacked = np.concatenate(features).astype(np.float32)
            statistics[modality] = (stacked.mean(axis=0), stacked.std(axis=0))
    return statistics


class _Steps(grain.sources.RandomAccessDataSource):
    """Random access for Grain: element e is this process's part of step `first_step` + e."""

    def __init__(self, rows: BatchBuilder, first_step: int, steps: int, local_rows: range):
        self._rows, self._first, self._steps, self._local_rows = rows, first_step, steps, local_rows

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, record_key: SupportsIndex) -> Batch[np.ndarray]:
        rows, local_rows = self._rows, self._local_rows
        accumulate, size = rows.config.optim.accumulate, rows.config.data.rows
        first = (self._first + int(record_key)) * accumulate * size
        plan = rows.plan(first + micro * size + row for micro in range(accumulate) for row in local_rows)
        return rows.batch(plan, local_rows[0], accumulate)


def training_batches(
    rows: BatchBuilder, first_step: int, steps: int, *, local_rows: range | None = None, threads: int = 1
) -> Iterator[Batch[np.ndarray]]:
    """Iterate over steps first_step .. first_step + steps - 1: arrays [A, ...] of the rows of this process.

    Args:
      rows: the training rows of a stage.
      first_step: first step of the stage to give.
      steps: how many.
      local_rows: which rows of a micro-batch are this process's (`processes.local_rows`); None: all.
      threads: that read and collate, a step each. Several mostly wait for Python's lock where Examples are small; one
        gives ten times what a 7B model takes (`benchmarks/data.py`).
    """
    local_rows = range(rows.config.data.rows) if local_rows is None else local_rows
    dataset = grain.MapDataset.source(_Steps(rows, first_step, steps, local_rows))
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))


def step_example_ids(rows: BatchBuilder, step: int) -> list[str]:
    """Return the ids of the Examples that all processes together learn from in a step of a stage."""
    per_step = rows.config.optim.accumulate * rows.config.data.rows
    plan = rows.plan(range(step * per_step, (step + 1) * per_step))
    return [rows.examples[i].id for _, members in plan for i in members]


def evaluation_plan(rows: BatchBuilder) -> list[list[tuple[int, list[int]]]]:
    """Return all Examples once, as micro-batches for `BatchBuilder.batch`; the last is filled with empty rows."""
    plan = [(0, members) for members in plan_epoch(rows.sizes, rows.limits, rows.seed, 0)]
    size = rows.config.data.rows
    plan += [(0, [])] * (-len(plan) % size)
    return [plan[start : start + size] for start in range(0, len(plan), size)]


def evaluation_batches(rows: BatchBuilder, local_rows: range | None = None) -> Iterator[Batch[np.ndarray]]:
    """Iterate over the micro-batches of `evaluation_plan`; `local_rows` as for `training_batches`."""
    local_rows = range(rows.config.data.rows) if local_rows is None else local_rows
    for plan in evaluation_plan(rows):
        yield rows.batch([plan[row] for row in local_rows], local_rows[0])


def count_steps(rows: BatchBuilder, epochs: float) -> int:
    """Return the number of steps that `epochs` over the Examples take."""
    per_step = rows.config.optim.accumulate * rows.config.data.rows
    return max(1, round(epochs * rows.stream.rows_per_epoch / per_step))
