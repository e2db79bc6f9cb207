"""Distinct and accuracy by hand and against published scoring code; intervals against repeated experiments."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from empatheia_jax.evaluation import text

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def golden() -> Path:
    """Responses of other models, and what published scoring code gives for them."""
    for folder in (os.environ.get("EMPATHEIA_GOLDENS"), ROOT / "tests" / "goldens", ROOT.parent / "shared" / "goldens"):
        if folder and (Path(folder) / "text_metrics" / "expected.json").is_file():
            return Path(folder) / "text_metrics"
    pytest.skip("no goldens text_metrics: set EMPATHEIA_GOLDENS to the folder that holds it")


def read_golden(folder: Path, name: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Read the responses of an entry of expected.json, and (gold, predicted) emotions where it has them."""
    file, *changes = name.split(", ")
    rows = [line.split("\t") for line in (folder / file).read_text(encoding="utf-8").splitlines()]
    responses = [row[-1].lower() if changes == ["lower case"] else row[-1] for row in rows]
    return responses, [(row[0], row[1]) for row in rows if len(row) == 3]


# Words ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Hello there.", "Hello there ."),
        ("No. Really?", "No. Really ?"),
        ("She's sure they'll come, isn't she?", "She 's sure they 'll come , is n't she ?"),
        ("I cannot; you're gonna!", "I can not ; you 're gon na !"),
        ("Wait...what?! (really)", "Wait ... what ? ! ( really )"),
        ('He said "go" at 7:30, for $1,000.', "He said `` go '' at 7:30 , for $ 1,000 ."),
        ("the dogs' house, 'twas o'clock", "the dogs ' house , ' twas o'clock"),
        ("well-known -- so-so", "well-known -- so-so"),
        ('"Done."', "`` Done . ''"),
        ("¿Qué tal?", "¿Qué tal ?"),
        ("  ", ""),
    ],
)
def test_words(response, expected):
    assert text.words(response) == expected.split()


# Distinct -------------------------------------------------------------------------------------------------------------


def test_distinct_by_hand():
    responses = ["a b a b", "b a", "c"]  # unigrams a b c of 7; bigrams ab ba | ab ba ab ba of 4: none across responses
    assert text.count_ngrams(responses, 1) == (3, 7)
    assert text.count_ngrams(responses, 2) == (2, 4)
    assert text.dist_corpus(responses, 1) == pytest.approx(300 / 7)
    assert text.dist_corpus(responses, 2) == pytest.approx(50.0)
    assert text.dist_sentence(responses, 1) == pytest.approx(100 * (2 / 4 + 1 + 1) / 3)
    assert text.dist_sentence(responses, 2) == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)


def test_distinct_keeps_case_but_the_sentence_form_does_not():
    assert text.dist_corpus(["Oh oh"], 1) == 100.0
    assert text.dist_sentence(["Oh oh"], 1) == 50.0


def test_a_bigram_is_two_words_not_their_letters():
    assert text.count_ngrams(["a bc", "ab c"], 2) == (2, 2)


def test_against_others_scoring_code(golden):
    expected = json.loads((golden / "expected.json").read_text())
    assert expected
    for name, entry in expected.items():
        responses, emotions = read_golden(golden, name)
        assert len(responses) == entry["counts"]["responses"]
        for n in (1, 2):
            assert list(text.count_ngrams(responses, n)) == entry["counts"]["nltk"][f"{n}grams"], (name, n)
            assert text.dist_corpus(responses, n) == pytest.approx(entry["cem_calc_distinct_nltk"][f"dist{n}"]), (
                name,
                n,
            )
        if all(response == response.lower() for response in responses):  # E3RG's form lower-cases
            for n in (1, 2):
                macro = entry["kemp_get_dist"][f"macro_dist{n}"]
                assert text.dist_sentence(responses, n) == pytest.approx(macro), (name, n)
        if "nltk_tokens" in entry:
            assert [text.words(response) for response in responses] == entry["nltk_tokens"], name
        if "accuracy" in entry:
            gold, predicted = zip(*emotions, strict=True)
            assert 100 * text.emotion_accuracy(predicted, gold) == pytest.approx(entry["accuracy"]), name


# Accuracy -------------------------------------------------------------------------------------------------------------


def test_accuracy_counts_exact_matches():
    assert text.emotion_accuracy(["sad", "angry", None, "Sad"], ["sad", "sad", "sad", "sad"]) == 0.25


@pytest.mark.parametrize(
    "call",
    [
        lambda: text.emotion_accuracy(["sad"], ["sad", "angry"]),
        lambda: text.emotion_accuracy([], []),
        lambda: text.dist_corpus([], 1),
        lambda: text.dist_sentence([], 1),
        lambda: text.dist_corpus(["a"], 0),
        lambda: text.dist_interval([[""]], 1),
        lambda: text.bootstrap([], np.mean),
        lambda: text.bootstrap([1.0], np.mean, samples=0),
    ],
)
def test_nothing_to_measure_is_an_error(call):
    with pytest.raises(text.TextMetricError):
        call()


# Intervals ------------------------------------------------------------------------------------------------------------


def test_bootstrap_of_a_mean_is_the_textbook_interval(seed):
    values = np.random.default_rng(seed).normal(size=400)
    value, low, high = text.bootstrap(values, np.mean, seed=1, samples=4000)
    error = values.std() / np.sqrt(len(values))
    assert value == pytest.approx(values.mean())
    assert low == pytest.approx(values.mean() - 1.645 * error, abs=0.12 * error)
    assert high == pytest.approx(values.mean() + 1.645 * error, abs=0.12 * error)


def test_bootstrap_redraws_whole_dialogues():
    """Two turns that always agree are no more evidence than one: the interval is that of the dialogues."""
    correct = [1, 0] * 20
    single = text.bootstrap([[turn] for turn in correct], lambda dialogues: np.mean(np.concatenate(dialogues)))
    double = text.bootstrap([[turn, turn] for turn in correct], lambda dialogues: np.mean(np.concatenate(dialogues)))
    assert double == single


def test_bootstrap_is_repeatable_and_takes_lists_and_arrays():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert text.bootstrap(values, np.mean, seed=3) == text.bootstrap(np.array(values), np.mean, seed=3)
    assert text.bootstrap(values, np.mean, seed=3) != text.bootstrap(values, np.std, seed=3)


def test_distinct_interval_is_as_wide_as_fresh_corpora_differ(seed):
    """The interval of a corpus is about as wide as the spread of Distinct over corpora from the same vocabulary."""
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(1, 301)
    chances /= chances.sum()

    def corpus():
        return [[" ".join(f"w{word}" for word in rng.choice(300, size=8, p=chances))] for _ in range(60)]

    values, widths = [], []
    for _ in range(60):
        dialogues = corpus()
        value, low, high = text.dist_interval(dialogues, 1)
        assert value == pytest.approx(text.dist_corpus([response for (response,) in dialogues], 1))
        assert low < value < high
        values.append(value)
        widths.append(high - low)
    assert 0.85 < np.mean(widths) / (2 * 1.645 * np.std(values)) < 1.7
