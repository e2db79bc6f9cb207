"""Section 5's losses, one function an equation. Each returns sums and counts, {term: (sum, count)}: the division comes
once, over the accumulated step and all hosts. A loss is a mean over valid elements, so it does not depend on lengths.
"""

import jax
import jax.numpy as jnp
import optax

from empatheia_jax.latents.style_disentangler import Style
from empatheia_jax.training.target_nll import LogitsOf, target_nll

Terms = dict[str, jax.Array]  # term -> sum, float32 []
PROFILE_TERMS = ("age", "gender", "timbre")


def empathetic_nll(
    hidden: jax.Array,
    logits_of: LogitsOf,
    targets: jax.Array,
    mask: jax.Array,
    label_mask: jax.Array,
    row_targets: int,
    frozen_head: bool = False,
) -> Terms:
    """Eq. 8, L_emp: negative log-likelihood of the target tokens; those that name a label also by themselves.

    Only the positions that carry loss pass the lm-head, row by row, so B * T * V is never materialised.

    Args:
      hidden: [B, T, D] after the final norm. logits_of: [..., D] -> float32 [..., V].
      targets: int32 [B, T]. mask: bool [B, T]. label_mask: bool [B, T], within `mask`.
      row_targets: most masked positions of a row, static.
      frozen_head: nothing that `logits_of` holds is differentiated: its products are then not done twice.
    Returns:
      {"emp": sum over tokens, "token_accuracy": number of right arg-maxes}, and "label_words",
      "label_words_accuracy", the same over tokens that name a label.
    """

    def row(hidden, targets, mask, label_mask):  # [T, D], [T], [T], [T]
        (where,) = jnp.nonzero(mask, size=row_targets, fill_value=0)
        valid = jnp.arange(row_targets) < jnp.sum(mask)
        nll, right = target_nll(hidden[where], targets[where], logits_of, frozen_head)
        right = valid & right
        names = valid & label_mask[where]
        return {
            "emp": jnp.sum(jnp.where(valid, nll, 0.0)),
            "token_accuracy": jnp.sum(right).astype(jnp.float32),
            "label_words": jnp.sum(jnp.where(names, nll, 0.0)),
            "label_words_accuracy": jnp.sum(names & right).astype(jnp.float32),
        }

    arrays = (hidden, targets, mask, label_mask)
    if hidden.shape[0] == 1:
        return row(*(array[0] for array in arrays))
    return jax.tree.map(jnp.sum, jax.vmap(row)(*arrays))


def _masked_square(prediction: jax.Array, gold: jax.Array, mask: jax.Array) -> jax.Array:
    """Sum over valid positions of the squared error's mean over the last axis."""
    error = jnp.mean(jnp.square(prediction - gold), axis=-1)
    return jnp.sum(jnp.where(mask, error, 0.0))


def content_consistency(speech, gold_speech, speech_mask, video, gold_video, video_mask) -> Terms:
    """Eq. 9, L_ccl: C_speech and C_video against the generators' own encodings.

    Args:
      speech, gold_speech: float32 [K, P, content_dim]. speech_mask: bool [K, P].
      video, gold_video: float32 [K, F, content_dim]. video_mask: bool [K, F].
    Returns:
      sums over phonemes and over frames of the squared error, a mean over dimensions (the paper's norm is a sum).
    """
    return {
        "content_speech": _masked_square(speech, gold_speech, speech_mask),
        "content_video": _masked_square(video, gold_video, video_mask),
    }


def style_alignment(style: Style, gold_speech, has_speech, gold_video, has_video) -> Terms:
    """Eq. 10, L_sal: S_speech and S_video against the styles of the gold recording and video.

    Args:
      gold_speech, gold_video: float32 [K, style_dim] of the speech and the face generator.
      has_speech, has_video: bool [K], which golds are there.
    Returns:
      sums over Examples of the squared error, a mean over dimensions.
    """
    return {
        "style_speech": _masked_square(style.speech, gold_speech, has_speech),
        "style_video": _masked_square(style.video, gold_video, has_video),
    }


def classification(logits: dict[str, jax.Array], labels: dict[str, jax.Array]) -> Terms:
    """Eq. 11, L_cls (the paper omits the minus sign): cross-entropy of emotion, age, gender, timbre.

    Args:
      logits: name -> [K, classes]. labels: name -> int32 [K], negative where not known.
    Returns:
      per name the sum of cross-entropies over known labels, and "<name>_accuracy", the number of right arg-maxes.
    """
    terms = {}
    for name, values in logits.items():
        known = labels[name] >= 0
        nll = optax.softmax_cross_entropy_with_integer_labels(values, jnp.maximum(labels[name], 0))
        terms[name] = jnp.sum(jnp.where(known, nll, 0.0))
        right = known & (jnp.argmax(values, -1) == labels[name])
        terms[f"{name}_accuracy"] = jnp.sum(right).astype(jnp.float32)
    return terms


def style_alignment_and_consistency(scale: float) -> dict[str, float]:
    """Eq. 12, L_sac = L_sal + L_cls, times `scale`, as weights of terms; Eq. 11 sums over its four kinds of label."""
    return dict.fromkeys(("style_speech", "style_video", "emotion", *PROFILE_TERMS), scale)


def empathetic(label_weight: float) -> dict[str, float]:
    """Eq. 8, L_emp, as weights of terms; `label_weight` times the mean over words that name a label is added."""
    return {"emp": 1.0} | ({"label_words": label_weight} if label_weight else {})


def overall(alpha: float, beta: float, kl_weight: float, label_weight: float = 0.0) -> dict[str, float]:
    """Eq. 13, L_oal = L_emp + alpha L_ccl + beta L_sac, KL inside L_ccl and L_sac, as weights of terms."""
    ccl = {"content_speech": alpha, "content_video": alpha, "kl_content": alpha * kl_weight}
    sac = style_alignment_and_consistency(beta) | {"kl_style": beta * kl_weight}
    return empathetic(label_weight) | ccl | sac


def counts(batch: dict[str, jax.Array]) -> Terms:
    """How many elements each term is a mean over: a function of the masks alone, so it is known before the gradient.

    `batch` holds the arrays of `schema.Batch`; every count is float32 [].
    """
    count = {
        "emp": batch["target_mask"],
        "label_words": batch["label_mask"],
        "content_speech": batch["phonemes"] >= 0,
        "style_speech": batch["has_style_speech"],
        "style_video": batch["has_style_video"],
        "kl_content": batch["response_index"] >= 0,
        "kl_style": batch["example_id"] >= 0,
        **{name: batch[name] >= 0 for name in ("emotion", *PROFILE_TERMS)},
    }
    sums = {name: jnp.sum(mask).astype(jnp.float32) for name, mask in count.items()}
    sums["content_video"] = jnp.sum(batch["video_frames"]).astype(jnp.float32)
    sums["token_accuracy"], sums["label_words_accuracy"] = sums["emp"], sums["label_words"]
    for name in ("emotion", *PROFILE_TERMS):
        sums[f"{name}_accuracy"] = sums[name]
    return sums
