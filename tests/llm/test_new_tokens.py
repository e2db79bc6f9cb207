"""The new tokens beside the frozen vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.data.prompts.tokenizer import NEW_TOKENS
from empatheia_jax.llm.new_tokens import NEW_TOKEN_COUNT, NewTokens, embed, logits


@pytest.fixture(scope="module")
def new_tokens(llm):
    return NewTokens(llm.config.width, rngs=nnx.Rngs(1))


def test_count_is_the_tokenizers():
    assert len(NEW_TOKENS) == NEW_TOKEN_COUNT


def test_joint_embedding(llm, new_tokens):
    size = llm.config.vocab_size
    tokens = np.array([[0, size - 1, size, size + 1], [5, size + NEW_TOKEN_COUNT - 1, 7, size + 3]])
    joint = np.concatenate([llm.embedding[...], new_tokens.input[...]])
    np.testing.assert_array_equal(embed(llm, new_tokens, tokens), joint[tokens])
    np.testing.assert_array_equal(embed(llm, None, tokens[:, :1]), llm.embed(tokens[:, :1]))


def test_joint_logits(llm, new_tokens):
    hidden = jax.random.normal(jax.random.key(0), (2, 3, llm.config.width))
    joint = np.concatenate([np.asarray(llm.head[...]).T, new_tokens.output[...]])
    np.testing.assert_allclose(logits(llm, new_tokens, hidden), np.asarray(hidden) @ joint.T, atol=1e-5)


def test_gradient_reaches_the_tokens_used_and_no_others(llm, new_tokens):
    size = llm.config.vocab_size
    tokens = np.array([[3, size + 2, size + 2, size + 30]])
    graphdef, state = nnx.split(new_tokens)
    gradient = jax.grad(lambda state: jnp.sum(embed(llm, nnx.merge(graphdef, state), tokens)))(state)
    sums = np.asarray(gradient["input"][...]).sum(1) / llm.config.width
    assert {int(index): sums[index] for index in np.flatnonzero(sums)} == {2: 2.0, 30: 1.0}
