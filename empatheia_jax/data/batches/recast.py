"""Speaker substitution (the config's `data.recast`): the same words spoken by other people, for small corpora.

A training Example keeps its words and its emotion; who speaks and who listens come from other dialogues of the same
avatar emotion. The speaker's voice and face are those of one such dialogue; the listener's earlier utterances, profile
and style gold are those of another. In this corpus whoever answers a sad speaker does so in their own voice, so the
golds stay true; what is lost is the chance to learn a dialogue by heart and with it the listener's profile. The content
gold stays the Example's own, since it depends on the words.
"""

import collections
import dataclasses

import numpy as np

from empatheia_jax.data import emotions
from empatheia_jax.data.schema import Example, Profile


@dataclasses.dataclass(frozen=True)
class SpeakerAssignment:
    """Whose recordings stand in for an Example's own."""

    feature_keys: dict[str, str]  # feature-store key of each of the Example's utterances -> key to read instead
    listener_profile: Profile | None
    style_key: str  # feature-store key of the utterance whose style is the gold


@dataclasses.dataclass
class _Dialogue:
    """The utterances of one dialogue, as feature-store keys in the order they were spoken."""

    speaker: list[str] = dataclasses.field(default_factory=list)
    listener: list[str] = dataclasses.field(default_factory=list)
    listener_profile: Profile | None = None


class SpeakerSubstitution:
    """Draws speakers for labelled Examples from the dialogues of the same avatar emotion."""

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
        self._by_emotion = {emotion: list(by_id.values()) for emotion, by_id in dialogues.items()}

    def __call__(self, example: Example, rng: np.random.Generator) -> SpeakerAssignment | None:
        """Draw speaker and listener for `example`; None where it has no emotion label or no response."""
        if example.chain is None or example.response is None:
            return None
        choices = self._by_emotion[emotions.avatar_emotion(example.chain.speaker_emotion)]
        speaker, listener = (choices[int(index)] for index in rng.integers(len(choices), size=2))
        offsets = rng.integers(16, size=2)
        feature_keys, counts = {}, [0, 0]
        for utterance in example.utterances:
            role = 0 if utterance.role == "speaker" else 1
            keys = (speaker.speaker, listener.listener)[role]
            feature_keys[example.utterance_key(utterance)] = keys[(counts[role] + offsets[role]) % len(keys)]
            counts[role] += 1
        return SpeakerAssignment(
            feature_keys, listener.listener_profile, style_key=feature_keys[example.utterance_key(example.response)]
        )
