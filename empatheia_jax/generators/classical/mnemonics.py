"""IPA symbols to espeak-ng's phoneme mnemonics, with the position each mnemonic came from.

espeak speaks mnemonics between double brackets. The table inverts the IPA that espeak's own en-us grapheme-to-phoneme
rules write, so that what espeak reports to have spoken, as IPA, is what was requested; a sound outside en-us becomes
the nearest one in it.
"""

import dataclasses

VOWELS = {
    "eɪ": "eI",
    "aɪ": "aI",
    "aʊ": "aU",
    "oʊ": "oU",
    "ɔɪ": "OI",
    "aɪə": "aI@",
    "aɪɚ": "aI3",
    "iə": "i@",
    "iː": "i:",
    "uː": "u:",
    "ɑː": "A:",
    "ɔː": "O:",
    "ɜː": "3:",
    "ɛ": "E",
    "ɪ": "I",
    "i": "i",
    "ə": "@",
    "æ": "a",
    "ɚ": "3",
    "ᵻ": "I#",
    "ʌ": "V",
    "ɐ": "a#",
    "ʊ": "U",
    "ɔ": "O2",
    "u": "u",
    "əl": "@L",
}
"""IPA -> mnemonic of the vowels and diphthongs that en-us has."""

RHOTIC = {"ɑːɹ": "A@", "ɔːɹ": "o@", "ɛɹ": "e@", "ɪɹ": "i@3", "ʊɹ": "U@"}
"""Vowel + ɹ that is one mnemonic unless a vowel follows."""

CONSONANTS = {
    "p": "p",
    "b": "b",
    "t": "t",
    "d": "d",
    "k": "k",
    "ɡ": "g",
    "g": "g",
    "m": "m",
    "n": "n",
    "ŋ": "N",
    "f": "f",
    "v": "v",
    "θ": "T",
    "ð": "D",
    "s": "s",
    "z": "z",
    "ʃ": "S",
    "ʒ": "Z",
    "tʃ": "tS",
    "dʒ": "dZ",
    "h": "h",
    "l": "l",
    "ɹ": "r",
    "r": "r",
    "j": "j",
    "w": "w",
    "ɾ": "t#",
    "ʔ": "?",
    "n̩": "n-",
}

NEIGHBOURS = {
    "ʤ": "dZ",
    "ʧ": "tS",
    "ɫ": "l",
    "ɬ": "l",
    "ʍ": "w",
    "x": "k",
    "ç": "h",
    "χ": "k",
    "ɲ": "n",
    "ɳ": "n",
    "ɱ": "m",
    "ɣ": "g",
    "ʁ": "r",
    "ɻ": "r",
    "ʀ": "r",
    "ɽ": "t#",
    "β": "v",
    "ɸ": "f",
    "ʋ": "v",
    "ɕ": "S",
    "ʂ": "S",
    "ʑ": "Z",
    "ʐ": "Z",
    "ɦ": "h",
    "ħ": "h",
    "c": "k",
    "ɟ": "g",
    "q": "k",
    "ʈ": "t",
    "ɖ": "d",
    "ɭ": "l",
    "ʎ": "l",
    "ɥ": "w",
    "ɰ": "w",
    "a": "a",
    "e": "E",
    "o": "O2",
    "ɑ": "A:",
    "ɒ": "O2",
    "ɜ": "3:",
    "ɝ": "3:",
    "ɨ": "I#",
    "y": "i",
    "ø": "E",
    "œ": "E",
    "ɵ": "U",
    "ʉ": "u",
    "ɯ": "u",
    "ɤ": "V",
    "ɘ": "@",
    "ɞ": "3:",
    "ʏ": "I",
    "ɶ": "a",
}
"""IPA of sounds that the en-us voice lacks -> mnemonic of the nearest one it has."""

_UNITS = {**VOWELS, **RHOTIC, **CONSONANTS, **{k: v for k, v in NEIGHBOURS.items() if k not in CONSONANTS}}
_LONGEST_SOUND = max(map(len, _UNITS))
_VOWEL_STARTS = {ipa[0] for ipa in VOWELS} | set("aeoɑɒɜɝɨyøœɵʉɯɤɘɞʏɶ")
_LONGEST_CLAUSE = 400  # characters of mnemonics
_STRESS = {"ˈ": "'", "ˌ": ","}
_CLAUSE_MARKS = {"…": "...", "—": ";", ".": ".", ",": ",", "!": "!", "?": "?", ";": ";", ":": ":"}


@dataclasses.dataclass(frozen=True)
class Unit:
    """One mnemonic that is spoken for the symbols [first, last) of the IPA string (its stress mark included)."""

    ipa: str
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Script:
    """The input of espeak (`markup`) and the units that it speaks, in order."""

    markup: str
    units: tuple[Unit, ...]


def write_script(ipa: str) -> Script:
    """Convert IPA (with punctuation and spaces) to espeak's markup; symbols that have no sound are skipped."""
    clauses, words, sounds, units = [], [], [], []
    stress, stress_position, position = "", None, 0

    def close_word():
        if sounds:
            words.append("|".join(sounds))  # the bar keeps two mnemonics from being read as one ("t", "S")
            sounds.clear()

    def close_clause(mark: str):
        close_word()
        if words:
            clauses.append(f"[[{' '.join(words)}]]{mark}")
            words.clear()
        elif clauses and mark and clauses[-1][-1] == "]":
            clauses[-1] += mark

    while position < len(ipa):
        symbol = ipa[position]
        if symbol in _STRESS:
            stress, stress_position = symbol, position
            position += 1
            continue
        length = _longest_unit(ipa, position)
        if length:
            sound = ipa[position : position + length]
            first = position if stress_position is None else stress_position
            units.append(Unit(stress + sound, first, position + length))
            sounds.append(_STRESS.get(stress, "") + _mnemonic(sound, ipa[:position], ipa[position + length :].lstrip()))
            stress, stress_position = "", None
        elif symbol == " ":
            close_word()
            if sum(map(len, words)) > _LONGEST_CLAUSE:
                close_clause(",")  # espeak would cut the clause itself and read the rest as letters
        elif symbol in _CLAUSE_MARKS:
            close_clause(_CLAUSE_MARKS[symbol])
        position += max(length, 1)
    close_clause("")
    return Script(" ".join(clauses), tuple(units))


def _mnemonic(sound: str, before: str, following: str) -> str:
    """Return the mnemonic of a sound; variants keep espeak's own rules from changing it in its surroundings."""
    if sound == "t" and following[:1] in _VOWEL_STARTS:
        return "t2"  # a plain t is flapped here; where a flap is wanted the IPA says ɾ
    if following[:1] in ("ɹ", "r"):
        return {"ə": "@2"}.get(sound, _UNITS[sound])  # ə before ɹ would become ɚ
    if sound == "ɹ" and before.endswith("ɐ"):
        return "r-"  # ɐ before ɹ would become ɚ too
    return _UNITS[sound]


def _longest_unit(ipa: str, start: int) -> int:
    """Return the length of the longest unit at `start`, 0: none. A rhotic vowel splits before a vowel: ɛ.ɹiː."""
    for length in range(min(_LONGEST_SOUND, len(ipa) - start), 0, -1):
        sound = ipa[start : start + length]
        if sound not in _UNITS:
            continue
        following = ipa[start + length : start + length + 2].lstrip("ˈˌ")
        if sound in RHOTIC and following and following[0] in _VOWEL_STARTS:
            continue
        return length
    return 0
