"""The parts of a run that `train.py` puts together: workdir, model, one stage, resume, evaluation."""

import collections
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from empatheia_jax.checkpoints.bases import check_base, load_adapter
from empatheia_jax.checkpoints.runs import Checkpoints, Position, identify_base, load_base, save_base
from empatheia_jax.config import Config, ConfigError
from empatheia_jax.config.load import config_from_json, config_to_json
from empatheia_jax.data.batches.packing import Mixture
from empatheia_jax.data.batches.pipeline import evaluation_batches, step_example_ids, training_batches
from empatheia_jax.data.batches.rows import Rows, replace_data_fields
from empatheia_jax.data.prompts.dialogue import first_label_tokens
from empatheia_jax.data.schema import Widths
from empatheia_jax.llm.quantized import parameter_count, require_qwix
from empatheia_jax.model import sharding
from empatheia_jax.model.empatheia import Empatheia, Statistics, calibrate_new_parameters
from empatheia_jax.monitoring.clock import Clock, Rate
from empatheia_jax.monitoring.goodput import Goodput
from empatheia_jax.monitoring.stop import Stop
from empatheia_jax.monitoring.sync import ProcessSync
from empatheia_jax.planning.flops import mfu
from empatheia_jax.profiling.capture import Profile
from empatheia_jax.runtime import processes
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.training.compilation import CompiledStage
from empatheia_jax.training.data import Data
from empatheia_jax.training.flat import FlatLayout
from empatheia_jax.training.metrics import Metrics, check_finite
from empatheia_jax.training.stages import ADAPTED, Stage
from empatheia_jax.training.state_cache import cache_states
from empatheia_jax.training.step import in_groups
from empatheia_jax.training.whiten import whiten


def check_workdir(folder: Path, config: Config, resume: bool, stages: list[Stage]) -> None:
    """Check that the run's folder is unused, or that a resumed run keeps its config, and that there is a base to tune.

    Raises:
      ConfigError: a used folder without `resume`, nothing to resume, another config, later stages of a scratch base
        that stage 0 has not trained, or a base or an adapter of another architecture; a quantised base that stage 0 is
        to train, or that cannot be quantised here.
    """
    saved = folder / "config.json"
    check_base(config)
    if config.llm.quantization != "none":
        require_qwix()
        if stages and stages[0].number == 0:
            raise ConfigError(
                f"llm.quantization {config.llm.quantization}: stage 0 trains the base, and a quantised one is frozen; "
                "train stage 0 without, copy its DIR/base into a new --workdir, and begin there with --stages 1,2,3,4"
            )
    if config.base == "scratch" and stages and stages[0].number > 0 and not (folder / "base").exists():
        raise ConfigError(f"{folder}: no base there, and a scratch base is trained in stage 0: begin --stages with 0")
    if resume:
        if not saved.exists():
            raise ConfigError(f"{folder}: nothing to resume here (no config.json)")
        # An older run lacks later fields: they are read as their defaults.
        saved_fields, fields = config_to_json(saved_config(folder)), config_to_json(config)
        changed = sorted(name for name in fields if saved_fields.get(name) != fields[name])
        if changed:
            raise ConfigError(f"{folder} was trained with another config ({', '.join(changed)}): resume with that one")
        return
    if saved.exists():
        raise ConfigError(f"{folder} holds a run already: pass --resume to continue it, or choose another --workdir")


def save_config(folder: Path, config: Config) -> None:
    """Save the resolved config, which makes the folder a run."""
    if processes.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", config_to_json(config))


def saved_config(folder: Path) -> Config:
    """Read the config of a finished or running run.

    Raises:
      ConfigError: `folder` is no run, or was written by another version.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise ConfigError(f"{folder}: not a run (no config.json); train one with train.py")
    return config_from_json(json.loads(path.read_text()), str(path))


def abstract_model(config: Config, widths: Widths | None, mesh: jax.sharding.Mesh) -> tuple[nnx.GraphDef, nnx.State]:
    """Return the graphdef, and the shape, dtype and sharding of every parameter; allocates nothing.

    Raises:
      ShardingError: a dimension that the mesh does not divide.
    """
    graphdef, abstract = nnx.split(nnx.eval_shape(_create(config, widths), jax.random.key(0)))
    return graphdef, sharding.with_shardings(abstract, sharding.shardings(abstract, mesh))


def initialise(config: Config, widths: Widths | None, abstract: nnx.State, base: bool = True) -> nnx.State:
    """Draw every parameter on its own devices, from `config.seed`.

    Args:
      config: of the run.
      widths: sizes that encoders and generators set; None: a text-only model.
      abstract: the whole model's state, with shardings.
      base: whether to draw the LLM too; where not, it stays abstract, so no memory is taken for what `restore` reads.
    """
    drawn = in_groups(("base", *ADAPTED) if base else ADAPTED)
    create = _create(config, widths)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, nnx.filter_state(abstract, drawn))
    draw = jax.jit(lambda key: nnx.filter_state(nnx.split(create(key))[1], drawn), out_shardings=shardings)
    return nnx.merge_state(abstract, draw(jax.random.key(config.seed)))


def _create(config: Config, widths: Widths | None):
    return lambda key: Empatheia(config, widths, rngs=nnx.Rngs(key))


def describe(state: nnx.State) -> str:
    """Return one line with the number of parameters of each part."""
    sizes: dict[str, int] = {}
    for path, variable in nnx.to_flat_state(state):
        part = "lora" if isinstance(variable, nnx.LoRAParam) else str(path[0])
        sizes[part] = sizes.get(part, 0) + parameter_count(variable)
    return ", ".join(f"{part} {size:,}" for part, size in sizes.items())


@dataclasses.dataclass
class Run:
    """What every stage of a run shares."""

    folder: Path
    config: Config
    mesh: jax.sharding.Mesh
    data: Data
    checkpoints: Checkpoints
    metrics: Metrics
    clock: Clock
    goodput: Goodput
    stop: Stop
    profile: Profile = dataclasses.field(default_factory=Profile)
    evaluations: dict[tuple, Callable] = dataclasses.field(default_factory=dict)  # compiled, by `Stage.kind`

    def rows(self, stage: Stage, split_name: str = "train") -> Rows:
        """Build the batch rows of a split, "train" or "validation", with the stage's prompt and batch shapes."""
        examples = self.data.train if split_name == "train" else self.data.validation
        config, data, settings = self.config, self.data, self.config.stages[str(stage.number)]
        config = replace_data_fields(config, **settings.shape())
        widths = data.widths or Widths((1, 1), (1, 1), 1, 1, 1, 1, 1)
        mixture = Mixture(data.corpora, config.seed) if data.corpora and split_name == "train" else None
        return Rows(
            examples,
            stage.prompt_kind,
            config,
            data.tokenizer,
            store=data.store,
            widths=widths,
            train=split_name == "train",
            seed=config.seed * 10 + stage.number,
            learn_text="emp" in stage.weights,
            learn_profile="base" in stage.trains,
            content=stage.has_content,
            cached=stage.cached,
            mixture=mixture,
        )


def run_stage(run: Run, compiled: CompiledStage, state: nnx.State, start: Position) -> tuple[nnx.State, Position]:
    """Train one stage from `start` to its end, or until a stop is requested.

    Args:
      run: the run.
      compiled: the stage.
      state: all parameters; those of the checkpoint at `start` where the stage is resumed.
      start: where to begin; `stage_step` above 0 restores the optimizer of that checkpoint.

    Returns:
      All parameters, and the position of the run.

    Raises:
      FloatingPointError: a loss or gradient is not finite; DIR/not_finite_STEP.json then has the step's Examples.
    """
    config, clock = run.config, run.clock
    stage, rows, steps, flat = compiled.stage, compiled.rows, compiled.steps, compiled.flat
    held = processes.local_rows(run.mesh, rows.config.data.rows)
    batches = training_batches(rows, start.stage_step, steps - start.stage_step, local_rows=held)
    processes.log_on_first(
        f"stage {stage.number}  {stage.title}: {steps} steps, {len(rows.examples)} Examples, {rows.dropped}"
    )
    processes.log_on_first(f"  rows {rows.stream.efficiency}")
    if compiled.compute_signals is not None and not start.stage_step:
        with clock("whiten"):
            state = whiten(run.mesh, rows, compiled.compute_signals, state)
    if compiled.compute_states is not None:
        with clock("states"):
            _use_states(run, compiled, state)
    trainable, frozen = compiled.split(state)
    del state  # keep one copy: another reference would keep donated buffers alive
    with jax.set_mesh(run.mesh):
        as_tree = flat.unravel_on_host if flat else _identity
        with clock("load"):
            trainable = jax.jit(flat.ravel, out_shardings=flat.abstract().sharding)(trainable) if flat else trainable
            opt_state = compiled.init(trainable)
            if start.stage_step:
                opt_state = _load_optimizer(run, start, opt_state, flat)
        position, rate, pending = start, Rate(steps, start.stage_step), None
        # Polled after steps only: a signal that arrives after the last one must not keep the stage from being finished.
        sync = ProcessSync(lambda: run.stop.requested, clock, config.checkpoint_seconds)
        key = jax.random.key(config.seed * 10 + stage.number)
        profile = run.profile.stage(stage.number, start.stage_step, compiled.flops)
        for batch in clock.iterate("wait", _send_ahead(batches, run.mesh, rows.config.data.rows)):
            profile.begin(trainable)
            with clock("steps"):
                ids = step_example_ids(rows, position.stage_step)
                step_key = jax.random.fold_in(key, position.stage_step)
                trainable, opt_state, values = compiled.step(trainable, opt_state, frozen, batch, step_key)
                position = Position(position.step + 1, stage.number, position.stage_step + 1)
                run.metrics.log_examples(position.step, stage.number, ids)
                _log(run, compiled, rate, pending)  # of the step before, so that nothing waits for this one
                pending = (position, values, ids)
            run.goodput.record(position.step)
            run.checkpoints.check_pending()
            with clock("agree"):
                sync.poll()
            if sync.slow:
                processes.log_on_first(f"  slow     step {position.step}: {sync.slow}")
            due = sync.save or position.stage_step % config.checkpoint_every == 0
            if sync.stop or (due and position.stage_step < steps):
                with clock("steps"):
                    _log(run, compiled, rate, pending)
                pending = None
                sync.note_save()
                with clock("checkpoint"):
                    parameters = _parameters_to_save(as_tree(trainable), frozen, stage)
                    run.checkpoints.save(position, parameters, flat.expand(opt_state) if flat else opt_state)
            if sync.stop:
                break
        profile.end(trainable)
        with clock("steps"):
            _log(run, compiled, rate, pending, last=True)
        state = nnx.merge_state(as_tree(trainable), frozen)
        if not sync.stop:
            position = Position(position.step, stage.number + 1, 0)
            saved = flat.expand(opt_state) if flat else opt_state
            state = _finish(run, stage, position, state=state, opt_state=saved)
    return state, position


def _use_states(run: Run, compiled: CompiledStage, state: nnx.State) -> None:
    """Fill DIR/states with the LLM's states, and let the stage's rows read them from there."""
    splits = [rows for rows in (compiled.rows, compiled.validation) if rows is not None]
    store = cache_states(run, splits, compiled.compute_states, state)
    for rows in splits:
        rows.states = store
    processes.log_on_first(f"  states of {len(store)} Examples in {store.directory}")


def _identity(tree):
    return tree


def _load_optimizer(run: Run, start: Position, opt_state, flat: FlatLayout | None):
    if flat is None:
        return run.checkpoints.load_optimizer(start, opt_state)
    return flat.collapse(run.checkpoints.load_optimizer(start, flat.expand(opt_state)))


def _finish(run: Run, stage: Stage, position: Position, *, state: nnx.State, opt_state) -> nnx.State:
    """Save a finished stage, and after stage 0 the base; returns the parameters with which the next stage begins."""
    with run.clock("checkpoint"):
        if stage.number == 0:
            base = nnx.filter_state(state, in_groups(("base",)))
            save_base(run.folder / "base", base)
            run.checkpoints.base = identify_base(run.folder / "base")
            state = calibrate_new_parameters(state, run.data.statistics, first_label_tokens(run.data.tokenizer))
        run.checkpoints.save(position, nnx.filter_state(state, in_groups(ADAPTED)), opt_state)
    return state


def _parameters_to_save(trainable: nnx.State, frozen: nnx.State, stage: Stage) -> nnx.State:
    """Return everything in stage 0, which trains the base; later the adapted parts, because the base is in DIR/base."""
    state = nnx.merge_state(trainable, frozen)
    return state if stage.number == 0 else nnx.filter_state(state, in_groups(ADAPTED))


def is_complete(position: Position | None) -> bool:
    """Whether a checkpoint and the base beside it hold every parameter: true once stage 0 is over."""
    return position is not None and position.stage > 0


def has_base(config: Config, position: Position | None, first_stage: int = 0) -> bool:
    """Whether there is a base to read: a converted one, or stage 0's once that is over.

    A run without a checkpoint whose `first_stage` is after 0 begins with the base in its folder.
    """
    return config.base != "scratch" or is_complete(position) or (position is None and first_stage > 0)


def restore(
    folder: Path,
    config: Config,
    checkpoints: Checkpoints,
    position: Position | None,
    *,
    state: nnx.State,
    statistics: Statistics | None = None,
    label_tokens: np.ndarray | None = None,
    training: bool = True,
    first_stage: int = 0,
) -> nnx.State:
    """Read the base (DIR/base, or the converted one), then the adapted parts of the newest checkpoint.

    Args:
      folder: the run's.
      config: the run's.
      checkpoints: the run's.
      position: of the newest checkpoint; None: there is none.
      state: gives shapes and shardings, and the values that no checkpoint holds yet; it may be abstract where the
        checkpoint holds all (`is_complete`), and so may its base where it is read (`has_base`).
      statistics: see `calibrate_new_parameters`, which runs where there is no checkpoint.
      label_tokens: likewise.
      training: whether to hash the base's files: training continues only with the base the checkpoint was trained on.
      first_stage: the first stage to be trained.

    Returns:
      All parameters.

    Raises:
      CheckpointError: no base where one is needed, another base than the checkpoint's, or parameters of another config.
    """
    base_exists = has_base(config, position, first_stage)
    if base_exists:
        base_folder = folder / "base" if config.base == "scratch" else Path(config.base)
        state = nnx.merge_state(state, load_base(base_folder, nnx.filter_state(state, in_groups(("base",)))))
        if training:
            checkpoints.base = identify_base(base_folder)
            if position is not None:
                checkpoints.check_base(position, checkpoints.base)
    if position is None:
        state = calibrate_new_parameters(state, statistics, label_tokens) if base_exists else state
        return load_adapter(config, state) if config.adapter else state
    saved = nnx.filter_state(state, in_groups(ADAPTED)) if is_complete(position) else state
    return nnx.merge_state(state, checkpoints.load_params(position, saved))


def _send_ahead(batches, mesh: jax.sharding.Mesh, rows: int, ahead: int = 2):
    """Yield batches of this process's rows as global ones; the next `ahead - 1` are sent while one is in use."""
    sent: collections.deque = collections.deque()
    for local in batches:
        sent.append(processes.global_batch(local, mesh, rows))
        if len(sent) >= ahead:
            yield sent.popleft()
    yield from sent


def _log(run: Run, compiled: CompiledStage, rate: Rate, pending, *, last: bool = False) -> None:
    """Wait for the metrics of a step, check and log them; `pending` is (position, values, Example ids) or None."""
    if pending is None:
        return
    stage, steps = compiled.stage, compiled.steps
    position, values, ids = pending
    try:
        values = check_finite(jax.device_get(values), position.step)
    except FloatingPointError as error:
        path = run.folder / f"not_finite_{position.step}.json"
        processes.run_on_first("not finite", lambda: _write_not_finite(path, position, values, ids))
        raise FloatingPointError(f"{error}; the step's {len(ids)} Examples are in {path}") from error
    rate.add(values.pop("tokens"))
    if position.stage_step % run.config.log_every and not last and position.stage_step != 1:
        return
    values["tokens_per_second"], left = rate.read()
    flops = values["tokens_per_second"] * compiled.flops_per_token
    share = mfu(flops, 1.0, jax.devices()[0].device_kind, jax.device_count())
    if share is not None:
        values["mfu"] = share
    run.metrics.log(position.step, stage.number, values)
    terms = "  ".join(f"{name} {values[name]:.3f}" for name in stage.weights if not name.startswith("kl"))
    processes.log_on_first(
        f"  {position.stage_step:5d}/{steps}  loss {values['loss']:.4f}  {terms}  "
        f"{values['tokens_per_second']:,.0f} tokens/s  {left:.0f} s left"
    )


def _write_not_finite(path: Path, position: Position, values, ids: list[str]) -> None:
    """Write the metrics and Examples of a step that was not finite."""
    numbers = {name: repr(float(value)) for name, value in values.items()}  # JSON has no NaN
    record = dataclasses.asdict(position) | {"examples": ids, "values": numbers}
    write_json(path, record)


def evaluate(run: Run, compiled: CompiledStage, state: nnx.State) -> dict[str, float]:
    """Return {"validation_<term>": mean} over the validation Examples; {} where there are none."""
    if compiled.validation is None:
        return {}
    step = run.evaluations[compiled.stage.kind]
    sums: dict[str, np.ndarray] = {}
    with jax.set_mesh(run.mesh):
        rows = compiled.validation.config.data.rows
        held = processes.local_rows(run.mesh, rows)
        for local in evaluation_batches(compiled.validation, held):
            batch = processes.global_batch(local, run.mesh, rows, leading=0)
            for name, pair in jax.device_get(step(state, batch)).items():
                sums[name] = sums.get(name, 0.0) + np.array(pair)
    return {f"validation_{name}": float(value / max(count, 1.0)) for name, (value, count) in sums.items()}
