"""Text to phoneme symbols, for all speech generators.

The symbol table is StyleTTS 2's (178 entries, appendix D.2.1), so ids mean the same to every generator. Grapheme to
phoneme conversion is espeak-ng's (en-us) through phonemizer, loaded at run time from the `voice` extra.
"""

import functools
import logging
import re
import threading
import unicodedata

import numpy as np

from empatheia_jax.data.corpus.text import clean_text
from empatheia_jax.generators.spoken import ends_in_abbreviation, normalise_text, spell_integers

PAD_ID = 0
MAX_PHONEMES = 512
"""Longest symbol sequence, the leading 0 included: PL-BERT's limit. Longer text is split at sentences."""

_PUNCTUATION = ';:,.!?¡¿—…"«»“”'
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VOWELS_AND_CONSONANTS = "ɑɐɒæɓʙβɔɕçɗɖðʤəɘɚɛɜɝɞɟʄɡɠɢʛɦɧħɥʜɨɪʝɭɬɫɮʟɱɯɰŋɳɲɴøɵɸθœɶʘɹɺɾɻʀʁɽʂʃʈʧʉʊʋⱱʌɣɤʍχʎʏʑʐʒʔʡʕʢǀǁǂǃ"
_MARKS = "ˈˌːˑʼʴʰʱʲʷˠˤ˞↓↑→↗↘"
_APOSTROPHE, _SYLLABIC = "'", "\N{COMBINING VERTICAL LINE BELOW}"

SYMBOLS: tuple[str, ...] = (
    "$",
    *_PUNCTUATION,
    " ",
    *_LETTERS,
    *_VOWELS_AND_CONSONANTS,
    *_MARKS,
    _APOSTROPHE,
    _SYLLABIC,
    _APOSTROPHE,
    "ᵻ",
)
"""All 178 symbols by id: "$" (0) is padding; the apostrophe occurs at 174 and 176 and is encoded as 176."""

SYMBOL_ID: dict[str, int] = {symbol: index for index, symbol in enumerate(SYMBOLS)}

_LOCK = threading.Lock()  # espeak keeps its state in global variables
_SPACED = re.compile(r"\s*(\.{2,}|[;:,!?¡¿—…\"«»“”]|\.(?=\s|$|[\"”»]))\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"”»']?\s+|(?<=[。！？])\s*")
_CLAUSE_END = re.compile(r"(?<=[,;:—])\s+")


class PhonemeError(ValueError):
    """A text cannot be turned into phonemes; the message says why and what to do."""


def phonemize(text: str) -> str:
    """Turn English text into IPA with stress marks, numbers read as words (`normalise_text`).

    Punctuation is kept, between single spaces, as in StyleTTS 2's training data: "Hello there, friend." ->
    "həlˈoʊ ðˈɛɹ , fɹˈɛnd .".

    Args:
      text: English text in Latin script.

    Returns:
      IPA.

    Raises:
      PhonemeError: nothing to pronounce, a script other than Latin, or the `voice` extra is missing.
    """
    cleaned = _clean(text)
    with _LOCK:
        ipa = _backend().phonemize([cleaned])
    return " ".join(_SPACED.sub(r" \1 ", ipa[0] if ipa else "").split())


def encode(ipa: str) -> np.ndarray:
    """Return the symbol ids of `ipa`: int32 [P], with the leading 0.

    Symbols outside the table are dropped (see `unknown_symbols`).

    Raises:
      PhonemeError: more than `MAX_PHONEMES` symbols.
    """
    ids = [PAD_ID, *(SYMBOL_ID[symbol] for symbol in ipa if symbol in SYMBOL_ID and symbol != SYMBOLS[PAD_ID])]
    if len(ids) > MAX_PHONEMES:
        raise PhonemeError(
            f"{len(ids)} phoneme symbols, the limit is {MAX_PHONEMES}: split the text with split_sentences() first"
        )
    return np.array(ids, np.int32)


def unknown_symbols(ipa: str) -> list[str]:
    """Return the symbols of `ipa` that `encode` drops, in order of first appearance."""
    return list(dict.fromkeys(symbol for symbol in ipa if symbol not in SYMBOL_ID))


def decode(ids: np.ndarray) -> str:
    """Return the IPA of symbol ids [P]; padding (0 and negative ids) is skipped.

    Raises:
      PhonemeError: an id beyond the table.
    """
    ids = np.asarray(ids)
    if ids.size and ids.max() >= len(SYMBOLS):
        raise PhonemeError(f"symbol id {int(ids.max())} is beyond the table of {len(SYMBOLS)}")
    return "".join(SYMBOLS[i] for i in ids if i > PAD_ID)


def split_sentences(text: str, max_characters: int = 320) -> list[str]:
    """Split text at sentence ends; a sentence over `max_characters` is split at commas, then at words.

    The full stop of an abbreviation ("Dr.") is no sentence end. 320 characters of English stay clearly below
    `MAX_PHONEMES` symbols.
    """
    sentences, pieces = [""], []
    for sentence in _SENTENCE_END.split(clean_text(text)):
        if ends_in_abbreviation(sentences[-1]):
            sentences[-1] += f" {sentence}"
        else:
            sentences.append(sentence)
    for sentence in sentences:
        pieces.extend(_shorten(sentence.strip(), max_characters))
    return [piece for piece in pieces if piece]


def _shorten(sentence: str, limit: int) -> list[str]:
    if len(sentence) <= limit:
        return [sentence]
    parts = _CLAUSE_END.split(sentence)
    parts = parts if len(parts) > 1 else sentence.split()
    pieces = [""]
    for part in parts:
        joined = f"{pieces[-1]} {part}".strip()
        if len(joined) <= limit:
            pieces[-1] = joined
        else:
            pieces.extend(_shorten(part, limit) if len(part.split()) > 1 else [part])
    return pieces


def _clean(text: str) -> str:
    """Normalise quotes and numbers, drop characters that espeak would misread, and refuse other scripts."""
    try:
        text = spell_integers(normalise_text(text)).replace("–", "—")
    except ImportError as error:
        raise PhonemeError(_missing_message(error)) from error
    foreign = [c for c in text if c.isalpha() and "LATIN" not in unicodedata.name(c, "")]
    if foreign:
        raise PhonemeError(
            f"cannot pronounce {''.join(foreign[:8])!r}: the voice reads English (Latin script) only: transcribe it"
        )
    pronounceable = "".join(c if c.isalnum() or c in _PUNCTUATION or c in " '-&%$£€@+/°" else " " for c in text)
    if not any(c.isalnum() for c in pronounceable):
        raise PhonemeError(f"nothing to pronounce in {text[:40]!r}: give a text with words")
    return " ".join(pronounceable.split())


def espeak_files() -> tuple[str, str]:
    """Return the paths of the espeak-ng library and of its data folder, from `espeakng-loader`.

    Raises:
      PhonemeError: the `voice` extra is not installed.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise PhonemeError(_missing_message(error)) from error
    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())


@functools.cache
def _backend():
    """Return phonemizer's espeak backend, which uses a copy of the library separate from the classical voice's."""
    library, data = espeak_files()
    try:
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError as error:
        raise PhonemeError(_missing_message(error)) from error
    if not hasattr(EspeakWrapper, "set_data_path"):
        # The mainline package would abort the process when the data is not at its compiled-in path.
        raise PhonemeError("phonemizer cannot be given the path of espeak's data: install phonemizer-fork instead")
    EspeakWrapper.set_library(library)
    EspeakWrapper.set_data_path(data)
    quiet = logging.getLogger(f"{__name__}.phonemizer")
    quiet.setLevel(logging.ERROR)  # it would warn whenever punctuation changes the number of words
    return EspeakBackend(
        "en-us", preserve_punctuation=True, with_stress=True, language_switch="remove-flags", logger=quiet
    )


def _missing_message(error: ImportError) -> str:
    return f"speech needs espeak-ng and num2words ({error.name} is not installed): pip install 'empatheia-jax[voice]'"
