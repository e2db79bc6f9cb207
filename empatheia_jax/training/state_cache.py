"""Stage 2's states: r^t of every Example, computed once and kept in DIR/states.

In stage 2 the LLM is frozen, its dropout off and its inputs fixed, so the states that the content synchronizer reads
are the same in every epoch. They are stored in the dtype they are computed in, so nothing is lost. What they depend on
is in the store's manifest; states of another base, adapter, prompt or tokenizer are computed again.
"""

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from empatheia_jax.checkpoints.runs import Base, hash_state
from empatheia_jax.data.batches.batch import Batch
from empatheia_jax.data.batches.builder import BatchBuilder
from empatheia_jax.data.batches.pipeline import evaluation_plan
from empatheia_jax.data.features.records import StoreError
from empatheia_jax.data.features.store import FeatureStore, content_hash
from empatheia_jax.data.features.writer import FeatureWriter, pack_utterance, write_shard
from empatheia_jax.model.empatheia import read_signals
from empatheia_jax.model.parameter_groups import in_groups
from empatheia_jax.runtime import processes
from empatheia_jax.training.context import TrainingContext

FOLDER = "states"
SHARD_BATCHES = 32  # micro-batches a shard: after a kill so many are computed again
STATES = "response_states"


def make_states(graphdef: nnx.GraphDef) -> Callable:
    """Return a function (state, batch) -> r^t [K, R, D] of a micro-batch without slots, in the LLM's compute dtype."""

    def compute_states(state: nnx.State, batch: Batch[jax.Array]):
        hidden = nnx.merge(graphdef, state).hidden(batch, slots=False)
        response: Any = read_signals(hidden, batch.response_index).response
        return response.astype(hidden.dtype)

    return compute_states


def cache_states(
    context: TrainingContext, rows: list[BatchBuilder], compute_states: Callable, state: nnx.State, *, base: Base
) -> FeatureStore:
    """Return the store of all states of `rows`; whatever of it is missing is computed and written first.

    Args:
      context: of the run.
      rows: of the training split and of the validation split.
      compute_states: compiled `make_states`.
      state: all parameters.
      base: the base LLM that the states are of.
    """
    token_rows = [split_rows.token_rows() for split_rows in rows]
    folder, settings = context.folder / FOLDER, _settings(context, state, base)
    source = content_hash([_hash_inputs(split_rows) for split_rows in token_rows])
    plan = [(split_rows, micro_batch) for split_rows in token_rows for micro_batch in evaluation_plan(split_rows)]
    chunks = [plan[start : start + SHARD_BATCHES] for start in range(0, len(plan), SHARD_BATCHES)]
    process, count = jax.process_index(), jax.process_count()
    shards = len(chunks) * count
    processes.run_on_first("states begin", lambda: _begin_store(folder, settings, source, shards))
    writer = FeatureWriter(folder, settings, source, shards)
    unfinished = set(writer.unfinished_shards())
    missing_here = np.array([chunk * count + process in unfinished for chunk in range(len(chunks))], bool)
    missing = processes.any_process_each(missing_here)  # all processes compute a chunk together
    with jax.set_mesh(context.mesh):
        for number, chunk in enumerate(chunks):
            if not missing[number]:
                continue
            states = [
                pair
                for split_rows, micro_batch in chunk
                for pair in _local_states(
                    split_rows, micro_batch, context.mesh, compute_states=compute_states, state=state
                )
            ]
            if missing_here[number]:
                utterances = [pack_utterance(key, {STATES: array}, writer.float_dtype) for key, array in states]
                write_shard(folder, number * count + process, utterances, {})
    processes.wait_for_all("states made")
    examples = sum(len(split_rows.examples) for split_rows in token_rows)
    processes.run_on_first("states end", lambda: None if writer.complete else writer.finish({"examples": examples}))
    return FeatureStore(folder, settings)


def _begin_store(folder: Path, settings: dict, source: str, shards: int) -> None:
    """Begin an empty store in `folder`, or keep the one that has these settings; another is deleted."""
    with contextlib.suppress(StoreError):
        FeatureWriter(folder, settings, source, shards)
        return
    shutil.rmtree(folder)
    FeatureWriter(folder, settings, source, shards)


def _settings(context: TrainingContext, state: nnx.State, base: Base) -> dict:
    """Return what the states depend on besides the prompts' ids, which are the store's source."""
    config = context.config
    adapted = processes.gather_to_host(nnx.filter_state(state, in_groups(("lora", "new_tokens"))), context.mesh)
    llm = {name: value for name, value in dataclasses.asdict(config.llm).items() if name != "remat"}
    return {
        "floats": config.llm.compute_dtype,
        "base": base.sha256,
        "adapted": hash_state(adapted),
        "llm": llm,
        "lora": dataclasses.asdict(config.lora) | {"targets": list(config.lora.targets)},
        "response_tokens": config.data.response_tokens,
    }


def _hash_inputs(rows: BatchBuilder) -> str:
    """Hash every Example's id, its token ids and the span of its response."""
    digest = hashlib.sha256()
    for example, encoded in zip(rows.examples, rows.encoded, strict=True):
        digest.update(f"{example.id} {len(encoded.ids)} {encoded.response_span}\n".encode())
        digest.update(encoded.ids.tobytes())
    return digest.hexdigest()


def _local_states(
    rows: BatchBuilder, plan: list, mesh: jax.sharding.Mesh, *, compute_states: Callable, state: nnx.State
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (Example id, its states [n, D]) of this process's rows of a micro-batch."""
    held = processes.local_rows(mesh, rows.config.data.rows)
    local = rows.batch([plan[row] for row in held], held[0])
    states = compute_states(state, processes.global_batch(local, mesh, rows.config.data.rows, leading=0))
    arrays = local.example_id, local.response_index, processes.local_part(states)
    for example, index, example_states in zip(*arrays, strict=True):
        if example >= 0:
            yield rows.examples[example].id, example_states[: int(np.sum(index >= 0))]
