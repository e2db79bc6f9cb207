"""Generation: prefill, then one compiled loop of cached steps; and the one pass that reads the signals.

Both are plain traceable functions: call them inside `jax.jit`, with the model's state as an argument.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from empatheia_jax.llm.cache import Cache, chunk_positions, empty_cache
from empatheia_jax.llm.llama import Llama

RESERVE = 40  # </s> and the 32 signals are appended behind what was generated


class Generated(NamedTuple):
    """What was written after each prompt. `cache` holds prompt and generated tokens, ready for `append`."""

    tokens: jax.Array  # int32 [B, N], eos_id from the row's end on
    lengths: jax.Array  # int32 [B] generated tokens before </s>; N where it never came
    cache: Cache


def generate(
    llm: Llama,
    embed_fn: Callable[[jax.Array], jax.Array],
    prompt_embeddings: jax.Array,
    prompt_lengths: jax.Array,
    *,
    max_new_tokens: int,
    eos_id: int,
    limits: jax.Array | None = None,
    key: jax.Array | None = None,
    temperature: float | jax.Array = 0.0,
    top_p: float | jax.Array = 1.0,
    reserve: int = RESERVE,
) -> Generated:
    """Continue prompts [B, T, D], padded on the right to T, of prompt_lengths [B] >= 1 tokens each.

    `embed_fn` maps tokens [B, 1] to embeddings [B, 1, D]. Greedy when `temperature` is 0, else a draw from the
    smallest set of tokens that holds `top_p` of the tempered probability. The loop ends when every row has met
    `eos_id` or has `max_new_tokens` (its own limit int [B] >= 1, where `limits` are given). The cache has room for
    `reserve` more positions.
    """
    if max_new_tokens < 1:
        raise ValueError(f"generate: max_new_tokens must be at least 1, not {max_new_tokens}")
    greedy = isinstance(temperature, int | float) and temperature == 0.0
    if key is None:
        if not greedy:
            raise ValueError("generate: sampling (temperature above 0) needs a key")
        key = jax.random.key(0)
    rows, prompt = prompt_embeddings.shape[:2]
    cache = empty_cache(llm.config, rows, prompt + max_new_tokens + reserve)
    positions = chunk_positions(jnp.zeros_like(prompt_lengths), prompt_lengths, prompt, cache.capacity)
    hidden, cache = llm(prompt_embeddings, positions, cache=cache)
    last = jnp.take_along_axis(hidden, (prompt_lengths - 1)[:, None, None], axis=1)[:, 0]

    def unfinished(state):
        step, done, *_ = state
        return (step < max_new_tokens) & ~jnp.all(done)

    def write_one(state):
        step, done, last, tokens, lengths, cache = state
        logits = llm.logits(last)
        step_key = jax.random.fold_in(key, step)
        choice = jnp.argmax(logits, axis=-1) if greedy else sample(step_key, logits, temperature, top_p)
        token = jnp.where(done, eos_id, choice).astype(jnp.int32)
        done = done | (token == eos_id)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[:, None], step, axis=1)
        lengths = lengths + jnp.where(done, 0, 1)
        # A row that is done writes nothing more: its position is past the end.
        positions = jnp.where(done, cache.capacity, prompt_lengths + step)
        hidden, cache = llm(embed_fn(token[:, None]), positions[:, None].astype(jnp.int32), cache=cache)
        if limits is not None:
            done = done | (step + 1 >= limits)
        return step + 1, done, hidden[:, 0], tokens, lengths, cache

    tokens = jnp.full((rows, max_new_tokens), eos_id, jnp.int32)
    start = (jnp.int32(0), jnp.zeros(rows, bool), last, tokens, jnp.zeros(rows, jnp.int32), cache)
    _, _, _, tokens, lengths, cache = jax.lax.while_loop(unfinished, write_one, start)
    return Generated(tokens, lengths, cache)


def sample(key: jax.Array, logits: jax.Array, temperature: float | jax.Array, top_p: float | jax.Array) -> jax.Array:
    """Draw tokens [B] from logits [B, V]: temperature, then nucleus (top-p). Temperature 0 is the greedy choice."""
    scaled = logits / jnp.maximum(temperature, 1e-6)
    if not (isinstance(top_p, int | float) and top_p >= 1.0):
        scaled = nucleus(scaled, top_p)
    drawn = jax.random.categorical(key, scaled, axis=-1)
    return jnp.where(jnp.asarray(temperature) > 0.0, drawn, jnp.argmax(logits, axis=-1))


def nucleus(logits: jax.Array, top_p: float | jax.Array) -> jax.Array:
    """Logits [..., V] with -inf outside the smallest set of likeliest tokens whose probability reaches `top_p`.

    The likeliest token always stays, and so does every token as likely as the last one kept.
    """
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities  # of the likelier tokens
    kept = (before < top_p).at[..., 0].set(True)
    threshold = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= threshold, logits, -jnp.inf)


def append(llm: Llama, cache: Cache, embeddings: jax.Array, start: jax.Array, lengths: jax.Array) -> jax.Array:
    """States [B, C, D] of a chunk read on a cache: row b's first lengths[b] tokens, from position start[b] on.

    The pass over response, </s> and signals once the text is known: signals need no sampling, and the response's
    states are those of training. What the cache holds from `start` on is replaced for this pass (the caller's cache is
    not changed). Rows beyond their length are meaningless; a token that the cache has no room for comes out as NaN.
    """
    chunk = embeddings.shape[1]
    positions = chunk_positions(start, lengths, chunk, cache.capacity)
    hidden, _ = llm(embeddings, positions, cache=cache)
    overflow = (jnp.arange(chunk) < lengths[:, None]) & (positions >= cache.capacity)
    return jnp.where(overflow[..., None], jnp.nan, hidden)
