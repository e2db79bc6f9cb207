"""espeak-ng through ctypes: it speaks what was requested, and earlier calls leave no trace."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("espeakng_loader")

from empatheia_jax.data.emotions import AGES, GENDERS
from empatheia_jax.generators.classical.espeak import espeak
from empatheia_jax.generators.classical.speech_style import REFERENCE_VOICE
from empatheia_jax.generators.classical.timing import write_script
from empatheia_jax.generators.classical.voices import nearest_voice, voice_coordinates, voice_spec
from empatheia_jax.generators.phonemes import phonemize


def spoken(ipa: str) -> str:
    """Return the IPA that espeak reports to have spoken, without stress (it gives every clause one)."""
    events = espeak().synth(write_script(ipa).markup, REFERENCE_VOICE, 100, 150, rate=350).events
    return plain("".join(event.ipa for event in events))


def plain(ipa: str) -> str:
    return "".join(symbol for symbol in ipa if symbol not in "ˈˌ ,.!?;:…—")


def test_words_are_spoken_as_asked():
    words = (Path(__file__).parent / "words.txt").read_text().split()[::3]
    requested = [phonemize(word) for word in words]
    differing = [word for word, ipa in zip(words, requested, strict=True) if spoken(ipa) != plain(ipa)]
    assert len(differing) <= 0.02 * len(words), differing


@pytest.mark.parametrize(
    "text",
    [
        "The judge tried to reach the station, but it rained all Thursday.",
        "Will you measure it again? Yes; I thought so!",
        "I went to the market and bought apples and pears and then walked along the river until the sun went down and "
        "the birds were quiet and nobody at all could tell me why the whole town looked as though it had been asleep "
        "since the morning when we last met and spoke about the boats and the rain and the price of bread",
    ],
)
def test_sentences_are_spoken_as_asked(text):
    assert spoken(phonemize(text)) == plain(phonemize(text))


def test_symbols_without_a_sound_are_passed_over():
    script = write_script("↓ A ʰ")
    assert script.units == () and script.markup == ""
    units = write_script("ˈaɪ n̩").units
    assert [(unit.ipa, unit.first, unit.last) for unit in units] == [("ˈaɪ", 0, 3), ("n̩", 4, 6)]


def test_speech_does_not_depend_on_what_was_said_before():
    engine, voice = espeak(), voice_spec("elderly", "female")
    text, other = write_script("ɪts nˈaɪs , ɹˈiəli .").markup, write_script("sˈʌmθɪŋ ˈɛls ?").markup
    first = engine.synth(text, voice, 120, 180, rate=170)
    for *request, rate in ((other, REFERENCE_VOICE, 90, 140, 300), (text, voice_spec("child", "male"), 200, 300, 120)):
        engine.synth(*request, rate=rate)
        again = engine.synth(text, voice, 120, 180, rate=170)
        np.testing.assert_array_equal(again.audio, first.audio)
        assert again.events == first.events


def test_events_cover_the_samples_in_order():
    rendering = espeak().synth(write_script("həlˈoʊ , wˈɜːld !").markup, REFERENCE_VOICE, 100, 150, rate=175)
    assert rendering.events[0].start == 0 and rendering.events[-1].end == len(rendering.audio)
    for event, following in zip(rendering.events, rendering.events[1:], strict=False):
        assert event.end == following.start


def test_each_voice_is_nearest_to_its_own_coordinates():
    for age in AGES:
        for gender in GENDERS:
            assert nearest_voice(voice_coordinates(age, gender) * 0.6) == (age, gender)
