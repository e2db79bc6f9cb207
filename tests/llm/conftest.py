"""A tiny Llama for the tests of the LLM: grouped queries, two layers, random weights far from zero."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.config import LlamaConfig, LoraConfig
from empatheia_jax.llm.llama import Llama


def small_config(**fields) -> LlamaConfig:
    config = LlamaConfig(
        vocab_size=61,
        width=32,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        mlp_width=48,
        max_length=256,
        compute_dtype="float32",
        param_dtype="float32",
        remat="none",
    )
    return dataclasses.replace(config, **fields)


def randomise(llm: Llama, seed: int) -> Llama:
    """Draw weights so large that every layer matters (a fresh model has 0.02) and adapters that are not zero."""
    rng = np.random.default_rng(seed)
    for path, param in nnx.to_flat_state(nnx.state(llm, nnx.Param)):
        norm = "norm" in str(path[-1])
        draw = rng.uniform(0.5, 1.5, param.shape) if norm else rng.normal(0.0, 0.16, param.shape)
        param.set_value(jnp.asarray(draw, jnp.float32))
    return llm


@pytest.fixture(scope="session")
def llm(seed) -> Llama:
    """The tiny Llama, adapters on all four attention projections."""
    lora = LoraConfig(rank=4, alpha=8.0, dropout=0.25)
    return randomise(nnx.eval_shape(lambda: Llama(small_config(), lora, rngs=nnx.Rngs(seed))), seed)


@pytest.fixture(scope="session")
def with_config(llm):
    """Callable(**LlamaConfig fields) -> the same weights under other settings (remat, attention, compute_dtype)."""

    def make(**fields):
        graphdef, state = nnx.split(llm)
        other = nnx.merge(graphdef, state)
        other.config = dataclasses.replace(llm.config, **fields)
        return other

    return make
