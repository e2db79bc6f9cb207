"""The pieces of a run that `train.py` puts together: workdir, tokenizer, data, model, one stage."""

import collections
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from empatheia_jax import processes, sharding
from empatheia_jax.atomic import write_json
from empatheia_jax.checkpoint import Checkpoints, Position, identify_base, load_base, save_base
from empatheia_jax.config import Config, ConfigError
from empatheia_jax.config_io import config_from_json, config_to_json
from empatheia_jax.data.packing import Mixture
from empatheia_jax.data.pipeline import (
    evaluation_batches,
    step_ids,
    training_batches,
)
from empatheia_jax.data.prompts import signal_words
from empatheia_jax.data.rows import Rows, with_data
from empatheia_jax.data.schema import Widths
from empatheia_jax.empatheia import Empatheia, Statistics, attune
from empatheia_jax.flops import mfu
from empatheia_jax.llm.quantized import parameters, require_qwix
from empatheia_jax.profiling.capture import Profile
from empatheia_jax.training.bases import check_base, load_adapter
from empatheia_jax.training.clock import Clock, Rate
from empatheia_jax.training.flat import Flat
from empatheia_jax.training.goodput import Goodput
from empatheia_jax.training.metrics import Metrics, finite
from empatheia_jax.training.prepare import Prepared
from empatheia_jax.training.pulse import Pulse
from empatheia_jax.training.run_data import Data
from empatheia_jax.training.stages import ADAPTED, Stage
from empatheia_jax.training.state_cache import cache_states
from empatheia_jax.training.step import trains
from empatheia_jax.training.stop import Stop
from empatheia_jax.training.whiten import whiten


def check_workdir(folder: Path, config: Config, resume: bool, stages: list[Stage]) -> None:
    """See that the run's folder is unused, or that a resumed run keeps its config, and that there is a base to tune.

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
        before, now = config_to_json(saved_config(folder)), config_to_json(config)  # an older run: defaults
        changed = sorted(name for name in now if before.get(name) != now[name])
        if changed:
            raise ConfigError(f"{folder} was trained with another config ({', '.join(changed)}): resume with that one")
        return
    if saved.exists():
        raise ConfigError(f"{folder} holds a run already: pass --resume to continue it, or choose another --workdir")


def save_config(folder: Path, config: Config) -> None:
    """Save the resolved config: from here on the folder is a run."""
    if processes.first():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", config_to_json(config))


def saved_config(folder: Path) -> Config:
    """Config of a finished or running run.

    Raises:
      ConfigError: `folder` is no run, or was written by another version.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise ConfigError(f"{folder}: not a run (no config.json); train one with train.py")
    return config_from_json(json.loads(path.read_text()), str(path))


def abstract_model(config: Config, widths: Widths | None, mesh: jax.sharding.Mesh) -> tuple[nnx.GraphDef, nnx.State]:
    """Shapes, dtypes and shardings of every parameter, before a byte is allocated.

    Raises:
      ShardingError: a dimension that the mesh does not divide.
    """
    graphdef, abstract = nnx.split(nnx.eval_shape(_create(config, widths), jax.random.key(0)))
    return graphdef, sharding.placed(abstract, sharding.shardings(abstract, mesh))


def initialise(config: Config, widths: Widths | None, abstract: nnx.State, base: bool = True) -> nnx.State:
    """Every parameter drawn where it lives, from `config.seed`; `abstract` gives the shardings.

    Without `base` the LLM stays abstract: no memory for what `restore` reads.
    """
    drawn = trains(("base", *ADAPTED) if base else ADAPTED)
    create = _create(config, widths)
    where = jax.tree.map(lambda leaf: leaf.sharding, nnx.filter_state(abstract, drawn))
    draw = jax.jit(lambda key: nnx.filter_state(nnx.split(create(key))[1], drawn), out_shardings=where)
    return nnx.merge_state(abstract, draw(jax.random.key(config.seed)))


def _create(config: Config, widths: Widths | None):
    return lambda key: Empatheia(config, widths, rngs=nnx.Rngs(key))


def describe(state: nnx.State) -> str:
    """Parameters of each part, one line."""
    sizes: dict[str, int] = {}
    for path, variable in nnx.to_flat_state(state):
        part = "lora" if isinstance(variable, nnx.LoRAParam) else str(path[0])
        sizes[part] = sizes.get(part, 0) + parameters(variable)
    return ", ".join(f"{part} {size:,}" for part, size in sizes.items())


@dataclasses.dataclass
class Run:
    """What a stage needs from the run around it."""

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
        """Rows of a split under the stage's prompt."""
        examples = self.data.train if split_name == "train" else self.data.validation
        config, data, settings = self.config, self.data, self.config.stages[str(stage.number)]
        config = with_data(config, **settings.shape())
        widths = data.widths or Widths((1, 1), (1, 1), 1, 1, 1, 1, 1)
        mixture = Mixture(data.corpora, config.seed) if data.corpora and split_name == "train" else None
        return Rows(
            examples,
            stage.prompt,
            config,
            data.tokenizer,
            data.store,
            widths,
            train=split_name == "train",
            seed=config.seed * 10 + stage.number,
            words="emp" in stage.weights,
            base="base" in stage.trains,
            content=stage.content,
            cached=stage.cached,
            mixture=mixture,
        )


def run_stage(run: Run, prepared: Prepared, state: nnx.State, start: Position) -> tuple[nnx.State, Position]:
    """Train one stage from `start` to its end, or until a stop is wished; returns the state and where it stands.

    `start.stage_step` above 0 restores the optimizer of that checkpoint; `state` must be its parameters.

    Raises:
      FloatingPointError: a loss or gradient that is not finite; DIR/not_finite_STEP.json then has the step's Examples.
    """
    config, clock = run.config, run.clock
    stage, rows, steps, flat = prepared.stage, prepared.rows, prepared.steps, prepared.flat
    held = processes.local_rows(run.mesh, rows.config.data.rows)
    batches = training_batches(rows, start.stage_step, steps - start.stage_step, held=held)
    processes.say(f"stage {stage.number}  {stage.title}: {steps} steps, {len(rows.examples)} Examples, {rows.dropped}")
    processes.say(f"  rows {rows.stream.efficiency}")
    if prepared.signals is not None and not start.stage_step:
        with clock("whiten"):
            state = whiten(run.mesh, rows, prepared.signals, state)
    if prepared.states is not None:
        with clock("states"):
            _use_states(run, prepared, state)
    trainable, frozen = prepared.split(state)
    del state  # one copy: the old handles would keep donated buffers alive
    with jax.set_mesh(run.mesh):
        as_tree = flat.tree if flat else _same
        with clock("load"):
            trainable = jax.jit(flat.ravel, out_shardings=flat.abstract().sharding)(trainable) if flat else trainable
            opt_state = prepared.init(trainable)
            if start.stage_step:
                opt_state = _load_optimizer(run, start, opt_state, flat)
        position, rate, pending = start, Rate(steps, start.stage_step), None
        # Felt once a step: a signal after the last one must not lose the finished stage.
        pulse = Pulse(lambda: run.stop.wanted, clock, config.checkpoint_seconds)
        key = jax.random.key(config.seed * 10 + stage.number)
        profile = run.profile.stage(stage.number, start.stage_step, prepared.flops)
        for batch in clock.waiting("wait", _on_device(batches, run.mesh, rows.config.data.rows)):
            profile.begin(trainable)
            with clock("steps"):
                ids = step_ids(rows, position.stage_step)
                step_key = jax.random.fold_in(key, position.stage_step)
                trainable, opt_state, values = prepared.step(trainable, opt_state, frozen, batch, step_key)
                position = Position(position.step + 1, stage.number, position.stage_step + 1)
                run.metrics.examples(position.step, stage.number, ids)
                _log(run, prepared, rate, pending)  # metrics of the step before: nothing blocks on this one
                pending = (position, values, ids)
            run.goodput.note(position.step)
            run.checkpoints.check()
            with clock("agree"):
                pulse.feel()
            if pulse.slow:
                processes.say(f"  slow     step {position.step}: {pulse.slow}")
            due = pulse.save or position.stage_step % config.checkpoint_every == 0
            if pulse.stop or (due and position.stage_step < steps):
                with clock("steps"):
                    _log(run, prepared, rate, pending)
                pending = None
                pulse.saved()
                with clock("checkpoint"):
                    saved = _saved(as_tree(trainable), frozen, stage)
                    run.checkpoints.save(position, saved, flat.expand(opt_state) if flat else opt_state)
            if pulse.stop:
                break
        profile.end(trainable)
        with clock("steps"):
            _log(run, prepared, rate, pending, last=True)
        state = nnx.merge_state(as_tree(trainable), frozen)
        if not pulse.stop:
            position = Position(position.step, stage.number + 1, 0)
            state = _finish(run, stage, state, flat.expand(opt_state) if flat else opt_state, position)
    return state, position


def _use_states(run: Run, prepared: Prepared, state: nnx.State) -> None:
    """Let the stage's rows read the LLM's states from DIR/states, which is filled first."""
    rows = [one for one in (prepared.rows, prepared.validation) if one is not None]
    store = cache_states(run, rows, prepared.states, state)
    for one in rows:
        one.states = store
    processes.say(f"  states of {len(store)} Examples in {store.directory}")


def _same(tree):
    return tree


def _load_optimizer(run: Run, start: Position, opt_state, flat: Flat | None):
    if flat is None:
        return run.checkpoints.load_optimizer(start, opt_state)
    return flat.collapse(run.checkpoints.load_optimizer(start, flat.expand(opt_state)))


def _finish(run: Run, stage: Stage, state: nnx.State, opt_state, position: Position) -> nnx.State:
    with run.clock("checkpoint"):
        if stage.number == 0:
            base = nnx.filter_state(state, trains(("base",)))
            save_base(run.folder / "base", base)
            run.checkpoints.base = identify_base(run.folder / "base")
            state = attune(state, run.data.statistics, signal_words(run.data.tokenizer))
        run.checkpoints.save(position, nnx.filter_state(state, trains(ADAPTED)), opt_state)
    return state


def _saved(trainable: nnx.State, frozen: nnx.State, stage: Stage) -> nnx.State:
    """Stage 0 saves the base it is training as well; later the base is in DIR/base and only adapted parts are saved."""
    state = nnx.merge_state(trainable, frozen)
    return state if stage.number == 0 else nnx.filter_state(state, trains(ADAPTED))


def complete(position: Position | None) -> bool:
    """Whether a checkpoint and the base beside it hold every parameter: true once stage 0 is over."""
    return position is not None and position.stage > 0


def has_base(config: Config, position: Position | None, first_stage: int = 0) -> bool:
    """Whether the base is there to be read: a converted one, or stage 0's once that is over.

    A run without a checkpoint whose `first_stage` is after 0 begins with the base in its folder.
    """
    return config.base != "scratch" or complete(position) or (position is None and first_stage > 0)


def restore(
    folder: Path,
    config: Config,
    checkpoints: Checkpoints,
    position: Position | None,
    state: nnx.State,
    statistics: Statistics | None = None,
    words: np.ndarray | None = None,
    training: bool = True,
    first_stage: int = 0,
) -> nnx.State:
    """Resume order: 1. the base (DIR/base, or the converted one); 2. the adapted parts of the newest checkpoint.

    For `training` the base's files are hashed: a checkpoint goes on only with the base it was trained on.

    `state` gives shapes and shardings, and the values of what no checkpoint holds yet; it may be abstract where the
    checkpoint is `complete`, and its base where it is read (`has_base`).

    Raises:
      CheckpointError: no base where one is needed, another base than the checkpoint's, or parameters of another config.
    """
    based = has_base(config, position, first_stage)
    if based:
        base_folder = folder / "base" if config.base == "scratch" else Path(config.base)
        state = nnx.merge_state(state, load_base(base_folder, nnx.filter_state(state, trains(("base",)))))
        if training:
            checkpoints.base = identify_base(base_folder)
            if position is not None:
                checkpoints.check_base(position, checkpoints.base)
    if position is None:
        state = attune(state, statistics, words) if based else state
        return load_adapter(config, state) if config.adapter else state
    saved = nnx.filter_state(state, trains(ADAPTED)) if complete(position) else state
    return nnx.merge_state(state, checkpoints.load_params(position, saved))


def _on_device(batches, mesh: jax.sharding.Mesh, rows: int, ahead: int = 2):
    """Batches of this process's rows -> global ones, the next `ahead - 1` on their way while one is learned from."""
    sent: collections.deque = collections.deque()
    for local in batches:
        sent.append(processes.global_batch(local, mesh, rows))
        if len(sent) >= ahead:
            yield sent.popleft()
    yield from sent


def _log(run: Run, prepared: Prepared, rate: Rate, pending, last: bool = False) -> None:
    if pending is None:
        return
    stage, steps = prepared.stage, prepared.steps
    position, values, ids = pending
    try:
        values = finite(jax.device_get(values), position.step)
    except FloatingPointError as error:
        path = run.folder / f"not_finite_{position.step}.json"
        processes.by_first("not finite", lambda: _keep_ids(path, position, values, ids))
        raise FloatingPointError(f"{error}; the step's {len(ids)} Examples are in {path}") from error
    rate.add(values.pop("tokens"))
    if position.stage_step % run.config.log_every and not last and position.stage_step != 1:
        return
    values["tokens_per_second"], left = rate.read()
    flops = values["tokens_per_second"] * prepared.flops_per_token
    share = mfu(flops, 1.0, jax.devices()[0].device_kind, jax.device_count())
    if share is not None:
        values["mfu"] = share
    run.metrics.log(position.step, stage.number, values)
    terms = "  ".join(f"{name} {values[name]:.3f}" for name in stage.weights if not name.startswith("kl"))
    processes.say(
        f"  {position.stage_step:5d}/{steps}  loss {values['loss']:.4f}  {terms}  "
        f"{values['tokens_per_second']:,.0f} tokens/s  {left:.0f} s left"
    )


def _keep_ids(path: Path, position: Position, values, ids: list[str]) -> None:
    """Leave what a step that was not finite had learned from, for whoever looks into it."""
    numbers = {name: repr(float(value)) for name, value in values.items()}  # NaN is no JSON
    record = dataclasses.asdict(position) | {"examples": ids, "values": numbers}
    write_json(path, record)


def evaluate(run: Run, prepared: Prepared, state: nnx.State) -> dict[str, float]:
    """Mean of every term over the validation Examples as {"validation_<term>": value}; {} where there are none."""
    if prepared.validation is None:
        return {}
    step = run.evaluations[prepared.stage.kind]
    sums: dict[str, np.ndarray] = {}
    with jax.set_mesh(run.mesh):
        rows = prepared.validation.config.data.rows
        held = processes.local_rows(run.mesh, rows)
        for local in evaluation_batches(prepared.validation, held):
            batch = processes.global_batch(local, run.mesh, rows, leading=0)
            for name, pair in jax.device_get(step(state, batch)).items():
                sums[name] = sums.get(name, 0.0) + np.array(pair)
    return {f"validation_{name}": float(value / max(count, 1.0)) for name, (value, count) in sums.items()}
