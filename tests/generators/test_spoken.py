"""Text normalisation: written English as it is spoken."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empatheia_jax.generators.phonemes import phonemize, split_sentences
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
        ("10-12 days, call 555-1234", "10 to 12 days, call five five five one two three four"),
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


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("at 5:30 or 17:05", "at five thirty or seventeen oh five"),
        ("10:00am, 7:30pm, 5.30 PM", "ten A-M, seven thirty PM, five thirty PM"),
        ("3pm, 5 p.m. sharp, 9 AM", "three PM, five PM sharp, nine A-M"),
        ("At 5 p.m. I left.", "At five PM. I left."),
        ("9am-5pm, 9:00-17:00", "nine A-M to five PM, nine o'clock to seventeen hundred"),
        ("$5k, £2.5M, €3bn", "five thousand dollars, two point five million pounds, three billion euros"),
        ("5€, 2000$ and 20 USD", "five euros, two thousand dollars and twenty dollars"),
        ("$5-10, $100k-$150k", "five to ten dollars, one hundred to one hundred and fifty thousand dollars"),
        ("-$5, $-5, $.50, 50¢", "minus five dollars, minus five dollars, fifty cents, fifty cents"),
        ("1,50 € and 1,5 km", "one euro and fifty cents and one point five kilometers"),
        ("a $20 bill for $15/hr", "a twenty dollar bill for fifteen dollars per hour"),
        ("It costs $5, $10 or $15.", "It costs five dollars, ten dollars or fifteen dollars."),
        ("5-10 people, pages 3–7", "5 to 10 people, pages 3 to 7"),
        ("2019–2021, 1990-95", "twenty nineteen to twenty twenty-one, nineteen ninety to 95"),
        ("10-15%, 20-25°C", "10 to 15 percent, 20 to twenty-five degrees Celsius"),
        ("5–10km, 5km-10km", "5 to ten kilometers, five kilometers to ten kilometers"),
        ("won 3-2, a 2-2 draw, 20-20 vision", "won 3 to 2, a 2 to 2 draw, 20 20 vision"),
        ("10 - 12 days, 5 - 3 = 2", "10 to 12 days, 5 minus 3 equals 2"),
        ("-5, −5 degrees, (-5)", "minus 5, minus 5 degrees, (minus 5)"),
        ("between -10 and −3.5", "between minus 10 and minus three point five"),
        (
            "68 °F, 5°, 1°C, 30℃",
            "sixty-eight degrees Fahrenheit, five degrees, one degree Celsius, thirty degrees Celsius",
        ),
        ("½, 8½ cups, 2 3/4, ⅛", "one half, eight and a half cups, two and three quarters, one eighth"),
        ("1/2 km, 1/3 cup, 9/11, 50/50", "one half kilometer, one third cup, nine eleven, 50 50"),
        ("in my 30s, the '90s, 90's, mid-1990s", "in my thirties, the nineties, nineties, mid nineteen nineties"),
        ("the 1900s, the 2010s, class of '05", "the nineteen hundreds, the twenty tens, class of oh five"),
        (
            "5km 10kg 16GB 60mph 300lbs",
            "five kilometers ten kilograms sixteen gigabytes sixty miles per hour three hundred pounds",
        ),
        ("6in or 6 in the box, 5m, 2h, 45s", "six inches or 6 in the box, five meters, two hours, forty-five seconds"),
        ("5 m², 10 m/s, 5 µm", "five square meters, ten meters per second, five micrometers"),
        ("a 10-km run of 3-year-olds", "a ten kilometer run of 3-year-olds"),
        ("5G, 4K, 3D, MP3, F-16", "5G, 4K, 3D, MP3, F-16"),
        ("12/25/2023", "December twenty-fifth twenty twenty-three"),
        ("25/12/2023, 2023-12-25", ", ".join(["December twenty-fifth twenty twenty-three"] * 2)),
        ("2nd of May, Dec. 25, 2023", "second of May, December twenty-fifth twenty twenty-three"),
        ("1,000th, 1ˢᵗ, 20th-century", "one thousandth, first, twentieth-century"),
        ("No.5, #5, № 5, #blessed, C#", "number 5, number 5, number 5, hashtag blessed, C sharp"),
        ("version 2.0, v2.0.1, .5", "version two point zero, two point zero point one, zero point five"),
        (
            "1,5 and 1,234,567, you",
            "1,5 and one million two hundred and thirty-four thousand five hundred and sixty-seven, you",
        ),
        ("555-123-4567", "five five five one two three four five six seven"),
        ("call 911, 500-1000 people", "call nine one one, 500 to 1000 people"),
        (
            "In 1987, 1500 steps, 2023 dogs",
            "In nineteen eighty-seven, one thousand five hundred steps, two thousand and twenty-three dogs",
        ),
        ("jo.x@a-b.com, https://www.site.org/faq.", "jo dot x at a dash b dot com, www dot site dot org slash faq."),
        ("the U.S. Army, R&D", "the U-S Army, R and D"),
        ("5'10\" or 5′10″", "five foot ten or five foot ten"),
        ("3x, 12x12, 3 × 4 = 12", "3 times, 12 by 12, 3 times 4 equals 12"),
        ("2/3rds, 24-7, 24x7, 2019/20", "two thirds, 24 7, 24 7, twenty nineteen 20"),
        ("5'4 tall, 5 µg/ml", "five foot four tall, five micrograms per milliliter"),
        ("10Ω and π", "ten ohms and pi"),
    ],
)
def test_numbers_as_people_write_them(written, expected):
    assert normalise_text(written) == expected
    assert normalise_text(expected) == expected


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Meet me at 10:00am.", "Meet me at ten AM."),
        ("from 9:00AM to 5:00PM", "from nine AM to five PM"),
        ("It was 30℃ today.", "It was thirty degrees Celsius today."),
        ("the mid-1990s and 24/7", "the mid nineteen nineties and twenty-four seven"),
        ("100% of 105 people", "one hundred percent of one hundred five people"),
        ("wel\u200dcome in\u200eside", "welcome inside"),
        ("I don´t, don`t, don\u02bct know", "I don't, don't, don't know"),
        ("no_comma_ Hawai\u02bbi &amp;amp; Ｈｅｌｌｏ", "no, Hawaii and Hello"),
    ],
)
def test_sounds_as_what_a_person_says(written, spoken):
    pytest.importorskip("espeakng_loader")
    assert "".join(phonemize(written).split()) == "".join(phonemize(spoken).split())


@pytest.mark.parametrize("folder", ["spoken_times", "invisible_and_apostrophes"])
def test_reported_cases(folder):
    pytest.importorskip("espeakng_loader")
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "field_cases" / folder / "cases.txt"
    if not path.is_file():
        pytest.skip("no reported cases here")
    lines = [
        line.split("|") for line in path.read_text(encoding="utf-8").splitlines() if line[:1] != "#" and "|" in line
    ]
    for left, right in lines:
        written, spoken = (re.sub(r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), s.strip()) for s in (left, right))
        assert phonemize(written) == phonemize(spoken.partition(" (or")[0])


@given(st.text(alphabet="0123456789.,:/%$£€°#&-+ =kmCFst aDr\n½", max_size=24))
def test_nothing_said_is_lost(text):
    """Any sequence of signs is accepted; where there was a letter or a digit there is a word."""
    assert any(c.isalnum() for c in normalise_text(text)) or not any(c.isalnum() for c in text)


def test_a_title_or_an_initial_ends_no_sentence():
    text = "Dr. Smith met J. Smith. No. I said no. It was No. 5. Bye."
    assert split_sentences(text) == ["Dr. Smith met J. Smith.", "No. I said no.", "It was No. 5.", "Bye."]
