"""Llama against transformers' LlamaForCausalLM: random shapes from $EMPATHEIA_SEED, error <= 1e-4 of the scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from empatheia_jax.config import RopeScaling
from empatheia_jax.llm.cache import chunk_positions, empty_cache
from empatheia_jax.llm.decode import generate

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TOLERANCE = 1e-4
LLAMA3 = RopeScaling("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=64)
CASES = {
    "grouped": {"heads": 6, "kv_heads": 2},
    "one_key_head": {"heads": 4, "kv_heads": 1, "layers": 2},
    "all_heads": {"heads": 3, "kv_heads": 3},
    "large_theta": {"rope_theta": 500000.0},
    "linear_rope": {"rope_scaling": RopeScaling("linear", factor=4.0)},
    "llama3_rope": {"rope_scaling": LLAMA3, "head_dim": 32},
    "tied": {"tie_embeddings": True},
    "untied": {"tie_embeddings": False},
    "random": {},
}


def torch_logits(twin, tokens) -> np.ndarray:
    with torch.no_grad():
        return twin(torch.tensor(np.asarray(tokens), dtype=torch.long)).logits.numpy()


def assert_close(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    error, scale = np.abs(actual - expected).max(), np.abs(expected).max()
    assert error <= TOLERANCE * scale, f"error {error:.2e} at a scale of {scale:.2e}"


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, twins):
    return twins(list(CASES).index(request.param), **CASES[request.param])


def test_logits(pair, seed):
    llm, twin = pair
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, llm.config.vocab_size, (3, int(rng.integers(130, 200))))  # longer than an attention block
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    logits = jax.jit(lambda tokens, positions: llm.logits(llm(llm.embed(tokens), positions)[0]))
    assert_close(logits(tokens, positions), torch_logits(twin, tokens))


def test_ragged_cached_chunks(pair, seed):
    """Prefill of different lengths, single tokens, then a ragged chunk: each sequence gives the result it has alone."""
    llm, twin = pair
    rng = np.random.default_rng(seed)
    chunks = [[7, 1, 12, 4], [1, 1, 1, 1], [1, 1, 1, 1], [5, 9, 1, 3]]
    totals = np.sum(chunks, axis=0)
    sequences = [rng.integers(0, llm.config.vocab_size, total) for total in totals]
    cache = empty_cache(llm.config, len(sequences), int(totals.max()) + 3)

    @jax.jit
    def step(tokens, positions, cache):
        hidden, cache = llm(llm.embed(tokens), positions, cache=cache)
        return llm.logits(hidden), cache

    start, logits_by_sequence = np.zeros(4, int), [[] for _ in sequences]
    for lengths in map(np.asarray, chunks):
        tokens = np.full((4, lengths.max()), llm.config.vocab_size - 1)  # the padding is a valid token on purpose
        for number, (begin, length) in enumerate(zip(start, lengths, strict=True)):
            tokens[number, :length] = sequences[number][begin : begin + length]
        positions = chunk_positions(jnp.asarray(start), jnp.asarray(lengths), tokens.shape[1], cache.capacity)
        logits, cache = step(tokens, positions, cache)
        logits = np.asarray(logits)
        for number, length in enumerate(lengths):
            logits_by_sequence[number].append(logits[number, :length])
        start = start + lengths
    for number, tokens in enumerate(sequences):
        assert_close(np.concatenate(logits_by_sequence[number]), torch_logits(twin, tokens[None])[0])


def test_greedy_generation(pair, seed):
    """The compiled loop generates the tokens that transformers' `generate` does, for every prompt of a ragged batch."""
    llm, twin = pair
    rng, eos, count = np.random.default_rng(seed), 1, 12
    lengths = np.array([9, 3, 6])
    prompts = rng.integers(2, llm.config.vocab_size, (3, 9))
    run = jax.jit(
        lambda prompts, lengths: generate(llm, llm.embed, llm.embed(prompts), lengths, max_new_tokens=count, eos_id=eos)
    )
    result = run(jnp.asarray(prompts), jnp.asarray(lengths))
    for number, length in enumerate(lengths):
        prompt = torch.tensor(prompts[number : number + 1, :length], dtype=torch.long)
        expected = twin.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, do_sample=False, pad_token_id=eos
        )[0, length:].tolist()
        expected = expected[: expected.index(eos)] if eos in expected else expected
        assert np.asarray(result.tokens)[number, : int(result.lengths[number])].tolist() == expected
