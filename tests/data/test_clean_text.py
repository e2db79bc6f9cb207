"""Cleaning of text: what phones, web pages and csv files put into words, and what has to stay as it is."""

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empatheia_jax.data.corpus import text as texts
from empatheia_jax.data.corpus.avamerg import read_dialogue, read_examples
from empatheia_jax.data.corpus.text import clean_text, rewrite_text, text_problem


@pytest.mark.parametrize(
    "character", "\u200b\u200c\u200d\u2060\u00ad\ufeff\u200e\u200f\u202a\u202e\u2066\u2069\ufe0f\x00\x7f"
)
def test_characters_without_a_shape_are_left_out_and_counted(character):
    written = f"wel{character}come {character}home{character}"
    assert rewrite_text(written) == ("welcome home", (texts.INVISIBLE_DROPPED,))
    assert text_problem(character * 3) == ("text is empty", "")


@pytest.mark.parametrize(
    "apostrophe", "'\u2018\u2019\u201b\u02bc\u2032\uff07\u00b4`\u02b9\u02bb\u02c8\u055a\ua78c\u275c"
)
def test_every_apostrophe_is_the_same_between_letters(apostrophe):
    assert clean_text(f"I don{apostrophe}t, she{apostrophe}ll") == "I don't, she'll"
    assert text_problem(f"I don{apostrophe}t") is None


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("the dogs\u2019 tails, rock \u2018n\u2019 roll", "the dogs' tails, rock 'n' roll"),
        ("Hawai\u02bbi and O\u02bbahu", "Hawaii and Oahu"),
        ("use `ls` now", "use `ls` now"),
        ("\uff28\uff45\uff4c\uff4c\uff4f\uff0c \ufb01ne \u2026", "Hello, fine ..."),
        ("1\u02e2\u1d57, 8\u00bd cups, \u00bdcup", "1st, 8 1/2 cups, 1/2 cup"),
        ("10\u00b2 m\u00b2, Kleenex\u2122, H\u2082O", "10\u00b2 m\u00b2, Kleenex\u2122, H2O"),
        ("20\u00baC, 20\u02daC, 20\u2103", "20\u00b0C, 20\u00b0C, 20\u00b0C"),
        ("a\u00a0b\u3000c\u2028d", "a b c d"),
        ("well\u2011known", "well-known"),
        ("Tom &amp; I, &lt;3 &quot;hi&quot;", 'Tom & I, <3 "hi"'),
        ("a &amp;amp;amp; b &amp;lt; c", "a & b < c"),
        ("don&#39;t don&#x27;t don&#x2019;t don&#39t don&rsquo;t", "don't don't don't don't don't"),
        ("x&nbsp;y&#8203;z&shy;a", "x yza"),
        ("R&D at AT&T, me & you; &c. &unknown; a&b;", "R&D at AT&T, me & you; &c. &unknown; a&b;"),
        ("my keys_comma_ my phone_comma_too", "my keys, my phone,too"),
        ("wel\u200dcome &amp\u200b;", "welcome &"),
    ],
)
def test_as_it_is_meant(written, read):
    assert clean_text(written) == read


def test_what_a_reader_should_know_of_is_named():
    written = "no_comma_ I don\u2019t &amp; won\u200bt"
    assert rewrite_text(written) == ("no, I don't & wont", texts.CHANGES)
    assert rewrite_text("plain  text \n here") == ("plain text here", ())


@settings(max_examples=40)
@given(st.text(max_size=40))
def test_cleaned_text_stays_as_it_is(written):
    cleaned = clean_text(written)
    assert rewrite_text(cleaned) == (cleaned, ())
    assert not any(unicodedata.category(c) in ("Cc", "Cf") for c in cleaned)


@given(st.text(st.sampled_from("ab &;#39xlt'`´¼2⁄1_comªº\u02bb\u0301\ufb01\u2019\u200b"), max_size=20))
def test_pieces_of_markup_in_any_order_are_cleaned_once_and_for_all(written):
    assert clean_text(clean_text(written)) == clean_text(written)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="&`_"), min_size=1, max_size=40))
def test_plain_ascii_is_untouched(word):
    assert clean_text(f"{word} and {word}") == f"{word} and {word}"


def test_corpora_that_are_clean_are_the_same_to_the_byte(real_data, tmp_path):
    def strings(value):
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from strings(item)
        elif isinstance(value, str):
            yield " ".join(value.split())

    count = 0
    for folder in ("ed_sample", "avamerg_test_excerpt"):
        for file in real_data(folder).glob("*.json"):
            for written in strings(json.loads(file.read_text(encoding="utf-8"))):
                if not any(mark in written for mark in ("\u2019", "_comma_", "`", "&")):
                    assert clean_text(written).encode() == written.encode()
                    count += 1
    assert count > 1000


def test_the_sample_corpus_is_clean_already():
    from empatheia_jax.preparation import sample_events, sample_feelings, sample_neutral, sample_text

    modules = (sample_events, sample_feelings, sample_neutral, sample_text)
    written = {s for module in modules for s in _strings(vars(module)) if len(s) > 20}
    assert len(written) > 100
    for sentence in written:
        assert clean_text(sentence) == " ".join(sentence.split())


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def test_the_comma_token_is_a_comma_in_prompts_and_targets_and_counted_once(tmp_path, make_dialogue):
    dialogue = make_dialogue(turns=2)
    for turn in dialogue["turns"]:
        turn["dialogue_history"][0]["utterance"] = "I lost my keys_comma_ and my phone_comma_ again."
    dialogue["turns"][1]["response"] = "Oh no_comma_ again?"
    dialogue["turns"][0]["chain_of_empathy"]["emotion_cause"] = "Keys_comma_ gone"
    path = tmp_path / "train.json"
    path.write_text(json.dumps([dialogue, make_dialogue(2)]))
    examples, report = read_examples(path, "train", validation_share=0.0)
    assert examples[1].history[0].text == "I lost my keys, and my phone, again."
    assert examples[1].response is not None and examples[1].response.text == "Oh no, again?"
    assert examples[0].chain is not None and examples[0].chain.emotion_cause == "Keys, gone"
    assert report.notes[texts.COMMA_READ] == 3  # the utterance that both turns repeat once
    assert f"note: {texts.COMMA_READ}: 3" in report.summary()


def test_a_dialogue_to_answer_tells_what_was_changed():
    import collections

    notes = collections.Counter()
    entry = {"index": 0, "role": "speaker", "utterance": "keys_comma_ don\u00b4t"}
    example = read_dialogue({"turns": [{"turn_id": "0", "dialogue_history": [entry]}]}, notes=notes)
    assert example.history[0].text == "keys, don't"
    assert notes[texts.COMMA_READ] == notes[texts.WRITTEN_PLAINLY] == 1
