"""What an evaluation varies and measures, under the names that report.json and the page show (sections 6.1, 6.2).

The conditions of Table 2 ("w/o SPC&VID") change speech and video; those of the disentangler change what is known of the
listener's profile.
"""

from pathlib import Path
from typing import NamedTuple

from empatheia_jax.data import emotions
from empatheia_jax.data.schema import Example, Profile
from empatheia_jax.inference.prompt import Features
from empatheia_jax.runtime.json_files import read_json

WITH_MEDIA, WITHOUT_MEDIA, SWAPPED_MEDIA = "with speech and video", "without", "swapped media"
MEDIA_CONDITIONS = (WITH_MEDIA, WITHOUT_MEDIA, SWAPPED_MEDIA)
PROFILE_GIVEN, PROFILE_HEARD = "profile in the prompt", "heard and seen before"
PROFILE_UNKNOWN, PROFILE_SWAPPED = "neither", "another profile in the prompt"


class StyleMeasure(NamedTuple):
    """A measure of style, taken from the corpus ("asked") and from the answers ("heard" or "seen")."""

    key: str  # "<key>_asked" and "<key>_<sense>" are its fields of a cell
    sense: str  # "heard" | "seen"
    name: str
    title: str
    unit: str


STYLE_MEASURES = (
    StyleMeasure("f0", "heard", "F0", "Pitch of the voice, from the profile's mean", "semitones"),
    StyleMeasure("rate", "heard", "syllables/s", "Speaking rate", "syllables/s"),
    StyleMeasure("mouth", "seen", "mouth curve", "Curve of the mouth", ""),
    StyleMeasure("brow", "seen", "brow height", "Height of the brows", ""),
)


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
        emotion = gold_avatar_emotion(dialogues[identity])
        others = (ids[(position + step) % len(ids)] for step in range(1, len(ids)))
        donor = next((other for other in others if gold_avatar_emotion(dialogues[other]) != emotion), None)
        if donor is None:
            continue
        source = dialogues[donor]
        shown_emotions[identity] = gold_avatar_emotion(source)
        for utterance in dialogues[identity].history:
            same_role = [u for u in source.history if u.role == utterance.role] or list(source.history)
            donor_utterance = next((u for u in same_role if u.index == utterance.index), same_role[-1])
            donors[dialogues[identity].utterance_key(utterance)] = source.utterance_key(donor_utterance)
    return (lambda key: features(donors[key]) if key in donors else None), shown_emotions


def gold_emotion(example: Example) -> str:
    """Return the speaker's emotion, of 32, in the chain of empathy of a labelled Example.

    Raises:
      ValueError: it has no chain.
    """
    if example.chain is None:
        raise ValueError(f"{example.id}: no chain of empathy, so no emotion to compare with")
    return example.chain.speaker_emotion


def gold_avatar_emotion(example: Example) -> str:
    """Return the emotion, of 7, that answers `gold_emotion`."""
    return emotions.avatar_emotion(gold_emotion(example))


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
    dialogues = read_json(labels).get("dialogues", {}).get("test" if split == "test" else "train", {})
    return {conversation for conversation, entry in dialogues.items() if entry.get("half") == "neutral"}
