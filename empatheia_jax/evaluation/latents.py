"""Explained variance of the latents: how well they predict the generators' own features (Eqs. 9, 10)."""

import jax
import numpy as np
from flax import nnx

from empatheia_jax.data.batches.pipeline import evaluation_batches
from empatheia_jax.data.batches.rows import Rows
from empatheia_jax.model.empatheia import read_signals

TARGETS = ("content_speech", "content_video", "style_speech", "style_video")


def make_predictor(graphdef: nnx.GraphDef):
    """Return a compiled (state, batch) -> predictions of `TARGETS` at the latents' means, with teacher forcing.

    They are float32, by name: [K, P, content_dim], [K, F, content_dim], [K, style_dim], [K, style_dim].
    """

    @jax.jit
    def predict(state, batch):
        model = nnx.merge(graphdef, state)
        signals = read_signals(model.hidden(batch), batch["response_index"], batch["signal_index"])
        synchronizer, frames = model.content_synchronizer, batch["gold_content_video"].shape[1]
        speech, _ = synchronizer.speech_content(signals.response, signals.response_mask, batch["phonemes"])
        video, _ = synchronizer.video_content(
            signals.response,
            signals.response_mask,
            batch["phonemes"],
            batch["phoneme_frames"],
            video_frames=batch["video_frames"],
            frames=frames,
        )
        style = model.style_disentangler(signals.speech, signals.video)
        return {
            "content_speech": speech,
            "content_video": video,
            "style_speech": style.speech,
            "style_video": style.video,
        }

    return predict


def target_masks(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return where each target has a gold value: bool [K, P], [K, F], [K], [K]."""
    frames = batch["gold_content_video"].shape[1]
    return {
        "content_speech": batch["phonemes"] >= 0,
        "content_video": np.arange(frames) < batch["video_frames"][:, None],
        "style_speech": batch["has_style_speech"],
        "style_video": batch["has_style_video"],
    }


def training_means(rows: Rows) -> dict[str, np.ndarray]:
    """Return the mean of each target's dimensions over the training Examples: the baseline of explained variance."""
    sums, counts = {}, {}
    for batch in evaluation_batches(rows):
        for name, mask in target_masks(batch).items():
            gold = batch[f"gold_{name}"][mask]
            sums[name] = sums.get(name, 0.0) + gold.sum(axis=0, dtype=np.float64)
            counts[name] = counts.get(name, 0) + len(gold)
    return {name: sums[name] / max(counts[name], 1) for name in sums}


def explained_variance(
    predict, state, rows: Rows, means: dict[str, np.ndarray], *, nearest_phoneme=None
) -> dict[str, float]:
    """Return each target's share of variance explained against the training mean: 1 - SSE / SST over all dimensions.

    Args:
      predict: from `make_predictor`.
      state: the model's parameters.
      rows: of the Examples to evaluate on.
      means: from `training_means`.
      nearest_phoneme: content [n, content_dim] -> symbol ids int32 [n]; adds "nearest_phoneme", the share of positions
        whose C_speech is nearest to the right symbol.

    Returns:
      The share for each target whose gold values vary, at most 1; 0 is no better than the mean.
    """
    errors = dict.fromkeys(TARGETS, 0.0)
    totals = dict.fromkeys(TARGETS, 0.0)
    correct = total = 0
    for batch in evaluation_batches(rows):
        predicted = jax.device_get(predict(state, batch))
        for name, mask in target_masks(batch).items():
            gold = batch[f"gold_{name}"][mask]
            errors[name] += float(np.square(predicted[name][mask] - gold).sum(dtype=np.float64))
            totals[name] += float(np.square(gold - means[name]).sum(dtype=np.float64))
        if nearest_phoneme is not None:
            mask = batch["phonemes"] >= 0
            nearest = nearest_phoneme(predicted["content_speech"][mask])
            correct, total = correct + int(np.sum(nearest == batch["phonemes"][mask])), total + int(mask.sum())
    shares = {name: 1.0 - errors[name] / totals[name] for name in TARGETS if totals[name] > 0}
    return shares | ({"nearest_phoneme": correct / total} if total else {})
