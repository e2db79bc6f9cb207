"""Cleaning and checks of text for the tokenizer and the English phonemizer."""

import unicodedata


def clean_text(text: str) -> str:
    """Return one line of composed Unicode: white space collapsed, control characters and byte-order marks removed."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    text = unicodedata.normalize("NFC", text)
    kept = (c for c in text if c.isspace() or (unicodedata.category(c) != "Cc" and c not in "\ufeff\u200b"))
    return " ".join("".join(kept).split())


def text_problem(text: str) -> tuple[str, str] | None:
    """Return (reason, detail) where the tokenizer or the English phonemizer cannot take `text`, else None."""
    if not clean_text(text):
        return "text is empty", ""
    if text.isascii():
        return None
    if any(unicodedata.category(c) == "Cs" for c in text):
        return "text is broken Unicode", "half of a surrogate pair: write the file again as UTF-8"
    letters = [c for c in text if c.isalpha()]
    foreign = [c for c in letters if not unicodedata.name(c, "").startswith(("LATIN", "FULLWIDTH LATIN"))]
    if len(foreign) * 2 > len(letters):
        script = unicodedata.name(foreign[0], "unknown").split()[0].lower()
        return "text is in another script", f"mostly {script} letters in {text[:40]!r}; only English can be spoken"
    return None
