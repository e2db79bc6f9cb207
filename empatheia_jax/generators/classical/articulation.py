"""The classical C_speech: what the mouth does for each phoneme symbol, as a vector that a latent can predict.

Each of the 178 symbols has its own vector, entries in -1..1 (0: does not apply), made of articulatory features (place,
manner, height, ...), suprasegmental ones (stress, length) and of pauses; `nearest_symbols` inverts it.
"""

import functools

import numpy as np

from empatheia_jax.generators.phonemes import SYMBOL_ID, SYMBOLS

FEATURES = (
    "vowel",
    "consonant",
    "mark",
    "pause",  # what kind of symbol
    "height",
    "open",
    "backness",
    "rounded",
    "lax",
    "rhotic",  # vowels: -1 low/front/spread to 1 high/back/round
    "lips",
    "tongue_tip",
    "tongue_body",
    "throat",
    "retracted",  # consonants: where
    "stop",
    "nasal",
    "fricative",
    "approximant",
    "lateral",
    "tap",
    "voiced",
    "sibilant",  # consonants: how
    "primary_stress",
    "secondary_stress",
    "long",  # marks
    "strength",
    "question",
    "exclamation",
    "quotation",  # pauses
    "code_1",
    "code_2",
    "code_3",
    "code_4",
    "code_5",
    "code_6",  # tells apart symbols no feature above does
)
CONTENT_DIM = len(FEATURES)
_COLUMN = {name: column for column, name in enumerate(FEATURES)}
_CODES = 6

# height, backness, rounded, lax (rhotic vowels are marked apart)
_VOWELS = {
    "i": (1, -1, -1, -1),
    "y": (1, -1, 1, -1),
    "ɨ": (1, 0, -1, -1),
    "ʉ": (1, 0, 1, -1),
    "ɯ": (1, 1, -1, -1),
    "u": (1, 1, 1, -1),
    "ɪ": (0.7, -0.7, -1, 1),
    "ʏ": (0.7, -0.7, 1, 1),
    "ʊ": (0.7, 0.7, 1, 1),
    "ᵻ": (0.7, 0.3, -1, 1),
    "e": (0.2, -1, -1, -1),
    "ø": (0.2, -1, 1, -1),
    "ɘ": (0.2, 0, -1, -1),
    "ɵ": (0.2, 0, 1, -1),
    "ɤ": (0.2, 1, -1, -1),
    "o": (0.2, 1, 1, -1),
    "ə": (0, 0, 0, 1),
    "ɚ": (0, 0, 0, 1),
    "ɛ": (-0.4, -1, -1, 1),
    "œ": (-0.4, -1, 1, 1),
    "ɜ": (-0.4, 0, -1, -1),
    "ɝ": (-0.4, 0, -1, -1),
    "ɞ": (-0.4, 0, 1, 1),
    "ʌ": (-0.4, 1, -1, 1),
    "ɔ": (-0.4, 1, 1, 1),
    "æ": (-0.8, -1, -1, 1),
    "ɐ": (-0.8, 0, -1, 1),
    "a": (-1, -1, -1, -1),
    "ɶ": (-1, -1, 1, -1),
    "ɑ": (-1, 1, -1, -1),
    "ɒ": (-1, 1, 1, -1),
}
_RHOTIC, _OPEN = "ɚɝ", "æɐaɶɑɒ"

_PLACES = {
    "lips": "pbmɸβⱱfvɱʋʙɓʘw",
    "tongue_tip": "tdnθðszɹlɬɮɾɺʃʒʤʧɗǀǁǃrɫ",
    "tongue_body": "kɡgŋxɣɰcɟɲçʝjʎʟɠʄɕʑɥqwʍ",
    "throat": "ɢɴχʁʀʛhɦħʕʜʢʡʔ",
    "retracted": "ʈɖɳʂʐɻɭɽʃʒʤʧɕʑǃ",
}
_MANNERS = {
    "stop": "pbtdʈɖcɟkɡgqɢʔʡʤʧɓɗʄɠʛʘǀǁǂǃ",
    "nasal": "mɱnɳɲŋɴ",
    "fricative": "ɸβfvθðszʃʒʂʐçʝxɣχʁħʕhɦʜʢɕʑɧɬɮʤʧʍ",
    "approximant": "ʋɹɻjɰwɥlɭʎʟɫʍ",
    "lateral": "lɭʎʟɬɮɺɫǁ",
    "tap": "ɾɽɺⱱʙrʀ",
    "sibilant": "szʃʒʂʐɕʑʤʧ",
    "voiced": "bdɖɟɡgɢmɱnɳɲŋɴβvðzʒʐʝɣʁʕɦʢʑɮʤʋɹɻjɰwɥlɭʎʟɫɾɽɺⱱʙrʀɓɗʄɠʛ",
}
_PAUSES = {
    " ": (-1, 0, 0, 0),
    ",": (0, 0, 0, 0),
    ";": (0.3, 0, 0, 0),
    ":": (0.3, 0, 0, -1),
    "—": (0.5, 0, 0, 0),
    "…": (1, 0, 0, -0.5),
    ".": (1, 0, 0, 0),
    "!": (1, 0, 1, 0),
    "?": (1, 1, 0, 0),
    "¡": (-0.5, 0, 1, 0),
    "¿": (-0.5, 1, 0, 0),
    '"': (-0.5, 0, 0, 0.5),
    "«": (-0.5, 0, 0, 0.8),
    "»": (-0.2, 0, 0, 0.8),
    "“": (-0.5, 0, 0, 1),
    "”": (-0.2, 0, 0, 1),
}
_MARKS = {"ˈ": "primary_stress", "ˌ": "secondary_stress", "ː": "long"}


@functools.cache
def symbol_features() -> np.ndarray:
    """Return the content vectors of all symbols, float32 [178, CONTENT_DIM]; the apostrophe's two ids share one."""
    table = np.zeros((len(SYMBOLS), CONTENT_DIM), np.float32)
    seen: dict[bytes, int] = {}
    for index, symbol in enumerate(SYMBOLS):
        if index != SYMBOL_ID[symbol]:
            continue
        for name, value in _describe(symbol).items():
            table[index, _COLUMN[name]] = value
        copies = seen.setdefault(table[index].tobytes(), 0)
        seen[table[index].tobytes()] += 1
        if copies:
            # several symbols share one description (rare sounds, capital letters): the later ones get a code, in order
            for name, value in _code(copies).items():
                table[index, _COLUMN[name]] = value
    for index, symbol in enumerate(SYMBOLS):
        table[index] = table[SYMBOL_ID[symbol]]
    return table


def nearest_symbols(content: np.ndarray) -> np.ndarray:
    """Return the ids int32 [P] of the symbols nearest (Euclidean) to content vectors [P, CONTENT_DIM]."""
    table = symbol_features()
    content = np.asarray(content, np.float32)
    distance = (table**2).sum(1) - 2.0 * content @ table.T
    nearest = np.argmin(distance, axis=1)
    return np.array([SYMBOL_ID[SYMBOLS[i]] for i in nearest], np.int32)


def _code(number: int) -> dict[str, float]:
    return {f"code_{bit + 1}": 1.0 if number >> bit & 1 else -1.0 for bit in range(_CODES)}


def _describe(symbol: str) -> dict[str, float]:
    if symbol in _VOWELS:
        height, backness, rounded, lax = _VOWELS[symbol]
        rhotic, opened = (1.0 if symbol in members else -1.0 for members in (_RHOTIC, _OPEN))
        return dict(vowel=1.0, height=height, open=opened, backness=backness, rounded=rounded, lax=lax, rhotic=rhotic)
    places = {name: 1.0 for name, members in _PLACES.items() if symbol in members}
    manners = {name: 1.0 for name, members in _MANNERS.items() if symbol in members}
    if manners:
        return dict(consonant=1.0, **places, **({"voiced": -1.0} | manners))
    if symbol in _PAUSES:
        strength, question, exclamation, quotation = _PAUSES[symbol]
        features = dict(pause=1.0, strength=strength, question=question, exclamation=exclamation, quotation=quotation)
        return features | _code(1 + list(_PAUSES).index(symbol))
    if symbol in _MARKS:
        return {"mark": 1.0, _MARKS[symbol]: 1.0}
    return {} if symbol == SYMBOLS[0] else {"mark": -1.0}
