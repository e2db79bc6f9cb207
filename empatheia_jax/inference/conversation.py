"""Answers turn after turn: each prompt is prefilled only from where it differs from what the cache holds.

The next prompt of a dialogue repeats the previous one but for its last lines and continues it; that of another dialogue
still begins with the same instruction. The cache keeps prompt and answer of the previous turn, and the longest common
prefix (the same ids, and the same media in its slots) is not prefilled again.
"""

import hashlib
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from empatheia_jax.data.schema import Example, Profile
from empatheia_jax.inference.engine import Answer, Engine
from empatheia_jax.inference.prompt import Features, Prompt
from empatheia_jax.llm.batching import DecodeState
from empatheia_jax.llm.cache import put_sequences
from empatheia_jax.runtime.buckets import bucket

MIN_PROMPT = 256  # tokens of a prompt that the cache has room for at first; doubled when a prompt is longer
FIRST = np.zeros(1, np.int32)  # indices of the only sequence

Media = dict[int, tuple[str, bytes | None]]
"""Position of a slot's first token -> modality, and digest of its features (None: nothing heard or seen)."""


class Conversation:
    """Answers Examples one after the other on one cached sequence.

    Attributes:
      tokens_read: tokens of prompts that were prefilled.
      tokens_reused: tokens of prompts that the cache held already.
    """

    def __init__(self, engine: Engine):
        self.engine, self.tokens_read, self.tokens_reused = engine, 0, 0
        self._decode_state: DecodeState | None = None
        self._ids: list[int] = []
        self._media: Media = {}

    def answer(
        self,
        example: Example,
        features: Features,
        profile: Profile | None,
        on_ready: Callable[[str], None] = lambda part: None,
    ) -> Answer:
        """Answer one Example; arguments and result are those of `Engine.answer` for a single Example."""
        prompt = self.engine.prompt(example, features, profile)
        media = {slot.position: (slot.modality, _digest(prompt.slot_features(slot))) for slot in prompt.slots}
        current = self._with_room_for(prompt)
        slot_tokens = self.engine.config.projector.tokens
        start = common_prefix_length(self._ids, self._media, prompt.ids, media, slot_tokens=slot_tokens)
        self._decode_state, self._ids, self._media = None, [], {}  # donated: after an exception nothing stale is left
        max_slots, window = sum(position >= start for position in media), current.cache.capacity
        current = self.engine.admit(current, FIRST, [prompt], start=start, max_slots=max_slots, window=window)
        current, _ = self.engine.advance(current)
        text = np.asarray(current.tokens)[0, : int(current.written[0])].tolist()
        on_ready("words")
        (answer,) = self.engine.read(current, FIRST, [prompt], [text])()
        self._decode_state, self._ids, self._media = current, prompt.ids + text, media
        self.tokens_read, self.tokens_reused = self.tokens_read + len(prompt.ids) - start, self.tokens_reused + start
        return answer

    def _with_room_for(self, prompt: Prompt) -> DecodeState:
        """Return the decode state, grown if needed so that the prompt and its answer fit."""
        current = self._decode_state
        if current is not None and current.cache.capacity >= self.engine.capacity(len(prompt.ids), [prompt]):
            return current
        capacity = self.engine.capacity(bucket(len(prompt.ids), MIN_PROMPT, 1), [prompt])
        grown = self.engine.empty_decode_state(1, capacity)
        return (
            grown
            if current is None
            else grown._replace(cache=put_sequences(grown.cache, jnp.asarray(FIRST), current.cache))
        )


def common_prefix_length(
    cached_ids: Sequence[int], cached_media: Media, ids: Sequence[int], media: Media, *, slot_tokens: int
) -> int:
    """Return how many first tokens of a prompt a cache holds: the same ids, and the same media in every slot.

    Args:
      cached_ids: ids in the cache.
      cached_media: media in the cache.
      ids: of the prompt; its last token is always read again.
      media: of the prompt.
      slot_tokens: tokens of a slot; a slot is reused entirely or not at all.
    """
    longest = min(len(cached_ids), len(ids) - 1)
    different = np.flatnonzero(np.asarray(cached_ids[:longest]) != np.asarray(ids[:longest]))
    length = int(different[0]) if len(different) else longest
    changed = [position for position in {**cached_media, **media} if cached_media.get(position) != media.get(position)]
    length = min([length, *changed])
    return min([length, *(position for position in media if position < length < position + slot_tokens)])


def _digest(features: np.ndarray | None) -> bytes | None:
    if features is None:
        return None
    return hashlib.blake2b(repr((features.dtype, features.shape)).encode() + features.tobytes()).digest()
