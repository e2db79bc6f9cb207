"""Prompts as the LLM reads them: their ids, the media that stand in them, and a group of them as padded arrays."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from empatheia_jax.data.batches.encoder import PlacedSlot
from empatheia_jax.runtime.buckets import bucket

PROMPT_BUCKET, SLOT_BUCKET = 64, 4  # smallest size of each
BUCKETS = 2  # sizes per doubling

Features = Callable[[str], Mapping[str, np.ndarray] | None]
"""Utterance key -> {"audio": [Na, Da], "video": [Nv, Dv]}, or None where it was neither heard nor seen."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt as the LLM reads it, and how much may be written after it."""

    ids: list[int]
    slots: tuple[PlacedSlot, ...]  # where media stand in it
    profile_line: list[int]  # ids between </s> and the signals
    features: Features
    max_new_tokens: int  # most tokens of its answer

    def slot_features(self, slot: PlacedSlot) -> np.ndarray | None:
        """Return the features of a slot, None where it was neither heard nor seen."""
        return (self.features(slot.key) or {}).get(slot.modality)

    @property
    def ids_until_slot(self) -> list[int]:
        """The ids up to and including the first one of the first slot."""
        return self.ids[: self.slots[0].position + 1] if self.slots else self.ids


def pad_prompts(
    prompts: Sequence[Prompt],
    group: int,
    *,
    start: int,
    max_slots: int,
    feature_shapes: Mapping[str, tuple[int, int]],
) -> dict:
    """Return prompts as arrays of few different shapes.

    Args:
      prompts: at most `group`.
      group: G, prompts in the padded group.
      start: position of the first token that is prefilled.
      max_slots: no prompt has more media slots from `start` on.
      feature_shapes: modality -> (N, D) of its features; empty for a text-only model.

    Returns:
      "tokens" int32 [G, T]; "start", "lengths" and "budgets" int32 [G] (the latter two 1 where there is no prompt);
      "media", the features and flat starts of the slots from `start` on, as `Empatheia.fill_slots` takes them.
    """
    size = bucket(max(len(prompt.ids) for prompt in prompts) - start, PROMPT_BUCKET, BUCKETS)
    slots = bucket(max_slots, SLOT_BUCKET, BUCKETS)
    tokens, lengths, budgets = np.zeros((group, size), np.int32), *np.ones((2, group), np.int32)
    media = {name: np.zeros((group * slots, *shape), np.float32) for name, shape in feature_shapes.items()}
    media |= {f"{name}_start": np.full(group * slots, -1, np.int32) for name in feature_shapes}
    for member, prompt in enumerate(prompts):
        lengths[member], budgets[member] = len(prompt.ids) - start, prompt.max_new_tokens
        tokens[member, : lengths[member]] = prompt.ids[start:]
        later = [slot for slot in prompt.slots if slot.position >= start] if feature_shapes else []
        for index, slot in enumerate(later, member * slots):
            if (features := prompt.slot_features(slot)) is not None:
                media[slot.modality][index] = features
                media[f"{slot.modality}_start"][index] = member * size + slot.position - start
    starts = np.full(group, start, np.int32)
    return {"tokens": tokens, "start": starts, "lengths": lengths, "budgets": budgets, "media": media}
