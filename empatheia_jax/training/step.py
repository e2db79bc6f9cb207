"""One training step: micro-batches in a scan, sums divided once, gradients of the stage's groups only."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from empatheia_jax.data.batches.batch import Batch
from empatheia_jax.data.batches.packer import Bounds
from empatheia_jax.model.construct import as_trained
from empatheia_jax.model.empatheia import Empatheia, Signals, read_signals
from empatheia_jax.model.parameter_groups import in_groups
from empatheia_jax.training import losses
from empatheia_jax.training.flat import FlatLayout
from empatheia_jax.training.stages import Stage


def split(model: Empatheia, stage: Stage) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Split a model, abstract or not, into (graphdef, trainable, frozen); the trainable part becomes float32."""
    graphdef, trainable, frozen = nnx.split(model, in_groups(stage.trains), ...)
    return graphdef, as_trained(trainable), frozen


def stage_terms(
    model: Empatheia, stage: Stage, batch: Batch[jax.Array], key: jax.Array | None, *, bounds: Bounds
) -> losses.Terms:
    """Sum every loss term that a stage minimises, and its accuracies, over one micro-batch.

    Args:
      model: the whole model.
      stage: what to compute.
      batch: one micro-batch.
      key: samples the latents and turns dropout on; None is evaluation.
      bounds: of a row, static.

    Returns:
      term -> float32 [] sum; `losses.counts` returns what to divide by.
    """
    llm_key, content_key, style_key = (None,) * 3 if key is None else jax.random.split(key, 3)
    terms: losses.Terms = {}
    if stage.cached:
        signals = Signals(batch.response_states.astype(jnp.float32), batch.response_index >= 0)
    else:
        hidden = model.hidden(
            batch,
            dropout_key=llm_key if stage.llm_dropout else None,
            slots=stage.prompt_kind != "text",
            max_segment_length=bounds.max_segment_length,
        )
        signals = read_signals(
            hidden,
            batch.response_index if stage.has_content else None,
            batch.signal_index if stage.has_style else None,
        )
        if "emp" in stage.weights:
            terms |= losses.empathetic_nll(
                hidden,
                model.token_logits,
                batch.targets,
                batch.target_mask,
                label_mask=batch.label_mask,
                row_targets=bounds.targets,
                frozen_head=not stage.trains_base and not model.signal_loss,
            )
    latents = model.latents(
        signals,
        phonemes=batch.phonemes,
        phoneme_frames=batch.phoneme_frames,
        video_frames=batch.video_frames,
        frames=batch.gold_content_video.shape[1],
        content_key=content_key,
        style_key=style_key,
    )
    golds, masks = batch.golds, batch.gold_masks
    if latents.content_kl is not None:
        terms |= losses.content_consistency(latents.contents, golds, masks)
        terms["kl_content"] = jnp.sum(jnp.where(batch.response_index >= 0, latents.content_kl, 0.0))
    if latents.style is not None:
        terms |= losses.style_alignment(latents.styles, golds, masks)
        terms |= losses.classification(latents.style.logits, batch.labels)
        terms["kl_style"] = jnp.sum(jnp.where(batch.example_id >= 0, jnp.mean(latents.style.kl, axis=(1, 2)), 0.0))
    return terms


def make_step(
    graphdef: nnx.GraphDef,
    stage: Stage,
    tx: optax.GradientTransformation,
    bounds: Bounds,
    *,
    flat: FlatLayout | None = None,
) -> Callable:
    """Return the step of a stage: (trainable, opt_state, frozen, batch, key) -> (trainable, opt_state, metrics).

    The arrays of `batch` have a leading accumulation axis A. Counts come from masks alone, so each micro-batch's
    gradient is already divided by the whole step's counts, and their sum is the gradient of the accumulated loss.

    Metrics, float32 []: every term as a mean, "loss" (Eq. 8, 9, 12 or 13 by stage, with KL), "grad_norm" before
    clipping, "tokens" (real ones; of the responses alone where states are cached).

    Args:
      graphdef: of the model, split by `split`.
      stage: what to train and minimise.
      tx: the stage's optimizer.
      bounds: of a row, static.
      flat: where given, `trainable` and the optimizer's moments are single vectors of this layout.
    """

    def step(trainable, opt_state, frozen: nnx.State, batch: Batch[jax.Array], key: jax.Array):
        totals = jax.tree.map(lambda count: jnp.sum(count), jax.vmap(losses.counts)(batch))
        scale = {name: 1.0 / jnp.maximum(total, 1.0) for name, total in totals.items()}

        tree = flat.unravel(trainable) if flat else trainable

        def gradient(micro_batch, micro_key):
            def loss_fn(trainable):
                model = nnx.merge(graphdef, trainable, frozen)
                terms = stage_terms(model, stage, micro_batch, micro_key, bounds=bounds)
                return sum(weight * terms[name] * scale[name] for name, weight in stage.weights.items()), terms

            (_, terms), grads = jax.value_and_grad(loss_fn, has_aux=True)(tree)
            return flat.ravel(grads) if flat else grads, terms

        micro_batches = batch.tokens.shape[0]
        first = jax.tree.map(lambda x: x[0], batch)
        if micro_batches == 1:  # XLA's CPU backend fuses less inside a loop, even a loop of one
            grads, sums = gradient(first, key)
        else:
            shapes = jax.eval_shape(gradient, first, key)
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

            def accumulate(carry, xs):
                return jax.tree.map(jnp.add, carry, gradient(*xs)), None

            (grads, sums), _ = jax.lax.scan(accumulate, zeros, (batch, jax.random.split(key, micro_batches)))
        updates, opt_state = tx.update(grads, opt_state, trainable)
        metrics = {name: value * scale[name] for name, value in sums.items()}
        metrics["loss"] = sum(weight * metrics[name] for name, weight in stage.weights.items())
        metrics["grad_norm"] = optax.tree.norm(grads)
        metrics["tokens"] = jnp.sum(batch.response_index >= 0 if stage.cached else batch.segment_ids > 0)
        return optax.apply_updates(trainable, updates), opt_state, metrics

    return step


def make_evaluation(graphdef: nnx.GraphDef, stage: Stage, bounds: Bounds) -> Callable:
    """Return a function (state, batch) -> {term: (sum, count)} of one micro-batch, without dropout or sampling."""

    def evaluate(state: nnx.State, batch: Batch[jax.Array]):
        model = nnx.merge(graphdef, state)
        terms, counts = stage_terms(model, stage, batch, None, bounds=bounds), losses.counts(batch)
        return {name: (value, counts[name]) for name, value in terms.items()}

    return evaluate
