"""How long each phoneme symbol lasts: espeak's phoneme events at symbol positions, and seconds to 25 ms frames."""

import difflib

import numpy as np

from empatheia_jax.generators.classical.espeak import Rendering
from empatheia_jax.generators.classical.mnemonics import Unit
from empatheia_jax.generators.interfaces import PHONEME_FRAME_SECONDS

_STRESS = "ˈˌ"


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
    matches = _align_symbols([symbol for _, symbol in requested], [symbol for symbol, _ in spoken if symbol])
    spoken_count = 0
    for symbol, duration in spoken:
        if symbol:
            position = requested[matches[spoken_count]][0] if matches[spoken_count] is not None else last
            spoken_count += 1
            last = position
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
