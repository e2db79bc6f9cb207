"""English text normalisation before grapheme-to-phoneme conversion: what is written, as a person would say it.

espeak-ng reads integer numbers well but other numeric text literally ("dollar twenty", "three dot five"); such text is
written out here, and so are abbreviations, addresses and signs. `quantities`, `dates` and `numerals` have the rest.
"""

import re
import unicodedata

from empatheia_jax.data.corpus.text import clean_text
from empatheia_jax.generators.dates import dates_as_words, ranges_as_words, times_as_words, years_as_words
from empatheia_jax.generators.numerals import INTEGER, amount, digits, words
from empatheia_jax.generators.quantities import fractions_as_words, money_as_words, units_as_words

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
    "Sgt.": "Sergeant",
    "Gen.": "General",
    "Mt.": "Mount",
    "Ave.": "Avenue",
    "Ph.D.": "P-H-D",
    "vs.": "versus",
    "e.g.": "for example",
    "i.e.": "that is",
    "etc.": "et cetera",
    "approx.": "approximately",
    "dept.": "department",
    "No.": "number",
    "Nos.": "numbers",
    "p.": "page",
    "pp.": "pages",
    "vol.": "volume",
    "ch.": "chapter",
    "a.m.": "AM",
    "p.m.": "PM",
    "A.M.": "AM",
    "P.M.": "PM",
    "w/o": "without",
    "w/": "with",
}
"""Those that may end a sentence ("etc.", "a.m.") keep its full stop where a capital follows; "No." and others are
abbreviations before a digit only."""

_MAY_END_SENTENCE = {"etc.", "a.m.", "p.m.", "A.M.", "P.M.", "Ph.D.", "Ave."}
_BEFORE_DIGIT = {"No.", "Nos.", "p.", "pp.", "vol.", "ch."}
_DIGIT_WORDS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fifteen|twenty|thirty|forty|fifty"
)
_SIGNS = {
    r"(?<=\d)\s?\+\s?(?=\d)": " plus ",
    r"(?:(?<=\d)\s?=\s?|(?<=[\w)])\s=\s)(?=[\w(-])": " equals ",
    r"(?<=\d)\s?[x\u00d7]\s?(?=\d+(?: equals|\s?=))": " times ",
    r"(?<=\d)\s?[x\u00d7]\s?(?=\d)": " by ",
    r"(?<=\d)x(?!\w)": " times",
    r"\u00d7": " times ",
    r"(?<=\d)\s?\*\s?(?=\d)": " times ",
    r"(?<=\d)\s?\u00f7\s?(?=\d)": " divided by ",
    r"\u00b1\s?(?=\d)": " plus or minus ",
    r"[~\u2248]\s?(?=\d)": "about ",
    r"\u2264\s?(?=\d)": "at most ",
    r"\u2265\s?(?=\d)": "at least ",
    r"\u00a7\s?(?=\d)": "section ",
    r"\s?%": " percent",
    r"#\s?(?=\d)|\u2116\s?": "number ",
    r"(?<=\b[CF])#": " sharp",
    r"#(?=[A-Za-z])": "hashtag ",
    r"\s?&\s?": " and ",
    r"(?<=[\d\w])\u00b2": " squared",
    r"(?<=[\d\w])\u00b3": " cubed",
    r"(?<=\d)-(?=\d)": " ",  # espeak says "dash"
    r"(?<=\w)/(?=\w)": " ",
}

_ABBREVIATION = re.compile(
    r"(?<![\w.])(" + "|".join(re.escape(a) for a in sorted(ABBREVIATIONS, key=len, reverse=True)) + r")(?=(\W?)(.?))"
)
_ACRONYM = re.compile(r"(?<![\w.])((?:[A-Z]\.){2,})(?=(\s*$)?)")
_ADDRESS = re.compile(
    r"(?:\bhttps?://|\bwww\.)[^\s<>\"]+|(?<![\w.@-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
    r"|(?<![\w.@-])(?:[A-Za-z0-9-]+\.)+(?:com|org|net|edu|gov|info|io|co\.uk|de|fr|eu)\b(?!\.\w)(?:/[^\s<>\"]*)?"
)
_ADDRESS_SIGNS = {".": "dot", "/": "slash", "@": "at", "-": "dash", "_": "underscore", "+": "plus", ":": "colon"}
_PHONE = re.compile(
    r"(?<![\w.,/$£€-])(?:(?:\+?\d{1,3}[\s.-])?(?:\(\d{3}\)\s?|\d{3}[\s.-])\d{3}[.\s-]\d{4}|\+\d{1,3}(?:[\s-]\d{2,5}){2,5}"
    r"|\d{4}(?:[ -]\d{4}){3}|\d{3}-\d{2}-\d{4}|(\d{3})-(\d{4}))(?![\w%-])"
)
_EMERGENCY = re.compile(r"(?<=\b(?:call|dial) )([149]1[0-2])\b", re.IGNORECASE)
_LONG = re.compile(r"\d{16,}")
_HEIGHT = re.compile(r"(?<![\w.])([2-8])'\s?(1[01]|\d)(?:\"|''|(?!\w))")
_MINUS = re.compile(r"(?:(?<=^)|(?<=[\s(]))-(?=[$£€¥]?\.?\d)")
_ORDINAL = re.compile(rf"(?<![\w.,])({INTEGER})(?:st|nd|rd|th)\b", re.IGNORECASE)
_VERSION = re.compile(r"(?<![\w.])(?:[vV](?=\d+\.))?(\d+(?:\.\d+){2,})(?![\w.]*\w)")
_DECIMAL = re.compile(rf"(?<![\w.])({INTEGER})?\.(\d+)(?![\w]|\.\d)")
_THOUSANDS = re.compile(r"(?<![\w,.])\d{1,3}(?:,\d{3})+(?!\w|,\d)")
_PLAIN_INTEGER = re.compile(r"(?<![\w.,-])(?:0|[1-9]\d{0,14})(?![\w-]|[.,]\d)")
_SCALED = re.compile(r"(?<![\w.,])(\d+(?:\.\d+)?)(k|M|bn)\b(?! (?:run|race)\b)")
_GREEK = re.compile(r"(?<![^\W_])[\u0391-\u03a1\u03a3-\u03c9](?![^\W_])")


def normalise_text(text: str) -> str:
    """Clean a text, and write amounts, times, dates, fractions, signs and abbreviations as words; plain integers stay.

    The function is idempotent.
    """
    text = clean_text(text).replace("\u2212", "-")
    text = _ADDRESS.sub(_address, text)
    text = _LONG.sub(lambda match: " ".join(match[0]), text)  # not a quantity: read digit by digit
    text = _EMERGENCY.sub(lambda match: digits(match[1]), _PHONE.sub(_phone, text))
    text = re.sub(r"\b24[-x](?=7\b)", "24/", text)
    text = re.sub(r"(?<=\d)(?=[AaPp]\.[Mm]\.)", " ", text)
    text = re.sub(r"\b(No\.)(?=\d)", r"\1 ", text)
    text = _ABBREVIATION.sub(_abbreviation, text)
    text = _ACRONYM.sub(lambda match: "-".join(match[1].split(".")[:-1]) + ("." if match[2] is not None else ""), text)
    text = _HEIGHT.sub(lambda match: f"{words(match[1])} foot {words(match[2])}", text)
    text = times_as_words(dates_as_words(text))
    text = _MINUS.sub("minus ", ranges_as_words(re.sub(r"([$£€])-(?=\d)", r"-\1", text)))
    text = units_as_words(fractions_as_words(money_as_words(text)))
    text = _ORDINAL.sub(lambda match: words(match[1], "ordinal"), text)
    text = years_as_words(text)
    text = _VERSION.sub(lambda match: " point ".join(words(part) for part in match[1].split(".")), text)
    text = _SCALED.sub(lambda m: f"{amount(m[1])} {dict(k='thousand', M='million', bn='billion')[m[2]]}", text)
    text = re.sub(r"\b[vV](?=\d)", "version ", text)
    text = _DECIMAL.sub(lambda match: amount(f"{match[1] or '0'}.{match[2]}"), text)
    text = _THOUSANDS.sub(lambda match: words(match[0]), text)
    for pattern, spoken in _SIGNS.items():
        text = re.sub(pattern, spoken, text)
    text = _GREEK.sub(lambda match: unicodedata.name(match[0]).split()[3].lower(), text)
    # espeak says "am" after a word, and letter by letter after a digit or with a hyphen.
    return " ".join(re.sub(rf"\b((?:{_DIGIT_WORDS})(?:-\w+)?) AM\b", r"\1 A-M", text).split())


def spell_integers(text: str) -> str:
    """Write plain integers as espeak reads them, without "and", so that "105" and "one hundred five" sound the same."""
    return _PLAIN_INTEGER.sub(lambda match: words(match[0]).replace(" and ", " "), text)


def ends_in_abbreviation(text: str) -> bool:
    """Whether the full stop at the end of `text` belongs to an abbreviation or to initials."""
    last = text.split()[-1] if text.split() else ""
    return (last in ABBREVIATIONS and last not in _MAY_END_SENTENCE) or re.fullmatch(r"(?:[A-Z]\.)+", last) is not None


def _abbreviation(match: re.Match) -> str:
    short, after, following = match[1], match[2], match[3]
    if short in _BEFORE_DIGIT and not (after.isspace() and following.isdigit()):
        return short
    if short == "St." and not (after.isspace() and following.isupper()):
        return "Street"  # "Main St.", not "St. James"
    ends = short in _MAY_END_SENTENCE and (not after.strip() and (not following or following.isupper()))
    return ABBREVIATIONS[short] + ("." if ends else "")


def _address(match: re.Match) -> str:
    """Return a web or e-mail address as it is read out: "me@site.org" -> "me at site dot org"."""
    address = match[0].rstrip(".,;:!?)'")
    rest = match[0][len(address) :]
    parts = re.split(r"([^\w]|_)", re.sub(r"^https?://", "", address).rstrip("/"))
    return " ".join(_ADDRESS_SIGNS.get(part, part if part.isalnum() else "") for part in parts if part) + rest


def _phone(match: re.Match) -> str:
    if match[1] and int(match[1]) < int(match[2]) and match[1][2] == match[2][3] == "0":
        return match[0]  # "500-1000": a range
    return ("plus " if match[0].startswith("+") else "") + digits(match[0])
