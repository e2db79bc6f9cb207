"""One training step: micro-batches in a scan, sums divided once, gradients of the stage's groups only."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from empatheia_jax.data.batches.packing import Bounds
from empatheia_jax.model.empatheia import Empatheia, Signals, read_signals
from empatheia_jax.training import losses
from empatheia_jax.training.flat import FlatLayout
from empatheia_jax.training.stages import Group, Stage, group_of

Arrays = dict[str, jax.Array]


def in_groups(groups: tuple[Group, ...]) -> Callable:
    """Return a filter for `nnx.split` that is true for parameters of these groups."""
    return lambda path, variable: group_of(path, isinstance(variable, nnx.LoRAParam)) in groups


def split(model: Empatheia, stage: Stage) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Split a model, abstract or not, into (graphdef, trainable, frozen); the trainable part becomes float32."""
    graphdef, trainable, frozen = nnx.split(model, in_groups(stage.trains), ...)
    return graphdef, jax.tree.map(_float32, trainable), frozen


def _float32(leaf):
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding)
    return leaf.astype(jnp.float32)


def stage_terms(
    model: Empatheia, stage: Stage, batch: Arrays, key: jax.Array | None, *, bounds: Bounds
) -> losses.Terms:
    """Sum every loss term that a stage minimises, and its accuracies, over one micro-batch.

    Args:
      model: the whole model.
      stage: what to compute.
      batch: the arrays of `schema.Batch`, one micro-batch.
      key: samples the latents and turns dropout on; None is evaluation.
      bounds: of a row, static.

    Returns:
      term -> float32 [] sum; `losses.counts` returns what to divide by.
    """
    llm_key, content_key, style_key = (None,) * 3 if key is None else jax.random.split(key, 3)
    terms: losses.Terms = {}
    if stage.cached:
        states = batch["response_states"].astype(jnp.float32)
        return _content(model, Signals(states, batch["response_index"] >= 0, None, None), batch, content_key)
    hidden = model.hidden(
        batch, llm_key if stage.llm_dropout else None, slots=stage.prompt_kind != "text", longest=bounds.longest
    )
    if "emp" in stage.weights:
        terms |= losses.empathetic_nll(
            hidden,
            model.token_logits,
            batch["targets"],
            batch["target_mask"],
            label_mask=batch["label_mask"],
            row_targets=bounds.targets,
            frozen_head="base" not in stage.trains and not model.signal_loss,
        )
    if stage.has_content or stage.has_style:
        signals = read_signals(hidden, batch["response_index"], batch["signal_index"])
    if stage.has_content:
        terms |= _content(model, signals, batch, content_key)
    if stage.has_style:
        style = model.style_disentangler(signals.speech, signals.video, style_key)
        terms |= losses.style_alignment(
            style,
            gold_speech=batch["gold_style_speech"],
            has_speech=batch["has_style_speech"],
            gold_video=batch["gold_style_video"],
            has_video=batch["has_style_video"],
        )
        terms |= losses.classification(style.logits, batch)
        valid = batch["example_id"] >= 0
        terms["kl_style"] = jnp.sum(jnp.where(valid, jnp.mean(style.kl, axis=(1, 2)), 0.0))
    return terms


def _content(model: Empatheia, signals, batch: Arrays, key) -> losses.Terms:
    keys = (None, None) if key is None else jax.random.split(key)
    synchronizer, gold_video = model.content_synchronizer, batch["gold_content_video"]
    speech, latent_speech = synchronizer.speech_content(
        signals.response, signals.response_mask, batch["phonemes"], keys[0]
    )
    video, latent_video = synchronizer.video_content(
        signals.response,
        signals.response_mask,
        batch["phonemes"],
        batch["phoneme_frames"],
        video_frames=batch["video_frames"],
        frames=gold_video.shape[1],
        key=keys[1],
    )
    video_mask = jnp.arange(gold_video.shape[1]) < batch["video_frames"][:, None]
    terms = losses.content_consistency(
        speech,
        batch["gold_content_speech"],
        batch["phonemes"] >= 0,
        video=video,
        gold_video=gold_video,
        video_mask=video_mask,
    )
    kl = 0.5 * (latent_speech.kl() + latent_video.kl())  # [K, R]
    terms["kl_content"] = jnp.sum(jnp.where(signals.response_mask, kl, 0.0))
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

    def step(trainable: nnx.State, opt_state, frozen: nnx.State, batch: Arrays, key: jax.Array):
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

        micro_batches = batch["tokens"].shape[0]
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
        metrics["grad_norm"] = optax.global_norm(grads)
        metrics["tokens"] = jnp.sum(batch["response_index"] >= 0 if stage.cached else batch["segment_ids"] > 0)
        return optax.apply_updates(trainable, updates), opt_state, metrics

    return step


def make_evaluation(graphdef: nnx.GraphDef, stage: Stage, bounds: Bounds) -> Callable:
    """Return a function (state, batch) -> {term: (sum, count)} of one micro-batch, without dropout or sampling."""

    def evaluate(state: nnx.State, batch: Arrays):
        model = nnx.merge(graphdef, state)
        terms, counts = stage_terms(model, stage, batch, None, bounds=bounds), losses.counts(batch)
        return {name: (value, counts[name]) for name, value in terms.items()}

    return evaluate
