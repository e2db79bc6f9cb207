"""Conditions under which the same dialogues are answered, what the latents explain, and rank correlation."""

import json

import numpy as np
import pytest
import scipy.stats

from empatheia_jax.data import emotions
from empatheia_jax.data.batches.builder import BatchBuilder
from empatheia_jax.data.schema import Profile
from empatheia_jax.evaluation import conditions
from empatheia_jax.evaluation.latents import TARGETS, explained_variance, training_means
from empatheia_jax.evaluation.style_sweep import f0_between_profiles, spearman
from empatheia_jax.testing.tiny import WIDTHS, make_examples, make_store, make_tokenizer, small_config

EXAMPLES = make_examples(12, seed=2)
STORE = make_store(EXAMPLES)


def emotion(example):
    return emotions.FINE_TO_AVATAR[example.chain.speaker_emotion]


def test_swapped_media_are_another_dialogues_with_another_emotion():
    features, shown = conditions.swapped_media(EXAMPLES, STORE.get)
    owner = {record["audio"].tobytes(): key for key, record in STORE.items()}
    last = {example.conversation_id: example for example in EXAMPLES}  # the longest history of each
    checked = 0
    for example in EXAMPLES:
        for utterance in example.history:
            given = owner[features(example.utterance_key(utterance))["audio"].tobytes()]
            _, conversation, index = given.split("/")
            assert conversation != example.conversation_id
            assert int(index) % 2 == utterance.index % 2  # the same role speaks
            assert emotion(last[conversation]) == shown[example.conversation_id]
            assert emotion(last[conversation]) != emotion(last[example.conversation_id])
            checked += 1
    assert checked and set(shown) == set(last)


def test_a_single_dialogue_has_no_donor():
    features, shown = conditions.swapped_media(EXAMPLES[:2], STORE.get)
    assert shown == {} and features(EXAMPLES[0].utterance_key(EXAMPLES[0].history[0])) is None
    assert conditions.no_media("train/d000/0") is None


def test_another_profile_differs_in_everything_and_is_a_profile():
    for age in emotions.AGES:
        for gender in emotions.GENDERS:
            for timbre in emotions.TIMBRES:
                other = conditions.another_profile(Profile(age, gender, timbre, id=3))
                assert other.age in set(emotions.AGES) - {age} and other.timbre in set(emotions.TIMBRES) - {timbre}
                assert other.gender in set(emotions.GENDERS) - {gender}


def test_neutral_conversations_come_from_the_corpus_labels(tmp_path):
    assert conditions.neutral_conversations(tmp_path, "test") == set()
    neutral, emotional = {"half": "neutral"}, {"half": "emotional"}
    dialogues = {"train": {"00001": neutral}, "test": {"00001": emotional, "00002": neutral}}
    (tmp_path / "labels.json").write_text(json.dumps({"dialogues": dialogues}))
    assert conditions.neutral_conversations(tmp_path, "test") == {"00002"}
    assert conditions.neutral_conversations(tmp_path, "validation") == {"00001"}


def test_spearman_is_scipys(seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=28)
    b = np.round(a + rng.normal(size=28), 1)  # with ties
    rho, p = spearman(a, b, permutations=4000)
    expected = scipy.stats.spearmanr(a, b, alternative="greater")
    assert rho == pytest.approx(expected.statistic, abs=1e-9)
    assert p == pytest.approx(expected.pvalue, abs=0.01)
    assert spearman(a, -a, permutations=500)[1] == 1.0
    assert spearman(a, a**3)[1] < 0.001


def test_explained_variance_is_one_for_gold_zero_for_the_mean_and_known_between():
    def rows(examples):
        return BatchBuilder(
            examples, "all", small_config(), make_tokenizer(), store=STORE, widths=WIDTHS, train=False, seed=0
        )

    train, held_out = rows(EXAMPLES[:14]), rows(EXAMPLES[14:])
    means = training_means(train)
    styles = np.stack([STORE[e.utterance_key(e.response)]["style_speech"] for e in EXAMPLES[:14]])
    np.testing.assert_allclose(means["style_speech"], styles.mean(0), atol=1e-5)
    mouths = np.concatenate([STORE[e.utterance_key(e.response)]["content_video"] for e in EXAMPLES[:14]])
    np.testing.assert_allclose(means["content_video"], mouths.mean(0), atol=1e-5)

    def blend(share):
        def predict(state, batch):
            return {n: share * batch.golds[n] + (1 - share) * means[n].astype(np.float32) for n in TARGETS}

        return predict

    for share, expected in ((1.0, 1.0), (0.0, 0.0), (0.5, 0.75)):
        shares = explained_variance(blend(share), None, held_out, means)
        assert shares == pytest.approx(dict.fromkeys(TARGETS, expected), abs=1e-4)
    # The nearest phoneme is always 0 here, so its accuracy is the share of zeros.
    shares = explained_variance(
        blend(1.0), None, held_out, means, nearest_phoneme=lambda content: np.zeros(len(content), int)
    )
    golds = np.concatenate([STORE[e.utterance_key(e.response)]["phonemes"] for e in EXAMPLES[14:]])
    assert shares["nearest_phoneme"] == pytest.approx((golds == 0).mean())


def test_f0_between_profiles_counts_what_the_profile_moves():
    """Two profiles 12 semitones apart in the corpus and 8 in the answers; a third with a constant error."""
    asked = {"a": 0.0, "b": 12.0, "c": 5.0}
    heard = {"a": 1.0, "b": 9.0, "c": 6.0}
    cells = [
        {"profile": p, "emotion": e, "f0_from_100_asked": asked[p] + k, "f0_from_100_heard": heard[p] + 2 * k}
        for p in "abc"
        for k, e in enumerate(("happy", "sad"))
    ]
    result = f0_between_profiles(cells)
    assert result["worst"] == pytest.approx(4.0)
    assert result["within_3"] == pytest.approx(2 / 6)  # a-c fits in both emotions; a-b and b-c are 4 off
