"""Recasting keeps words and emotion, and borrows everything else from dialogues of the same emotion, consistently."""

import dataclasses

import numpy as np

from empatheia_jax.data import emotions
from empatheia_jax.data.recast import Recast
from empatheia_jax.data.schema import ChainOfEmpathy, Example, Profile, Utterance

FEELINGS = ("sad", "lonely", "joyful")  # two of one avatar emotion, one of another


def example(number: int) -> Example:
    said = [Utterance(i, ("speaker", "listener")[i % 2], f"Line {i} of {number}.", None, None) for i in range(4)]
    profile = Profile(emotions.AGES[number % 4], emotions.GENDERS[number % 2], emotions.TIMBRES[number % 3])
    chain = ChainOfEmpathy("a scene", FEELINGS[number % 3], "a cause", "a goal")
    return Example(
        f"train/{number}/1", "train", str(number), 1, "", "", tuple(said[:3]), profile, profile, chain, said[3]
    )


EXAMPLES = [example(number) for number in range(12)]


def of_key(key: str) -> Example:
    return EXAMPLES[int(key.split("/")[1])]


def test_a_cast_is_of_one_emotion_and_one_listener():
    recast, rng, seen = Recast(EXAMPLES), np.random.default_rng(0), set()
    for _ in range(40):
        for example in EXAMPLES:
            cast = recast(example, rng)
            assert set(cast.media) == {example.utterance_key(u) for u in (*example.history, example.response)}
            wanted = emotions.avatar_emotion(example.chain.speaker_emotion)
            listeners, speakers = set(), set()
            for own, borrowed in cast.media.items():
                assert emotions.avatar_emotion(of_key(borrowed).chain.speaker_emotion) == wanted
                assert int(own.split("/")[2]) % 2 == int(borrowed.split("/")[2]) % 2  # a speaker by a speaker
                (listeners if int(own.split("/")[2]) % 2 else speakers).add(borrowed.split("/")[1])
            assert len(listeners) == len(speakers) == 1
            listener = of_key(cast.style)
            assert cast.listener_profile == listener.listener_profile and listener.conversation_id in listeners
            seen.add((example.conversation_id, listener.conversation_id))
    assert len(seen) > len(EXAMPLES) * 3


def test_without_a_label_or_an_answer_there_is_no_cast():
    recast, rng = Recast(EXAMPLES), np.random.default_rng(0)
    assert recast(dataclasses.replace(EXAMPLES[0], chain=None), rng) is None
    assert recast(dataclasses.replace(EXAMPLES[0], response=None), rng) is None
