"""Turn after turn, each prompt read only from where it differs from what is already in the cache.

The next prompt of a dialogue repeats the one before but for its last line and goes on from there; that of another
dialogue still begins with the same instruction. The cache keeps prompt and answer of the turn before, and the longest
prefix that is the same (ids, and what was heard and seen in its slots) is not read again.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from empatheia_jax.buckets import bucket
from empatheia_jax.data.schema import Example, Profile
from empatheia_jax.inference.engine import Answer, Engine, Prompt
from empatheia_jax.llm.batching import Slots
from empatheia_jax.llm.cache import put_rows

SMALLEST = 256  # tokens of a prompt that there is room for at first; doubled when a prompt outgrows it
ROW = np.zeros(1, np.int32)  # the only one

Media = dict[int, tuple[str, bytes | None]]
"""Position of a slot's first token -> modality, digest of what is in it (None: nothing heard or seen)."""


class Conversation:
    """Answers Examples one after the other on one row of cache.

    Attributes:
      read: tokens of prompts that were prefilled. reused: those that the cache held already.
    """

    def __init__(self, engine: Engine):
        self.engine, self.read, self.reused = engine, 0, 0
        self._slots: Slots | None = None
        self._ids: list[int] = []
        self._media: Media = {}

    def answer(
        self,
        example: Example,
        features: Callable[[str], Mapping | None],
        profile: Profile | None,
        reached: Callable[[str], None] = lambda name: None,
    ) -> Answer:
        """Answer one Example; arguments and result are those of `Engine.answer`, for one."""
        prompt = self.engine.prompt(example, features, profile)
        media = {slot.position: (slot.modality, _digest(prompt.medium(slot))) for slot in prompt.slots}
        slots = self._room_for(prompt)
        start = common_prefix(self._ids, self._media, prompt.ids, media, self.engine.config.projector.tokens)
        self._slots, self._ids, self._media = None, [], {}  # given up: whatever stops us, nothing stale is left
        places = sum(position >= start for position in media)
        slots = self.engine.admit(slots, ROW, [prompt], start, places, window=slots.cache.capacity)
        slots = self.engine.advance(slots)
        text = np.asarray(slots.tokens)[0, : int(slots.written[0])].tolist()
        reached("words")
        (answer,) = self.engine.read(slots, ROW, [prompt], [text])()
        self._slots, self._ids, self._media = slots, prompt.ids + text, media
        self.read, self.reused = self.read + len(prompt.ids) - start, self.reused + start
        return answer

    def _room_for(self, prompt: Prompt) -> Slots:
        """Slots of one row with room for the prompt, and in them all that was held before."""
        held = self._slots
        if held is not None and held.cache.capacity >= self.engine.capacity(len(prompt.ids), [prompt]):
            return held
        fresh = self.engine.empty_slots(1, self.engine.capacity(bucket(len(prompt.ids), SMALLEST, 1), [prompt]))
        return fresh if held is None else fresh._replace(cache=put_rows(fresh.cache, ROW, held.cache))


def common_prefix(held: Sequence[int], held_media: Media, ids: Sequence[int], media: Media, width: int) -> int:
    """How many first tokens of a prompt a cache holds: the same ids, and the same media in every slot.

    Args:
      held, held_media: what is in the cache. ids, media: the prompt; its last token is always read anew.
      width: tokens of a slot; a slot is held wholly or not at all.
    """
    most = min(len(held), len(ids) - 1)
    differ = np.flatnonzero(np.asarray(held[:most]) != np.asarray(ids[:most]))
    start = int(differ[0]) if len(differ) else most
    changed = [place for place in {**held_media, **media} if held_media.get(place) != media.get(place)]
    start = min([start, *changed])
    return min([start, *(place for place in media if place < start < place + width)])


def _digest(medium: np.ndarray | None) -> bytes | None:
    if medium is None:
        return None
    return hashlib.blake2b(repr((medium.dtype, medium.shape)).encode() + medium.tobytes()).digest()
