"""Fits the style disentangler's whitening when a stage begins, to the states that its training rows give then."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from empatheia_jax import processes
from empatheia_jax.data.rows import Rows
from empatheia_jax.empatheia import read_signals
from empatheia_jax.latents.whitening import fit

EXAMPLES = 600  # states of this many are enough for the covariance of a narrow LLM


def make_signals(graphdef: nnx.GraphDef) -> Callable:
    """(state, batch) -> states r^s, r^v [K, 16, D] of one micro-batch."""

    def signals(state: nnx.State, batch: dict[str, jax.Array]):
        hidden = nnx.merge(graphdef, state).hidden(batch)
        found = read_signals(hidden, batch["response_index"], batch["signal_index"])
        return found.speech, found.video

    return signals


def whiten(mesh: jax.sharding.Mesh, rows: Rows, signals: Callable, state: nnx.State) -> nnx.State:
    """`state` with `style_disentangler.whitening` fitted to the `signals` of the first of `rows`."""
    speech, video, first, size = [], [], 0, rows.config.data.rows
    held = processes.local_rows(mesh, size)
    with jax.set_mesh(mesh):
        while sum(map(len, speech)) < min(EXAMPLES, 4 * len(rows.examples)):
            local = rows.batch(rows.at(first + number for number in held), held[0])
            batch = processes.global_batch(local, mesh, size, leading=0)
            first += size
            valid = processes.everywhere(batch["example_id"], mesh) >= 0
            for found, part in zip((speech, video), jax.device_get(signals(state, batch)), strict=True):
                found.append(part[valid])
    flat = dict(nnx.to_flat_state(state))
    for name, value in fit(np.concatenate(speech), np.concatenate(video)).items():
        path = ("style_disentangler", "whitening", name)
        flat[path] = flat[path].replace(jax.device_put(value, flat[path][...].sharding))
    return nnx.from_flat_state(list(flat.items()))
