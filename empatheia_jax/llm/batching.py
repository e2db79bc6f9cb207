"""Continuous batching: many prompts through a fixed number of slots, each freed slot filled with the next prompt.

A static batch writes until its longest answer ends; here a row whose answer ends makes room at once, so nearly every
step of every row writes a token that somebody wants. Memory is that of the slots, however many prompts there are.

`admit`, `advance` and `share_prefix` are plain traceable functions: call them inside `jax.jit`, with the model's state
as an argument and the slots donated. `Continuous` drives them from the host and looks at the device once for every
freed slot (or group of slots), not once a token.
"""

import collections
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from empatheia_jax.config import LlamaConfig
from empatheia_jax.llm.cache import Cache, chunk_positions, empty_cache, put_rows, take_rows
from empatheia_jax.llm.llama import Llama

STEPS = 64  # between two looks from the host, at most
PREFIX = 32  # what all prompts share is read once, in multiples of so many tokens: few shapes


class Slots(NamedTuple):
    """B sequences being written, greedily. A slot that is not live waits for its answer to be taken, or is empty."""

    cache: Cache  # prompt and what was written, up to `prompt + written`
    token: jax.Array  # int32 [B] chosen, not yet written
    prompt: jax.Array  # int32 [B] tokens of the prompt
    written: jax.Array  # int32 [B]
    budget: jax.Array  # int32 [B] most tokens to write
    live: jax.Array  # bool [B]
    tokens: jax.Array  # int32 [B, N]; a row's first `written` count


def empty_slots(config: LlamaConfig, rows: int, capacity: int, most: int) -> Slots:
    """`rows` empty slots, each with room for `capacity` positions and `most` new tokens."""
    numbers = [jnp.zeros(rows, jnp.int32) for _ in range(4)]  # buffers of their own, so that all can be donated
    cache, tokens = empty_cache(config, rows, capacity), jnp.zeros((rows, most), jnp.int32)
    return Slots(cache, *numbers, jnp.zeros(rows, bool), tokens)


def shared_length(prompts: Sequence[list[int]]) -> int:
    """With how many tokens all prompts begin, in multiples of `PREFIX`, leaving one of each; 0 for a single prompt."""
    if len(prompts) == 1:
        return 0
    common = len(os.path.commonprefix(prompts))  # of lists as of strings
    return min(common, min(map(len, prompts)) - 1) // PREFIX * PREFIX


def share_prefix(llm: Llama, slots: Slots, embeddings: jax.Array) -> Slots:
    """Write embeddings [1, P, D], with which all prompts begin, into every slot: `admit` then starts at P.

    A slot keeps it from prompt to prompt, as no prompt writes before its own start.
    """
    length = embeddings.shape[1]
    one = empty_cache(llm.config, 1, length)
    _, one = llm(embeddings, jnp.arange(length, dtype=jnp.int32)[None], cache=one)
    shared = (full.at[:, :, :length].set(part) for full, part in zip(slots.cache, one, strict=True))
    return slots._replace(cache=Cache(*shared))


def admit(
    llm: Llama,
    slots: Slots,
    rows: jax.Array,
    embeddings: jax.Array,
    start: jax.Array,
    lengths: jax.Array,
    budgets: jax.Array,
    *,
    eos_id: int | jax.Array,
    window: int,
) -> Slots:
    """Prefill slots `rows` int [G] with prompts whose first `start` [G] tokens these slots already hold.

    Args:
      embeddings: [G, T, D], what follows them, padded on the right to T; lengths: int [G] >= 1 of it. A row outside
        the slots is padding of the group: nothing of it is kept.
      budgets: int [G], most tokens to write: 1 to the slots' N, and no more than their capacity leaves.
      window: no prompt is longer; the prefill reads and writes the first `window` positions only.
    """
    positions = chunk_positions(start, lengths, embeddings.shape[1], window)
    hidden, part = llm(embeddings, positions, cache=take_rows(slots.cache, rows, window))
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    token = jnp.argmax(llm.logits(last), axis=-1).astype(jnp.int32)
    new = {"token": token, "prompt": start + lengths, "written": 0, "budget": budgets, "live": token != eos_id}
    put = {name: getattr(slots, name).at[rows].set(value, mode="drop") for name, value in new.items()}
    return slots._replace(cache=put_rows(slots.cache, rows, part), **put)


def advance(
    llm: Llama,
    embed_fn: Callable[[jax.Array], jax.Array],
    slots: Slots,
    least: jax.Array,
    steps: jax.Array,
    *,
    eos_id: int | jax.Array,
) -> tuple[Slots, jax.Array]:
    """Write a token in every live slot, step after step: `steps` at most, while more than `least` slots are live.

    `embed_fn` maps tokens [B, 1] to embeddings [B, 1, D]. A slot stops being live when its next token would be `eos_id`
    or its budget is written, so a step of a live slot is never in vain.

    Returns:
      the slots, and the steps that were made.
    """
    rows = jnp.arange(len(slots.live))

    def going(state):
        step, slots = state
        return (step < steps) & (jnp.sum(slots.live) > least)

    def write_one(state):
        step, slots = state
        live, token = slots.live, slots.token
        positions = jnp.where(live, slots.prompt + slots.written, slots.cache.capacity)
        hidden, cache = llm(embed_fn(token[:, None]), positions[:, None], cache=slots.cache)
        columns = jnp.where(live, slots.written, slots.tokens.shape[1])  # of a slot that is not live: dropped
        tokens = slots.tokens.at[rows, columns].set(token, mode="drop")
        written = slots.written + live
        token = jnp.argmax(llm.logits(hidden[:, 0]), axis=-1).astype(jnp.int32)
        live = live & (token != eos_id) & (written < slots.budget)
        return step + 1, slots._replace(cache=cache, token=token, written=written, live=live, tokens=tokens)

    step, slots = jax.lax.while_loop(going, write_one, (jnp.int32(0), slots))
    return slots, step


@dataclasses.dataclass
class Tally:
    """What was written, and how well the slots were used."""

    tokens: int = 0  # of answers, </s> not counted
    slot_steps: int = 0  # steps times slots
    seconds: float = 0.0  # everything counted: prefill, host, reading

    @property
    def occupancy(self) -> float:
        """Share of slot-steps that wrote a token of an answer."""
        return self.tokens / max(1, self.slot_steps)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of answers a second."""
        return self.tokens / max(1e-9, self.seconds)


class Continuous:
    """Drives slots over many prompts.

    Attributes:
      slots: the slots, empty again after `run`. tally: counts every `run`.
    """

    def __init__(
        self,
        slots: Slots,
        admit: Callable[[Slots, np.ndarray, list[int]], Slots],
        advance: Callable[[Slots, int, int], tuple[Slots, jax.Array]],
        read: Callable[[Slots, np.ndarray, list[int], list[list[int]]], Callable[[], Sequence]],
        *,
        together: int = 1,
        steps: int = STEPS,
        tally: Tally | None = None,
    ):
        """Nothing is run yet.

        Args:
          admit: (slots, rows int32 [together], numbers of the prompts) -> slots; donates the slots.
          advance: (slots, least, steps) -> (slots, steps made), as the function above; donates the slots.
          read: (slots, rows int32 [together], numbers, tokens written of each) -> a call that waits for what is made of
            these answers, one each; it leaves the slots as they are. The device may be behind: it is called after the
            next steps were sent to the device.
          together: slots that are filled, and read, at a time. More share one pass over the weights and wait for each
            other. In a group that is not full, rows beyond `numbers` name no slot.
          steps: between two looks from the host, at most. tally: counts on from here; None: from nothing.
        """
        self.slots, self._admit, self._advance, self._read = slots, admit, advance, read
        self._rows, self._together, self._steps = len(slots.live), min(together, len(slots.live)), steps
        self.tally = tally or Tally()

    def run(self, count: int) -> Iterator[tuple[int, object]]:
        """Answer prompts 0 to count - 1; yields (number, what `read` made of it) as they finish."""
        started = time.perf_counter()
        waiting, held = collections.deque(range(count)), {}  # held: slot -> number
        ready: list[tuple[list[int], Callable[[], Sequence]]] = []
        while waiting or held:
            self._fill(waiting, held)
            self.slots, made = self._advance(self.slots, self._least(len(waiting), len(held)), self._steps)
            yield from _results(ready)  # of the round before, while the device writes
            live, written, tokens, made = jax.device_get((self.slots.live, self.slots.written, self.slots.tokens, made))
            self.tally.slot_steps += int(made) * self._rows
            done = [row for row in held if not live[row]]
            for group in (done[i : i + self._together] for i in range(0, len(done), self._together)):
                numbers = [held.pop(row) for row in group]
                texts = [tokens[row, : written[row]].tolist() for row in group]
                self.tally.tokens += sum(map(len, texts))
                ready.append((numbers, self._read(self.slots, self._group(group), numbers, texts)))
        yield from _results(ready)
        self.tally.seconds += time.perf_counter() - started

    def _fill(self, waiting: collections.deque, held: dict[int, int]) -> None:
        free = [row for row in range(self._rows) if row not in held]
        while waiting and len(free) >= min(self._together, len(waiting)):
            numbers = [waiting.popleft() for _ in range(min(self._together, len(waiting)))]
            rows, free = free[: len(numbers)], free[len(numbers) :]
            held.update(zip(rows, numbers, strict=True))
            self.slots = self._admit(self.slots, self._group(rows), numbers)

    def _least(self, waiting: int, held: int) -> int:
        """Slots that go on when the next group can be admitted; 0 when nobody waits for a slot."""
        return held - (min(self._together, waiting) - (self._rows - held)) if waiting else 0

    def _group(self, rows: list[int]) -> np.ndarray:
        return np.array(rows + [self._rows] * (self._together - len(rows)), np.int32)


def _results(ready: list) -> Iterator[tuple[int, object]]:
    while ready:
        numbers, wait = ready.pop(0)
        yield from zip(numbers, wait(), strict=True)
