"""Remat policies: the same gradient, with the FLOPs and residuals that the table promises, counted in the jaxpr."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from test_llama_rows import pack

from empatheia_jax.config import LlamaConfig, LoraConfig
from empatheia_jax.llm.llama import Llama
from empatheia_jax.llm.remat import SAVED_NAMES, residual_bytes

POLICIES = ("none", *SAVED_NAMES)


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


def gradient_of(llm, tokens, positions, ids, *, key=None):
    """Return (gradient function of the adapters under some loss, its arguments)."""
    graphdef, adapters, frozen = nnx.split(llm, nnx.LoRAParam, ...)

    def loss(adapters, frozen):
        llm = nnx.merge(graphdef, adapters, frozen)
        hidden, _ = llm(llm.embed(tokens), positions, segment_ids=ids, dropout_key=key)
        return jnp.sum(jnp.sin(llm.logits(hidden)))

    return jax.grad(loss), (adapters, frozen)


@pytest.mark.slow
def test_the_same_gradient(with_config, seed):
    tokens, positions, ids = pack(np.random.default_rng(seed), 61)
    gradients = {}
    for policy in POLICIES:  # the same dropout masks, too
        gradient, arguments = gradient_of(with_config(remat=policy), tokens, positions, ids, key=jax.random.key(seed))
        gradients[policy] = jax.tree.leaves(jax.jit(gradient)(*arguments))
    for policy in SAVED_NAMES:
        for gradient, plain in zip(gradients[policy], gradients["none"], strict=True):
            np.testing.assert_allclose(gradient, plain, atol=1e-4 * np.abs(plain).max())


def traced(policy: str, **fields):
    """Return (jaxpr of the gradient, config, tokens) for a Llama of Vicuna's proportions; nothing is computed."""
    config = LlamaConfig(
        vocab_size=64, width=256, layers=3, heads=4, kv_heads=4, head_dim=64, mlp_width=688, remat=policy, **fields
    )
    llm = nnx.eval_shape(lambda: Llama(config, LoraConfig(rank=4, dropout=0.0), rngs=nnx.Rngs(0)))
    grid = jax.ShapeDtypeStruct((2, 384), jnp.int32)

    def gradient(adapters, frozen, *batch):
        return gradient_of(nnx.merge(graphdef, adapters, frozen), *batch)[0](adapters, frozen)

    graphdef, adapters, frozen = nnx.split(llm, nnx.LoRAParam, ...)
    return jax.make_jaxpr(gradient)(adapters, frozen, grid, grid, grid).jaxpr, config, 2 * 384


def scans(jaxpr):
    """Yield every scan of a jaxpr, in order."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        else:
            for inner in jaxprs_in_params(equation.params):
                yield from scans(inner)


@pytest.mark.parametrize("policy", POLICIES)
def test_residual_bytes(policy):
    """The stacked outputs of the forward scan are the residuals."""
    jaxpr, config, tokens = traced(policy, compute_dtype="bfloat16")
    forward = next(scan for scan in scans(jaxpr) if scan.params["length"] == config.layers)
    stacked = [v for v in forward.outvars if v.aval.shape[:1] == (config.layers,)]  # the carry has no layer axis
    # Weights that the backward pass reads again are stacked too; they are smaller than any array of all tokens.
    saved = sum(v.aval.size * v.aval.dtype.itemsize for v in stacked if v.aval.size >= config.layers * tokens)
    expected = config.layers * tokens * residual_bytes(config, 2)
    if policy == "none":
        assert saved > 1.5 * expected
    else:
        assert saved == expected


def test_the_cost_is_what_the_table_says():
    """Recomputed matmul FLOPs over those of one pass; adapters and attention are the same for all policies."""
    flops = {}
    for policy in POLICIES:
        jaxpr, config, tokens = traced(policy)
        flops[policy] = matmul_flops(jaxpr)
    weights = config.layers * config.width * (4 * config.width + 3 * config.mlp_width)
    recomputed = {policy: (cost - flops["none"]) / (tokens * weights) for policy, cost in flops.items()}
    assert recomputed["lora"] < 0.06  # the adapters' x A
    mlp = 2 * 2 * config.layers * config.width * config.mlp_width / weights  # gate and up
    assert mlp < recomputed["attention"] < mlp + 0.06
    assert recomputed["full"] > 1.2  # 1.58 for Vicuna: all but the last matmul and the attention
