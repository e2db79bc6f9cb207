"""Continuous batching writes what each prompt gets alone, in few programs, in a memory that prompts do not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from small import compilations

from empatheia_jax.buckets import bucket
from empatheia_jax.llm.batching import Continuous, admit, advance, empty_slots, share_prefix
from empatheia_jax.llm.cache import take_rows
from empatheia_jax.llm.decode import append, generate

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
    """`Continuous` on a Llama; reads the state of the token after each answer from the row's cache."""

    def __init__(self, llm):
        self.llm = llm
        self.graphdef, self.state = nnx.split(llm)
        self.admit = jax.jit(self._admit, static_argnames="window", donate_argnums=1)
        self.advance = jax.jit(self._advance, donate_argnums=1)
        self.read = jax.jit(self._read)
        self.share = jax.jit(self._share, donate_argnums=1)

    def _admit(self, state, slots, rows, tokens, start, lengths, budgets, window):
        llm = nnx.merge(self.graphdef, state)
        return admit(llm, slots, rows, llm.embed(tokens), start, lengths, budgets, eos_id=EOS, window=window)

    def _advance(self, state, slots, least, steps):
        llm = nnx.merge(self.graphdef, state)
        return advance(llm, llm.embed, slots, least, steps, eos_id=EOS)

    def _read(self, state, slots, rows, tokens):
        llm, part = nnx.merge(self.graphdef, state), take_rows(slots.cache, rows)
        end = jnp.take(slots.prompt + slots.written, rows, mode="clip")
        return append(llm, part, llm.embed(tokens), end, jnp.ones_like(rows))[:, 0]

    def _share(self, state, slots, tokens):
        llm = nnx.merge(self.graphdef, state)
        return share_prefix(llm, slots, llm.embed(tokens))

    def __call__(self, prompts, budgets, rows=3, together=1, steps=5, prefix=0):
        slots = empty_slots(self.llm.config, rows, CAPACITY, NEW)
        if prefix:
            slots = self.share(self.state, slots, np.asarray(prompts[0])[None, :prefix])

        def put(slots, rows, numbers):
            size = bucket(max(len(prompts[n]) - prefix for n in numbers), 16, 2)
            tokens, lengths = np.zeros((len(rows), size), np.int32), np.ones(len(rows), np.int32)
            budget = np.ones(len(rows), np.int32)
            for row, n in enumerate(numbers):
                rest = prompts[n][prefix:]
                tokens[row, : len(rest)], lengths[row], budget[row] = rest, len(rest), budgets[n]
            start = np.full(len(rows), prefix, np.int32)
            return self.admit(self.state, slots, rows, tokens, start, lengths, budget, window=prefix + size)

        def read(slots, rows, numbers, texts):
            hidden = self.read(self.state, slots, rows, np.full((len(rows), 1), EOS, np.int32))
            return lambda: list(zip(texts, np.asarray(hidden)[: len(texts)], strict=True))

        run = Continuous(slots, put, functools.partial(self.advance, self.state), read, together=together, steps=steps)
        found = dict(run.run(len(prompts)))
        assert sorted(found) == list(range(len(prompts)))
        return run, [found[n] for n in range(len(prompts))]


@pytest.fixture(scope="module")
def alone(llm, compiled_quickly):
    return Alone(llm)


@pytest.fixture(scope="module")
def together(llm, compiled_quickly):
    return Together(llm)


def drawn(seed: int, count: int, first=()):
    rng = np.random.default_rng(seed)
    prompts = [[*first, *rng.integers(0, 60, rng.integers(1, 32 - len(first))).tolist()] for _ in range(count)]
    return prompts, rng.integers(1, NEW + 1, count).tolist()


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 9), st.sampled_from([(1, 1), (3, 1), (3, 2)]), st.integers(1, 20))
def test_each_prompt_gets_what_it_gets_alone(alone, together, seed, count, sizes, steps):
    rows, group = sizes
    prompts, budgets = drawn(seed, count)
    run, found = together(prompts, budgets, rows=rows, together=group, steps=steps)
    wanted = [alone(prompt, budget) for prompt, budget in zip(prompts, budgets, strict=True)]
    assert [text for text, _ in found] == wanted
    assert run.tally.tokens == sum(map(len, wanted))
    assert run.tally.slot_steps % rows == 0 and run.tally.tokens <= run.tally.slot_steps
    if rows == 1:
        assert run.tally.tokens == run.tally.slot_steps  # the only slot is live or filled anew: no step in vain


def test_some_answers_end_by_the_end_token_and_some_by_budget(alone):
    """Else the test above would not see both."""
    prompts, budgets = drawn(0, 60)
    lengths = [len(alone(prompt, budget)) for prompt, budget in zip(prompts, budgets, strict=True)]
    ended = [length < budget for length, budget in zip(lengths, budgets, strict=True)]
    assert any(ended) and not all(ended) and 0 in lengths


def test_the_cache_of_a_finished_row_is_that_of_the_whole_text(llm, together):
    """The second pass reads prompt and answer: its state is that of one pass without a cache."""
    prompts, budgets = drawn(1, 7)
    whole = jax.jit(lambda tokens: llm(llm.embed(tokens), jnp.arange(48)[None])[0][0])
    for group in (1, 2):
        for prompt, (text, state) in zip(prompts, together(prompts, budgets, together=group)[1], strict=True):
            tokens = np.zeros((1, 48), np.int32)
            end = len(prompt) + len(text)
            tokens[0, : end + 1] = [*prompt, *text, EOS]
            np.testing.assert_allclose(state, whole(tokens)[end], atol=5e-5)


def test_a_shared_prefix_is_read_once_and_changes_nothing(alone, together):
    first = np.random.default_rng(3).integers(0, 60, 16).tolist()
    prompts, budgets = drawn(2, 9, first)
    _, found = together(prompts, budgets, prefix=16)
    assert [text for text, _ in found] == [alone(p, b) for p, b in zip(prompts, budgets, strict=True)]


def test_programs_are_as_many_as_buckets(together):
    """Prompts of all lengths: one prefill a bucket and one loop, and nothing new for another test set."""
    fresh = Together(together.llm)
    prompts = [[1] * length for length in range(1, 32)]
    with compilations() as first:
        fresh(prompts, [3] * len(prompts))
    assert fresh.admit._cache_size() == len({bucket(length, 16, 2) for length in range(1, 32)}) == 3
    assert fresh.advance._cache_size() == fresh.read._cache_size() == 1
    assert len(first) >= 5
    with compilations() as again:
        fresh(*drawn(5, 20))
    assert not again


def test_slots_are_changed_in_place(together):
    """No second cache: the programs take the slots over, and need less than another cache beside them."""
    slots = empty_slots(together.llm.config, 8, 512, NEW)
    cache = sum(array.nbytes for array in slots.cache)
    one = np.zeros(1, np.int32)
    lowered = together.admit.lower(
        together.state, slots, one, np.zeros((1, 32), np.int32), one, one + 1, one + 1, window=32
    )
    for program in (lowered.compile(), together.advance.lower(together.state, slots, 0, 4).compile()):
        memory = program.memory_analysis()
        assert memory.alias_size_in_bytes >= cache
        assert memory.temp_size_in_bytes < cache
