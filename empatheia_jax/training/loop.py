"""What the step loop of `train.py` calls: batches to the devices, a stage's first arrays, its log, its evaluation."""

import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from empatheia_jax.checkpoints.runs import Base, Checkpoints, Position
from empatheia_jax.data.batches.pipeline import evaluation_batches, training_batches
from empatheia_jax.monitoring.clock import Rate
from empatheia_jax.planning.flops import mfu
from empatheia_jax.runtime import processes
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.training.compilation import CompiledStage
from empatheia_jax.training.context import TrainingContext
from empatheia_jax.training.metrics import Metrics, NoMetrics, check_finite
from empatheia_jax.training.state_cache import cache_states


def begin_stage(compiled: CompiledStage, state: nnx.State, checkpoints: Checkpoints, start: Position) -> tuple:
    """Return (trainable, optimizer state, frozen) with which a stage begins, as `CompiledStage.step` takes them.

    Args:
      compiled: the stage.
      state: all parameters; those of the checkpoint at `start` where the stage is resumed.
      checkpoints: the run's.
      start: where the stage begins; `stage_step` above 0 reads the optimizer of that checkpoint.
    """
    trainable, frozen = compiled.split(state)
    flat = compiled.flat
    if flat is not None:
        trainable = jax.jit(flat.ravel, out_shardings=flat.abstract().sharding)(trainable)
    opt_state = compiled.init(trainable)
    if start.stage_step:
        opt_state = checkpoints.load_optimizer(start, flat.expand(opt_state) if flat else opt_state)
        opt_state = flat.collapse(opt_state) if flat else opt_state
    return trainable, opt_state, frozen


def as_trees(compiled: CompiledStage, trainable, opt_state, frozen: nnx.State) -> tuple:
    """Return (all parameters, optimizer state) as checkpoints hold them, from what `CompiledStage.step` takes."""
    if compiled.flat is not None:
        trainable, opt_state = compiled.flat.unravel_on_host(trainable), compiled.flat.expand(opt_state)
    return nnx.merge_state(trainable, frozen), opt_state


def use_cached_states(context: TrainingContext, compiled: CompiledStage, state: nnx.State, base: Base) -> None:
    """Fill DIR/states with the LLM's states, and let the stage's rows read them from there, if the stage is cached."""
    if compiled.compute_states is None:
        return
    splits = [rows for rows in (compiled.rows, compiled.validation) if rows is not None]
    with context.clock("states"):
        store = cache_states(context, splits, compiled.compute_states, state, base=base)
    for rows in splits:
        rows.states = store
    processes.log_on_first(f"  states of {len(store)} Examples in {store.directory}")


def device_batches(compiled: CompiledStage, mesh: jax.sharding.Mesh, first_step: int, ahead: int = 2) -> Iterator:
    """Yield the batches of a stage's steps, placed on the mesh; each process reads the rows that its devices hold.

    Args:
      compiled: the stage.
      mesh: mesh of the run.
      first_step: first step of the stage to yield.
      ahead: batches on the devices at a time: while one is in use, the next are sent.
    """
    rows, size = compiled.rows, compiled.stage.data.rows
    local_rows, sent = processes.local_rows(mesh, size), collections.deque()
    for local in training_batches(rows, first_step, compiled.steps - first_step, local_rows=local_rows):
        sent.append(processes.global_batch(local, mesh, size))
        if len(sent) >= ahead:
            yield sent.popleft()
    yield from sent


class StepLog:
    """The log of a stage's steps. A step's metrics are read after the next one has begun: nothing waits for them."""

    def __init__(self, context: TrainingContext, compiled: CompiledStage, metrics: Metrics | NoMetrics, done: int):
        """Start the stage's rate.

        Args:
          context: of the run.
          compiled: the stage.
          metrics: writer of the run's metrics.
          done: steps of the stage that were done before, by an interrupted run.
        """
        self._context, self._compiled, self._metrics = context, compiled, metrics
        self._rate = Rate(compiled.steps, done)
        self._pending: tuple[Position, dict, list[str]] | None = None

    def add(self, position: Position, values: dict[str, jax.Array], ids: list[str]) -> None:
        """Log the ids of a step's Examples, and the metrics of the step before it.

        Args:
          position: of the run after the step.
          values: metrics of the step, on their devices.
          ids: ids of its Examples.

        Raises:
          FloatingPointError: as `flush`.
        """
        self._metrics.log_examples(position.step, position.stage, ids)
        self.flush()
        self._pending = position, values, ids

    def flush(self, *, last: bool = False) -> None:
        """Wait for the metrics that are pending, check them, and log them every `log_every` steps.

        Args:
          last: this is the last step of the stage, which is logged too.

        Raises:
          FloatingPointError: loss or gradient is not finite; DIR/not_finite_STEP.json then has the step's Examples.
        """
        if self._pending is None:
            return
        (position, values, ids), self._pending = self._pending, None
        try:
            numbers = check_finite(jax.device_get(values), position.step)
        except FloatingPointError as error:
            path = self._context.folder / f"not_finite_{position.step}.json"
            processes.run_on_first("not finite", lambda: _write_not_finite(path, position, values, ids))
            raise FloatingPointError(f"{error}; the step's {len(ids)} Examples are in {path}") from error
        self._rate.add(numbers.pop("tokens"))
        if last or position.stage_step == 1 or position.stage_step % self._context.config.log_every == 0:
            self._write(position, numbers)

    def _write(self, position: Position, values: dict[str, float]) -> None:
        compiled = self._compiled
        values["tokens_per_second"], left = self._rate.read()
        flops = values["tokens_per_second"] * compiled.flops_per_token
        share = mfu(flops, 1.0, jax.devices()[0].device_kind, jax.device_count())
        if share is not None:
            values["mfu"] = share
        self._metrics.log(position.step, position.stage, values)
        terms = "  ".join(f"{name} {values[name]:.3f}" for name in compiled.stage.weights if not name.startswith("kl"))
        processes.log_on_first(
            f"  {position.stage_step:5d}/{compiled.steps}  loss {values['loss']:.4f}  {terms}  "
            f"{values['tokens_per_second']:,.0f} tokens/s  {left:.0f} s left"
        )


def _write_not_finite(path: Path, position: Position, values: dict[str, jax.Array], ids: list[str]) -> None:
    """Write the metrics and Examples of a step that was not finite."""
    numbers = {name: repr(float(value)) for name, value in values.items()}  # JSON has no NaN
    write_json(path, dataclasses.asdict(position) | {"examples": ids, "values": numbers})


def evaluate(context: TrainingContext, compiled: CompiledStage, state: nnx.State) -> dict[str, float]:
    """Return {"validation_<term>": mean} over the validation Examples; {} where there are none."""
    if compiled.validation is None:
        return {}
    step, mesh, size = context.evaluations[compiled.stage.evaluation_key], context.mesh, compiled.stage.data.rows
    sums: dict[str, np.ndarray] = {}
    with jax.set_mesh(mesh):
        for local in evaluation_batches(compiled.validation, processes.local_rows(mesh, size)):
            batch = processes.global_batch(local, mesh, size, leading=0)
            for name, pair in jax.device_get(step(state, batch)).items():
                sums[name] = sums.get(name, 0.0) + np.array(pair)
    return {f"validation_{name}": float(value / max(count, 1.0)) for name, (value, count) in sums.items()}
