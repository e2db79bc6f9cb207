"""Cleaning and checks of text for the tokenizer and the English phonemizer.

Text comes from web pages, phones and spreadsheets: with invisible characters, several forms of one apostrophe, HTML
entities, and EmpatheticDialogues' token for a comma. Text that has none of these is returned as it is, to the byte.
"""

import html
import html.entities
import re
import unicodedata

COMMA_READ = '"_comma_" read as a comma'
ENTITIES_DECODED = "HTML entities decoded"
INVISIBLE_DROPPED = "invisible characters left out"
WRITTEN_PLAINLY = "apostrophes or compatibility characters written plainly"

_COMMA = re.compile("_comma_", re.IGNORECASE)  # EmpatheticDialogues' csv, and what was made from it
# Without a semicolon, only what is hardly ever meant as it stands.
_ENTITY = re.compile(
    r"&(?:(#\d{2,7};?|#\d;|#[xX][0-9a-fA-F]{1,6};)|([A-Za-z]\w{1,31};)|(amp|nbsp|quot|lt|gt)(?![\w=]))"
)
_SUSPECT = re.compile(f"[&`]|{_COMMA.pattern}", re.IGNORECASE)  # in ASCII

# Signs that never mean anything else; signs that do beside a letter, and those that do between two letters.
_APOSTROPHE = re.compile(
    "[\u2018\u2019\u201b\u2032\u02bc\u02ee\u055a\u05f3\u07f4\ua78b\ua78c\u275b\u275c\uff07]"
    "|(?<=[^\\W\\d_])(?:[\u00b4\u2035\u02b9-\u02bf\u02c8\u02ca\u02cb\u1fbd\u1fbf]|[ ]\u0301)"
    "|[\u00b4\u2035\u02b9-\u02bf\u02ca\u02cb\u1fbd\u1fbf](?=[^\\W\\d_])"
    "|(?<=[^\\W\\d_])[`\uff40](?=[^\\W\\d_])"
)
_OKINA = re.compile("(?<=[aeiou])\u02bb(?=[aeiou])", re.IGNORECASE)  # a letter of Hawaiian that English leaves out
_FRACTION = re.compile("(\\d ?)?([\u00bc-\u00be\u2150-\u215e\u2189])(?=(\\w?))")
# NFKC would change what they say: 10² to 102, ™ to the letters, a spacing accent to a space; № is a word.
_NOT_FOLDED = re.compile("([\u00b2\u00b3\u00b9\u2070-\u207b\u2122\u2120\u2116\u00a8\u00af\u00b4\u00b8\u02d8-\u02dd])")
_PLAIN = str.maketrans({"\u2010": "-", "\u2044": "/", "\u02da": "\u00b0", "\u2033": '"'})
_INVISIBLE = "\u034f\u115f\u1160\u3164\uffa0\ufffc"  # by their use; the others by their category


def clean_text(text: str) -> str:
    """Return one line of plainly written text, as `rewrite_text` makes it."""
    return rewrite_text(text)[0]


def rewrite_text(text: str) -> tuple[str, tuple[str, ...]]:
    """Return one line of plainly written text, and what was changed in it.

    Unicode is folded by NFKC, apostrophes of every form are "'", fractions are written with a slash, HTML entities are
    decoded however often they were escaped, invisible and control characters are left out, `_comma_` is a comma, and
    white space is collapsed.

    Returns:
      The text, and the kinds of changes that a reader of the data should know of (not those of white space).
    """
    changes: dict[str, None] = {}
    before = None
    while text != before and not _is_plain(text):
        before = text = " ".join(text.split())
        for change, step in _STEPS.items():
            written = step(text)
            if written != text:
                changes[change] = None
            text = written
    return " ".join(text.split()), tuple(changes)


def text_problem(text: object) -> tuple[str, str] | None:
    """Return (reason, detail) where the tokenizer or the English phonemizer cannot take `text`, else None."""
    if not isinstance(text, str):
        return ("text is missing", "found nothing") if text is None else ("not a text", f"found {type(text).__name__}")
    cleaned = clean_text(text)
    if not cleaned:
        return "text is empty", ""
    if cleaned.isascii():
        return None
    if any(unicodedata.category(c) == "Cs" for c in text):
        return "text is broken Unicode", "half of a surrogate pair: write the file again as UTF-8"
    letters = [c for c in cleaned if c.isalpha()]
    foreign = [c for c in letters if not unicodedata.name(c, "").startswith("LATIN")]
    if len(foreign) * 2 > len(letters):
        script = unicodedata.name(foreign[0], "unknown").split()[0].lower()
        return "text is in another script", f"mostly {script} letters in {text[:40]!r}; only English can be spoken"
    return None


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and not _SUSPECT.search(text)


def _decode_entities(text: str) -> str:
    def decode(match: re.Match) -> str:
        if match[1]:
            return html.unescape(match[0])
        return html.entities.html5.get(match[2] or match[3]) or match[0]

    return _ENTITY.sub(decode, text)


def _drop_invisible(text: str) -> str:
    return text if text.isascii() and text.isprintable() else "".join(c for c in text if not _is_invisible(c))


def _is_invisible(c: str) -> bool:
    selector = "\ufe00" <= c <= "\ufe0f" or "\U000e0100" <= c <= "\U000e01ef" or "\u180b" <= c <= "\u180f"
    return not c.isspace() and (selector or c in _INVISIBLE or unicodedata.category(c) in ("Cf", "Cc"))


def _write_plainly(text: str) -> str:
    """Fold compatibility characters, except where that changes the meaning; one form of apostrophe and hyphen."""
    text = unicodedata.normalize("NFC", text)
    text = _APOSTROPHE.sub("'", _OKINA.sub("", text))
    text = re.sub(r"(?<=\d)\s?\u00ba", "\u00b0", text.translate(_PLAIN))
    text = _FRACTION.sub(_fraction, text)
    pieces = _NOT_FOLDED.split(text)
    pieces[::2] = (unicodedata.normalize("NFKC", piece) for piece in pieces[::2])
    return _APOSTROPHE.sub("'", "".join(pieces).translate(_PLAIN))  # NFKC brings some of them about


def _fraction(match: re.Match) -> str:
    before, sign, after = match.groups()
    written = unicodedata.normalize("NFKC", sign).replace("\u2044", "/")
    return f"{before.strip()} {written}" if before else written + (" " if after else "")


_STEPS = {
    INVISIBLE_DROPPED: _drop_invisible,  # first: one may stand inside of the others
    COMMA_READ: lambda text: _COMMA.sub(",", text),
    ENTITIES_DECODED: _decode_entities,
    WRITTEN_PLAINLY: _write_plainly,
}
CHANGES = tuple(_STEPS)
"""The kinds of changes that are counted."""
