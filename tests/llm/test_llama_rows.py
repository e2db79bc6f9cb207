"""Packed rows, parameter metadata, precision of the Llama (its numbers are checked in tests/parity)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.config import LlamaConfig, LoraConfig, RopeScaling
from empatheia_jax.llm.cache import empty_cache
from empatheia_jax.llm.llama import PROJECTIONS, Llama, rope_frequencies

LENGTHS = ((9, 14, 5), (21, 3, 6))


def pack(rng, vocab, total=32):
    """Rows of three Examples and padding: tokens, positions, segment ids [2, T]."""
    tokens, positions, ids = rng.integers(0, vocab, (2, total)), np.zeros((2, total), int), np.zeros((2, total), int)
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for segment, length in enumerate(lengths, 1):
            positions[row, start : start + length] = np.arange(length)
            ids[row, start : start + length] = segment
            start += length
    return tokens, positions, ids


def test_packed_equals_separate(llm, seed):
    tokens, positions, ids = pack(np.random.default_rng(seed), llm.config.vocab_size)
    packed = np.asarray(jax.jit(llm)(llm.embed(tokens), positions, segment_ids=ids)[0])
    alone = np.zeros((6, 21), int)  # the six Examples in rows of their own, padded on the right
    spans = [(row, ids[row] == segment) for row in range(2) for segment in (1, 2, 3)]
    for example, (row, span) in enumerate(spans):
        alone[example, : span.sum()] = tokens[row, span]
    separate = jax.jit(llm)(llm.embed(alone), jnp.broadcast_to(jnp.arange(21), (6, 21)))[0]
    for example, (row, span) in enumerate(spans):
        np.testing.assert_allclose(packed[row, span], separate[example, : span.sum()], atol=2e-5)


def test_a_token_moves_only_its_own_future(llm, seed):
    tokens, positions, ids = pack(np.random.default_rng(seed), llm.config.vocab_size)
    embeddings = llm.embed(tokens)
    run = jax.jit(lambda embeddings: llm(embeddings, positions, segment_ids=ids)[0])
    moved = np.abs(run(embeddings.at[0, 12].add(1.0)) - run(embeddings)).max(-1) > 0
    assert not moved[1].any()
    assert np.array_equal(np.flatnonzero(moved[0]), np.arange(12, 23))  # Example 2 of row 0 is 9..22


def test_logical_axes(llm):
    """Every Param names each of its axes, heads and mlp where they are, and the model was built without a mesh."""
    named = {path: param for path, param in nnx.to_flat_state(nnx.state(llm, nnx.Param))}
    sizes = {"vocab": 61, "embed": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp": 48, "lora_rank": 4, "layers": 2}
    for path, param in named.items():
        assert tuple(sizes[name] for name in param.get_metadata()["out_sharding"]) == param.shape, path
    assert {name for param in named.values() for name in param.get_metadata()["out_sharding"]} == set(sizes)


def test_abstract_vicuna_allocates_nothing():
    """Shapes of the full-size model, and its size: Llama 2 7B has 6 738 415 616 parameters."""
    abstract = nnx.eval_shape(lambda: Llama(LlamaConfig.vicuna_7b(), LoraConfig(), rngs=nnx.Rngs(0)))
    base = jax.tree.leaves(nnx.state(abstract, nnx.All(nnx.Param, nnx.Not(nnx.LoRAParam))))
    assert sum(math.prod(leaf.shape) for leaf in base) == 6_738_415_616
    adapters = jax.tree.leaves(nnx.state(abstract, nnx.LoRAParam))
    assert (
        sum(math.prod(leaf.shape) for leaf in adapters) == 32 * 4 * 2 * 16 * 4096
    )  # layers, targets, A and B, r, width
    assert {leaf.dtype for leaf in adapters} == {jnp.dtype("float32")}
    assert abstract.layers.q_proj.kernel.dtype == jnp.bfloat16


def test_bfloat16_compute(with_config, llm, seed):
    tokens = np.random.default_rng(seed).integers(0, 61, (2, 16))
    positions = jnp.broadcast_to(jnp.arange(16), (2, 16))

    @jax.jit
    def run(llm):
        hidden, _ = llm(llm.embed(tokens), positions)
        return hidden, llm.logits(hidden)

    hidden, logits = run(with_config(compute_dtype="bfloat16"))
    _, exact = run(llm)
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    assert np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def test_rows_or_cache_not_both(llm):
    ones = jnp.ones((1, 4), int)
    with pytest.raises(ValueError, match="not both"):
        llm(llm.embed(ones), ones, segment_ids=ones, cache=empty_cache(llm.config, 1, 8))


def test_llama3_scaling_spares_short_wavelengths():
    plain = rope_frequencies(64, 500000.0)
    scaled = rope_frequencies(64, 500000.0, RopeScaling("llama3", 8.0, 1.0, 4.0, 8192))
    wavelengths = 2 * math.pi / plain
    np.testing.assert_array_equal(scaled[wavelengths < 8192 / 4], plain[wavelengths < 8192 / 4])
    np.testing.assert_allclose(scaled[wavelengths > 8192], plain[wavelengths > 8192] / 8, rtol=1e-6)
    assert np.all(np.diff(scaled) < 0) and len(PROJECTIONS) == 7
