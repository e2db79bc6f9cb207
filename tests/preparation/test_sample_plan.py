"""The words and avatars of the sample corpus: emotional words tell the emotion, neutral words and profiles do not."""

import collections
import json

import numpy as np
import pytest

from empatheia_jax.config import DataConfig
from empatheia_jax.data.corpus.avamerg import validation_ids
from empatheia_jax.data.emotions import AVATAR_EMOTIONS, FINE_EMOTIONS, avatar_emotion
from empatheia_jax.preparation.sample_events import TOPICS
from empatheia_jax.preparation.sample_plan import CANONICAL, SampleError, plan_corpus
from empatheia_jax.preparation.sample_text import split_words

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module", params=SEEDS)
def corpus(request):
    return plan_corpus(request.param)


FEELING_WORDS = {*FINE_EMOTIONS, *AVATAR_EMOTIONS} | set(
    """smiling wonderful glad joy delighted lovely celebrate enjoy believe expected unexpected nowhere stunned shock
    surprise anger unfair shout blood boiling fed scared scary shaking frightens frightening danger panic cried heavy
    hurts sorrow tears sorry comfort gross smell stomach revolting filthy yuck disgust envy deserve earned bragging
    hope love calm peace trust loyal ready happiness uneasy worry fault blushed memories happy feel feeling""".split()
)


def text_inputs(dialogues, half):
    """Return (words up to each turn, emotion) of one half: the inputs of a text model and their labels."""
    inputs = []
    for dialogue in dialogues:
        if dialogue.script.half == half:
            texts = [text for _, _, text in dialogue.utterances]
            for turn in range(len(dialogue.script.queries)):
                inputs.append((split_words(" ".join(texts[: 2 * turn + 1])), dialogue.script.emotion))
    return inputs


class NaiveBayes:
    """Multinomial naive Bayes over words, with add-0.3 smoothing and equal priors."""

    def __init__(self, inputs):
        self.words = {word: i for i, word in enumerate(sorted({w for words, _ in inputs for w in words}))}
        counts = np.full((len(AVATAR_EMOTIONS), len(self.words)), 0.3)
        for words, emotion in inputs:
            for word in words:
                counts[AVATAR_EMOTIONS.index(emotion), self.words[word]] += 1
        self.log = np.log(counts / counts.sum(1, keepdims=True))

    def accuracy(self, inputs):
        right = 0
        for words, emotion in inputs:
            score = sum((self.log[:, self.words[word]] for word in words if word in self.words), np.zeros(7))
            right += AVATAR_EMOTIONS[int(score.argmax())] == emotion
        return right / len(inputs)


def test_counts_and_balance(corpus):
    assert {split: len(dialogues) for split, dialogues in corpus.items()} == {"train": 105, "test": 42}
    for dialogues, each in ((corpus["train"], 15), (corpus["test"], 6)):
        emotions = collections.Counter(dialogue.script.emotion for dialogue in dialogues)
        assert emotions == dict.fromkeys(AVATAR_EMOTIONS, each)
        halves = collections.Counter((dialogue.script.emotion, dialogue.script.half) for dialogue in dialogues)
        assert set(halves.values()) <= {each // 2, (each + 1) // 2}
        turns = collections.Counter(len(dialogue.script.queries) for dialogue in dialogues)
        assert set(turns) == {2, 3} and abs(turns[2] - turns[3]) <= 14
        for role in ("speaker", "listener"):
            profiles = [getattr(dialogue, role).profile for dialogue in dialogues]
            for field, kinds in (("age", 4), ("gender", 2), ("timbre", 3)):
                counts = collections.Counter(getattr(profile, field) for profile in profiles)
                assert len(counts) == kinds and max(counts.values()) - min(counts.values()) <= 4
            assert len({(p.age, p.gender, p.timbre) for p in profiles}) == 24
    topics = collections.Counter(dialogue.script.topic for dialogue in corpus["train"] + corpus["test"])
    assert set(topics) == set(TOPICS) and min(topics.values()) >= 5


def test_profiles_do_not_tell_the_emotion(corpus):
    for field in ("age", "gender", "timbre"):
        counts = collections.Counter(
            (dialogue.script.emotion, getattr(dialogue.listener.profile, field)) for dialogue in corpus["train"]
        )
        kinds = len({kind for _, kind in counts})
        assert max(abs(count - 15 / kinds) for count in counts.values()) <= 2.5


def test_validation_split_is_balanced(corpus):
    held_out = validation_ids((d.conversation_id for d in corpus["train"]), DataConfig().validation_share)
    assert len(held_out) == 21
    left = [dialogue for dialogue in corpus["train"] if dialogue.conversation_id not in held_out]
    assert collections.Counter(d.script.emotion for d in left) == dict.fromkeys(AVATAR_EMOTIONS, 12)
    assert set(collections.Counter((d.script.emotion, d.script.half) for d in left).values()) == {6}


def test_test_split_repeats_nothing_but_words(corpus):
    train, test = ([dialogue.script for dialogue in corpus[split]] for split in ("train", "test"))
    sentences = {sentence for script in train for sentence in script.sentences}
    assert not sentences & {sentence for script in test for sentence in script.sentences}
    assert {word for script in test for word in script.words} <= {word for script in train for word in script.words}
    avatars = [{person.id for d in corpus[split] for person in (d.speaker, d.listener)} for split in ("train", "test")]
    assert not avatars[0] & avatars[1]
    assert all(dialogue.speaker.id != dialogue.listener.id for split in corpus for dialogue in corpus[split])


def test_small_vocabulary_and_short_lines(corpus):
    scripts = [dialogue.script for split in corpus for dialogue in corpus[split]]
    assert len({word for script in scripts for word in script.words}) < 900
    lengths = [len(split_words(line)) for script in scripts for line in script.queries + script.responses]
    assert min(lengths) >= 5 and max(lengths) <= 15 and np.percentile(lengths, 90) <= 12
    fields = [s for script in scripts for s in (script.event_scenario, script.emotion_cause, *script.goals)]
    assert all(3 <= len(split_words(field)) <= 9 for field in fields)
    assert all(sentence.isascii() and "{" not in sentence for script in scripts for sentence in script.sentences)


def test_emotional_words_tell_the_emotion_of_unseen_sentences(corpus):
    train, test = (text_inputs(corpus[split], "emotional") for split in ("train", "test"))
    assert NaiveBayes(train).accuracy(test) >= 0.85
    assert (
        NaiveBayes(text_inputs(corpus["train"], "emotional") + text_inputs(corpus["train"], "neutral")).accuracy(test)
        >= 0.85
    )


def test_neutral_words_tell_nothing():
    everything, neutral, test = [], [], []
    right = total = 0
    for seed in range(6):  # several corpora: 21 dialogues alone say little about chance
        corpus = plan_corpus(seed)
        everything = text_inputs(corpus["train"], "emotional") + text_inputs(corpus["train"], "neutral")
        neutral, test = text_inputs(corpus["train"], "neutral"), text_inputs(corpus["test"], "neutral")
        for training in (everything, neutral):
            right += NaiveBayes(training).accuracy(test) * len(test)
            total += len(test)
    assert right / total <= 0.25  # chance is 1/7


def test_neutral_dialogues_hold_no_word_of_feeling(corpus):
    for split in corpus:
        for dialogue in corpus[split]:
            script = dialogue.script
            if script.half == "neutral":
                unemotional = (*script.history, script.emotion_cause, *script.goals[:-1])
                assert not FEELING_WORDS & {word for sentence in unemotional for word in split_words(sentence)}
                assert script.speaker_emotion == CANONICAL[script.emotion]


def test_fine_emotions(corpus):
    emotional = {split: [d.script for d in corpus[split] if d.script.half == "emotional"] for split in corpus}
    fine = {split: {script.speaker_emotion for script in emotional[split]} for split in corpus}
    assert fine["test"] <= fine["train"]
    assert len(fine["train"] | set(CANONICAL.values())) == 12  # two for each avatar emotion that has two
    assert all(script.emotion == avatar_emotion(script.speaker_emotion) for script in emotional["train"])


def test_records_have_the_released_form(corpus):
    dialogue = corpus["test"][0]
    labelled, released = json.loads(json.dumps(dialogue.labelled())), json.loads(json.dumps(dialogue.released()))
    assert list(released) == ["conversation_id", "turns"]
    assert list(released["turns"][0]) == ["turn_id", "context", "dialogue_history"]
    assert list(labelled) == ["conversation_id", "speaker_profile", "listener_profile", "topic", "turns"]
    assert list(labelled["speaker_profile"]) == ["age", "gender", "timbre", "ID"]
    for number, turn in enumerate(labelled["turns"]):
        assert turn["turn_id"] == str(number) and len(turn["dialogue_history"]) == 2 * number + 1
        assert [entry["index"] for entry in turn["dialogue_history"]] == list(range(2 * number + 1))
        assert [entry["role"] for entry in turn["dialogue_history"]] == (["speaker", "listener"] * 9)[: 2 * number + 1]
        assert list(turn["chain_of_empathy"]) == [
            "speaker_emotion",
            "event_scenario",
            "emotion_cause",
            "goal_to_response",
        ]
    assert labelled["turns"][0]["response"] == labelled["turns"][1]["dialogue_history"][1]["utterance"]
    assert released["turns"][1]["dialogue_history"] == labelled["turns"][1]["dialogue_history"]


def test_seed_decides():
    def fields(seed):
        return [dialogue.labelled() for dialogues in plan_corpus(seed).values() for dialogue in dialogues]

    assert fields(5) == fields(5)
    assert fields(5) != fields(6)


@pytest.mark.parametrize("dialogues", (14, 40, 200))
def test_other_sizes(dialogues):
    corpus = plan_corpus(3, dialogues)
    assert sum(map(len, corpus.values())) == dialogues // 7 * 7
    sentences = [{s for d in corpus[split] for s in d.script.sentences} for split in ("train", "test")]
    assert not sentences[0] & sentences[1]


@pytest.mark.parametrize("dialogues", (0, 13, 100_000))
def test_impossible_sizes(dialogues):
    with pytest.raises(SampleError, match="14 to"):
        plan_corpus(0, dialogues)
