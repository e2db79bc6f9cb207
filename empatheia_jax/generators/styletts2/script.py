"""Any text as phonemized sentences that fit the network, and a record of the parts that cannot be spoken."""

import dataclasses
from collections import Counter

import numpy as np

from empatheia_jax.generators import phonemes as symbols


@dataclasses.dataclass(frozen=True)
class PhonemizedText:
    """The phonemes of a text by sentence, and what was dropped from it."""

    sentences: tuple[np.ndarray, ...]  # symbol ids int32 [P], the leading 0 included, P <= 512
    dropped_symbols: dict[str, int]  # IPA symbols that the published table lacks, and how often they were dropped
    dropped_parts: tuple[str, ...]  # parts of the text without anything to pronounce, or in another script

    @property
    def notes(self) -> list[str]:
        """What was dropped, one line for each kind; empty when everything is spoken."""
        lines = []
        if self.dropped_parts:
            lines.append(f"not spoken: {'; '.join(repr(part[:60]) for part in self.dropped_parts)}")
        if self.dropped_symbols:
            listed = ", ".join(f"{symbol!r} x {count}" for symbol, count in self.dropped_symbols.items())
            lines.append(f"phoneme symbols that the voice does not know were left out: {listed}")
        return lines


def phonemize_text(text: str) -> PhonemizedText:
    """Split a text at sentences; one that is too long for the network is split at words, a word at symbols.

    Raises:
      PhonemeError: nothing to pronounce.
    """
    sentences, dropped_symbols, dropped_parts = [], Counter(), []
    parts = symbols.split_sentences(text)
    for part in parts:
        try:
            ipa = symbols.phonemize(part)
        except symbols.PhonemeError:
            if len(parts) == 1:
                raise
            dropped_parts.append(part)  # a dash, an emoji, a Chinese sentence between others
            continue
        unknown = symbols.unknown_symbols(ipa)
        dropped_symbols.update({symbol: ipa.count(symbol) for symbol in unknown})
        known = "".join(symbol for symbol in ipa if symbol not in unknown)
        sentences += [symbols.encode(line) for line in _wrap(known, symbols.MAX_PHONEMES - 1)]
    if not sentences:
        raise symbols.PhonemeError("nothing to pronounce: give a text with words")
    return PhonemizedText(tuple(sentences), dict(dropped_symbols), tuple(dropped_parts))


def _wrap(ipa: str, max_symbols: int) -> list[str]:
    lines = [""]
    for word in ipa.split():
        for piece in (word[start : start + max_symbols] for start in range(0, len(word), max_symbols)):
            if len(lines[-1]) + len(piece) + 1 > max_symbols and lines[-1]:
                lines.append("")
            lines[-1] = f"{lines[-1]} {piece}".strip()
    return [line for line in lines if line]
