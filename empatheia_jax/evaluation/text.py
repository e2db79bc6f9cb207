"""The text metrics of appendix E.3.1: emotion accuracy (Eq. 23), Distinct-1 and -2 (Eqs. 24, 25), and intervals.

Accuracies are shares in [0, 1]; Distinct is in per cent, as in Table 2. Distinct falls as a corpus grows and depends on
the tokenizer, so print the number of responses and `TOKENIZER` with it.
"""

import math
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

TOKENIZER = "Treebank-style words, case kept"
"""The tokens of `dist_corpus`, for a table's caption."""


class TextMetricError(ValueError):
    """Responses or labels from which no metric can be computed."""


_OPENING = re.compile(r"""(?:^|(?<=[ (\[{<]))(?:"|'')""")
_SEPARATE = re.compile(
    r"""
    `+ | '' | "                  # quotation marks
    | [«»“”‘’„–—]
    | \.{2,} | --                # ellipsis, dash
    | [:,](?!\d)                 # but 10,000 and 7:30 are one token
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
    """Split a response into words as the evaluation of CEM does (the Penn Treebank's conventions, on a whole line).

    Punctuation is a separate token; a period stays with its word ("sorry.") unless it ends the text; the endings
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
    """Split text without separate punctuation into words, endings and merged words taken apart."""
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
    """Return the share of responses whose predicted emotion is exactly the gold one, in [0, 1] (Eq. 23).

    Args:
      predicted: a label for each response; None where the model named none, which counts as wrong.
      gold: as many labels, of the same set: the 32 fine labels or the 7 avatar emotions.

    Raises:
      TextMetricError: no labels, or different numbers of them.
    """
    if len(predicted) != len(gold):
        raise TextMetricError(f"{len(predicted)} predicted emotions for {len(gold)} gold ones: pass one a response")
    if not gold:
        raise TextMetricError("emotion accuracy of no responses: pass at least one")
    return sum(guess == label for guess, label in zip(predicted, gold, strict=True)) / len(gold)


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return all runs of `n` tokens, in order, repeats included.

    Raises:
      TextMetricError: n is below 1.
    """
    if n < 1:
        raise TextMetricError(f"n-grams of {n} words: n must be at least 1")
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def count_ngrams(responses: Sequence[str], n: int) -> tuple[int, int]:
    """Count the (distinct, all) n-grams of responses; none crosses from one response into the next."""
    grams = [gram for response in responses for gram in ngrams(words(response), n)]
    return len(set(grams)), len(grams)


def dist_corpus(responses: Sequence[str], n: int) -> float:
    """Return the distinct n-grams of all responses over all their n-grams, in per cent as in Table 2 (Eqs. 24, 25).

    Responses without any n-gram score 0.

    Raises:
      TextMetricError: no response.
    """
    _require_any(responses)
    distinct, total = count_ngrams(responses, n)
    return 100.0 * distinct / total if total else 0.0


def dist_sentence(responses: Sequence[str], n: int) -> float:
    """Return E3RG's Distinct: the mean over responses of distinct / all n-grams, in per cent.

    Words are lower-cased and split at white space. The result is not comparable with `dist_corpus` (near 97 for any
    fluent text). A response without an n-gram counts as 0.

    Raises:
      TextMetricError: no response.
    """
    _require_any(responses)
    shares = []
    for response in responses:
        grams = ngrams(response.lower().split(), n)
        shares.append(len(set(grams)) / len(grams) if grams else 0.0)
    return 100.0 * math.fsum(shares) / len(shares)


def dist_interval(dialogues: Sequence[Sequence[str]], n: int) -> tuple[float, float, float]:
    """Return `dist_corpus` with its 90 % interval: (value, low, high), in per cent.

    The bootstrap cannot be used here: a resampled corpus repeats dialogues, and repeats alone lower Distinct. This is
    the jackknife: each dialogue is left out once, and the spread of the values is scaled up. As usual with a jackknife,
    the interval is too wide: by 5 to 35 % for words of Zipf's law in 42 to 100 dialogues.

    Args:
      dialogues: the responses of each dialogue.

    Raises:
      TextMetricError: no n-gram.
    """
    grams = [[gram for response in responses for gram in ngrams(words(response), n)] for responses in dialogues]
    total = sum(map(len, grams))
    if not total:
        raise TextMetricError(f"no {n}-gram in {len(dialogues)} dialogues: nothing to count")
    dialogue_counts: dict[Hashable, int] = {}  # n-gram -> in how many dialogues it occurs
    for dialogue in grams:
        for gram in set(dialogue):
            dialogue_counts[gram] = dialogue_counts.get(gram, 0) + 1
    value = len(dialogue_counts) / total
    without = []
    for dialogue in grams:
        only_here = sum(dialogue_counts[gram] == 1 for gram in set(dialogue))
        rest = total - len(dialogue)
        without.append((len(dialogue_counts) - only_here) / rest if rest else value)
    count = len(without)
    spread = math.sqrt((count - 1) / count * float(np.sum((np.array(without) - np.mean(without)) ** 2)))
    low, high = max(0.0, value - 1.645 * spread), min(1.0, value + 1.645 * spread)
    return 100.0 * value, 100.0 * low, 100.0 * high


def bootstrap(
    values: Sequence | np.ndarray,
    statistic: Callable[[Any], float],
    seed: int = 0,
    samples: int = 2000,
    *,
    coverage: float = 0.9,
) -> tuple[float, float, float]:
    """Return a statistic with its bootstrap interval: (value, low, high); by default the 5th and 95th percentile.

    Whole dialogues are redrawn with replacement, since the turns of one dialogue are not independent.

    Args:
      values: an entry for each dialogue, of any kind that `statistic` reads (an array is redrawn along its first axis).
      statistic: a list (or array) like `values` -> a number; dialogues may occur several times in it.
      seed: of the redraws.
      samples: number of redraws.
      coverage: share of the redraws that lie in the interval.

    Raises:
      TextMetricError: `values` is empty, or `samples` is not positive.
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
    low, high = np.percentile(redrawn, [50 - 50 * coverage, 50 + 50 * coverage])
    return float(statistic(values)), float(low), float(high)


def _require_any(responses: Sequence[str]) -> None:
    if not responses:
        raise TextMetricError("Distinct of no responses: pass at least one")
