"""Explained variance of the latents: how well they predict the generators' own features (Eqs. 9, 10)."""

import jax
import numpy as np
from flax import nnx

from empatheia_jax.data.batches.batch import Batch
from empatheia_jax.data.batches.builder import BatchBuilder
from empatheia_jax.data.batches.pipeline import evaluation_batches
from empatheia_jax.model.empatheia import read_signals
from empatheia_jax.model.sharding import on_mesh
from empatheia_jax.runtime.precision import float32_products

TARGETS = ("content_speech", "content_video", "style_speech", "style_video")


def make_predictor(graphdef: nnx.GraphDef, mesh: jax.sharding.Mesh | None = None):
    """Return a compiled (state, batch) -> predictions of `TARGETS` at the latents' means, with teacher forcing.

    They are float32, by name: [K, P, content_dim], [K, F, content_dim], [K, style_dim], [K, style_dim].

    Args:
      graphdef: of the model.
      mesh: that its parameters lie on; None: on one device.
    """

    @jax.jit
    def predict(state: nnx.State, batch: Batch[jax.Array]) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, state)
        signals = read_signals(model.hidden(batch), batch.response_index, batch.signal_index)
        with float32_products():
            latents = model.latents(
                signals,
                phonemes=batch.phonemes,
                phoneme_frames=batch.phoneme_frames,
                video_frames=batch.video_frames,
                frames=batch.gold_content_video.shape[1],
            )
        return latents.contents | latents.styles

    def predict_on_mesh(state: nnx.State, batch) -> dict[str, jax.Array]:
        with on_mesh(mesh):
            return predict(state, batch)

    return predict_on_mesh


def training_means(rows: BatchBuilder) -> dict[str, np.ndarray]:
    """Return the mean of each target's dimensions over the training Examples: the baseline of explained variance."""
    sums, counts = {}, {}
    for batch in evaluation_batches(rows):
        golds = batch.golds
        for name, mask in batch.gold_masks.items():
            gold = golds[name][mask]
            sums[name] = sums.get(name, 0.0) + gold.sum(axis=0, dtype=np.float64)
            counts[name] = counts.get(name, 0) + len(gold)
    return {name: sums[name] / max(counts[name], 1) for name in sums}


def explained_variance(
    predict, state, rows: BatchBuilder, means: dict[str, np.ndarray], *, nearest_phoneme=None
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
    errors: dict[str, float] = dict.fromkeys(TARGETS, 0.0)
    totals: dict[str, float] = dict.fromkeys(TARGETS, 0.0)
    correct = total = 0
    for batch in evaluation_batches(rows):
        predicted = jax.device_get(predict(state, batch))
        golds = batch.golds
        for name, mask in batch.gold_masks.items():
            gold = golds[name][mask]
            errors[name] += float(np.square(predicted[name][mask] - gold).sum(dtype=np.float64))
            totals[name] += float(np.square(gold - means[name]).sum(dtype=np.float64))
        if nearest_phoneme is not None:
            mask = batch.phonemes >= 0
            nearest = nearest_phoneme(predicted["content_speech"][mask])
            correct, total = correct + int(np.sum(nearest == batch.phonemes[mask])), total + int(mask.sum())
    shares = {name: 1.0 - errors[name] / totals[name] for name in TARGETS if totals[name] > 0}
    return shares | ({"nearest_phoneme": correct / total} if total else {})
