"""English text normalisation before grapheme-to-phoneme conversion: amounts, dates, units, abbreviations as words.

espeak-ng reads integer numbers well but other numeric text literally ("dollar twenty", "three dot five"); such text is
written out here, numbers by num2words.
"""

import re

ABBREVIATIONS = {
    "Dr.": "Doctor",
    "Mr.": "Mister",
    "Mrs.": "Missus",
    "Ms.": "Miz",
    "Prof.": "Professor",
    "St.": "Saint",
    "Jr.": "Junior",
    "Sr.": "Senior",
    "Lt.": "Lieutenant",
    "Capt.": "Captain",
    "Gen.": "General",
    "Mt.": "Mount",
    "vs.": "versus",
    "e.g.": "for example",
    "i.e.": "that is",
    "etc.": "et cetera",
    "approx.": "approximately",
    "dept.": "department",
    "No.": "number",
    "a.m.": "AM",
    "p.m.": "PM",
    "w/o": "without",
    "w/": "with",
}
"""Those that may end a sentence ("etc.", "a.m.") keep its full stop where a capital follows; "No." is an abbreviation
before a digit only."""

_MAY_END_SENTENCE = {"etc.", "a.m.", "p.m."}
_CURRENCIES = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
_PLURALS = {"penny": "pence", "foot": "feet", "inch": "inches"}
_UNITS = {
    "km/h": "kilometer per hour",
    "mph": "mile per hour",
    "km": "kilometer",
    "cm": "centimeter",
    "mm": "millimeter",
    "kg": "kilogram",
    "mg": "milligram",
    "lbs": "pound",
    "lb": "pound",
    "oz": "ounce",
    "ml": "milliliter",
    "ft": "foot",
    "hrs": "hour",
    "hr": "hour",
    "mins": "minute",
    "min": "minute",
    "secs": "second",
    "sec": "second",
    "GB": "gigabyte",
    "MB": "megabyte",
    "Hz": "hertz",
    "°C": "degree Celsius",
    "°F": "degree Fahrenheit",
    "°": "degree",
}
_FRACTIONS = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_DIGITS = r"\d{1,3}(?:,\d{3})+|\d+"

_ABBREVIATION = re.compile(
    r"(?<![\w.])(" + "|".join(re.escape(a) for a in sorted(ABBREVIATIONS, key=len, reverse=True)) + r")(?=(\W|$)(.?))"
)
_MONEY = re.compile(rf"([$£€])\s?({_DIGITS})(\.\d+)?(\s?(?:thousand|million|billion|trillion))?\b")
_TIME = re.compile(r"\b([01]?\d|2[0-3]):([0-5]\d)\b")
_ORDINAL = re.compile(r"\b(\d+)(?:st|nd|rd|th)\b")
_UNIT = re.compile(rf"(?<![\w.])(-?)({_DIGITS})(\.\d+)?\s?({'|'.join(map(re.escape, _UNITS))})(?![\w/])")
_FRACTION = re.compile(r"(?<![\d/.])(\d{1,2})/([2-9]|1\d)(?![\d/])")
_RANGE = re.compile(r"(?<![\w.-])(\d+)\s?[-\N{EN DASH}]\s?(\d+)(?![\w-])")
_YEAR = re.compile(r"(?<![\w.,-])(1[1-9]\d\d|20[1-9]\d)(?=(?:s\b|\b(?![,.:]?\d)))(s?)")
_DECIMAL = re.compile(rf"(?<![\w.])({_DIGITS})?\.(\d+)\b(?!\.\d)")
_THOUSANDS = re.compile(r"(?<![\w,.])\d{1,3}(?:,\d{3})+(?![\w,])")
_LONG = re.compile(r"\d{16,}")


def normalise_text(text: str) -> str:
    """Write amounts, times, years, fractions, units, signs and abbreviations as words; plain integers stay.

    The function is idempotent.
    """
    for sign, written in _FRACTIONS.items():
        text = re.sub(rf"(?<=\d){sign}", f" and {written}", text).replace(sign, written)
    text = _LONG.sub(lambda match: " ".join(match[0]), text)  # not a quantity: read digit by digit
    text = _ABBREVIATION.sub(_abbreviation, text)
    text = _MONEY.sub(_money, text)
    text = _TIME.sub(_time, text)
    text = _ORDINAL.sub(lambda match: _words(match[1], "ordinal"), text)
    text = _UNIT.sub(_unit, text)
    text = _FRACTION.sub(_fraction, text)
    text = _RANGE.sub(_range, text)
    text = _YEAR.sub(_year, text)
    text = _DECIMAL.sub(lambda match: _amount(match[1] or "0", f".{match[2]}"), text)
    text = _THOUSANDS.sub(lambda match: _words(match[0]), text)
    text = re.sub(r"\s?%", " percent", text)
    text = re.sub(r"#(?=\d)", "number ", text)
    text = re.sub(r"\s?&\s?", " and ", text)
    text = re.sub(r"(?<=\d)\s?\+\s?(?=\d)", " plus ", text)
    text = re.sub(r"(?<=\d)\s?=\s?(?=\d)", " equals ", text)
    return re.sub(r"(?<=\w)/(?=\w)", " ", text)


def ends_in_abbreviation(text: str) -> bool:
    """Whether the full stop at the end of `text` belongs to an abbreviation or an initial."""
    last = text.split()[-1] if text.split() else ""
    return (last in ABBREVIATIONS and last not in _MAY_END_SENTENCE) or re.fullmatch(r"[A-Z]\.", last) is not None


def _words(number: str, kind: str = "cardinal") -> str:
    from num2words import num2words

    return num2words(int(number.replace(",", "")), to=kind).replace(",", "")


def _amount(integer: str, fraction: str | None) -> str:
    """("1,200", ".50") -> "one thousand two hundred point five zero"."""
    words = _words(integer)
    return words if not fraction else f"{words} point {' '.join(_words(digit) for digit in fraction[1:])}"


def _with_unit(amount: str, is_singular: bool, unit: str) -> str:
    if not is_singular:
        first, _, rest = unit.partition(" ")
        first = _PLURALS.get(first, first if first == "hertz" else f"{first}s")
        unit = f"{first} {rest}".strip()
    return f"{amount} {unit}"


def _abbreviation(match: re.Match) -> str:
    short, after, following = match[1], match[2], match[3]
    if short == "No." and not (after.isspace() and following.isdigit()):
        return short
    if short == "St." and not (after.isspace() and following.isupper()):
        return "Street"  # "Main St.", not "St. James"
    ends = short in _MAY_END_SENTENCE and (not after.strip() and (not following or following.isupper()))
    return ABBREVIATIONS[short] + ("." if ends else "")


def _money(match: re.Match) -> str:
    sign, integer, fraction, scale = match.groups()
    unit, small = _CURRENCIES[sign]
    number = int(integer.replace(",", ""))
    if scale or (fraction and len(fraction) != 3):
        return _with_unit(_amount(integer, fraction) + (f" {scale.strip()}" if scale else ""), False, unit)
    words = _with_unit(_words(integer), number == 1, unit)
    cents = int(fraction[1:]) if fraction else 0
    if not cents:
        return words
    change = _with_unit(_words(str(cents)), cents == 1, small)
    return f"{words} and {change}" if number else change


def _time(match: re.Match) -> str:
    hour, minute = int(match[1]), match[2]
    if minute == "00":
        return f"{_words(str(hour))} o'clock" if 1 <= hour <= 12 else f"{_words(str(hour))} hundred"
    return f"{_words(str(hour))} {'oh ' if minute[0] == '0' else ''}{_words(minute)}"


def _unit(match: re.Match) -> str:
    minus, integer, fraction, unit = match.groups()
    words = _with_unit(_amount(integer, fraction), integer == "1" and not fraction, _UNITS[unit])
    return f"minus {words}" if minus else words


def _fraction(match: re.Match) -> str:
    count, denominator = int(match[1]), int(match[2])
    if count >= denominator:
        return match[0]  # 24/7
    part = {2: "half", 4: "quarter"}.get(denominator) or _words(match[2], "ordinal")
    if count == 1:
        return f"one {part}"
    return f"{_words(match[1])} {'halves' if denominator == 2 else f'{part}s'}"


def _range(match: re.Match) -> str:
    first, last = match[1], match[2]
    is_range = int(first) < int(last) and (len(first), len(last)) != (3, 4)  # 555-1234 is a telephone number
    return f"{first} to {last}" if is_range else match[0]


def _year(match: re.Match) -> str:
    words = _words(match[1], "year")
    if not match[2]:
        return words
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"  # "nineteen eighties"
