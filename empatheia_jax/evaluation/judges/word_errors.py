"""The word error rate: how many words of a text were heard as others, not heard, or heard beside it.

Both sides are written as they are spoken before they are compared, so that spelling alone is no error: "I'm" and
"I am", "3" and "three", "neighbours" and "neighbors", "OK" and "okay" agree; case and punctuation do not count.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from empatheia_jax.evaluation.judges.parts import judge_package
from empatheia_jax.generators.spoken import normalise_text, spell_integers

Kind = Literal["substituted", "missing", "added"]
_KINDS: dict[str, Kind] = {"substitute": "substituted", "delete": "missing", "insert": "added"}
_SPELLINGS = (
    (r"\b(okay|o k)\b", "ok"),
    (r"\b(cannot)\b", "can not"),
    (r"\b(alright)\b", "all right"),
    (r"\b(mr)\b", "mister"),
    (r"\b(mrs)\b", "missus"),
    (r"\b(dr)\b", "doctor"),
    (r"\b(hundred|thousand|million) and\b", r"\1"),
    (r"\b(\w*(?:col|fav|flav|hon|hum|lab|neighb|rum|behavi|harb))our", r"\1or"),
    (r"\b(apolog|real|recogn|organ|critic|emphas|sympath|empath|memor|minim|util)is(\w+)\b", r"\1iz\2"),
    (r"\b(\w*(?:travel|cancel|counsel|label|model|signal|marvel))l(ed|er|ers|ing|ors?)\b", r"\1\2"),
    (r"\b(grey)(s|er|est)?\b", r"gray\2"),
    (r"\b(cent|theat|met)re(s?)\b", r"\1er\2"),
)
"""Spellings that a recogniser cannot tell by ear. They change both sides alike, so a word that is none is no matter."""


class WordError(ValueError):
    """A text to which no speech can be compared."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """Words of the text against those that were heard in their place."""

    kind: Kind
    text: tuple[str, ...]  # empty where words were added
    heard: tuple[str, ...]  # empty where words are missing


@dataclasses.dataclass(frozen=True)
class WordErrors:
    """A comparison of a text with what was heard."""

    words: int  # of the text, as spoken
    substituted: int
    missing: int
    added: int
    differences: tuple[Difference, ...]

    @property
    def errors(self) -> int:
        """Words that were heard wrongly: substituted, missing and added."""
        return self.substituted + self.missing + self.added

    @property
    def rate(self) -> float:
        """The word error rate: errors by words of the text. It may be above 1."""
        return self.errors / self.words


def spoken_words(text: str) -> list[str]:
    """Return the words of a text as they are spoken: lower case, numbers and contractions written out.

    Raises:
      JudgeError: a package of the extra `trained` is not installed.
    """
    judge_package("num2words")  # `normalise_text` imports it where it meets a number
    expand = judge_package("jiwer").ExpandCommonEnglishContractions()
    spoken = unicodedata.normalize("NFKD", spell_integers(normalise_text(text)).lower())
    spoken = "".join(letter for letter in spoken if not unicodedata.combining(letter))
    spoken = re.sub(r"[^\w]+|_", " ", expand(spoken).replace("'", ""))
    for pattern, replacement in _SPELLINGS:
        spoken = re.sub(pattern, replacement, spoken)
    return spoken.split()


def count_word_errors(text: str, heard: str) -> WordErrors:
    """Align a text with what was heard, by the fewest word errors.

    Raises:
      WordError: the text has no words.
      JudgeError: a package of the extra `trained` is not installed.
    """
    wanted, got = spoken_words(text), spoken_words(heard)
    if not wanted:
        raise WordError(f"the text {text!r} has no words to compare with")
    output = judge_package("jiwer").process_words([" ".join(wanted)], [" ".join(got)])
    differences = tuple(
        Difference(
            _KINDS[chunk.type],
            tuple(wanted[chunk.ref_start_idx : chunk.ref_end_idx]),
            tuple(got[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in output.alignments[0]
        if chunk.type in _KINDS
    )
    return WordErrors(len(wanted), output.substitutions, output.deletions, output.insertions, differences)


def overall_rate(counts: Sequence[WordErrors]) -> float:
    """Return the word error rate of several texts together: all errors by all words.

    Raises:
      WordError: there is none.
    """
    if not counts:
        raise WordError("the word error rate of no text: compare at least one")
    return sum(count.errors for count in counts) / sum(count.words for count in counts)
