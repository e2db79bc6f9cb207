"""The same test dialogues under different conditions: with and without voice and face, with another's media, and with
another profile in the prompt (sections 6.1, 6.2; Table 2's "w/o SPC&VID")."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from empatheia_jax.data import emotions
from empatheia_jax.data.schema import Example, Profile

Features = Callable[[str], Mapping | None]


def nothing_heard(key: str) -> None:
    """Features of nobody: every slot keeps its placeholder."""
    return None


def swapped_media(examples: list[Example], features: Features) -> tuple[Features, dict[str, str]]:
    """Voice and face of another dialogue, with another emotion, under the words of this one.

    Each dialogue takes the media of the next one (in the order of their ids) whose avatar emotion differs; an utterance
    takes that of the same index, or the last of the same role.

    Args:
      examples: of one split; those without a chain of empathy get no media.
      features: utterance key -> stored features.
    Returns:
      the features (None where no dialogue of another emotion exists), and for each conversation the avatar emotion
      its media now show.
    """
    dialogues: dict[str, Example] = {}
    for example in examples:  # the longest history of each dialogue
        known = dialogues.get(example.conversation_id)
        if example.chain and (known is None or len(example.history) > len(known.history)):
            dialogues[example.conversation_id] = example
    ids = sorted(dialogues)
    donors: dict[str, str] = {}
    shown: dict[str, str] = {}
    for position, identity in enumerate(ids):
        own = _emotion(dialogues[identity])
        others = (ids[(position + step) % len(ids)] for step in range(1, len(ids)))
        donor = next((other for other in others if _emotion(dialogues[other]) != own), None)
        if donor is None:
            continue
        shown[identity] = _emotion(dialogues[donor])
        given = dialogues[donor]
        for utterance in dialogues[identity].history:
            same_role = [u for u in given.history if u.role == utterance.role] or list(given.history)
            taken = next((u for u in same_role if u.index == utterance.index), same_role[-1])
            donors[dialogues[identity].utterance_key(utterance)] = given.utterance_key(taken)
    return (lambda key: features(donors[key]) if key in donors else None), shown


def _emotion(example: Example) -> str:
    return emotions.avatar_emotion(example.chain.speaker_emotion)


def another_profile(profile: Profile) -> Profile:
    """A profile that differs in age, gender and timbre at once: the next of each table."""

    def following(table: tuple[str, ...], value: str) -> str:
        return table[(table.index(value) + 1) % len(table)]

    return Profile(
        following(emotions.AGES, profile.age),
        following(emotions.GENDERS, profile.gender),
        following(emotions.TIMBRES, profile.timbre),
    )


def without_profile(examples: list[Example]) -> list[Example]:
    """The Examples with the listener's profile unknown to the prompt (labels are kept by the caller)."""
    return [dataclasses.replace(example, listener_profile=None) for example in examples]


def neutral_conversations(path: Path, split: str) -> set[str]:
    """Ids of a split's conversations whose words carry no emotion, as the sample corpus' labels.json says; else none.

    The validation split is a part of train.json and shares its numbers.
    """
    labels = Path(path) / "labels.json"
    if not labels.is_file():
        return set()
    dialogues = json.loads(labels.read_text()).get("dialogues", {}).get("test" if split == "test" else "train", {})
    return {conversation for conversation, said in dialogues.items() if said["half"] == "neutral"}
