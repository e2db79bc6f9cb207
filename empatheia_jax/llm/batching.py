"""Continuous batching: many prompts decoded in a batch of fixed size, where each finished sequence makes room at once.

A static batch is decoded until its longest answer ends. Here the next prompt takes the place of an answer that has
ended, so nearly every step of every sequence writes a token of an answer. Memory is that of the batch, however many
prompts there are.

`admit`, `advance` and `share_prefix` are plain traceable functions: call them inside `jax.jit`, with the model's
parameters as an argument and the `DecodeState` donated. `ContinuousBatcher` drives them from the host and waits for the
device once for every finished sequence (or group of them), not once per token.
"""

import collections
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from empatheia_jax.config import LlamaConfig
from empatheia_jax.llm.cache import Cache, chunk_positions, empty_cache, put_sequences, take_sequences
from empatheia_jax.llm.llama import Llama
from empatheia_jax.model import sharding
from empatheia_jax.model.shapes import Array, Bool, Float, Int

MAX_STEPS = 64  # most steps before the host looks at the device again
PREFIX_MULTIPLE = 32  # shared prefixes are of a multiple of so many tokens, so that few shapes are compiled


class DecodeState(NamedTuple):
    """B sequences that are decoded greedily. One that is not live waits for its answer to be read, or is empty."""

    cache: Cache  # holds the prompt and the written tokens, `prompt_length + written` positions
    next_token: Int[Array, " B"]  # chosen, not yet written
    prompt_length: Int[Array, " B"]
    written: Int[Array, " B"]  # number of tokens written
    budget: Int[Array, " B"]  # most tokens to write
    live: Bool[Array, " B"]
    tokens: Int[Array, "B N"]  # the first `written` of each sequence are valid


def empty_decode_state(config: LlamaConfig, batch: int, capacity: int, max_new_tokens: int) -> DecodeState:
    """Return `batch` empty sequences, each with room for `capacity` positions and `max_new_tokens` new tokens."""
    next_token, prompt_length, written, budget = (
        jnp.zeros(batch, jnp.int32) for _ in range(4)
    )  # separate buffers, so that all can be donated
    cache, tokens = empty_cache(config, batch, capacity), jnp.zeros((batch, max_new_tokens), jnp.int32)
    return DecodeState(cache, next_token, prompt_length, written, budget, jnp.zeros(batch, bool), tokens)


def shard_decode_state(decode_state: DecodeState) -> DecodeState:
    """Constrain the cache to have its heads over `tensor` and, where they divide, its sequences over the other axes.

    The rest is small and whole on every device. Returns `decode_state` itself where no mesh is active.
    """
    mesh = sharding.active_mesh()
    if mesh is None:
        return decode_state
    divides = len(decode_state.live) % math.prod(mesh.shape[axis] for axis in sharding.BATCH_AXES) == 0
    sequences = sharding.BATCH_AXES if divides else None
    split = PartitionSpec(None, sequences, None, sharding.RULES["kv_heads"])
    specs = DecodeState(Cache(split, split), *(PartitionSpec() for _ in decode_state[1:]))  # pyright: ignore[reportArgumentType]: of specs
    return jax.tree.map(jax.lax.with_sharding_constraint, decode_state, specs)


def shared_prefix_length(prompts: Sequence[list[int]]) -> int:
    """Return how many tokens all prompts begin with, in multiples of `PREFIX_MULTIPLE`; 0 for a single prompt.

    At least one token of every prompt is left out.
    """
    if len(prompts) == 1:
        return 0
    common = len(os.path.commonprefix(prompts))  # works on lists as on strings
    return min(common, min(map(len, prompts)) - 1) // PREFIX_MULTIPLE * PREFIX_MULTIPLE


def share_prefix(llm: Llama, decode_state: DecodeState, embeddings: Float[Array, "1 P D"]) -> DecodeState:
    """Write the prefix that all prompts begin with into every sequence: `admit` then starts after it.

    A sequence keeps the prefix from prompt to prompt, since no prompt writes before its own start.

    Args:
      llm: the model.
      decode_state: B sequences.
      embeddings: of the prefix.
    """
    length = embeddings.shape[1]
    prefix = empty_cache(llm.config, 1, length)
    _, prefix = llm(embeddings, jnp.arange(length, dtype=jnp.int32)[None], cache=prefix)
    shared = (full.at[:, :, :length].set(part) for full, part in zip(decode_state.cache, prefix, strict=True))
    return decode_state._replace(cache=Cache(*shared))


def admit(
    llm: Llama,
    decode_state: DecodeState,
    sequences: Int[Array, " G"],
    embeddings: Float[Array, "G T D"],
    *,
    start: Int[Array, " G"],
    lengths: Int[Array, " G"],
    budgets: Int[Array, " G"],
    eos_id: int | Int[Array, ""],
    window: int,
) -> DecodeState:
    """Prefill G sequences with prompts whose first tokens they already hold.

    Args:
      llm: the model.
      decode_state: B sequences.
      sequences: indices of the sequences; an index out of range pads the group, nothing of it is kept.
      embeddings: of the prompts from `start` on, padded on the right.
      start: how many first tokens of its prompt a sequence holds.
      lengths: valid tokens of `embeddings`, at least 1.
      budgets: most tokens to write: 1 to the N of `decode_state`, and no more than its capacity leaves.
      eos_id: the end token.
      window: no prompt is longer (static); the prefill reads and writes the first `window` positions only.
    """
    positions = chunk_positions(start, lengths, embeddings.shape[1], window)
    hidden, part = llm(embeddings, positions, cache=take_sequences(decode_state.cache, sequences, window))
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    token = jnp.argmax(llm.logits(last), axis=-1).astype(jnp.int32)
    new = {
        "next_token": token,
        "prompt_length": start + lengths,
        "written": 0,
        "budget": budgets,
        "live": token != eos_id,
    }
    updated = {name: getattr(decode_state, name).at[sequences].set(value, mode="drop") for name, value in new.items()}
    return decode_state._replace(cache=put_sequences(decode_state.cache, sequences, part), **updated)


def advance(
    llm: Llama,
    embed_fn: Callable[[Int[Array, "B 1"]], Float[Array, "B 1 D"]],
    decode_state: DecodeState,
    *,
    stop_at: int | Int[Array, ""],
    max_steps: int | Int[Array, ""],
    eos_id: int | Int[Array, ""],
) -> tuple[DecodeState, Int[Array, ""]]:
    """Write a token in every live sequence, step after step.

    A sequence stops being live when its next token would be `eos_id` or its budget is written, so no step of a live
    sequence is wasted.

    Args:
      llm: the model.
      embed_fn: tokens -> embeddings.
      decode_state: B sequences.
      stop_at: the loop ends when no more than so many sequences are live.
      max_steps: most steps.
      eos_id: the end token.

    Returns:
      The sequences, and the number of steps made.
    """
    sequences = jnp.arange(len(decode_state.live))

    def is_unfinished(carry):
        step, current = carry
        return (step < max_steps) & (jnp.sum(current.live) > stop_at)

    def write_token(carry):
        step, current = carry
        live, token = current.live, current.next_token
        positions = jnp.where(live, current.prompt_length + current.written, current.cache.capacity)
        hidden, cache = llm(embed_fn(token[:, None]), positions[:, None], cache=current.cache)
        columns = jnp.where(live, current.written, current.tokens.shape[1])  # not live: out of range, ignored
        tokens = current.tokens.at[sequences, columns].set(token, mode="drop")
        written = current.written + live
        token = jnp.argmax(llm.logits(hidden[:, 0]), axis=-1).astype(jnp.int32)
        live = live & (token != eos_id) & (written < current.budget)
        return step + 1, current._replace(cache=cache, next_token=token, written=written, live=live, tokens=tokens)

    steps, decode_state = jax.lax.while_loop(is_unfinished, write_token, (jnp.int32(0), decode_state))
    return decode_state, steps


@dataclasses.dataclass
class DecodeStats:
    """What was written, and how well the batch was used."""

    tokens: int = 0  # of answers, </s> not counted
    sequence_steps: int = 0  # steps times sequences of the batch
    seconds: float = 0.0  # of everything: prefill, host, reading

    @property
    def occupancy(self) -> float:
        """The share of sequence-steps that wrote a token of an answer."""
        return self.tokens / max(1, self.sequence_steps)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of answers per second."""
        return self.tokens / max(1e-9, self.seconds)


class ContinuousBatcher:
    """Decodes many prompts in a batch of fixed size.

    Attributes:
      decode_state: the batch; all its sequences are free again after `run`.
      stats: counts over all calls of `run`.
    """

    def __init__(
        self,
        decode_state: DecodeState,
        admit: Callable[[DecodeState, np.ndarray, list[int]], DecodeState],
        advance: Callable[[DecodeState, int, int], tuple[DecodeState, jax.Array]],
        read: Callable[[DecodeState, np.ndarray, list[int], list[list[int]]], Callable[[], Sequence]],
        *,
        group_size: int = 1,
        max_steps: int = MAX_STEPS,
        stats: DecodeStats | None = None,
    ):
        """Take the batch and its compiled functions; nothing is run yet.

        Args:
          decode_state: an empty batch of B sequences.
          admit: (decode_state, sequences int32 [group_size], indices of the prompts) -> decode_state; donates it. In an
            incomplete group, the sequences beyond the prompts are out of range.
          advance: (decode_state, stop_at, max_steps) -> (decode_state, steps made), as `advance` above; donates it.
          read: (decode_state, sequences int32 [group_size], indices of the prompts, tokens written after each) -> a
            function that waits for the device and returns one result for each prompt. `decode_state` is not changed.
            The function is called after the next steps were dispatched, so that host and device work at the same time.
          group_size: sequences that are admitted, and read, at a time. A larger group shares one pass over the
            weights, but its sequences wait for each other.
          max_steps: most steps before the host looks at the device again.
          stats: is counted on; None: counts begin at zero.
        """
        self.decode_state, self._admit, self._advance, self._read = decode_state, admit, advance, read
        self._batch, self._max_steps = len(decode_state.live), max_steps
        self._group_size, self.stats = min(group_size, self._batch), stats or DecodeStats()

    def run(self, count: int) -> Iterator[tuple[int, Any]]:
        """Answer prompts 0 to count - 1; yield (index of the prompt, result of `read`) as they finish."""
        started = time.perf_counter()
        waiting, assigned = collections.deque(range(count)), {}  # assigned: sequence -> prompt
        pending: list[tuple[list[int], Callable[[], Sequence]]] = []
        while waiting or assigned:
            self._fill(waiting, assigned)
            self.decode_state, steps = self._advance(
                self.decode_state, self._stop_at(len(waiting), len(assigned)), self._max_steps
            )
            yield from _results(pending)  # of the previous round, while the device decodes
            live, written, tokens, steps = jax.device_get(
                (self.decode_state.live, self.decode_state.written, self.decode_state.tokens, steps)
            )
            self.stats.sequence_steps += int(steps) * self._batch
            done = [sequence for sequence in assigned if not live[sequence]]
            for group in (done[i : i + self._group_size] for i in range(0, len(done), self._group_size)):
                prompts = [assigned.pop(sequence) for sequence in group]
                texts = [tokens[sequence, : written[sequence]].tolist() for sequence in group]
                self.stats.tokens += sum(map(len, texts))
                pending.append((prompts, self._read(self.decode_state, self._padded(group), prompts, texts)))
        yield from _results(pending)
        self.stats.seconds += time.perf_counter() - started

    def _fill(self, waiting: collections.deque, assigned: dict[int, int]) -> None:
        free = [sequence for sequence in range(self._batch) if sequence not in assigned]
        while waiting and len(free) >= min(self._group_size, len(waiting)):
            prompts = [waiting.popleft() for _ in range(min(self._group_size, len(waiting)))]
            group, free = free[: len(prompts)], free[len(prompts) :]
            assigned.update(zip(group, prompts, strict=True))
            self.decode_state = self._admit(self.decode_state, self._padded(group), prompts)

    def _stop_at(self, waiting: int, assigned: int) -> int:
        """Return how many sequences are still live when the next group can be admitted; 0 when no prompt waits."""
        return assigned - (min(self._group_size, waiting) - (self._batch - assigned)) if waiting else 0

    def _padded(self, group: list[int]) -> np.ndarray:
        return np.array(group + [self._batch] * (self._group_size - len(group)), np.int32)


def _results(pending: list) -> Iterator[tuple[int, Any]]:
    while pending:
        prompts, wait = pending.pop(0)
        yield from zip(prompts, wait(), strict=True)
