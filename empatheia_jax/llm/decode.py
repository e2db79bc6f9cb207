"""Generation: prefill, then one compiled loop of cached steps; and the single pass that reads the signals' states.

Both are plain traceable functions: call them inside `jax.jit`, with the model's state as an argument.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from empatheia_jax.llm.cache import Cache, chunk_positions, empty_cache
from empatheia_jax.llm.llama import Llama
from empatheia_jax.model.shapes import Array, Float, Int, PRNGKeyArray

Scalar = float | Float[Array, ""]
RESERVE = 40  # room in the cache for </s> and the 32 signals, which follow the generated text


class Generated(NamedTuple):
    """What was written after each prompt. `cache` holds prompt and generated tokens, ready for `appended_states`."""

    tokens: Int[Array, "B N"]  # eos_id from the sequence's end on
    lengths: Int[Array, " B"]  # generated tokens before </s>; N where it never came
    cache: Cache


def generate(
    llm: Llama,
    embed_fn: Callable[[Int[Array, "B 1"]], Float[Array, "B 1 D"]],
    prompt_embeddings: Float[Array, "B T D"],
    prompt_lengths: Int[Array, " B"],
    *,
    max_new_tokens: int,
    eos_id: int | Int[Array, ""],
    limits: Int[Array, " B"] | None = None,
    key: PRNGKeyArray | None = None,
    temperature: Scalar = 0.0,
    top_p: Scalar = 1.0,
    reserve: int = RESERVE,
) -> Generated:
    """Continue B prompts until each has met `eos_id` or its limit of tokens.

    Args:
      llm: the model.
      embed_fn: tokens -> embeddings.
      prompt_embeddings: padded on the right.
      prompt_lengths: tokens of each prompt, at least 1.
      max_new_tokens: N, most tokens to write (static).
      eos_id: the end token.
      limits: most tokens of each sequence, at least 1, where that is less than N.
      key: of sampling; needed unless greedy.
      temperature: 0 is greedy.
      top_p: draws are from the smallest set of tokens that holds this share of the probability.
      reserve: further positions that the cache has room for.

    Raises:
      ValueError: `max_new_tokens` below 1, or sampling without a key.
    """
    if max_new_tokens < 1:
        raise ValueError(f"generate: max_new_tokens must be at least 1, not {max_new_tokens}")
    greedy = isinstance(temperature, int | float) and temperature == 0.0
    if key is None:
        if not greedy:
            raise ValueError("generate: sampling (temperature above 0) needs a key")
        key = jax.random.key(0)
    batch, length = prompt_embeddings.shape[:2]
    cache = empty_cache(llm.config, batch, length + max_new_tokens + reserve)
    positions = chunk_positions(jnp.zeros_like(prompt_lengths), prompt_lengths, length, cache.capacity)
    hidden, cache = llm(prompt_embeddings, positions, cache=cache)
    last = jnp.take_along_axis(hidden, (prompt_lengths - 1)[:, None, None], axis=1)[:, 0]

    def is_unfinished(carry):
        step, done, *_ = carry
        return (step < max_new_tokens) & ~jnp.all(done)

    def write_token(carry):
        step, done, last, tokens, lengths, cache = carry
        logits = llm.logits(last)
        step_key = jax.random.fold_in(key, step)
        choice = jnp.argmax(logits, axis=-1) if greedy else sample(step_key, logits, temperature, top_p)
        token = jnp.where(done, eos_id, choice).astype(jnp.int32)
        done = done | (token == eos_id)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[:, None], step, axis=1)
        lengths = lengths + jnp.where(done, 0, 1)
        # A finished sequence writes nothing more: its position is past the end of the cache.
        positions = jnp.where(done, cache.capacity, prompt_lengths + step)
        hidden, cache = llm(embed_fn(token[:, None]), positions[:, None].astype(jnp.int32), cache=cache)
        if limits is not None:
            done = done | (step + 1 >= limits)
        return step + 1, done, hidden[:, 0], tokens, lengths, cache

    tokens = jnp.full((batch, max_new_tokens), eos_id, jnp.int32)
    start = (jnp.int32(0), jnp.zeros(batch, bool), last, tokens, jnp.zeros(batch, jnp.int32), cache)
    _, _, _, tokens, lengths, cache = jax.lax.while_loop(is_unfinished, write_token, start)
    return Generated(tokens, lengths, cache)


def sample(key: PRNGKeyArray, logits: Float[Array, "B V"], temperature: Scalar, top_p: Scalar) -> Int[Array, " B"]:
    """Draw tokens: temperature, then nucleus (top-p). Temperature 0 is the greedy choice."""
    scaled = logits / jnp.maximum(temperature, 1e-6)
    if not (isinstance(top_p, int | float) and top_p >= 1.0):
        scaled = nucleus(scaled, top_p)
    drawn = jax.random.categorical(key, scaled, axis=-1)
    return jnp.where(jnp.asarray(temperature) > 0.0, drawn, jnp.argmax(logits, axis=-1))


def nucleus(logits: Float[Array, "*shape V"], top_p: Scalar) -> Float[Array, "*shape V"]:
    """Set logits to -inf outside the smallest set of likeliest tokens whose probability reaches `top_p`.

    The likeliest token always stays, and so does every token as likely as the last one kept.
    """
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities  # sum over the likelier tokens
    kept = (before < top_p).at[..., 0].set(True)
    threshold = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= threshold, logits, -jnp.inf)


def appended_states(
    llm: Llama, cache: Cache, embeddings: Float[Array, "B C D"], *, start: Int[Array, " B"], lengths: Int[Array, " B"]
) -> Float[Array, "B C D"]:
    """Return the states of a chunk that continues the cached sequences; the caller's cache is not changed.

    This is the pass over response, </s> and signals once the text is known: signals need no sampling, and the states
    equal those of training. What the cache holds from `start` on is not read.

    Args:
      llm: the model.
      cache: of B sequences.
      embeddings: the chunk's, padded on the right.
      start: position of the chunk's first token.
      lengths: tokens of the chunk.

    Returns:
      The states, meaningless beyond `lengths`; NaN for a token that the cache has no room for.
    """
    chunk = embeddings.shape[1]
    positions = chunk_positions(start, lengths, chunk, cache.capacity)
    hidden, _ = llm(embeddings, positions, cache=cache)
    overflow = (jnp.arange(chunk) < lengths[:, None]) & (positions >= cache.capacity)
    return jnp.where(overflow[..., None], jnp.nan, hidden)
