"""What espeak is given to say and how long each phoneme symbol of it lasts: IPA -> mnemonics -> events -> 25 ms frames.

espeak speaks mnemonics between double brackets. The table inverts the IPA that espeak's own en-us grapheme-to-phoneme
rules write, so that what espeak reports to have spoken, as IPA, is what was requested; a sound outside en-us becomes
the nearest one in it. Each mnemonic keeps the position of the symbol that it came from.
"""

import dataclasses
import difflib

import numpy as np

from empatheia_jax.generators.classical.espeak import Rendering
from empatheia_jax.generators.interfaces import PHONEME_FRAME_SECONDS

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


def symbol_seconds(rendering: Rendering, units: tuple[Unit, ...], ipa: str) -> tuple[float, np.ndarray]:
    """Return how long each symbol of `ipa` lasts in a rendering.

    A mnemonic's time is shared equally by its symbols, stress marks and unspoken symbols get none, and a pause belongs
    to the punctuation mark (else the space, else the sound) before it.

    Args:
      rendering: what espeak spoke.
      units: the mnemonics that it was given.
      ipa: the symbols that they were written from.

    Returns:
      The seconds of silence before the first sound, and the seconds of each symbol, float64 [len(ipa)].
    """
    requested = [(position, ipa[position]) for unit in units for position in range(unit.first, unit.last)]
    requested = [(position, symbol) for position, symbol in requested if symbol not in _STRESS]
    seconds, lead, last = np.zeros(len(ipa)), 0.0, -1
    spoken = _spoken_symbols(rendering)
    matches = iter(_align_symbols([symbol for _, symbol in requested], [symbol for symbol, _ in spoken if symbol]))
    for symbol, duration in spoken:
        if symbol:
            match = next(matches)
            last = position = last if match is None else requested[match][0]
        else:
            position = _pause_position(ipa, last)
        if position < 0:
            lead += duration
        else:
            seconds[position] += duration
    return lead, seconds


def to_frames(lead: float, seconds: np.ndarray, total_seconds: float) -> np.ndarray:
    """Convert durations to 25 ms frames, int32 [1 + len(seconds)], the lead first.

    Boundaries are rounded, not durations, so that errors do not add up.

    Args:
      lead: seconds before the first symbol.
      seconds: seconds of each symbol.
      total_seconds: what the sum of the frames covers.
    """
    total = max(int(np.ceil(total_seconds / PHONEME_FRAME_SECONDS - 1e-6)), 1)
    ends = np.rint(np.cumsum(np.concatenate([[lead], seconds])) / PHONEME_FRAME_SECONDS)
    ends = np.minimum(ends, total)
    ends[-1] = total
    return np.diff(ends, prepend=0).astype(np.int32)


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


def _spoken_symbols(rendering: Rendering) -> list[tuple[str, float]]:
    """Return (symbol, seconds) in order; "" is a pause."""
    spoken = []
    for event in rendering.events:
        symbols = [symbol for symbol in event.ipa if symbol not in _STRESS] or [""]
        share = (event.end - event.start) / rendering.sample_rate / len(symbols)
        spoken.extend((symbol, share) for symbol in symbols)
    return spoken


def _align_symbols(requested: list[str], spoken: list[str]) -> list[int | None]:
    """Return for each spoken symbol the index of the requested one; None: espeak inserted it (a linking ɹ)."""
    if requested == spoken:
        return list(range(len(spoken)))
    matches: list[int | None] = [None] * len(spoken)
    for tag, i0, i1, j0, j1 in difflib.SequenceMatcher(None, requested, spoken, autojunk=False).get_opcodes():
        if tag in ("equal", "replace"):
            for j in range(j0, j1):
                matches[j] = min(i0 + (j - j0), i1 - 1)
    return matches


def _pause_position(ipa: str, last: int) -> int:
    """Return the position that a pause after symbol `last` belongs to: punctuation, else a space, else `last`."""
    if last < 0:
        return -1
    run = last + 1
    while run < len(ipa) and not (ipa[run].isalpha() or ipa[run] in _STRESS):
        run += 1
    marks = [position for position in range(last + 1, run) if ipa[position] not in ' ː"“”«»']
    spaces = [position for position in range(last + 1, run) if ipa[position] == " "]
    return marks[0] if marks else spaces[0] if spaces else last
