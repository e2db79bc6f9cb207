"""Adapters: what exists, what trains, dropout, errors (PEFT's numbers are checked in tests/parity/test_lora.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.config import LoraConfig
from empatheia_jax.llm.llama import Llama
from empatheia_jax.llm.lora import LoraError, adapter_dropout, merge


@jax.jit
def logits(llm, key=None):
    tokens = np.arange(12).reshape(2, 6)
    return llm.logits(llm(llm.embed(tokens), jnp.broadcast_to(jnp.arange(6), (2, 6)), dropout_key=key)[0])


def test_without_lora_there_are_no_adapters(llm):
    plain = Llama(llm.config, None, rngs=nnx.Rngs(3))
    adapted = Llama(llm.config, LoraConfig(targets=("v_proj",)), rngs=nnx.Rngs(3))
    assert not jax.tree.leaves(nnx.state(plain, nnx.LoRAParam))
    paths = {path for path, _ in nnx.to_flat_state(nnx.state(adapted, nnx.LoRAParam))}
    assert paths == {("layers", "v_proj", "lora_a"), ("layers", "v_proj", "lora_b")}
    base = nnx.state(adapted, nnx.All(nnx.Param, nnx.Not(nnx.LoRAParam)))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(base), nnx.to_pure_dict(nnx.state(plain)))


@pytest.mark.parametrize("targets", [("q_proj", "c_attn"), ()])
def test_targets_that_match_nothing(llm, targets):
    with pytest.raises(LoraError, match="q_proj, k_proj, v_proj"):
        Llama(llm.config, LoraConfig(targets=targets), rngs=nnx.Rngs(0))


def test_merge(llm):
    before = logits(llm)
    merged = merge(llm)
    assert not jax.tree.leaves(nnx.state(merged, nnx.LoRAParam)) and jax.tree.leaves(nnx.state(llm, nnx.LoRAParam))
    np.testing.assert_allclose(logits(merged), before, atol=1e-4)
    np.testing.assert_array_equal(logits(llm), before)  # the unmerged model is as it was
    assert merged.embedding[...] is llm.embedding[...]  # shared, not copied
    with pytest.raises(LoraError, match="no adapters"):
        merge(merged)


def test_dropout_is_of_the_adapters_input_only(llm):
    key = jax.random.key(0)
    assert not np.allclose(logits(llm, key), logits(llm))
    np.testing.assert_array_equal(logits(llm, key), logits(llm, key))
    assert not np.allclose(logits(llm, key), logits(llm, jax.random.key(1)))
    plain = merge(llm)
    np.testing.assert_array_equal(logits(plain, key), logits(plain))  # without adapters there is no dropout


def test_dropout_keeps_the_mean():
    x = jnp.full((200, 500), 3.0)
    output = np.asarray(adapter_dropout(x, 0.3, jax.random.key(0)))
    assert set(np.unique(output)) == {np.float32(0.0), np.float32(3.0 / 0.7)}
    assert abs((output == 0).mean() - 0.3) < 0.006  # four standard errors
    assert adapter_dropout(x, 0.0, jax.random.key(0)) is x and adapter_dropout(x, 0.3, None) is x
