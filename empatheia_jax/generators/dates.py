"""Times of day, dates, years, decades and ranges of numbers as words: "7:30pm", "12/25/2023", "the '90s", "5-10"."""

import re

from empatheia_jax.generators.numerals import clock_digits, decade, words

_MONTHS = "January February March April May June July August September October November December".split()
_SHORT = {month[:3]: month for month in _MONTHS} | {"Sept": "September"}
_HALF_DAY = r"(?:\s?([AaPp])\.?[Mm]\b)"
_DASH = r"\s?[-\u2013\u2014]\s?"

_MONTH_NAME = re.compile(rf"\b({'|'.join(sorted(_SHORT, key=len, reverse=True))})\.?(?=\s\d)")
_SLASHED = re.compile(r"(?<![\w/.-])(\d{1,2})([/-])(\d{1,2})\2(\d{4}|\d{2})(?![\w/-])")
_DOTTED = re.compile(r"(?<![\w/.-])(\d{1,2})\.(\d{1,2})\.((?:19|20)\d\d)(?![\w/-]|\.\d)")
_ISO = re.compile(r"(?<![\w/.-])(\d{4})-(\d{2})-(\d{2})(?![\w/-]|\.\d)")
_DAY = re.compile(
    rf"\b({'|'.join(_MONTHS)}) ([12]?\d|3[01])(?:st|nd|rd|th)?"
    r"(?:(?:\s?[-\u2013]\s?| to )([12]?\d|3[01])(?:st|nd|rd|th)?)?(?![\w:%/-]|[.,]\d)(?:, (?=\d{4}\b))?"
)
_ON_DAY = re.compile(r"(?<=\b[Oo]n )(\d{1,2})/(\d{1,2})(?![\w/]| of\b)")
_TIME_RANGE = re.compile(
    r"(?<![\w:./$£€-])(\d{1,2}(?::[0-5]\d)?(?:\s?[AaPp]\.?[Mm]\b)?)"
    + _DASH
    + r"(?=\d{1,2}(?::[0-5]\d(?!\d)|\s?[AaPp]\.?[Mm]\b))"
)
_TIME = re.compile(rf"(?<![\w:.,$£€])([01]?\d|2[0-4])[:.]([0-5]\d)(?::[0-5]\d)?{_HALF_DAY}")
_CLOCK = re.compile(r"(?<![\w:.,$£€])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\d:])")
_HOUR = re.compile(rf"(?<![\w:.,$£€])(1[0-2]|0?[1-9]){_HALF_DAY}")
_RATIO = re.compile(r"(?<![\w:.,])(\d+):(\d+)(?![\w:])")
_RANGE = re.compile(
    r"(?<![\w.,/$£€¥\u2013-])(\d+(?:[.,]\d+)*)(%?)(\s?)[-\u2013\u2014](\s?)(\d+(?:[.,]\d+)*)(?!\d|[-\u2013/]\d)"
)
_DECADE = re.compile(r"(?<![\w.,$£€])(?:(mid|early|late|pre|post)-)?'?(1[1-9]\d0|20\d0|[1-9]0)'?s\b", re.IGNORECASE)
_HUNDREDS = re.compile(r"(?<![\w.,$£€])(10+)s\b")
_SHORT_YEAR = re.compile(r"(?<!\S)'(\d\d)\b(?!')")
_YEAR = re.compile(r"(?<![\w.,$£€-])(1[1-9]\d\d|20[1-9]\d)(?!\w|[,.:]?\d)(?:(?= (\w+))|)")
_BEFORE_YEAR = re.compile(
    rf"(?:\b(?:in|since|of|from|to|by|until|till|before|after|during|year|early|late|mid|{'|'.join(_MONTHS)})) $",
    re.IGNORECASE,
)
_NO_NOUN = {"was", "has", "is", "this", "its", "us", "as", "always", "perhaps", "does", "thus", "yes", "less", "plus"}
_COUNTED = {"people", "men", "women", "children"}


def dates_as_words(text: str) -> str:
    """Write dates as words: "12/25/2023", "2023-12-25", "25.12.2023" -> "December twenty-fifth twenty twenty-three"."""
    text = _MONTH_NAME.sub(lambda m: _SHORT[m[1]], text)
    text = _ISO.sub(lambda m: _date(m, m[1], m[2], m[3]), text)
    text = _DOTTED.sub(lambda m: _date(m, m[3], m[2], m[1]), text)
    text = _SLASHED.sub(lambda m: _date(m, m[4], *((m[3], m[1]) if int(m[1]) > 12 else (m[1], m[3]))), text)
    text = _ON_DAY.sub(lambda m: _date(m, "", m[1], m[2]), text)
    return _DAY.sub(_day, text)


def times_as_words(text: str) -> str:
    """Write times of day as words: "7:30pm" -> "seven thirty PM", "17:05" -> "seventeen oh five"."""
    text = _TIME_RANGE.sub(r"\1 to ", text)
    text = _TIME.sub(lambda m: _time(m[1], m[2], m[3]), text)
    text = _HOUR.sub(lambda m: _time(m[1], "00", m[2]), text)
    text = _CLOCK.sub(lambda m: _time(m[1], m[2], "") + (f" and {int(m[3])} seconds" if m[3] else ""), text)
    return _RATIO.sub(r"\1 to \2", text)


def ranges_as_words(text: str) -> str:
    """Write "5-10", "2019-2021" and a score as "5 to 10"; "5 - 3" is a difference, "50-50" stays two numbers."""
    return _RANGE.sub(_range, text)


def years_as_words(text: str) -> str:
    """Write decades and years as words: "mid-1990s" -> "mid nineteen nineties", "1987" -> "nineteen eighty-seven"."""
    text = _DECADE.sub(lambda m: (f"{m[1]} " if m[1] else "") + decade(m[2]), text)
    text = _HUNDREDS.sub(lambda m: f"{words(m[1]).removeprefix('one ')}s", text)
    text = _SHORT_YEAR.sub(lambda m: clock_digits(m[1]), text)
    return _YEAR.sub(_year, text)


def _date(match: re.Match, year: str, month: str, day: str) -> str:
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return match[0]
    spoken_year = (words(year, "year") if len(year) == 4 else clock_digits(year)) if year else ""
    return f"{_MONTHS[int(month) - 1]} {words(day, 'ordinal')} {spoken_year}".strip()


def _day(match: re.Match) -> str:
    month, first, last = match.groups()
    to_last = f" to {words(last, 'ordinal')}" if last else ""
    return f"{month} {words(first, 'ordinal')}{to_last}" + (" " if match[0].endswith(" ") else "")


def _time(hour: str, minute: str, half: str) -> str:
    number = words(hour)
    if half:
        spoken = number if minute == "00" else f"{number} {clock_digits(minute)}"
        return f"{spoken} {half.upper()}M"
    if minute == "00":
        return f"{number} o'clock" if 1 <= int(hour) <= 12 else f"{number} hundred"
    return f"{number} {clock_digits(minute)}"


def _range(match: re.Match) -> str:
    first, percent, before, after, last = match.groups()
    low, high = (float(part.replace(",", "")) for part in (first, last))
    if len(first) == 4 and len(last) == 2 and low < 2100 and low % 100 < high:  # 1990-95
        return f"{first} to {last}"
    if before and low >= high:
        return f"{first}{percent} minus {last}"
    is_score = low > high and high < 200 > low
    if low < high or is_score or (low == high and low < 20):
        return f"{first}{percent} to {last}"
    return f"{first}{percent} {last}" if low == high else match[0]


def _year(match: re.Match) -> str:
    number, following = match[1], match[2] or ""
    is_counted = following in _COUNTED or (len(following) > 3 and following.endswith("s") and following.islower())
    if is_counted and following not in _NO_NOUN and not _BEFORE_YEAR.search(match.string[: match.start()]):
        return words(number)
    return words(number, "year")
