"""Text normalisation: written English as it is spoken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empatheia_jax.generators.phonemes import split_sentences
from empatheia_jax.generators.spoken import normalise_text

pytest.importorskip("num2words")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Dr. Smith met Mrs. Jones.", "Doctor Smith met Missus Jones."),
        ("It cost $20.", "It cost twenty dollars."),
        ("$1 and $1.01, £0.99", "one dollar and one dollar and one cent, ninety-nine pence"),
        ("€1,200 or $2.5 million", "one thousand two hundred euros or two point five million dollars"),
        ("3.5% off", "three point five percent off"),
        ("At 10:30, 9:05 and 8:00", "At ten thirty, nine oh five and eight o'clock"),
        ("in 1987 and the 1980s", "in nineteen eighty-seven and the nineteen eighties"),
        ("the 1st, 2nd and 21st", "the first, second and twenty-first"),
        ("1/2 a cup, 3/4, 24/7", "one half a cup, three quarters, 24 7"),
        ("100 km/h, 1 kg", "one hundred kilometers per hour, one kilogram"),
        ("-3.2°C", "minus three point two degrees Celsius"),
        ("10-12 days, call 555-1234", "10 to 12 days, call 555-1234"),
        ("1,234,567", "one million two hundred and thirty-four thousand five hundred and sixty-seven"),
        ("#1 & #2", "number 1 and number 2"),
        ("No. I said no. It is No. 5.", "No. I said no. It is number 5."),
        ("Main St. and St. James", "Main Street and Saint James"),
        ("tea, milk, etc. Then bed.", "tea, milk, et cetera. Then bed."),
        ("e.g. this, i.e. that", "for example this, that is that"),
        ("I have 3 dogs.", "I have 3 dogs."),
    ],
)
def test_as_a_person_would_say_it(written, expected):
    assert normalise_text(written) == expected


@given(st.text(alphabet="0123456789.,:/%$£€°#&-+ =kmCFst aDr\n½", max_size=24))
def test_nothing_said_is_lost(text):
    """Any sequence of signs is accepted; where there was a letter or a digit there is a word."""
    assert any(c.isalnum() for c in normalise_text(text)) or not any(c.isalnum() for c in text)


def test_a_title_or_an_initial_ends_no_sentence():
    text = "Dr. Smith met J. Smith. No. I said no. It was No. 5. Bye."
    assert split_sentences(text) == ["Dr. Smith met J. Smith.", "No. I said no.", "It was No. 5.", "Bye."]
