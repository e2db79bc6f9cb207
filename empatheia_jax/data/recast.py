"""Recasting: the same words performed by other people, an augmentation for corpora of few dialogues.

A training Example keeps its words and its emotion; who speaks and who listens come from other dialogues of the same
avatar emotion. The speaker's voice and face are those of one such dialogue, the listener's earlier ones, profile and
style gold those of another. Whoever answers a sad speaker in this corpus does so in their own voice, so the golds stay
true; what goes is the chance to know a dialogue by heart and with it the listener's profile. The content gold stays the
Example's own: it is about the words.
"""

import collections
import dataclasses

import numpy as np

from empatheia_jax.data import emotions
from empatheia_jax.data.schema import Example, Profile


@dataclasses.dataclass(frozen=True)
class Cast:
    """Who performs an Example: feature-store keys by the Example's own keys, the listener, the style gold's key."""

    media: dict[str, str]
    listener_profile: Profile | None
    style: str


@dataclasses.dataclass
class _Dialogue:
    """One dialogue's performances, as keys of the feature store in the order they were spoken."""

    speaker: list[str] = dataclasses.field(default_factory=list)
    listener: list[str] = dataclasses.field(default_factory=list)
    listener_profile: Profile | None = None


class Recast:
    """Draws casts for labelled Examples from the dialogues that Examples of the same avatar emotion belong to."""

    def __init__(self, examples: list[Example]):
        dialogues: dict[str, dict[str, _Dialogue]] = collections.defaultdict(dict)
        for example in examples:
            if example.chain is None or example.response is None:
                continue
            emotion = emotions.avatar_emotion(example.chain.speaker_emotion)
            dialogue = dialogues[emotion].setdefault(f"{example.split}/{example.conversation_id}", _Dialogue())
            dialogue.listener_profile = example.listener_profile
            for utterance in example.utterances:
                keys = dialogue.speaker if utterance.role == "speaker" else dialogue.listener
                if (key := example.utterance_key(utterance)) not in keys:
                    keys.append(key)
        self._by_emotion = {emotion: list(found.values()) for emotion, found in dialogues.items()}

    def __call__(self, example: Example, rng: np.random.Generator) -> Cast | None:
        """A cast for `example`; None where it has no emotion, no response, or no listener to borrow."""
        if example.chain is None or example.response is None:
            return None
        choices = self._by_emotion[emotions.avatar_emotion(example.chain.speaker_emotion)]
        speaker, listener = (choices[int(place)] for place in rng.integers(len(choices), size=2))
        offsets = rng.integers(16, size=2)
        media, counts = {}, [0, 0]
        for utterance in example.utterances:
            part = 0 if utterance.role == "speaker" else 1
            keys = (speaker.speaker, listener.listener)[part]
            media[example.utterance_key(utterance)] = keys[(counts[part] + offsets[part]) % len(keys)]
            counts[part] += 1
        return Cast(media, listener.listener_profile, media[example.utterance_key(example.response)])
