"""The VAE block, content synchronizer and style disentangler: KL term, padding, sampling, which input affects what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.latents.content_synchronizer import ContentSynchronizer
from empatheia_jax.latents.vae import Latent, VaeBlock
from empatheia_jax.model.layers import Attention, LayerNorm, sinusoid
from empatheia_jax.testing.tiny import FAST, WIDTHS, make_model, small_config

CONFIG = small_config()
WIDTH = CONFIG.latents.width


@pytest.fixture(scope="module")
def model():
    return make_model(CONFIG)


def outputs(block: VaeBlock, *args):
    """Return (output, mean, log-variance) of a block, compiled."""
    graphdef, state = nnx.split(block)

    def run(state, args):
        latent = nnx.merge(graphdef, state)(*args)
        return latent.output, latent.mean, latent.log_variance

    return jax.jit(run, compiler_options=FAST)(state, args)


def test_kl_is_the_integral_of_the_log_ratio(seed):
    """Monte Carlo over the posterior: E_q[log q - log p], a mean per dimension."""
    rng = np.random.default_rng(seed)
    mean, log_variance = rng.normal(size=(1, 1, 3)), rng.uniform(-2, 1, (1, 1, 3))
    draws = mean[0, 0] + np.exp(0.5 * log_variance[0, 0]) * rng.normal(size=(400_000, 3))
    log_q = -0.5 * (np.log(2 * np.pi) + log_variance[0, 0] + (draws - mean[0, 0]) ** 2 / np.exp(log_variance[0, 0]))
    log_p = -0.5 * (np.log(2 * np.pi) + draws**2)
    expected = (log_q - log_p).mean()
    kl = Latent(jnp.zeros((1, 1, 3)), jnp.asarray(mean), jnp.asarray(log_variance)).kl()
    np.testing.assert_allclose(kl, [[expected]], rtol=0.01)
    np.testing.assert_allclose(Latent(*jnp.zeros((3, 2, 5, 4))).kl(), 0.0, atol=1e-7)


def test_padding_of_inputs_and_queries_never_changes_valid_outputs(model, seed):
    rng = np.random.default_rng(seed)
    inputs, queries = rng.normal(size=(2, 7, WIDTH)), rng.normal(size=(2, 6, WIDTH))
    input_mask = np.arange(7) < np.array([[4], [7]])
    query_mask = np.arange(6) < np.array([[6], [2]])
    block = model.content_synchronizer.speech
    first = outputs(block, inputs, input_mask, queries, query_mask)
    changed = outputs(
        block,
        np.where(input_mask[..., None], inputs, 50.0),
        input_mask,
        np.where(query_mask[..., None], queries, -50.0),
        query_mask,
    )
    for a, b, mask in zip(first, changed, (query_mask, input_mask, input_mask), strict=True):
        np.testing.assert_allclose(np.asarray(a)[mask], np.asarray(b)[mask], atol=1e-5)
    # The same Example with less padding.
    alone = outputs(block, inputs[:1, :4], input_mask[:1, :4], queries[:1], query_mask[:1])
    np.testing.assert_allclose(np.asarray(alone[0])[0], np.asarray(first[0])[0], atol=1e-5)


def test_a_row_without_anything_is_finite(model):
    no_positions = np.zeros((1, 4), bool)
    ones = np.ones((1, 4, WIDTH))
    for array in outputs(model.content_synchronizer.speech, ones, no_positions, ones, no_positions):
        assert np.isfinite(np.asarray(array)).all()


def test_sampling_follows_the_posterior_and_the_mean_needs_no_key(model):
    """Same key, same draw; other key, other draw; and z spreads about the mean as the log-variance says."""
    synchronizer = model.content_synchronizer
    r_t, mask = np.random.default_rng(0).normal(size=(1, 5, CONFIG.llm.width)), np.ones((1, 5), bool)
    phonemes = np.array([[0, 50, 60, -1]])
    graphdef, state = nnx.split(synchronizer)

    @jax.jit
    def speech(state, key):
        return nnx.merge(graphdef, state).speech_content(r_t, mask, phonemes, key)[0]

    first, same, other = (speech(state, jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def test_speech_content_depends_on_the_phonemes_themselves(model, seed):
    """Exchanging a phoneme changes the content at its position; padding changes nothing."""
    synchronizer = model.content_synchronizer
    graphdef, state = nnx.split(synchronizer)
    rng = np.random.default_rng(seed)
    r_t, mask = rng.normal(size=(1, 5, CONFIG.llm.width)), np.arange(5)[None] < 4
    speech = jax.jit(lambda phonemes, r: nnx.merge(graphdef, state).speech_content(r, mask, phonemes)[0][0])
    phonemes = np.array([[0, 50, 60, 70, -1, -1]])
    first = np.asarray(speech(phonemes, r_t))
    changed = np.asarray(speech(np.array([[0, 50, 99, 70, -1, -1]]), r_t))
    assert np.abs(first - changed)[2].max() > 1e-2
    padded = r_t.copy()
    padded[0, 4] = 30.0  # padding of the response
    np.testing.assert_allclose(np.asarray(speech(phonemes, padded))[:4], first[:4], atol=1e-5)
    assert first.shape == (6, WIDTHS.content_speech)


def test_video_content_does_not_depend_on_the_room_it_is_computed_in(model, seed):
    """More padding of phonemes or frames gives the same frames, because training and inference pad differently."""
    synchronizer = model.content_synchronizer
    graphdef, state = nnx.split(synchronizer)
    rng = np.random.default_rng(seed)
    r_t, mask = rng.normal(size=(1, 6, CONFIG.llm.width)), np.ones((1, 6), bool)
    phonemes, phoneme_frames = np.array([[0, 50, 60, 70]]), np.array([[2, 3, 0, 4]])
    count = np.array([6])  # 9 x 25 ms are 5.6 frames

    def video(phonemes, phoneme_frames, frames):
        synchronizer = nnx.merge(graphdef, state)
        content, _ = synchronizer.video_content(r_t, mask, phonemes, phoneme_frames, video_frames=count, frames=frames)
        return content[0, :6]

    video = jax.jit(video, static_argnums=2)
    tight = np.asarray(video(phonemes, phoneme_frames, 6))
    pad = lambda a, v: np.concatenate([a, np.full((1, 5), v)], 1)  # noqa: E731
    np.testing.assert_allclose(np.asarray(video(pad(phonemes, -1), pad(phoneme_frames, 0), 20)), tight, atol=1e-5)
    assert tight.shape == (6, WIDTHS.content_video)


@pytest.mark.parametrize("speech_only", [False, True])
def test_style_reads_each_modality_or_speech_alone(model, seed, speech_only):
    disentangler = model.style_disentangler
    graphdef, state = nnx.split(disentangler)
    latents = dataclasses.replace(CONFIG.latents, sd_input="speech_only" if speech_only else "per_modality")
    rng = np.random.default_rng(seed)
    r_s, r_v, other = rng.normal(size=(3, 2, 16, CONFIG.llm.width))

    @jax.jit
    def style(r_s, r_v):
        module = nnx.merge(graphdef, state)
        module.config = latents
        output = module(r_s, r_v)
        return output.speech, output.video, output.logits, output.kl

    base, face_changed, voice_changed = style(r_s, r_v), style(r_s, other), style(other, r_v)
    moved = [not np.allclose(a, b, atol=1e-5) for a, b in zip(base[:2], face_changed[:2], strict=True)]
    assert moved == ([False, False] if speech_only else [False, True])
    moved = [not np.allclose(a, b, atol=1e-5) for a, b in zip(base[:2], voice_changed[:2], strict=True)]
    assert moved == ([True, True] if speech_only else [True, False])
    labels_moved = any(not np.allclose(base[2][name], face_changed[2][name], atol=1e-5) for name in base[2])
    assert labels_moved != speech_only  # labels are read from both, fused
    classes = {name: value.shape[-1] for name, value in base[2].items()}
    assert classes == {"emotion": 7, "age": 4, "gender": 2, "timbre": 3}
    assert base[0].shape == (2, WIDTHS.style_speech) and base[1].shape == (2, WIDTHS.style_video)
    # An Example does not depend on its neighbour in the batch.
    alone = style(r_s[:1], r_v[:1])
    np.testing.assert_allclose(alone[0], base[0][:1], atol=1e-5)


def test_layers_agree_with_torch(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    attention = Attention(8, 2, rngs=nnx.Rngs(seed))
    torch_attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    q, kv, mask = rng.normal(size=(2, 3, 8)), rng.normal(size=(2, 5, 8)), np.arange(5) < np.array([[5], [2]])
    as_torch = lambda x: torch.tensor(np.asarray(x), dtype=torch.float32)  # noqa: E731
    with torch.no_grad():
        parts = (attention.query, attention.key, attention.value)
        torch_attention.in_proj_weight[:] = torch.cat([as_torch(p.kernel[...]).T for p in parts])
        torch_attention.in_proj_bias[:] = torch.cat([as_torch(p.bias[...]) for p in parts])
        torch_attention.out_proj.weight[:] = as_torch(attention.out.kernel[...]).T
        expected, _ = torch_attention(as_torch(q), as_torch(kv), as_torch(kv), key_padding_mask=torch.tensor(~mask))
    attended = attention(jnp.asarray(q, jnp.float32), jnp.asarray(kv, jnp.float32), jnp.asarray(mask))
    np.testing.assert_allclose(attended, expected.numpy(), atol=1e-5)
    norm = torch.nn.functional.layer_norm(as_torch(q), (8,))
    np.testing.assert_allclose(LayerNorm((8,), "latent")(jnp.asarray(q, jnp.float32)), norm.numpy(), atol=1e-5)


def test_sinusoid_tells_positions_apart():
    code = np.asarray(sinusoid(jnp.arange(200.0), 16))
    assert code.shape == (200, 16)
    distance = np.linalg.norm(code[:, None] - code[None], axis=-1) + 9 * np.eye(200)
    assert distance.min() > 0.1
    np.testing.assert_allclose(code[:, 0], np.sin(np.arange(200.0)), atol=1e-4)


def test_position_queries_ignore_which_phoneme():
    latents = dataclasses.replace(CONFIG.latents, content_query="position")

    def create():
        return ContentSynchronizer(latents, 32, 178, speech_dim=7, video_dim=3, rngs=nnx.Rngs(0))

    graphdef, _ = nnx.split(nnx.eval_shape(create))
    state = jax.jit(lambda: nnx.split(create())[1])()
    r_t = np.random.default_rng(0).normal(size=(1, 4, 32))
    speech = jax.jit(lambda p: nnx.merge(graphdef, state).speech_content(r_t, np.ones((1, 4), bool), p)[0])
    np.testing.assert_array_equal(speech(np.array([[0, 50]])), speech(np.array([[0, 99]])))
