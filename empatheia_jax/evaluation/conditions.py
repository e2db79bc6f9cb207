"""The conditions of evaluation: with and without speech and video, with another dialogue's media, and with another
profile in the prompt (sections 6.1, 6.2; Table 2's "w/o SPC&VID")."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from empatheia_jax.data import emotions
from empatheia_jax.data.schema import Example, Profile

Features = Callable[[str], Mapping | None]


def no_media(key: str) -> None:
    """Return no features for any utterance: every slot keeps its placeholder."""
    return None


def swapped_media(examples: list[Example], features: Features) -> tuple[Features, dict[str, str]]:
    """Exchange the media of dialogues: each gets those of another dialogue with another emotion.

    The donor is the next dialogue (in the order of their ids) whose avatar emotion differs; an utterance takes the
    media of the donor's utterance of the same index, or of the last one of the same role.

    Args:
      examples: of one split; those without a chain of empathy get no media.
      features: utterance key -> stored features.
    Returns:
      The features (None where no dialogue of another emotion exists), and for each conversation the avatar emotion
      that its media now show.
    """
    dialogues: dict[str, Example] = {}
    for example in examples:  # keep the longest history of each dialogue
        longest = dialogues.get(example.conversation_id)
        if example.chain and (longest is None or len(example.history) > len(longest.history)):
            dialogues[example.conversation_id] = example
    ids = sorted(dialogues)
    donors: dict[str, str] = {}
    shown_emotions: dict[str, str] = {}
    for position, identity in enumerate(ids):
        emotion = _avatar_emotion(dialogues[identity])
        others = (ids[(position + step) % len(ids)] for step in range(1, len(ids)))
        donor = next((other for other in others if _avatar_emotion(dialogues[other]) != emotion), None)
        if donor is None:
            continue
        source = dialogues[donor]
        shown_emotions[identity] = _avatar_emotion(source)
        for utterance in dialogues[identity].history:
            same_role = [u for u in source.history if u.role == utterance.role] or list(source.history)
            donor_utterance = next((u for u in same_role if u.index == utterance.index), same_role[-1])
            donors[dialogues[identity].utterance_key(utterance)] = source.utterance_key(donor_utterance)
    return (lambda key: features(donors[key]) if key in donors else None), shown_emotions


def _avatar_emotion(example: Example) -> str:
    return emotions.avatar_emotion(example.chain.speaker_emotion)


def another_profile(profile: Profile) -> Profile:
    """Return a profile that differs in age, gender and timbre: the next entry of each table."""

    def next_entry(table: tuple[str, ...], value: str) -> str:
        return table[(table.index(value) + 1) % len(table)]

    return Profile(
        next_entry(emotions.AGES, profile.age),
        next_entry(emotions.GENDERS, profile.gender),
        next_entry(emotions.TIMBRES, profile.timbre),
    )


def neutral_conversations(path: Path, split: str) -> set[str]:
    """Return the ids of a split's conversations whose words carry no emotion, from the sample corpus' labels.json.

    The set is empty for corpora without that file. The validation split is a part of train.json and shares its ids.

    Args:
      path: folder of the corpus.
      split: "train", "validation" or "test".
    """
    labels = Path(path) / "labels.json"
    if not labels.is_file():
        return set()
    dialogues = json.loads(labels.read_text()).get("dialogues", {}).get("test" if split == "test" else "train", {})
    return {conversation for conversation, entry in dialogues.items() if entry["half"] == "neutral"}
