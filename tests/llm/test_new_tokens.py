"""The 34 rows beside the frozen vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.data.tokenizer import NEW_TOKENS
from empatheia_jax.llm.new_tokens import COUNT, NewTokens, embed, logits


@pytest.fixture(scope="module")
def rows(llm):
    return NewTokens(llm.config.width, rngs=nnx.Rngs(1))


def test_count_is_the_tokenizers():
    assert len(NEW_TOKENS) == COUNT


def test_joint_embedding(llm, rows):
    size = llm.config.vocab_size
    tokens = np.array([[0, size - 1, size, size + 1], [5, size + COUNT - 1, 7, size + 3]])
    joint = np.concatenate([llm.embedding[...], rows.input[...]])
    np.testing.assert_array_equal(embed(llm, rows, tokens), joint[tokens])
    np.testing.assert_array_equal(embed(llm, None, tokens[:, :1]), llm.embed(tokens[:, :1]))


def test_joint_logits(llm, rows):
    hidden = jax.random.normal(jax.random.key(0), (2, 3, llm.config.width))
    joint = np.concatenate([np.asarray(llm.head[...]).T, rows.output[...]])
    np.testing.assert_allclose(logits(llm, rows, hidden), np.asarray(hidden) @ joint.T, atol=1e-5)


def test_gradient_reaches_the_rows_used_and_no_others(llm, rows):
    size = llm.config.vocab_size
    tokens = np.array([[3, size + 2, size + 2, size + 30]])
    graphdef, state = nnx.split(rows)
    gradient = jax.grad(lambda state: jnp.sum(embed(llm, nnx.merge(graphdef, state), tokens)))(state)
    sums = np.asarray(gradient["input"][...]).sum(1) / llm.config.width
    assert {int(row): sums[row] for row in np.flatnonzero(sums)} == {2: 2.0, 30: 1.0}
