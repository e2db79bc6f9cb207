"""Appendix E.3.1: emotion accuracy (Eq. 23), Distinct-1 and Distinct-2 (Eqs. 24, 25), and how sure one can be of them.

Accuracies are shares in [0, 1]; Distinct is in per cent, as in Table 2. Distinct falls as a corpus grows and depends on
the tokenizer, so always print the number of responses and `TOKENIZER` beside it.
"""

import math
import re
from collections.abc import Callable, Hashable, Sequence

import numpy as np

TOKENIZER = "Treebank-style words, case kept"
"""What `dist_corpus` counts, in words for a table's caption."""


class TextMetricError(ValueError):
    """Responses or labels that no number can be computed from."""


_OPENING = re.compile(r"""(?:^|(?<=[ (\[{<]))(?:"|'')""")
_SEPARATE = re.compile(
    r"""
    `+ | '' | "                  # quotation marks
    | [«»“”‘’„–—]
    | \.{2,} | --                # ellipsis, dash
    | [:,](?!\d)                 # but 10,000 and 7:30 stay whole
    | [;@\#$%&?!*()\[\]{}<>]
    | (?<!\w)'(?=\w)(?!(?:re|ve|ll|[mtsdn])\b)  # an apostrophe that opens a word, unless the word is an ending
    """,
    re.VERBOSE | re.IGNORECASE,
)
_LAST_PERIOD = re.compile(r"""(?<=[^.])\.(?=[\])}>"'»”’\s]*$)""")
_SHORT_ENDING = re.compile(r"(?<=[^'])('[smd]|')$", re.IGNORECASE)
_LONG_ENDING = re.compile(r"(?<=[^'])('ll|'re|'ve|n't)$")
_LONG_ENDING_CAPITAL = re.compile(r"(?<=[^'])('LL|'RE|'VE|N'T)$")
_MERGED = re.compile(
    r"^(?:(can)(not)|(d)('ye)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me)|(more)('n)|(wan)(na))$", re.IGNORECASE
)


def words(text: str) -> list[str]:
    """Split a response into words the way the CEM line of work does (the Penn Treebank's conventions, on a whole line).

    Punctuation is a token of its own; a period stays with its word ("sorry.") unless it ends the text; the endings
    's 'm 'd 'll 're 've n't are cut off ("do", "n't"), "cannot" and "gonna" come apart; an opening double quote becomes
    two backticks and a closing one two apostrophes. Case is kept.
    """
    text = _LAST_PERIOD.sub(" . ", _OPENING.sub(" `` ", text), count=1)
    tokens = []
    end = 0
    for match in _SEPARATE.finditer(text):
        tokens += _plain_words(text[end : match.start()])
        tokens.append("''" if match.group() == '"' else match.group())
        end = match.end()
    return tokens + _plain_words(text[end:])


def _plain_words(text: str) -> list[str]:
    """Words of a stretch without separate punctuation, endings and merged words taken apart."""
    tokens = []
    for word in text.split():
        endings = []
        for ending in (_SHORT_ENDING, _LONG_ENDING, _LONG_ENDING_CAPITAL):
            if match := ending.search(word):
                endings.insert(0, match.group())
                word = word[: match.start()]
        merged = _MERGED.match(word)
        tokens += [part for part in merged.groups() if part] if merged else [word]
        tokens += endings
    return tokens


def emotion_accuracy(predicted: Sequence[str | None], gold: Sequence[str]) -> float:
    """Eq. 23: the share of responses whose predicted emotion is exactly the gold one, in [0, 1].

    Args:
      predicted: one label a response; None where the model named none, which counts as wrong.
      gold: as many labels. Pass the 32 fine labels or the 7 avatar emotions, the same kind on both sides.
    Raises:
      TextMetricError: when there are none, or their numbers differ.
    """
    if len(predicted) != len(gold):
        raise TextMetricError(f"{len(predicted)} predicted emotions for {len(gold)} gold ones: pass one a response")
    if not gold:
        raise TextMetricError("emotion accuracy of no responses: pass at least one")
    return sum(mine == right for mine, right in zip(predicted, gold, strict=True)) / len(gold)


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` tokens, in order, repeats included."""
    if n < 1:
        raise TextMetricError(f"n-grams of {n} words: n must be at least 1")
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def count_ngrams(responses: Sequence[str], n: int) -> tuple[int, int]:
    """(distinct, all) n-grams of a set of responses; none crosses from one response into the next."""
    grams = [gram for response in responses for gram in ngrams(words(response), n)]
    return len(set(grams)), len(grams)


def dist_corpus(responses: Sequence[str], n: int) -> float:
    """Eqs. 24, 25: distinct n-grams of the whole set over all its n-grams, in per cent (Table 2's scale).

    Raises:
      TextMetricError: when there is no response. A set without any n-gram scores 0.
    """
    _some(responses)
    distinct, total = count_ngrams(responses, n)
    return 100.0 * distinct / total if total else 0.0


def dist_sentence(responses: Sequence[str], n: int) -> float:
    """E3RG's Distinct: the mean over responses of distinct / all n-grams, lower-cased, on white space, in per cent.

    Not comparable with `dist_corpus` (it is near 97 for any fluent text). A response without an n-gram counts as 0.
    """
    _some(responses)
    shares = []
    for response in responses:
        grams = ngrams(response.lower().split(), n)
        shares.append(len(set(grams)) / len(grams) if grams else 0.0)
    return 100.0 * math.fsum(shares) / len(shares)


def dist_interval(dialogues: Sequence[Sequence[str]], n: int) -> tuple[float, float, float]:
    """`dist_corpus` with its 90 % interval: (value, low, high), in per cent.

    The bootstrap cannot be used here: a resampled corpus repeats dialogues, and repeats lower Distinct by themselves.
    This is the jackknife: each dialogue is left out once, and the spread of the values is scaled up. It errs on the
    wide side, as a jackknife does: by 5 to 35 % for words of Zipf's law in 42 to 100 dialogues.

    Args:
      dialogues: the responses of each dialogue.
    """
    dialogues = [[ngrams(words(response), n) for response in responses] for responses in dialogues]
    grams = [[gram for response in dialogue for gram in response] for dialogue in dialogues]
    total = sum(len(own) for own in grams)
    if not total:
        raise TextMetricError(f"no {n}-gram in {len(dialogues)} dialogues: nothing to count")
    holders: dict[Hashable, int] = {}
    for own in grams:
        for gram in set(own):
            holders[gram] = holders.get(gram, 0) + 1
    value = len(holders) / total
    without = []
    for own in grams:
        alone = sum(holders[gram] == 1 for gram in set(own))  # these go with the dialogue
        without.append((len(holders) - alone) / (total - len(own)) if total > len(own) else value)
    count = len(without)
    spread = math.sqrt((count - 1) / count * float(np.sum((np.array(without) - np.mean(without)) ** 2)))
    return tuple(100.0 * bound for bound in (value, max(0.0, value - 1.645 * spread), min(1.0, value + 1.645 * spread)))


def bootstrap(
    values: Sequence, statistic: Callable[[Sequence], float], seed: int = 0, samples: int = 2000
) -> tuple[float, float, float]:
    """A statistic and where it lies in 90 of 100 redraws of the dialogues: (value, lower 5 %, upper 95 %).

    Whole dialogues are redrawn with replacement, since the turns of one dialogue stand or fall together.

    Args:
      values: one entry a dialogue, whatever `statistic` reads (an array is redrawn along its first axis).
      statistic: from a list (or array) like `values` to a number; dialogues may occur several times in it.
      samples: number of redraws.
    Raises:
      TextMetricError: when `values` is empty or `samples` is not positive.
    """
    if len(values) == 0:
        raise TextMetricError("bootstrap over no dialogues: pass at least one")
    if samples < 1:
        raise TextMetricError(f"{samples} bootstrap samples: pass at least one")
    draws = np.random.default_rng(seed).integers(len(values), size=(samples, len(values)))
    if isinstance(values, np.ndarray):
        redrawn = [statistic(values[draw]) for draw in draws]
    else:
        redrawn = [statistic([values[index] for index in draw]) for draw in draws]
    low, high = np.percentile(redrawn, [5, 95])
    return float(statistic(values)), float(low), float(high)


def _some(responses: Sequence[str]) -> None:
    if not responses:
        raise TextMetricError("Distinct of no responses: pass at least one")
