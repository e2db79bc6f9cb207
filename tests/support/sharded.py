"""Steps of training on meshes of simulated devices, for comparison with one device."""

import absl.flags
import jax
import optax
from flax import nnx

from empatheia_jax.config import Config
from empatheia_jax.data.batches.builder import BatchBuilder
from empatheia_jax.data.batches.packer import Bounds
from empatheia_jax.data.batches.pipeline import training_batches
from empatheia_jax.data.schema import Example
from empatheia_jax.model import sharding
from empatheia_jax.model.empatheia import Empatheia
from empatheia_jax.runtime.processes import global_batch
from empatheia_jax.testing.tiny import FAST, WIDTHS, make_store, make_tokenizer
from empatheia_jax.training import step as step_module
from empatheia_jax.training.stages import Stage

absl.flags.FLAGS.mark_as_parsed()  # Grain reads them


def use_posterior_means() -> None:
    """Compute the losses at the posteriors' means: sampling draws by device layout on some backends."""
    terms = step_module.stage_terms
    step_module.stage_terms = lambda model, stage, batch, key, **options: terms(model, stage, batch, None, **options)


def make_batches(config: Config, stage: Stage, examples: list[Example], steps: int) -> list:
    """Return the batches of the first steps of a stage, with random features."""
    builder = BatchBuilder(
        examples,
        stage.prompt_kind,
        config,
        make_tokenizer(),
        store=make_store(examples),
        widths=WIDTHS,
        train=False,
        seed=3,
        learn_text="emp" in stage.weights,
        learn_profile=stage.number == 0,
    )
    return list(training_batches(builder, 0, steps, threads=1))


def train(
    model: Empatheia, stage: Stage, batches: list, *, mesh: jax.sharding.Mesh, tx: optax.GradientTransformation
) -> tuple[nnx.State, list[dict[str, float]]]:
    """Train a model on a mesh, a step a batch.

    Args:
      model: the model; it is left as it is.
      stage: what is trained.
      batches: a batch for each step.
      mesh: where.
      tx: the optimizer.

    Returns:
      The trained parameters, and the metrics of each step.
    """
    graphdef, trainable, frozen = step_module.split(model, stage)
    trainable, frozen, metrics = sharding.place(trainable, mesh), sharding.place(frozen, mesh), []
    with jax.set_mesh(mesh):
        opt_state = tx.init(trainable)
        step = jax.jit(step_module.make_step(graphdef, stage, tx, Bounds(448)), compiler_options=FAST)
        for number, batch in enumerate(batches):
            batch = global_batch(batch, mesh, stage.data.rows)
            trainable, opt_state, values = step(trainable, opt_state, frozen, batch, jax.random.key(number))
            metrics.append({name: float(value) for name, value in values.items()})
    return trainable, metrics
