"""The step: accumulation, what it changes, what it must not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small import WIDTHS, leaves, make_examples, make_model, make_store, make_tokenizer, small_config, sub

from empatheia_jax.data.pipeline import Rows, training_batches
from empatheia_jax.training import losses
from empatheia_jax.training.optim import optimizer, schedule
from empatheia_jax.training.stages import ADAPTED, stage
from empatheia_jax.training.step import make_evaluation, make_step, split


def batch_of(config, style, accumulate=1, rows=2):
    examples = make_examples(6)
    config = sub(sub(config, "data", rows=rows), "optim", accumulate=accumulate)
    made = Rows(examples, style, config, make_tokenizer(), make_store(examples), WIDTHS, train=True, seed=5)
    return next(iter(training_batches(made, 0, 1, threads=1)))


def run(model, current, batch, tx, key=None, row_targets=448):
    graphdef, trainable, frozen = split(model, current)
    step = jax.jit(make_step(graphdef, current, tx, row_targets))
    key = jax.random.key(0) if key is None else key
    new, _, metrics = step(trainable, tx.init(trainable), frozen, batch, key)
    return leaves(new), {name: float(value) for name, value in metrics.items()}


def group(name: str) -> str:
    """Which part of the stages table a parameter belongs to, from its name alone."""
    first = name.split("/")[0]
    if first == "llm":
        return "lora" if name.split("/")[-1].startswith("lora_") else "base"
    return {
        "new_tokens": "rows", "audio_projector": "projectors", "video_projector": "projectors",
        "content_synchronizer": "content", "style_disentangler": "style",
    }[first]  # fmt: skip


TABLE = {
    0: {"base"},
    1: {"lora"},
    2: {"content"},
    3: {"style", "projectors", "rows"},
    4: {"lora", "rows", "projectors", "content", "style"},
}


@pytest.mark.parametrize("number", range(5))
def test_only_the_stages_groups_are_trained_and_all_of_them(number):
    config = small_config()
    current = stage(number, config)
    model = make_model(config)
    before = leaves(nnx.state(model))
    _, trainable, frozen = split(model, current)
    batch = batch_of(config, current.prompt)
    after, metrics = run(model, current, batch, optax.sgd(1.0))
    assert {group(name) for name in before} == {"base", *ADAPTED}
    assert {group(name) for name in after} == TABLE[number]
    assert {group(name) for name in leaves(frozen)} == {"base", *ADAPTED} - TABLE[number]
    for name, value in leaves(nnx.state(model)).items():  # the model's own arrays: bit for bit
        np.testing.assert_array_equal(value, before[name])
    moved = {name for name, value in after.items() if not np.array_equal(value, before[name])}
    still = {name for name in after if name not in moved}
    # The only trainables without a gradient: the tokens' output rows (signals carry no loss) and keys' biases, to
    # which a softmax is blind. A disentangler's query attends to itself alone, so its query and key do nothing there.
    lone = re.compile(r"style_disentangler/(emotion|profile)/decoder/self_attention/(query|key)/|.*/decoder/norm_self/")
    stray = [n for n in still if not (n.endswith("key/bias") or n == "new_tokens/output" or lone.match(n))]
    assert not stray, stray
    assert np.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0


@pytest.mark.parametrize("number", [0, 4])
def test_accumulated_micro_batches_are_one_big_batch(number):
    config = sub(small_config(), "lora", dropout=0.0)
    current, model = stage(number, config), make_model(config)
    apart = batch_of(config, current.prompt, accumulate=3, rows=1)
    # The same rows side by side: flat indices move on by a row each.
    length, together = apart["tokens"].shape[-1], {}
    for name, array in apart.items():
        if name in ("audio_start", "video_start", "response_index", "signal_index"):
            array = np.stack([np.where(part >= 0, part + a * length, -1) for a, part in enumerate(array)])
        together[name] = array.reshape(1, -1, *array.shape[2:])
    # Without a key nothing is sampled: compare the deterministic gradient.
    graphdef, trainable, frozen = split(model, current)

    def mean_loss(trainable):
        state = nnx.merge_state(trainable, frozen)
        terms = make_evaluation(graphdef_all, current, 448)(state, jax.tree.map(lambda x: x[0], together))
        return sum(w * terms[n][0] / jnp.maximum(terms[n][1], 1.0) for n, w in current.weights.items())

    graphdef_all = nnx.split(model)[0]
    gradient = leaves(jax.jit(jax.grad(mean_loss))(trainable))
    quiet = _without_sampling(number)
    got_apart, metrics_apart = run(quiet(model), current, apart, optax.sgd(1.0))
    got_together, metrics_together = run(quiet(model), current, together, optax.sgd(1.0))
    before = leaves(trainable)
    for name in before:
        scale = max(np.abs(gradient[name]).max(), 1e-3)
        np.testing.assert_allclose(got_apart[name], got_together[name], atol=2e-5 * scale + 1e-6, err_msg=name)
    for name, value in metrics_together.items():
        assert metrics_apart[name] == pytest.approx(value, rel=1e-4), name
    if number == 0:  # nothing is sampled in stage 0, so the update is the gradient of the mean loss
        for name in before:
            np.testing.assert_allclose(before[name] - got_apart[name], gradient[name], rtol=1e-3, atol=1e-5)


def _without_sampling(number):
    """Posteriors so narrow that a sample is its mean: what is left of two runs' difference is accumulation."""

    def quiet(model):
        if number == 4:
            hourglasses = [
                model.content_synchronizer.speech, model.content_synchronizer.video,
                model.style_disentangler.emotion, model.style_disentangler.profile,
            ]  # fmt: skip
            for hourglass in hourglasses:
                hourglass.log_variance.bias[...] = jnp.full_like(hourglass.log_variance.bias[...], -40.0)
                # log-variances are clipped at -12: sampling noise of exp(-6) stays, far below what is compared
                hourglass.log_variance.kernel[...] = jnp.zeros_like(hourglass.log_variance.kernel[...])
                hourglass.ffn_z.up.kernel[...] = jnp.zeros_like(hourglass.ffn_z.up.kernel[...])
        return model

    return quiet


def test_metrics_are_means_over_valid_elements_and_padding_counts_nothing():
    config = small_config()
    current, model = stage(0, config), make_model(config)
    batch = batch_of(config, "text")
    _, metrics = run(model, current, batch, optax.sgd(0.0))
    one = jax.tree.map(lambda x: x[0], batch)
    hidden = model.hidden(one, slots=False)
    logits = np.asarray(model.llm.logits(hidden), np.float64)
    logits -= logits.max(-1, keepdims=True)
    nll = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, one["targets"][..., None], -1)[..., 0]
    assert metrics["emp"] == pytest.approx(nll[one["target_mask"]].mean(), rel=1e-4)
    right = (logits.argmax(-1) == one["targets"])[one["target_mask"]]
    assert metrics["token_accuracy"] == pytest.approx(right.mean(), rel=1e-5)
    assert metrics["tokens"] == (one["segment_ids"] > 0).sum()
    empty = {name: np.concatenate([array[0], np.zeros_like(array[0])])[None] for name, array in batch.items()}
    for name in ("example_id", "response_index", "signal_index", "phonemes", "audio_start", "video_start"):
        empty[name][0, batch[name].shape[1] :] = -1
    for name in ("emotion", "age", "gender", "timbre"):
        empty[name][0, batch[name].shape[1] :] = -1
    _, padded = run(model, current, empty, optax.sgd(0.0))
    assert padded["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    assert padded["tokens"] == metrics["tokens"]


def test_a_step_without_any_target_is_finite():
    config = small_config()
    current, model = stage(4, config), make_model(config)
    batch = batch_of(config, "all")
    batch["target_mask"] = np.zeros_like(batch["target_mask"])
    for name in ("emotion", "age", "gender", "timbre", "phonemes", "response_index"):
        batch[name] = np.full_like(batch[name], -1)
    batch["has_style_speech"] = batch["has_style_video"] = np.zeros_like(batch["has_style_speech"])
    batch["video_frames"] = np.zeros_like(batch["video_frames"])
    after, metrics = run(model, current, batch, optax.sgd(1.0))
    assert all(np.isfinite(value).all() for value in after.values())
    assert np.isfinite(metrics["loss"]) and metrics["emp"] == 0.0


def test_no_gradient_reaches_the_model_through_padding():
    """Features of dropped or absent slots change nothing."""
    config = small_config()
    current, model = stage(3, config), make_model(config)
    batch = batch_of(config, "slots")
    free = batch["audio_start"][0] < 0
    assert free.any()
    other = dict(batch, audio=batch["audio"].copy())
    other["audio"][0, free] = 1e3
    key = jax.random.key(1)
    first, second = (run(model, current, b, optax.sgd(1.0), key)[0] for b in (batch, other))
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=1e-6, err_msg=name)


def test_schedule_warms_up_linearly_and_ends_at_a_tenth():
    config = small_config()
    settings = config.stages["1"]
    rate = schedule(settings, 100)
    assert float(rate(0)) == 0.0
    assert float(rate(5)) == pytest.approx(settings.learning_rate / 2, rel=1e-4)
    assert float(rate(10)) == pytest.approx(settings.learning_rate, rel=1e-4)
    assert float(rate(55)) == pytest.approx(settings.learning_rate * (0.1 + 0.9 * 0.5), rel=1e-3)
    assert float(rate(100)) == pytest.approx(settings.learning_rate * 0.1, rel=1e-4)


def test_decay_takes_matrices_and_spares_norms_and_biases():
    """With a gradient of zero only decay moves anything: vectors, stacked over layers or not, must stay."""
    config = sub(small_config(), "optim", weight_decay=0.5)
    model = make_model(config)
    settings = config.stages["0"]
    for number in (0, 4):
        _, trainable, _ = split(model, stage(number, config))
        tx = optimizer(config.optim, settings, 10)
        state = tx.init(trainable)
        zeros = jax.tree.map(jnp.zeros_like, trainable)
        _, state = tx.update(zeros, state, trainable)  # the warm-up starts at 0
        updates, _ = tx.update(zeros, state, trainable)
        moved = {name for name, value in leaves(updates).items() if np.any(value)}
        names = set(leaves(trainable))
        vectors = {n for n in names if n.endswith(("bias", "scale", "norm", "gain"))}
        assert vectors and not moved & vectors, sorted(moved & vectors)[:5]
        assert {n for n in names if n.endswith(("kernel", "embedding", "lora_a"))} <= moved


def test_clipping_bounds_the_gradient_not_the_loss():
    config = small_config()
    tx = optax.chain(optax.clip_by_global_norm(config.optim.clip_norm))
    big = {"a": jnp.full(4, 30.0)}
    clipped, _ = tx.update(big, tx.init(big))
    assert float(optax.global_norm(clipped)) == pytest.approx(1.0, rel=1e-5)
    assert losses.overall(0.2, 0.3, 0.0)["emp"] == 1.0
