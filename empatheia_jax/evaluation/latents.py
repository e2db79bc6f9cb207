"""How much of the generators' own features the latents explain (Eqs. 9, 10 on held-out dialogues)."""

import jax
import numpy as np
from flax import nnx

from empatheia_jax.data.pipeline import evaluation_batches
from empatheia_jax.data.rows import Rows
from empatheia_jax.empatheia import read_signals

TARGETS = ("content_speech", "content_video", "style_speech", "style_video")


def predictor(graphdef: nnx.GraphDef):
    """Compiled (state, batch) -> the four predictions at the latents' means, gold text given (teacher forcing).

    Predictions by name of `TARGETS`, float32: [K, P, content_dim], [K, F, content_dim], [K, style_dim] twice.
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
            batch["video_frames"],
            frames,
        )
        style = model.style_disentangler(signals.speech, signals.video)
        return {
            "content_speech": speech,
            "content_video": video,
            "style_speech": style.speech,
            "style_video": style.video,
        }

    return predict


def masks(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Where each target is gold: bool [K, P], [K, F], [K], [K]."""
    frames = batch["gold_content_video"].shape[1]
    return {
        "content_speech": batch["phonemes"] >= 0,
        "content_video": np.arange(frames) < batch["video_frames"][:, None],
        "style_speech": batch["has_style_speech"],
        "style_video": batch["has_style_video"],
    }


def training_means(rows: Rows) -> dict[str, np.ndarray]:
    """Mean of each target's dimensions over the training Examples: what explained variance is measured against."""
    sums, counts = {}, {}
    for batch in evaluation_batches(rows):
        for name, mask in masks(batch).items():
            gold = batch[f"gold_{name}"][mask]
            sums[name] = sums.get(name, 0.0) + gold.sum(axis=0, dtype=np.float64)
            counts[name] = counts.get(name, 0) + len(gold)
    return {name: sums[name] / max(counts[name], 1) for name in sums}


def explained(predict, state, rows: Rows, means: dict[str, np.ndarray], nearest_phoneme=None) -> dict[str, float]:
    """Share of variance explained against the training mean, 1 - SSE / SST over all dimensions, of each target.

    Args:
      predict: from `predictor`. means: from `training_means`.
      nearest_phoneme: content [n, content_dim] -> symbol ids int32 [n]; adds "nearest_phoneme", the share of positions
        whose C_speech is nearest to the right symbol.
    Returns:
      share of each target that varies at all, at most 1; 0 is no better than the mean.
    """
    errors = dict.fromkeys(TARGETS, 0.0)
    totals = dict.fromkeys(TARGETS, 0.0)
    right = asked = 0
    for batch in evaluation_batches(rows):
        predicted = jax.device_get(predict(state, batch))
        for name, mask in masks(batch).items():
            gold = batch[f"gold_{name}"][mask]
            errors[name] += float(np.square(predicted[name][mask] - gold).sum(dtype=np.float64))
            totals[name] += float(np.square(gold - means[name]).sum(dtype=np.float64))
        if nearest_phoneme is not None:
            mask = batch["phonemes"] >= 0
            heard = nearest_phoneme(predicted["content_speech"][mask])
            right, asked = right + int(np.sum(heard == batch["phonemes"][mask])), asked + int(mask.sum())
    shares = {name: 1.0 - errors[name] / totals[name] for name in TARGETS if totals[name] > 0}
    return shares | ({"nearest_phoneme": right / asked} if asked else {})
