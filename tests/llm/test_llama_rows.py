"""Packed rows, remat, parameter metadata, precision of the Llama (its numbers are judged in tests/parity)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

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
    alone = np.zeros((6, 21), int)  # the six Examples, one a row, padded on the right
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


@pytest.fixture(scope="module")
def gradients(with_config, seed):
    """Callable(remat) -> (jaxpr of the gradient of the adapters, callable for its value)."""
    tokens, positions, ids = pack(np.random.default_rng(seed), 61)

    def make(remat):
        graphdef, adapters, frozen = nnx.split(with_config(remat=remat), nnx.LoRAParam, ...)

        def loss(adapters, frozen):
            llm = nnx.merge(graphdef, adapters, frozen)
            hidden, _ = llm(llm.embed(tokens), positions, segment_ids=ids, dropout_key=jax.random.key(seed))
            return jnp.sum(jnp.sin(llm.logits(hidden)))

        gradient = jax.grad(loss)
        return jax.make_jaxpr(gradient)(adapters, frozen), lambda: jax.tree.leaves(jax.jit(gradient)(adapters, frozen))

    return make


def matmul_flops(jaxpr) -> int:
    """2 M N K of every dot_general, those inside a scan as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        for inner in jaxprs_in_params(equation.params):
            total += matmul_flops(inner) * equation.params.get("length", 1)
    return total


@pytest.mark.slow
def test_remat_changes_the_cost_not_the_gradient(gradients):
    results = {remat: gradients(remat) for remat in ("none", "lora", "full")}
    for ours, plain in zip(results["lora"][1](), results["none"][1](), strict=True):  # the same dropout masks, too
        np.testing.assert_allclose(ours, plain, atol=1e-4 * np.abs(plain).max())
    flops = {remat: matmul_flops(jaxpr.jaxpr) for remat, (jaxpr, _) in results.items()}
    config = LlamaConfig(width=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=48)
    frozen = 2 * 64 * config.layers * config.width * (2 * 32 + 2 * 16 + 3 * 48)  # one pass over the frozen kernels
    assert flops["full"] - flops["none"] > 0.6 * frozen  # everything but what the last sum needs is done twice
    assert flops["lora"] - flops["none"] < 0.4 * frozen  # logits and the adapters' low side only


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
