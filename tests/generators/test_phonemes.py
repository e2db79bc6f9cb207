"""Phoneme symbols: the StyleTTS 2 table, encoding, and espeak's grapheme-to-phoneme conversion."""

import json

import numpy as np
import pytest

from empatheia_jax.generators import phonemes
from empatheia_jax.generators.phonemes import PhonemeError


@pytest.fixture(scope="module")
def recorded(goldens):
    return json.loads((goldens / "styletts2" / "symbols.json").read_text())


def test_table_is_styletts2s(recorded):
    assert list(phonemes.SYMBOLS) == recorded["symbols"]
    assert phonemes.SYMBOLS[phonemes.PAD_ID] == recorded["pad"]
    for symbol, ids in recorded["duplicate"].items():
        if symbol != "used":
            assert phonemes.SYMBOL_ID[symbol] == recorded["duplicate"]["used"] and len(ids) == 2


def test_encode_matches_recorded_ids_after_a_leading_zero(recorded):
    for example in recorded["examples"]:
        assert phonemes.encode(example["text"]).tolist() == [0, *example["ids"]]


def test_decode_inverts_encode_and_skips_padding():
    ids = phonemes.encode("həlˈoʊ , wˈɜːld !")
    assert ids.dtype == np.int32
    assert phonemes.decode(np.concatenate([ids, [-1, -1]])) == "həlˈoʊ , wˈɜːld !"
    with pytest.raises(PhonemeError, match="beyond the table"):
        phonemes.decode(np.array([len(phonemes.SYMBOLS)]))


def test_symbols_outside_the_table_are_dropped_and_reported():
    assert phonemes.encode("a7b8a").tolist() == phonemes.encode("aba").tolist()
    assert phonemes.unknown_symbols("a7b87") == ["7", "8"]


def test_encode_refuses_what_generators_cannot_take():
    phonemes.encode("a" * (phonemes.MAX_PHONEMES - 1))
    with pytest.raises(PhonemeError, match="split_sentences"):
        phonemes.encode("a" * phonemes.MAX_PHONEMES)


def test_sentences_are_split_and_long_ones_cut_at_clauses():
    assert phonemes.split_sentences(" One. Two?  Three! ") == ["One.", "Two?", "Three!"]
    assert phonemes.split_sentences("") == []
    long = "and then we walked on, " * 40
    pieces = phonemes.split_sentences(long, 100)
    assert all(len(piece) <= 100 for piece in pieces)
    assert " ".join(pieces) == long.strip()
    assert all(len(piece) <= 50 for piece in phonemes.split_sentences("word " * 60, 50))


def test_phonemize_keeps_stress_and_punctuation():
    pytest.importorskip("espeakng_loader")
    assert phonemes.phonemize("Hello there, friend.") == "həlˈoʊ ðˈɛɹ , fɹˈɛnd ."
    assert phonemes.phonemize("I’m fine...") == phonemes.phonemize("I'm fine...")
    assert phonemes.phonemize("well\nwell 😀 <well>") == phonemes.phonemize("well well well")
    assert not phonemes.unknown_symbols(phonemes.phonemize("Was it 5 o'clock — or half past? “Naïve”, (he) said…"))


@pytest.mark.parametrize("sentence, reason", [("", "nothing to pronounce"), ("?!", "nothing"), ("привет", "Latin")])
def test_phonemize_says_what_it_cannot_pronounce(sentence, reason):
    with pytest.raises(PhonemeError, match=reason):
        phonemes.phonemize(sentence)
