"""Section 5's losses, one function an equation.

Each function returns sums over valid elements, and `counts` how many elements each of them has. The step divides once,
over all its micro-batches and all hosts, so a loss is a mean that does not depend on lengths.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from empatheia_jax.data.batches.batch import LABELS, Batch
from empatheia_jax.model.shapes import Array, Bool, Float, Int
from empatheia_jax.training.target_nll import LogitsFunction, target_nll

Terms = dict[str, Float[Array, ""]]  # term -> sum, float32


def empathetic_nll(
    hidden: Float[Array, "B T D"],
    compute_logits: LogitsFunction,
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    label_mask: Bool[Array, "B T"],
    row_targets: int,
    frozen_head: bool = False,
) -> Terms:
    """Eq. 8, L_emp: negative log-likelihood of the target tokens; also of those alone that name a label.

    Only the positions that carry loss pass the lm-head, row by row, so B * T * V is never materialised.

    Args:
      hidden: states after the final norm.
      compute_logits: [..., D] -> float32 [..., V].
      targets: the token that follows each position.
      mask: positions that carry loss.
      label_mask: positions within `mask` whose target names a label.
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


def _masked_square(
    prediction: Float[Array, "*shape C"], gold: Float[Array, "*shape C"], mask: Bool[Array, "*shape"]
) -> Float[Array, ""]:
    """Return the sum over valid positions of the squared error's mean over the last axis."""
    error = jnp.mean(jnp.square(prediction - gold), axis=-1)
    return jnp.sum(jnp.where(mask, error, 0.0))


def content_consistency(
    contents: Mapping[str, Float[Array, "K _ _"]],
    golds: Mapping[str, Float[Array, "..."]],
    masks: Mapping[str, Bool[Array, "..."]],
) -> Terms:
    """Eq. 9, L_ccl: C_speech and C_video against the generators' own encodings.

    Args:
      contents: "content_speech" float32 [K, P, Cs] and "content_video" [K, F, Cv].
      golds: the same by name, float (`Batch.golds`).
      masks: bool [K, P] and [K, F], where there is a gold value (`Batch.gold_masks`).

    Returns:
      Sums over phonemes and over frames of the squared error, a mean over dimensions (the paper's norm is a sum).
    """
    return {name: _masked_square(content, golds[name], masks[name]) for name, content in contents.items()}


def style_alignment(
    styles: Mapping[str, Float[Array, "K _"]],
    golds: Mapping[str, Float[Array, "..."]],
    masks: Mapping[str, Bool[Array, "..."]],
) -> Terms:
    """Eq. 10, L_sal: S_speech and S_video against the styles of the gold recording and video.

    Args:
      styles: "style_speech" float32 [K, Ss] and "style_video" [K, Sv].
      golds: the same by name, float (`Batch.golds`).
      masks: bool [K], where there is a gold value (`Batch.gold_masks`).

    Returns:
      Sums over Examples of the squared error, a mean over dimensions.
    """
    return {name: _masked_square(style, golds[name], masks[name]) for name, style in styles.items()}


def classification(logits: Mapping[str, Float[Array, "K _"]], labels: Mapping[str, Int[Array, " K"]]) -> Terms:
    """Eq. 11, L_cls (the paper omits the minus sign): cross-entropy of emotion, age, gender, timbre.

    Args:
      logits: by name, over its classes.
      labels: by name, negative where not known.

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
    return dict.fromkeys(("style_speech", "style_video", *LABELS), scale)


def empathetic_weights(label_weight: float) -> dict[str, float]:
    """Weights of the terms of L_emp (Eq. 8), plus `label_weight` times the mean over tokens that name a label."""
    return {"emp": 1.0} | ({"label_words": label_weight} if label_weight else {})


def overall_weights(alpha: float, beta: float, kl_weight: float, label_weight: float = 0.0) -> dict[str, float]:
    """Weights of the terms of L_oal = L_emp + alpha L_ccl + beta L_sac (Eq. 13), KL inside L_ccl and L_sac."""
    ccl = {"content_speech": alpha, "content_video": alpha, "kl_content": alpha * kl_weight}
    sac = style_alignment_and_consistency_weights(beta) | {"kl_style": beta * kl_weight}
    return empathetic_weights(label_weight) | ccl | sac


def counts(batch: Batch[jax.Array]) -> Terms:
    """Return how many elements each term is a mean over, float32 []: known from the masks alone, before the gradient.

    Args:
      batch: one micro-batch.
    """
    masks = {
        "emp": batch.target_mask,
        "label_words": batch.label_mask,
        **batch.gold_masks,
        "kl_content": batch.response_index >= 0,
        "kl_style": batch.example_id >= 0,
        **{name: label >= 0 for name, label in batch.labels.items()},
    }
    sums = {name: jnp.sum(mask).astype(jnp.float32) for name, mask in masks.items()}
    sums["token_accuracy"], sums["label_words_accuracy"] = sums["emp"], sums["label_words"]
    return sums | {f"{name}_accuracy": sums[name] for name in batch.labels}
