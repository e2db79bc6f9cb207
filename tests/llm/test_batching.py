"""Continuous batching writes what each prompt gets alone, with few programs, in memory that prompts do not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from empatheia_jax.llm.batching import ContinuousBatcher, admit, advance, empty_decode_state, share_prefix
from empatheia_jax.llm.cache import take_sequences
from empatheia_jax.llm.decode import appended_states, generate
from empatheia_jax.runtime.buckets import bucket
from empatheia_jax.testing.tiny import compilations

pytestmark = pytest.mark.usefixtures("compiled_quickly")

NEW, EOS, CAPACITY = 12, 7, 96


class Alone:
    """`generate`, one prompt at a time."""

    def __init__(self, llm):
        self.graphdef, self.state = nnx.split(llm)
        self.write = jax.jit(self._traced)

    def _traced(self, state, tokens, length):
        llm = nnx.merge(self.graphdef, state)
        return generate(llm, llm.embed, llm.embed(tokens), length, max_new_tokens=NEW, eos_id=EOS)

    def __call__(self, prompt, budget: int) -> list[int]:
        tokens = np.zeros((1, 32), np.int32)
        tokens[0, : len(prompt)] = prompt
        done = self.write(self.state, tokens, np.array([len(prompt)]))
        return np.asarray(done.tokens)[0, : min(int(done.lengths[0]), budget)].tolist()


class Together:
    """`ContinuousBatcher` on a Llama; reads the state of the token after each answer from the cache."""

    def __init__(self, llm):
        self.llm = llm
        self.graphdef, self.state = nnx.split(llm)
        self.admit = jax.jit(self._admit, static_argnames="window", donate_argnums=1)
        self.advance = jax.jit(self._advance, donate_argnums=1)
        self.read = jax.jit(self._read)
        self.share = jax.jit(self._share, donate_argnums=1)

    def _admit(self, state, decode_state, sequences, tokens, *, window, **arrays):
        llm = nnx.merge(self.graphdef, state)
        return admit(llm, decode_state, sequences, llm.embed(tokens), eos_id=EOS, window=window, **arrays)

    def _advance(self, state, decode_state, stop_at, max_steps):
        llm = nnx.merge(self.graphdef, state)
        return advance(llm, llm.embed, decode_state, stop_at=stop_at, max_steps=max_steps, eos_id=EOS)

    def _read(self, state, decode_state, sequences, tokens):
        llm, part = nnx.merge(self.graphdef, state), take_sequences(decode_state.cache, sequences)
        end = jnp.take(decode_state.prompt_length + decode_state.written, sequences, mode="clip")
        return appended_states(llm, part, llm.embed(tokens), start=end, lengths=jnp.ones_like(sequences))[:, 0]

    def _share(self, state, decode_state, tokens):
        llm = nnx.merge(self.graphdef, state)
        return share_prefix(llm, decode_state, llm.embed(tokens))

    def __call__(self, prompts, budgets, *, batch=3, group_size=1, max_steps=5, prefix=0):
        decode_state = empty_decode_state(self.llm.config, batch, CAPACITY, NEW)
        if prefix:
            decode_state = self.share(self.state, decode_state, np.asarray(prompts[0])[None, :prefix])

        def admit_group(decode_state, sequences, indices):
            size, count = bucket(max(len(prompts[n]) - prefix for n in indices), 16, 2), len(sequences)
            tokens, lengths = np.zeros((count, size), np.int32), np.ones(count, np.int32)
            budget = np.ones(count, np.int32)
            for row, n in enumerate(indices):
                rest = prompts[n][prefix:]
                tokens[row, : len(rest)], lengths[row], budget[row] = rest, len(rest), budgets[n]
            arrays = {"start": np.full(count, prefix, np.int32), "lengths": lengths, "budgets": budget}
            return self.admit(self.state, decode_state, sequences, tokens, window=prefix + size, **arrays)

        def read_group(decode_state, sequences, indices, texts):
            hidden = self.read(self.state, decode_state, sequences, np.full((len(sequences), 1), EOS, np.int32))
            return lambda: list(zip(texts, np.asarray(hidden)[: len(texts)], strict=True))

        batcher = ContinuousBatcher(
            decode_state,
            admit_group,
            functools.partial(self.advance, self.state),
            read_group,
            group_size=group_size,
            max_steps=max_steps,
        )
        results = dict(batcher.run(len(prompts)))
        assert sorted(results) == list(range(len(prompts)))
        return batcher, [results[n] for n in range(len(prompts))]


@pytest.fixture(scope="module")
def alone(llm, compiled_quickly):
    return Alone(llm)


@pytest.fixture(scope="module")
def together(llm, compiled_quickly):
    return Together(llm)


def draw_prompts(seed: int, count: int, first=()):
    rng = np.random.default_rng(seed)
    prompts = [[*first, *rng.integers(0, 60, rng.integers(1, 32 - len(first))).tolist()] for _ in range(count)]
    return prompts, rng.integers(1, NEW + 1, count).tolist()


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 9),
    sizes=st.sampled_from([(1, 1), (3, 1), (3, 2)]),
    max_steps=st.integers(1, 20),
)
def test_each_prompt_gets_what_it_gets_alone(alone, together, *, seed, count, sizes, max_steps):
    batch, group_size = sizes
    prompts, budgets = draw_prompts(seed, count)
    batcher, results = together(prompts, budgets, batch=batch, group_size=group_size, max_steps=max_steps)
    expected = [alone(prompt, budget) for prompt, budget in zip(prompts, budgets, strict=True)]
    assert [text for text, _ in results] == expected
    stats = batcher.stats
    assert stats.tokens == sum(map(len, expected))
    assert stats.sequence_steps % batch == 0 and stats.tokens <= stats.sequence_steps
    if batch == 1:
        assert stats.tokens == stats.sequence_steps  # the only sequence is live or admitted again: no step is wasted


def test_some_answers_end_by_the_end_token_and_some_by_budget(alone):
    """Otherwise the test above would not cover both."""
    prompts, budgets = draw_prompts(0, 60)
    lengths = [len(alone(prompt, budget)) for prompt, budget in zip(prompts, budgets, strict=True)]
    ended = [length < budget for length, budget in zip(lengths, budgets, strict=True)]
    assert any(ended) and not all(ended) and 0 in lengths


def test_the_cache_of_a_finished_sequence_is_that_of_the_whole_text(llm, together):
    """The second pass reads prompt and answer: its state is that of one pass without a cache."""
    prompts, budgets = draw_prompts(1, 7)
    uncached = jax.jit(lambda tokens: llm(llm.embed(tokens), jnp.arange(48)[None])[0][0])
    for group_size in (1, 2):
        for prompt, (text, state) in zip(prompts, together(prompts, budgets, group_size=group_size)[1], strict=True):
            tokens = np.zeros((1, 48), np.int32)
            end = len(prompt) + len(text)
            tokens[0, : end + 1] = [*prompt, *text, EOS]
            np.testing.assert_allclose(state, uncached(tokens)[end], atol=5e-5)


def test_a_shared_prefix_is_read_once_and_changes_nothing(alone, together):
    first = np.random.default_rng(3).integers(0, 60, 16).tolist()
    prompts, budgets = draw_prompts(2, 9, first)
    _, results = together(prompts, budgets, prefix=16)
    assert [text for text, _ in results] == [alone(p, b) for p, b in zip(prompts, budgets, strict=True)]


def test_programs_are_as_many_as_buckets(together):
    """Prompts of all lengths compile one prefill for each bucket and one loop; another test set compiles nothing."""
    fresh = Together(together.llm)
    prompts = [[1] * length for length in range(1, 32)]
    with compilations() as first:
        fresh(prompts, [3] * len(prompts))
    assert fresh.admit._cache_size() == len({bucket(length, 16, 2) for length in range(1, 32)}) == 3
    assert fresh.advance._cache_size() == fresh.read._cache_size() == 1
    assert len(first) >= 5
    with compilations() as again:
        fresh(*draw_prompts(5, 20))
    assert not again


def test_the_decode_state_is_updated_in_place(together):
    """The programs alias the donated cache and need less temporary memory than a second one."""
    decode_state = empty_decode_state(together.llm.config, 8, 512, NEW)
    cache = sum(array.nbytes for array in decode_state.cache)
    zero = np.zeros(1, np.int32)
    lowered = together.admit.lower(
        together.state,
        decode_state,
        zero,
        np.zeros((1, 32), np.int32),
        start=zero,
        lengths=zero + 1,
        budgets=zero + 1,
        window=32,
    )
    for program in (lowered.compile(), together.advance.lower(together.state, decode_state, 0, 4).compile()):
        memory = program.memory_analysis()
        assert memory.alias_size_in_bytes >= cache
        assert memory.temp_size_in_bytes < cache
