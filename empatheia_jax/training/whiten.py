"""The style disentangler's whitening, fitted when a stage begins to the states of its training rows."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from empatheia_jax.data.batches.batch import Batch
from empatheia_jax.data.batches.builder import BatchBuilder
from empatheia_jax.latents.whitening import fit
from empatheia_jax.model.empatheia import read_signals
from empatheia_jax.runtime import processes

EXAMPLES = 600  # enough for the covariance of a narrow LLM's states


def make_signals(graphdef: nnx.GraphDef) -> Callable:
    """Return a function (state, batch) -> states r^s, r^v float32 [K, 16, D] of one micro-batch."""

    def compute_signals(state: nnx.State, batch: Batch[jax.Array]):
        hidden = nnx.merge(graphdef, state).hidden(batch)
        signals = read_signals(hidden, signal_index=batch.signal_index)
        return signals.speech, signals.video

    return compute_signals


def whiten(mesh: jax.sharding.Mesh, rows: BatchBuilder, compute_signals: Callable, state: nnx.State) -> nnx.State:
    """Return `state` with `style_disentangler.whitening` fitted to the signal states of the first of `rows`.

    Args:
      mesh: the run's.
      rows: the stage's training rows.
      compute_signals: compiled `make_signals`.
      state: all parameters.
    """
    speech, video, first, size = [], [], 0, rows.config.data.rows
    held = processes.local_rows(mesh, size)
    with jax.set_mesh(mesh):
        while sum(map(len, speech)) < min(EXAMPLES, 4 * len(rows.examples)):
            local = rows.batch(rows.plan(first + number for number in held), held[0])
            batch = processes.global_batch(local, mesh, size, leading=0)
            first += size
            valid = processes.gather_to_host(batch.example_id, mesh) >= 0
            for collected, states in zip((speech, video), jax.device_get(compute_signals(state, batch)), strict=True):
                collected.append(states[valid])
    flat = dict(nnx.to_flat_state(state))
    for name, value in fit(np.concatenate(speech), np.concatenate(video)).items():
        path = ("style_disentangler", "whitening", name)
        flat[path] = flat[path].replace(jax.device_put(value, flat[path][...].sharding))
    return nnx.from_flat_state(list(flat.items()))
