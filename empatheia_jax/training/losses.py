"""Section 5's losses, one function an equation.

Each function returns the sum of every term, and `counts` returns what to divide it by: the division comes once, over
the accumulated step and all hosts. A loss is a mean over valid elements, so it does not depend on lengths.
"""

import jax
import jax.numpy as jnp
import optax

from empatheia_jax.latents.style_disentangler import Style
from empatheia_jax.training.target_nll import LogitsFunction, target_nll

Terms = dict[str, jax.Array]  # term -> sum, float32 []
PROFILE_TERMS = ("age", "gender", "timbre")


def empathetic_nll(
    hidden: jax.Array,
    compute_logits: LogitsFunction,
    targets: jax.Array,
    mask: jax.Array,
    *,
    label_mask: jax.Array,
    row_targets: int,
    frozen_head: bool = False,
) -> Terms:
    """Eq. 8, L_emp: negative log-likelihood of the target tokens; also of those alone that name a label.

    Only the positions that carry loss pass the lm-head, row by row, so B * T * V is never materialised.

    Args:
      hidden: float [B, T, D], states after the final norm.
      compute_logits: [..., D] -> float32 [..., V].
      targets: int32 [B, T].
      mask: bool [B, T], positions that carry loss.
      label_mask: bool [B, T], positions within `mask` whose target names a label.
      row_targets: most masked positions of a row, static.
      frozen_head: whether no parameter of `compute_logits` is differentiated; its products are then computed once.

    Returns:
      {"emp": sum over tokens, "token_accuracy": number of correct arg-maxes}, and "label_words",
      "label_words_accuracy", the same over tokens that name a label.
    """

    def row_terms(hidden, targets, mask, label_mask):  # [T, D], [T], [T], [T]
        (positions,) = jnp.nonzero(mask, size=row_targets, fill_value=0)
        valid = jnp.arange(row_targets) < jnp.sum(mask)
        nll, correct = target_nll(hidden[positions], targets[positions], compute_logits, frozen_head)
        correct = valid & correct
        is_label = valid & label_mask[positions]
        return {
            "emp": jnp.sum(jnp.where(valid, nll, 0.0)),
            "token_accuracy": jnp.sum(correct).astype(jnp.float32),
            "label_words": jnp.sum(jnp.where(is_label, nll, 0.0)),
            "label_words_accuracy": jnp.sum(is_label & correct).astype(jnp.float32),
        }

    arrays = (hidden, targets, mask, label_mask)
    if hidden.shape[0] == 1:
        return row_terms(*(array[0] for array in arrays))
    return jax.tree.map(jnp.sum, jax.vmap(row_terms)(*arrays))


def _masked_square(prediction: jax.Array, gold: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the sum over valid positions of the squared error's mean over the last axis."""
    error = jnp.mean(jnp.square(prediction - gold), axis=-1)
    return jnp.sum(jnp.where(mask, error, 0.0))


def content_consistency(
    speech: jax.Array,
    gold_speech: jax.Array,
    speech_mask: jax.Array,
    *,
    video: jax.Array,
    gold_video: jax.Array,
    video_mask: jax.Array,
) -> Terms:
    """Eq. 9, L_ccl: C_speech and C_video against the generators' own encodings.

    Args:
      speech: float32 [K, P, content_dim], C_speech.
      gold_speech: float32 [K, P, content_dim].
      speech_mask: bool [K, P].
      video: float32 [K, F, content_dim], C_video.
      gold_video: float32 [K, F, content_dim].
      video_mask: bool [K, F].

    Returns:
      Sums over phonemes and over frames of the squared error, a mean over dimensions (the paper's norm is a sum).
    """
    return {
        "content_speech": _masked_square(speech, gold_speech, speech_mask),
        "content_video": _masked_square(video, gold_video, video_mask),
    }


def style_alignment(
    style: Style,
    *,
    gold_speech: jax.Array,
    has_speech: jax.Array,
    gold_video: jax.Array,
    has_video: jax.Array,
) -> Terms:
    """Eq. 10, L_sal: S_speech and S_video against the styles of the gold recording and video.

    Args:
      style: the disentangler's output.
      gold_speech: float32 [K, style_dim] of the speech generator.
      has_speech: bool [K], which Examples have a gold speech style.
      gold_video: float32 [K, style_dim] of the face generator.
      has_video: bool [K], which Examples have a gold video style.

    Returns:
      Sums over Examples of the squared error, a mean over dimensions.
    """
    return {
        "style_speech": _masked_square(style.speech, gold_speech, has_speech),
        "style_video": _masked_square(style.video, gold_video, has_video),
    }


def classification(logits: dict[str, jax.Array], labels: dict[str, jax.Array]) -> Terms:
    """Eq. 11, L_cls (the paper omits the minus sign): cross-entropy of emotion, age, gender, timbre.

    Args:
      logits: name -> float32 [K, classes].
      labels: name -> int32 [K], negative where not known.

    Returns:
      For each name the sum of cross-entropies over known labels; "<name>_accuracy", the number of correct arg-maxes.
    """
    terms = {}
    for name, values in logits.items():
        known = labels[name] >= 0
        nll = optax.softmax_cross_entropy_with_integer_labels(values, jnp.maximum(labels[name], 0))
        terms[name] = jnp.sum(jnp.where(known, nll, 0.0))
        correct = known & (jnp.argmax(values, -1) == labels[name])
        terms[f"{name}_accuracy"] = jnp.sum(correct).astype(jnp.float32)
    return terms


def style_alignment_and_consistency_weights(scale: float) -> dict[str, float]:
    """Weights of the terms of `scale` times L_sac = L_sal + L_cls (Eq. 12); Eq. 11 sums over four kinds of label."""
    return dict.fromkeys(("style_speech", "style_video", "emotion", *PROFILE_TERMS), scale)


def empathetic_weights(label_weight: float) -> dict[str, float]:
    """Weights of the terms of L_emp (Eq. 8), plus `label_weight` times the mean over tokens that name a label."""
    return {"emp": 1.0} | ({"label_words": label_weight} if label_weight else {})


def overall_weights(alpha: float, beta: float, kl_weight: float, label_weight: float = 0.0) -> dict[str, float]:
    """Weights of the terms of L_oal = L_emp + alpha L_ccl + beta L_sac (Eq. 13), KL inside L_ccl and L_sac."""
    ccl = {"content_speech": alpha, "content_video": alpha, "kl_content": alpha * kl_weight}
    sac = style_alignment_and_consistency_weights(beta) | {"kl_style": beta * kl_weight}
    return empathetic_weights(label_weight) | ccl | sac


def counts(batch: dict[str, jax.Array]) -> Terms:
    """Return how many elements each term is a mean over, float32 []: known from the masks alone, before the gradient.

    Args:
      batch: the arrays of `schema.Batch`.
    """
    masks = {
        "emp": batch["target_mask"],
        "label_words": batch["label_mask"],
        "content_speech": batch["phonemes"] >= 0,
        "style_speech": batch["has_style_speech"],
        "style_video": batch["has_style_video"],
        "kl_content": batch["response_index"] >= 0,
        "kl_style": batch["example_id"] >= 0,
        **{name: batch[name] >= 0 for name in ("emotion", *PROFILE_TERMS)},
    }
    sums = {name: jnp.sum(mask).astype(jnp.float32) for name, mask in masks.items()}
    sums["content_video"] = jnp.sum(batch["video_frames"]).astype(jnp.float32)
    sums["token_accuracy"], sums["label_words_accuracy"] = sums["emp"], sums["label_words"]
    for name in ("emotion", *PROFILE_TERMS):
        sums[f"{name}_accuracy"] = sums[name]
    return sums
