"""Speaker substitution keeps words and emotion; all else comes from dialogues of the same emotion, consistently."""

import dataclasses

import numpy as np

from empatheia_jax.data import emotions
from empatheia_jax.data.batches.augmenter import SpeakerSubstitution
from empatheia_jax.data.schema import ChainOfEmpathy, Example, Profile, Utterance

FINE_EMOTIONS = ("sad", "lonely", "joyful")  # two of one avatar emotion, one of another


def example(number: int) -> Example:
    utterances = [Utterance(i, ("speaker", "listener")[i % 2], f"Line {i} of {number}.", None, None) for i in range(4)]
    profile = Profile(emotions.AGES[number % 4], emotions.GENDERS[number % 2], emotions.TIMBRES[number % 3])
    chain = ChainOfEmpathy("a scene", FINE_EMOTIONS[number % 3], "a cause", "a goal")
    return Example(
        f"train/{number}/1",
        "train",
        str(number),
        1,
        "",
        "",
        tuple(utterances[:3]),
        profile,
        profile,
        chain,
        utterances[3],
    )


EXAMPLES = [example(number) for number in range(12)]


def example_of(key: str) -> Example:
    return EXAMPLES[int(key.split("/")[1])]


def test_an_assignment_is_of_one_emotion_and_one_listener():
    substitution, rng, seen = SpeakerSubstitution(EXAMPLES), np.random.default_rng(0), set()
    for _ in range(40):
        for example in EXAMPLES:
            assignment = substitution(example, rng)
            assert set(assignment.feature_keys) == {
                example.utterance_key(u) for u in (*example.history, example.response)
            }
            emotion = emotions.avatar_emotion(example.chain.speaker_emotion)
            listeners, speakers = set(), set()
            for own, borrowed in assignment.feature_keys.items():
                assert emotions.avatar_emotion(example_of(borrowed).chain.speaker_emotion) == emotion
                assert int(own.split("/")[2]) % 2 == int(borrowed.split("/")[2]) % 2  # a speaker by a speaker
                (listeners if int(own.split("/")[2]) % 2 else speakers).add(borrowed.split("/")[1])
            assert len(listeners) == len(speakers) == 1
            listener = example_of(assignment.style_key)
            assert assignment.listener_profile == listener.listener_profile and listener.conversation_id in listeners
            seen.add((example.conversation_id, listener.conversation_id))
    assert len(seen) > len(EXAMPLES) * 3


def test_without_a_label_or_an_answer_there_is_no_assignment():
    substitution, rng = SpeakerSubstitution(EXAMPLES), np.random.default_rng(0)
    assert substitution(dataclasses.replace(EXAMPLES[0], chain=None), rng) is None
    assert substitution(dataclasses.replace(EXAMPLES[0], response=None), rng) is None
