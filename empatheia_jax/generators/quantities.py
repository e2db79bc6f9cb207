"""Amounts of money, measures and fractions as words: "$5k", "20 €", "-3.2°C", "60mph", "8 1/2 in"."""

import re

from empatheia_jax.generators.numerals import NUMBER, amount, counted, plural, split_decimal, words

_CURRENCIES = {
    "$": ("dollar", "cent"),
    "£": ("pound", "penny"),
    "€": ("euro", "cent"),
    "¥": ("yen", ""),
    "₹": ("rupee", "paisa"),
    "₩": ("won", ""),
    "₽": ("ruble", "kopeck"),
    "¢": ("cent", ""),
    "USD": ("dollar", "cent"),
    "EUR": ("euro", "cent"),
    "GBP": ("pound", "penny"),
    "JPY": ("yen", ""),
    "CHF": ("franc", "centime"),
    "US$": ("US dollar", "cent"),
    "A$": ("Australian dollar", "cent"),
    "AU$": ("Australian dollar", "cent"),
    "C$": ("Canadian dollar", "cent"),
    "CA$": ("Canadian dollar", "cent"),
}
_SCALES = {"k": "thousand", "m": "million", "mn": "million", "mm": "million", "mil": "million", "mio": "million"}
_SCALES |= {"b": "billion", "bn": "billion", "t": "trillion", "tn": "trillion", "trn": "trillion"}
_WRITTEN_SCALES = "thousand|million|billion|trillion"

_UNITS = {
    "mph": "mile per hour",
    "kph": "kilometer per hour",
    "kmh": "kilometer per hour",
    "mpg": "mile per gallon",
    "rpm": "revolution per minute",
    "bpm": "beat per minute",
    "fps": "frame per second",
    "kbps": "kilobit per second",
    "Mbps": "megabit per second",
    "Gbps": "gigabit per second",
    "km": "kilometer",
    "m": "meter",
    "cm": "centimeter",
    "mm": "millimeter",
    "μm": "micrometer",
    "nm": "nanometer",
    "mi": "mile",
    "yd": "yard",
    "yds": "yard",
    "ft": "foot",
    "in": "inch",
    "kg": "kilogram",
    "kgs": "kilogram",
    "g": "gram",
    "mg": "milligram",
    "μg": "microgram",
    "mcg": "microgram",
    "lbs": "pound",
    "lb": "pound",
    "oz": "ounce",
    "l": "liter",
    "L": "liter",
    "dl": "deciliter",
    "cl": "centiliter",
    "ml": "milliliter",
    "tsp": "teaspoon",
    "tbsp": "tablespoon",
    "gal": "gallon",
    "h": "hour",
    "hrs": "hour",
    "hr": "hour",
    "mins": "minute",
    "min": "minute",
    "secs": "second",
    "sec": "second",
    "s": "second",
    "ms": "millisecond",
    "μs": "microsecond",
    "ns": "nanosecond",
    "yrs": "year",
    "yr": "year",
    "wks": "week",
    "mo": "month",
    "mos": "month",
    "KB": "kilobyte",
    "MB": "megabyte",
    "GB": "gigabyte",
    "TB": "terabyte",
    "Hz": "hertz",
    "kHz": "kilohertz",
    "MHz": "megahertz",
    "GHz": "gigahertz",
    "V": "volt",
    "W": "watt",
    "kW": "kilowatt",
    "MW": "megawatt",
    "kWh": "kilowatt hour",
    "mAh": "milliampere hour",
    "mA": "milliampere",
    "Ω": "ohm",
    "kcal": "kilocalorie",
    "cal": "calorie",
    "kJ": "kilojoule",
    "psi": "psi",
    "dB": "decibel",
    "MP": "megapixel",
    "°C": "degree Celsius",
    "°F": "degree Fahrenheit",
    "°": "degree",
    "%": "percent",
}
_PREPOSITION = "in"  # is a unit only where it is glued to its number
_LOWER = {name.lower(): unit for name, unit in _UNITS.items() if len(name) > 1 and name not in ("MW", "mA")}
_PER = {"h": "hour", "hr": "hour", "s": "second", "sec": "second", "min": "minute", "mo": "month", "yr": "year"}
_PER |= {"wk": "week", "kg": "kilogram", "lb": "pound", "l": "liter", "dl": "deciliter", "mi": "mile", "gal": "gallon"}
_PER |= {"ml": "milliliter", "s²": "second squared"}
_PER |= {name: name for name in ("hour", "day", "night", "week", "month", "year", "person", "minute", "second", "mile")}
_POWERS = {"²": "square", "^2": "square", "2": "square", "³": "cubic", "^3": "cubic", "3": "cubic"}
_BASES = ("mm", "cm", "km", "m", "in", "ft", "mi")
_DENOMINATORS = (*range(2, 20), 20, 25, 30, 32, 40, 50, 60, 64, 100, 1000)


def _any(names) -> str:
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))


_SIGN, _RATE = _any(_CURRENCIES), rf"(?:\s?/\s?({_any(_PER)})\b)?"
_SCALE = rf"(?:([-\s]?(?:{_WRITTEN_SCALES})|(?i:{_any(_SCALES)})|\s(?:bn|mn|tn))(?![\w]))?"
_MONEY = re.compile(
    rf"((?:\ban?\s)?)(?<![\w.])({_SIGN})\s?({NUMBER})(?!\d){_SCALE}"
    rf"(?:(?:[-\u2013\u2014]|\s[-\u2013\u2014]\s|\sto\s)(?:\2)?({NUMBER})(?!\d){_SCALE}(?![%\w]))?{_RATE}((?:\s[a-z]{{3,}})?)"
)
_MONEY_AFTER = re.compile(rf"(?<![\w.,])({NUMBER}){_SCALE}(?:\s(?!\S+\s?\d))?({_SIGN})(?!\w){_RATE}")
_NO_NOUN = {"for", "and", "but", "every", "per", "each", "more", "less", "from", "worth", "extra", "the", "than", "was"}

_NAMES = rf"(?:(?:{_any(_BASES)})(?:[²³]|\^?[23])|{_any(_UNITS)}|(?i:{_any(_LOWER)}))"
_UNIT = re.compile(rf"(?<![\w.,/])({NUMBER})(\s|-)?({_NAMES})(?![\w'²³]){_RATE}")
_UNIT_RANGE = re.compile(rf"(\d\s?(?:{_NAMES}))\s?[-\u2013\u2014]\s?(?=\d)")
_FRACTION = re.compile(
    rf"(?<![\d/.,])(?:(\d{{1,3}})[\s-])?(\d{{1,2}})/(\d{{1,4}})(?:(?<=3)rds|ths|th)?(?![\d/])(\s?(?:{_NAMES})(?![\w']))?"
)


def money_as_words(text: str) -> str:
    """Write amounts of money as words: "$5k" -> "five thousand dollars", "5-10 €" is left to the rules of ranges."""
    text = re.sub(rf"({_SIGN})\s?\.(?=\d)", r"\g<1>0.", text)
    return _MONEY_AFTER.sub(lambda m: _sum(m[1], m[2], m[3]) + _per(m[4]), _MONEY.sub(_money, text))


def units_as_words(text: str) -> str:
    """Write measures as words: "5km" -> "five kilometers", "20-25°C" -> "20 to twenty-five degrees Celsius"."""
    return _UNIT.sub(_unit, _UNIT_RANGE.sub(r"\1 to ", re.sub(r"(?<=\d)\s?°\s?(?=[CF]\b)", "°", text)))


def fractions_as_words(text: str) -> str:
    """Write fractions as words, with a unit that follows: "8 1/2in" -> "eight and a half inches"."""
    return _FRACTION.sub(_fraction, re.sub(r"\b9/11\b", "nine eleven", text))


def _sum(number: str, scale: str | None, sign: str, is_adjective: bool = False) -> str:
    unit, small = _CURRENCIES[sign]
    integer, fraction = split_decimal(number)
    name = (scale or "").strip(" -").lower()
    name = _SCALES.get(name, name)
    if name or (fraction and (len(fraction) != 2 or not small)):
        return f"{amount(number)}{f' {name}' if name else ''} {unit if is_adjective else plural(unit)}"
    whole = f"{words(integer)} {unit}" if is_adjective else counted(integer, unit)
    if not fraction.strip("0"):
        return whole
    change = counted(str(int(fraction)), small)
    return f"{whole} and {change}" if int(integer.replace(",", "")) else change


def _money(match: re.Match) -> str:
    article, sign, number, scale, last, last_scale, rate, following = match.groups()
    noun = following.strip()
    if last is None:
        is_adjective = bool(article and noun and noun not in _NO_NOUN and not rate)
        return article + _sum(number, scale, sign, is_adjective) + _per(rate) + following
    cents = any(split_decimal(part)[1] for part in (number, last)) and not (scale or last_scale)
    first = _sum(number, scale, sign) if cents else amount(number) + _scale_of_first(scale, last_scale)
    return f"{article}{first} to {_sum(last, last_scale, sign)}{_per(rate)}{following}"


def _scale_of_first(scale: str | None, last_scale: str | None) -> str:
    name = (scale or "").strip(" -").lower()
    return f" {_SCALES.get(name, name)}" if scale and scale != last_scale else ""


def _per(rate: str | None) -> str:
    return f" per {_PER[rate]}" if rate else ""


def _unit_name(name: str) -> str:
    if name in _UNITS:
        return _UNITS[name]
    power = re.search(r"[²³]|\^?[23]$", name)
    if power:
        return f"{_POWERS[power[0]]} {_UNITS[name[: power.start()]]}"
    return _LOWER[name.lower()]


def _unit(match: re.Match) -> str:
    number, between, name, rate = match.groups()
    if name == "%":
        return f"{number if number.isdecimal() else amount(number)} percent"  # plain integers stay
    if between and name.lower() == _PREPOSITION or (between == "-" and len(name) == 1):
        return match[0]
    if name == "s" and re.fullmatch(r"\d*0", number):
        return match[0]  # "the 90s": a decade
    unit = _unit_name(name)
    if between == "-":
        return f"{amount(number)} {unit}{_per(rate)}"  # "a 5-km run"
    return counted(number, unit) + _per(rate)


def _fraction(match: re.Match) -> str:
    whole, count, denominator, name = match[1], int(match[2]), int(match[3]), match[4]
    if count >= denominator or denominator not in _DENOMINATORS:
        return match[0]  # 24/7
    part = {2: "half", 4: "quarter"}.get(denominator) or words(match[3], "ordinal")
    parts = "halves" if denominator == 2 else f"{part}s"
    article = ("an" if part.startswith("eigh") else "a") if whole else "one"
    written = f"{article} {part}" if count == 1 else f"{words(match[2])} {parts}"
    unit = _unit_name(name.strip()) if name and not name.startswith(f" {_PREPOSITION}") else ""
    if whole:
        return f"{words(whole)} and {written}" + (f" {plural(unit)}" if unit else name or "")
    return written + (f" {unit}" if unit else name or "")
