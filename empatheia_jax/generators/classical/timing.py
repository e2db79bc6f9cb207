"""How long each phoneme symbol lasts: espeak's phoneme events laid on symbol positions, and seconds to 25 ms frames."""

import difflib

import numpy as np

from empatheia_jax.generators.classical.espeak import Rendering
from empatheia_jax.generators.classical.mnemonics import Unit
from empatheia_jax.generators.interfaces import PHONEME_FRAME_SECONDS

_STRESS = "ˈˌ"


def symbol_seconds(rendering: Rendering, units: tuple[Unit, ...], ipa: str) -> tuple[float, np.ndarray]:
    """Seconds each symbol of `ipa` lasts in what espeak spoke.

    A mnemonic's time is shared equally by its symbols, stress marks and unspoken symbols get none, and a pause belongs
    to the punctuation mark (else the space, else the sound) before it.

    Returns:
      lead: seconds of silence before the first sound; seconds: float64 [len(ipa)].
    """
    asked = [(position, ipa[position]) for unit in units for position in range(unit.first, unit.last)]
    asked = [(position, symbol) for position, symbol in asked if symbol not in _STRESS]
    seconds, lead, last = np.zeros(len(ipa)), 0.0, -1
    spoken = _spoken_symbols(rendering)
    matches = _match([symbol for _, symbol in asked], [symbol for symbol, _ in spoken if symbol])
    heard = 0
    for symbol, duration in spoken:
        if symbol:
            position = asked[matches[heard]][0] if matches[heard] is not None else last
            heard += 1
            last = position
        else:
            position = _pause_position(ipa, last)
        if position < 0:
            lead += duration
        else:
            seconds[position] += duration
    return lead, seconds


def to_frames(lead: float, seconds: np.ndarray, total_seconds: float) -> np.ndarray:
    """Durations -> int32 [1 + len(seconds)] of 25 ms frames: the lead first; the sum covers `total_seconds`.

    Boundaries are rounded, not durations, so that errors do not add up.
    """
    total = max(int(np.ceil(total_seconds / PHONEME_FRAME_SECONDS - 1e-6)), 1)
    ends = np.rint(np.cumsum(np.concatenate([[lead], seconds])) / PHONEME_FRAME_SECONDS)
    ends = np.minimum(ends, total)
    ends[-1] = total
    return np.diff(ends, prepend=0).astype(np.int32)


def _spoken_symbols(rendering: Rendering) -> list[tuple[str, float]]:
    """(symbol, seconds) in order; "" is a pause."""
    spoken = []
    for event in rendering.events:
        symbols = [symbol for symbol in event.ipa if symbol not in _STRESS] or [""]
        share = (event.end - event.start) / rendering.sample_rate / len(symbols)
        spoken.extend((symbol, share) for symbol in symbols)
    return spoken


def _match(asked: list[str], spoken: list[str]) -> list[int | None]:
    """For each spoken symbol the index of the asked one; None: espeak put it in (a linking ɹ)."""
    if asked == spoken:
        return list(range(len(spoken)))
    matches: list[int | None] = [None] * len(spoken)
    for tag, i0, i1, j0, j1 in difflib.SequenceMatcher(None, asked, spoken, autojunk=False).get_opcodes():
        if tag in ("equal", "replace"):
            for j in range(j0, j1):
                matches[j] = min(i0 + (j - j0), i1 - 1)
    return matches


def _pause_position(ipa: str, last: int) -> int:
    """The symbol after `last` that a pause belongs to: punctuation before a space before the sound itself."""
    if last < 0:
        return -1
    run = last + 1
    while run < len(ipa) and not (ipa[run].isalpha() or ipa[run] in _STRESS):
        run += 1
    marks = [position for position in range(last + 1, run) if ipa[position] not in ' ː"“”«»']
    spaces = [position for position in range(last + 1, run) if ipa[position] == " "]
    return marks[0] if marks else spaces[0] if spaces else last
