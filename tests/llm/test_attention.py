"""Attention against a plain float64 softmax in numpy; splash's kernel (interpreted) against the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from empatheia_jax.llm.attention import AttentionError, attend, attend_cached, packed_mask, rotary_angles, rotate
from empatheia_jax.llm.block_attention import spans


def reference(query, key, value, mask):
    """Loop over batch and heads: softmax(q k / sqrt d) v where mask [B, T, S], float64."""
    out = np.zeros(query.shape)
    group = query.shape[2] // key.shape[2]
    for row in range(query.shape[0]):
        for head in range(query.shape[2]):
            keys, values = (
                key[row, :, head // group].astype(np.float64),
                value[row, :, head // group].astype(np.float64),
            )
            logits = query[row, :, head] @ keys.T / np.sqrt(query.shape[-1])
            logits = np.where(mask[row], logits, -np.inf)
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            out[row, :, head] = weights / weights.sum(-1, keepdims=True) @ values
    return out


def draw(seed, length, *, head_dim=8, keys=None):
    """Query of 4 heads, key and value of 2, for a batch of 2."""
    rng = np.random.default_rng(seed)
    shapes = [(2, length, 4), (2, keys or length, 2), (2, keys or length, 2)]
    return [rng.normal(size=(*shape, head_dim)).astype(np.float32) * 2 for shape in shapes]


def segments(length):
    """Three Examples and padding; one Example and no padding."""
    cuts = np.array([0.3, 0.55, 0.9]) * length
    return np.stack([np.searchsorted(cuts, np.arange(length), side="right") + 1, np.ones(length, int)]) % 4


@pytest.mark.parametrize("length", [1, 37, 128, 300])  # below, at and across the block size
@pytest.mark.parametrize("packed", [False, True])
def test_rows(seed, length, packed):
    query, key, value = draw(seed, length)
    ids = segments(length) if packed else np.ones((2, length), int)
    mask = np.tril(np.ones((length, length), bool)) & (ids[:, :, None] == ids[:, None, :])
    attend_xla = jax.jit(functools.partial(attend, implementation="xla"))
    output = attend_xla(query, key, value, ids if packed else None)
    np.testing.assert_allclose(output, reference(query, key, value, mask), atol=2e-5)
    np.testing.assert_array_equal(packed_mask(ids)[:, 0], mask)


def reference_in_jax(query, key, value, mask):
    """A dense softmax for each head, for JAX to differentiate."""
    group = query.shape[2] // key.shape[2]
    keys, values = jnp.repeat(key, group, axis=2), jnp.repeat(value, group, axis=2)
    logits = jnp.einsum("bthd,bshd->bhts", query, keys) / np.sqrt(query.shape[-1])
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(jnp.where(mask[:, None], logits, -1e30)), values)


@pytest.mark.parametrize("length", [37, 300])
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_of_rows(seed, length, packed):
    """The custom backward pass against JAX's own, of a dense softmax."""
    arrays = draw(seed, length)
    weights = np.random.default_rng(seed + 1).normal(size=arrays[0].shape).astype(np.float32)
    ids = segments(length) if packed else np.ones((2, length), int)
    mask = np.tril(np.ones((length, length), bool)) & (ids[:, :, None] == ids[:, None, :])

    def loss(*arrays):
        return jnp.sum(weights * attend(*arrays, ids if packed else None, implementation="xla"))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)
    expected = jax.grad(lambda *a: jnp.sum(weights * reference_in_jax(*a, mask)), argnums=(0, 1, 2))(*arrays)
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


@pytest.mark.parametrize("length", [129, pytest.param(400, marks=pytest.mark.slow)])
def test_keys_further_back_than_the_longest_segment_are_not_read(seed, length):
    """The same numbers with fewer keys; a segment may be exactly as long as the bound, and padding longer."""
    query, key, value = draw(seed, length)
    ids = np.zeros((2, length), int)
    ids[0] = np.arange(length) // 90 + 1
    ids[1, :90] = 1  # the rest is padding
    unbounded = attend(query, key, value, ids, implementation="xla")
    bounded = attend(query, key, value, ids, implementation="xla", max_segment_length=90)
    np.testing.assert_allclose(bounded[0], unbounded[0], atol=1e-6)
    np.testing.assert_allclose(bounded[1, :90], unbounded[1, :90], atol=1e-6)
    area = {
        longest: sum((end - start) * (end - first) for first, start, end in spans(length, longest))
        for longest in (90, length)
    }
    assert length < 200 or area[90] < 0.75 * area[length]


def test_cached_queries_read_up_to_their_position(seed):
    query, key, value = draw(seed, 3, keys=20)
    positions = np.array([[4, 5, 6], [17, 18, 20]])  # 20 is padding: past the end of the cache
    mask = np.arange(20) <= positions[..., None]
    output = attend_cached(query, key, value, positions)
    np.testing.assert_allclose(output, reference(query, key, value, mask), atol=2e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_splash_agrees(seed, packed):
    query, key, value = draw(seed, 384, head_dim=128)  # three blocks of 128
    ids = segments(384) if packed else None
    expected = attend(query, key, value, ids, implementation="xla")
    np.testing.assert_allclose(attend(query, key, value, ids, implementation="splash"), expected, atol=2e-5)
    if packed:  # rows 0 and 1: segments of at most 0.35 and 1 of a row
        bounded = attend(query[:1], key[:1], value[:1], ids[:1], implementation="splash", max_segment_length=138)
        np.testing.assert_allclose(bounded, expected[:1], atol=2e-5)


def test_splash_refuses_odd_lengths(seed):
    with pytest.raises(AttentionError, match="multiple of 128"):
        attend(*draw(seed, 100), None, implementation="splash")


def test_rotation_depends_on_distance_only(seed):
    """<rotate(q, m), rotate(k, n)> is a function of m - n; position 0 is the identity; lengths are kept."""
    rng = np.random.default_rng(seed)
    query, key = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    frequencies = np.array([1.0, 0.3, 0.05, 0.001], np.float32)

    def rotate_to(x, position):
        return np.asarray(rotate(x, rotary_angles(np.array([[position]]), frequencies)))

    np.testing.assert_array_equal(rotate_to(query, 0), query)
    np.testing.assert_allclose(np.linalg.norm(rotate_to(query, 77)), np.linalg.norm(query), rtol=1e-5)
    products = [np.sum(rotate_to(query, start + 5) * rotate_to(key, start)) for start in (0, 11, 60)]
    np.testing.assert_allclose(products, products[0], atol=1e-4)
    assert abs(np.sum(rotate_to(query, 0) * rotate_to(key, 5)) - products[0]) > 1e-3  # and its sign matters
