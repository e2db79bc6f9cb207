"""Whitening: its outputs are centred, of equal variance in every direction above the floor, and of one norm."""

import jax.numpy as jnp
import numpy as np

from empatheia_jax.data.prompts.tokenizer import SIGNALS
from empatheia_jax.latents.whitening import FLOOR, Whitening, fit


def states(count=400, width=12):
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(width, width)) * np.geomspace(1.0, 0.3, width)
    shift = rng.normal(size=(2, 1, SIGNALS, width))
    return (rng.normal(size=(2, count, SIGNALS, width)) @ mixing + 3 * shift).astype(np.float32)


def test_fitted_states_are_centred_and_white():
    speech, video = states()
    fitted = fit(speech, video)
    centred = np.stack([speech, video]) - fitted["shift"][:, None]
    white = (centred @ fitted["kernel"]).reshape(-1, speech.shape[-1])
    np.testing.assert_allclose(centred.mean(axis=1), 0.0, atol=1e-4)
    before = np.linalg.eigvalsh(np.cov(centred.reshape(-1, speech.shape[-1]).T, bias=True))
    after = np.linalg.eigvalsh(white.T @ white / len(white))
    assert before.max() / before.min() > 20
    np.testing.assert_allclose(after, before / (before + FLOOR * before.max()), rtol=1e-3, atol=1e-4)


def test_every_token_leaves_with_the_same_size():
    speech, video = states()
    module = Whitening(speech.shape[-1])
    for name, value in fit(speech, video).items():
        getattr(module, name)[...] = jnp.asarray(value)
    for out in module(jnp.asarray(speech), jnp.asarray(video)):
        np.testing.assert_allclose(np.mean(np.square(out), axis=-1), 1.0, atol=0.05)
