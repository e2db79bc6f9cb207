"""Generation: ragged batches, early stop, sampling, and the pass over response and signals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from empatheia_jax.llm.decode import appended_states, generate, nucleus, sample

PROMPTS = np.array([9, 1, 5])
NEW = 10


@pytest.fixture(scope="module")
def prompts(seed):
    return np.random.default_rng(seed).integers(0, 60, (3, 9))


@pytest.fixture(scope="module")
def run(llm):
    """Callable(prompts, lengths, eos, **sampling) -> Generated; without `eos` no sequence ends early."""
    graphdef, state = nnx.split(llm)

    def call(state, prompts, lengths, eos, **sampling):
        llm = nnx.merge(graphdef, state)
        return generate(llm, llm.embed, llm.embed(prompts), lengths, max_new_tokens=NEW, eos_id=eos, **sampling)

    compiled = jax.jit(call)

    def make(prompts, lengths, eos=-1, **sampling):
        return compiled(state, prompts, jnp.asarray(lengths), eos, **sampling)

    return make


def greedy_without_cache(llm, prompt, count):
    """The next token from a full pass over everything so far, `count` times."""
    tokens = np.zeros((1, len(prompt) + count), int)
    tokens[0, : len(prompt)] = prompt
    positions = jnp.arange(tokens.shape[1])[None]
    forward = jax.jit(lambda tokens: llm.logits(llm(llm.embed(tokens), positions)[0]))
    for end in range(len(prompt), tokens.shape[1]):
        tokens[0, end] = int(np.argmax(forward(tokens)[0, end - 1]))
    return tokens[0, len(prompt) :]


def test_ragged_batch_writes_what_each_prompt_gets_alone(llm, run, prompts):
    result = run(prompts, PROMPTS)
    for row, length in enumerate(PROMPTS):
        expected = greedy_without_cache(llm, prompts[row, :length], NEW)
        np.testing.assert_array_equal(result.tokens[row], expected)
    assert np.asarray(result.lengths).tolist() == [NEW] * 3


def test_padding_of_the_prompt_is_never_read(run, prompts):
    other = np.where(np.arange(9) < PROMPTS[:, None], prompts, 7)
    np.testing.assert_array_equal(run(prompts, PROMPTS).tokens, run(other, PROMPTS).tokens)


def test_stops_at_the_end_token(run, prompts):
    free = np.asarray(run(prompts, PROMPTS).tokens)
    eos = int(free[0, 4])
    stopped = run(prompts, PROMPTS, eos=eos)
    for row, tokens in enumerate(free.tolist()):
        length = tokens.index(eos) if eos in tokens else NEW
        assert int(stopped.lengths[row]) == length
        assert np.asarray(stopped.tokens)[row].tolist() == tokens[:length] + [eos] * (NEW - length)
    # The cache of a finished sequence is not written any more: only prompt and text are in it.
    written = np.abs(np.asarray(stopped.cache.keys)).sum((0, 3, 4)) > 0  # [B, S]
    np.testing.assert_array_equal(written.sum(1), PROMPTS + np.asarray(stopped.lengths))


def test_the_loop_ends_when_every_sequence_is_done(llm, run, prompts):
    """The model takes one step per token: counted by the embedder, which is called once per step."""
    free = np.asarray(run(prompts[:1], PROMPTS[:1]).tokens)[0]
    calls = []

    def counting(tokens):
        jax.debug.callback(lambda: calls.append(1))
        return llm.embed(tokens)

    eos = int(free[2])
    first = free.tolist().index(eos)
    generate(llm, counting, llm.embed(prompts[:1]), jnp.asarray(PROMPTS[:1]), max_new_tokens=NEW, eos_id=eos)
    jax.effects_barrier()
    assert len(calls) == first + 1


def test_appended_states_are_the_states_of_training(llm, run, prompts, seed):
    """Response + </s> + signals on the prompt's cache = one uncached pass over the whole text, ragged."""
    result = run(prompts, PROMPTS)
    begin, tail, signals = (
        np.array([3, 0, 6]),
        5,
        np.random.default_rng(seed).normal(size=(3, 5, 32)).astype(np.float32),
    )
    lengths = NEW - begin + tail
    chunk = np.zeros((3, lengths.max(), 32), np.float32)
    uncached = np.zeros((3, PROMPTS.max() + NEW + tail, 32), np.float32)
    for row in range(3):
        response = np.asarray(llm.embed(result.tokens[row, begin[row] :]))
        chunk[row, : lengths[row]] = np.concatenate([response, signals[row]])
        text = np.concatenate([prompts[row, : PROMPTS[row]], result.tokens[row]])
        uncached[row, : len(text) + tail] = np.concatenate([np.asarray(llm.embed(text)), signals[row]])
    start = PROMPTS + begin
    states = appended_states(
        llm, result.cache, jnp.asarray(chunk), start=jnp.asarray(start), lengths=jnp.asarray(lengths)
    )
    expected = np.asarray(llm(uncached, jnp.broadcast_to(jnp.arange(uncached.shape[1]), uncached.shape[:2]))[0])
    for row in range(3):
        np.testing.assert_allclose(
            states[row, : lengths[row]], expected[row, start[row] : start[row] + lengths[row]], atol=5e-5
        )


def test_states_past_the_cache_are_nan(llm, run, prompts):
    cache = run(prompts, PROMPTS).cache
    chunk = jnp.ones((3, 4, 32))
    last = jnp.full(3, cache.capacity - 2)
    hidden = np.asarray(appended_states(llm, cache, chunk, start=last, lengths=jnp.array([2, 3, 4])))
    assert [int(np.isnan(row).any(-1).sum()) for row in hidden] == [0, 1, 2]


def test_sampling(run, prompts):
    def draw(key, temperature=1.5, top_p=1.0):
        return np.asarray(run(prompts, PROMPTS, key=jax.random.key(key), temperature=temperature, top_p=top_p).tokens)

    np.testing.assert_array_equal(draw(0), draw(0))
    assert not np.array_equal(draw(0), draw(1))
    greedy = run(prompts, PROMPTS).tokens
    np.testing.assert_array_equal(draw(0, top_p=1e-6), greedy)  # a nucleus of one
    np.testing.assert_array_equal(draw(0, temperature=0.0), greedy)


def test_bad_requests(llm, prompts):
    embeddings, lengths = llm.embed(prompts), jnp.asarray(PROMPTS)
    with pytest.raises(ValueError, match="needs a key"):
        generate(llm, llm.embed, embeddings, lengths, max_new_tokens=2, eos_id=1, temperature=1.0)
    with pytest.raises(ValueError, match="max_new_tokens"):
        generate(llm, llm.embed, embeddings, lengths, max_new_tokens=0, eos_id=1)


def test_sampled_frequencies():
    """Draws follow softmax(logits / temperature): chi-squared below its 99.9 % point for 5 degrees of freedom."""
    logits, temperature, draws = np.array([2.0, 1.0, 0.5, 0.0, -0.5, -1.0]), 0.7, 20000
    tokens = sample(jax.random.key(0), jnp.tile(jnp.asarray(logits), (draws, 1)), temperature, 1.0)
    expected = draws * np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    observed = np.bincount(np.asarray(tokens), minlength=6)
    assert ((observed - expected) ** 2 / expected).sum() < 20.5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-8, 8, width=32), min_size=12, max_size=12), st.floats(0.01, 1.0))
def test_nucleus_is_the_smallest_set_that_reaches_top_p(values, top_p):
    logits = np.asarray(values, np.float64)
    kept = np.isfinite(np.asarray(nucleus(jnp.asarray(values, jnp.float32), top_p)))
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    assert kept[np.argmax(logits)]
    assert probabilities[kept].sum() >= top_p - 1e-5  # it reaches p,
    assert not kept.all() or kept.sum() == 12
    if kept.sum() > 1:
        least = logits[kept].min()
        assert probabilities[logits > least].sum() < top_p + 1e-5  # not without its least likely members,
    assert logits[kept].min() >= logits[~kept].max(initial=-np.inf)  # and leaves out none likelier
