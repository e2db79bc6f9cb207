"""A text of any length and content as sentences that the network reads, and what of it is not spoken."""

import dataclasses
from collections import Counter

import numpy as np

from empatheia_jax.generators import phonemes as symbols


@dataclasses.dataclass(frozen=True)
class Script:
    """What is spoken of a text, and what is not."""

    sentences: tuple[np.ndarray, ...]  # symbol ids int32 [P], the leading 0 included, P <= 512
    unknown: dict[str, int]  # IPA symbols that the published table lacks, and how often they were left out
    left_out: tuple[str, ...]  # parts of the text without anything to pronounce, or in another script

    @property
    def notes(self) -> list[str]:
        """What was not spoken, a line each; empty when everything was."""
        lines = []
        if self.left_out:
            lines.append(f"not spoken: {'; '.join(repr(part[:60]) for part in self.left_out)}")
        if self.unknown:
            listed = ", ".join(f"{symbol!r} x {count}" for symbol, count in self.unknown.items())
            lines.append(f"phoneme symbols that the voice does not know were left out: {listed}")
        return lines


def read_script(text: str) -> Script:
    """Split at sentences; one that is too long for the network is cut at words, a word at symbols.

    Raises:
      PhonemeError: nothing to pronounce.
    """
    sentences, unknown, left_out = [], Counter(), []
    parts = symbols.split_sentences(text)
    for part in parts:
        try:
            ipa = symbols.phonemize(part)
        except symbols.PhonemeError:
            if len(parts) == 1:
                raise
            left_out.append(part)  # a dash, an emoji, a Chinese sentence between others
            continue
        foreign = symbols.unknown_symbols(ipa)
        unknown.update({symbol: ipa.count(symbol) for symbol in foreign})
        known = "".join(symbol for symbol in ipa if symbol not in foreign)
        sentences += [symbols.encode(line) for line in _lines(known, symbols.MAX_PHONEMES - 1)]
    if not sentences:
        raise symbols.PhonemeError("nothing to pronounce: give a text with words")
    return Script(tuple(sentences), dict(unknown), tuple(left_out))


def _lines(ipa: str, most: int) -> list[str]:
    lines = [""]
    for word in ipa.split():
        for piece in (word[start : start + most] for start in range(0, len(word), most)):
            if len(lines[-1]) + len(piece) + 1 > most and lines[-1]:
                lines.append("")
            lines[-1] = f"{lines[-1]} {piece}".strip()
    return [line for line in lines if line]
