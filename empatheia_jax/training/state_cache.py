"""Stage 2's states: r^t of every Example, computed once and kept in DIR/states (DESIGN decision 4).

In stage 2 the LLM is frozen, its dropout off and its inputs fixed, so the states that the content synchronizer reads
are the same in every epoch. They are stored in the type they are computed in, so nothing is lost. What they depend on
is in the store's manifest; states of another base, adapter, prompt or tokenizer are made anew.
"""

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from empatheia_jax import processes
from empatheia_jax.checkpoint import state_hash
from empatheia_jax.data.feature_records import StoreError
from empatheia_jax.data.feature_writer import FeatureWriter, packed, write_shard
from empatheia_jax.data.features import FeatureStore, content_hash
from empatheia_jax.data.pipeline import evaluation_plan
from empatheia_jax.data.rows import Rows
from empatheia_jax.empatheia import read_signals
from empatheia_jax.training.step import trains

FOLDER = "states"
SHARD_BATCHES = 32  # micro-batches whose states are a shard: what a kill costs
STATES = "response_states"


def make_states(graphdef: nnx.GraphDef) -> Callable:
    """(state, batch) -> r^t [K, R, D] of one micro-batch without slots, in the LLM's compute dtype."""

    def states(state: nnx.State, batch: dict[str, jax.Array]) -> jax.Array:
        hidden = nnx.merge(graphdef, state).hidden(batch, slots=False)
        return read_signals(hidden, batch["response_index"], batch["signal_index"]).response.astype(hidden.dtype)

    return states


def cache_states(run, rows: list[Rows], states: Callable, state: nnx.State) -> FeatureStore:
    """The store of all states of `rows` (training, validation), made or finished where it is not there.

    Args:
      run: `training.run.Run`. states: compiled `make_states`. state: all parameters.
    """
    computing = [one.computing() for one in rows]
    folder, settings = run.folder / FOLDER, _settings(run, state)
    source = content_hash([_identity(one) for one in computing])
    plan = [(one, micro) for one in computing for micro in evaluation_plan(one)]
    chunks = [plan[start : start + SHARD_BATCHES] for start in range(0, len(plan), SHARD_BATCHES)]
    process, count = jax.process_index(), jax.process_count()
    shards = len(chunks) * count
    processes.by_first("states begin", lambda: _begin(folder, settings, source, shards))
    writer = FeatureWriter(folder, settings, source, shards)
    unfinished = set(writer.unfinished())
    mine = np.array([chunk * count + process in unfinished for chunk in range(len(chunks))], bool)
    wanted = processes.any_of_each(mine)  # all compute what one lacks
    with jax.set_mesh(run.mesh):
        for number, chunk in enumerate(chunks):
            if not wanted[number]:
                continue
            found = [one for part, micro in chunk for one in _computed(part, micro, run.mesh, states, state)]
            if mine[number]:
                utterances = [packed(key, {STATES: array}, writer.floats) for key, array in found]
                write_shard(folder, number * count + process, utterances, {})
    processes.wait("states made")
    examples = sum(len(one.examples) for one in computing)
    processes.by_first("states end", lambda: None if writer.complete else writer.finish({"examples": examples}))
    return FeatureStore(folder, settings)


def _begin(folder: Path, settings: dict, source: str, shards: int) -> None:
    """An empty or fitting store in `folder`; one of other states goes."""
    with contextlib.suppress(StoreError):
        FeatureWriter(folder, settings, source, shards)
        return
    shutil.rmtree(folder)
    FeatureWriter(folder, settings, source, shards)


def _settings(run, state: nnx.State) -> dict:
    """What the states depend on besides the prompts' ids, which are the store's source."""
    config = run.config
    adapted = processes.everywhere(nnx.filter_state(state, trains(("lora", "rows"))), run.mesh)
    llm = {name: value for name, value in dataclasses.asdict(config.llm).items() if name != "remat"}
    return {
        "floats": config.llm.compute_dtype,
        "base": run.checkpoints.base.sha256,
        "adapted": state_hash(adapted),
        "llm": llm,
        "lora": dataclasses.asdict(config.lora) | {"targets": list(config.lora.targets)},
        "response_tokens": config.data.response_tokens,
    }


def _identity(rows: Rows) -> str:
    """Hash of every Example's id, its ids for the LLM and where its response is."""
    digest = hashlib.sha256()
    for example, encoded in zip(rows.examples, rows.encoded, strict=True):
        digest.update(f"{example.id} {len(encoded.ids)} {encoded.response}\n".encode())
        digest.update(encoded.ids.tobytes())
    return digest.hexdigest()


def _computed(
    rows: Rows, plan: list, mesh: jax.sharding.Mesh, states: Callable, state: nnx.State
) -> Iterator[tuple[str, np.ndarray]]:
    """(Example id, its states [n, D]) of this process's rows of a micro-batch."""
    held = processes.local_rows(mesh, rows.config.data.rows)
    local = rows.batch([plan[row] for row in held], held[0])
    whole = states(state, processes.global_batch(local, mesh, rows.config.data.rows, leading=0))
    parts = local["example_id"], local["response_index"], processes.local_part(whole)
    for example, index, found in zip(*parts, strict=True):
        if example >= 0:
            yield rows.examples[example].id, found[: int(np.sum(index >= 0))]
