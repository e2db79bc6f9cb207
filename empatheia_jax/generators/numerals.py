"""English words of numbers, by num2words: cardinals, ordinals, decimals, years, decades; plurals of units.

A *number* in the modules that use this is text: digits, thousands perhaps divided by commas, perhaps a decimal part.
"""

INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
NUMBER = rf"(?:{INTEGER}(?:[.,]\d+)?)"
"""A decimal comma is read in front of a unit or a currency ("1,5 km"); elsewhere it may divide a list."""

_PLURALS = {"penny": "pence", "foot": "feet", "inch": "inches"}
_NO_PLURAL = ("hertz", "yen", "won", "yuan", "psi", "Celsius", "Fahrenheit", "percent")


def words(number: str, kind: str = "cardinal") -> str:
    """Return an integer as words; `kind` is num2words' "cardinal", "ordinal" or "year"."""
    from num2words import num2words

    return num2words(int(number.replace(",", "")), to=kind).replace(",", "")


def amount(number: str) -> str:
    """Return a number as words: "1,200.50" -> "one thousand two hundred point five zero"."""
    integer, fraction = split_decimal(number)
    return words(integer) + (f" point {digits(fraction)}" if fraction else "")


def split_decimal(number: str) -> tuple[str, str]:
    """Return the integer part, "0" where there is none, and the digits after the decimal point or comma."""
    head, point, tail = number.rpartition(".")
    if not point:
        head, comma, tail = number.rpartition(",")
        if not comma or (len(tail) == 3 and head != "0"):  # divides thousands
            return number, ""
    return head or "0", tail


def digits(number: str) -> str:
    """Return the digits of a number as words, one by one."""
    return " ".join(words(digit) for digit in number if digit.isdecimal())


def clock_digits(number: str) -> str:
    """Return two digits as they are said of minutes and years: "05" -> "oh five"."""
    return f"oh {words(number[1])}" if number[0] == "0" and number != "00" else words(number)


def counted(number: str, unit: str) -> str:
    """Return a number with its unit: ("1", "mile per hour") -> "one mile per hour"; ("2", "foot") -> "two feet"."""
    return f"{amount(number)} {unit if number == '1' else plural(unit)}"


def plural(unit: str) -> str:
    """Return the plural of a unit: of its first word in front of "per" and names of scales, else of its last."""
    head, per, rest = unit.partition(" per ")
    first, space, name = head.partition(" ")
    if name in _NO_PLURAL:
        return f"{_plural_word(first)} {name}"
    last = _plural_word(name if space else first)
    return (f"{first} {last}" if space else last) + per + rest


def _plural_word(word: str) -> str:
    if word in _NO_PLURAL or word.endswith("s"):
        return word
    return _PLURALS.get(word, f"{word}s")


def decade(number: str) -> str:
    """Return the plural of a year or of tens: "1980" -> "nineteen eighties", "90" -> "nineties"."""
    text = words(number, "year" if len(number) == 4 else "cardinal")
    return f"{text[:-1]}ies" if text.endswith("y") else f"{text}s"
