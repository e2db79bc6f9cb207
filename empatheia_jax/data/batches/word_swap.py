"""Word swaps (the config's `data.word_swap`): exchange a dialogue's topic words for those of other dialogues.

A small LLM trained from scratch must read the dialogue instead of learning it by heart. The topic words of a dialogue
(words that its utterances share with its event scenario) are exchanged in prompt and target alike. What stays, and so
what the model must learn, is how feelings are worded, and that scenario, cause and response take their nouns from the
prompt. In overall tuning it also keeps the model from inferring by heart, from the words, what voice and face should
tell it. The recordings still have the old words, so a swapped Example has no content gold.
"""

import collections
import dataclasses
import re

import numpy as np

from empatheia_jax.data.schema import ChainOfEmpathy, Example

_WORD = re.compile(r"[A-Za-z][a-z]{2,}")
COMMON_SHARE = 0.15  # a word of more dialogues than this is a function word, not a topic


class WordSwap:
    """Exchanges the topic words of Examples; the words to draw from are collected from the training Examples."""

    def __init__(self, examples: list[Example]):
        dialogues_with: dict[str, set[str]] = collections.defaultdict(set)
        for example in examples:
            for word in _words(_history_text(example)):
                dialogues_with[word].add(example.conversation_id)
        dialogues = len({example.conversation_id for example in examples})
        limit = max(3, COMMON_SHARE * dialogues)
        self._common = {word for word, ids in dialogues_with.items() if len(ids) > limit}
        self.pool = sorted({word for example in examples for word in self.topic_words(example)})

    def topic_words(self, example: Example) -> list[str]:
        """Return the words that an Example's utterances share with its event scenario, common words left out."""
        if example.chain is None:
            return []
        shared = _words(_history_text(example)) & _words(example.chain.event_scenario)
        return sorted(shared - self._common)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """Return the Example with each of its topic words exchanged, everywhere in it, for one of the pool."""
        words = self.topic_words(example)
        if len(self.pool) < 2 or not words:
            return example
        drawn = rng.choice(self.pool, size=len(words), replace=len(words) > len(self.pool))
        exchange = dict(zip(words, map(str, drawn), strict=True))

        def swap(text: str) -> str:
            return _WORD.sub(lambda match: _match_case(match[0], exchange.get(match[0].lower())), text)

        history = tuple(dataclasses.replace(u, text=swap(u.text)) for u in example.history)
        response = example.response and dataclasses.replace(example.response, text=swap(example.response.text))
        chain = ChainOfEmpathy(
            swap(example.chain.event_scenario),
            example.chain.speaker_emotion,
            swap(example.chain.emotion_cause),
            swap(example.chain.goal_to_response),
        )
        return dataclasses.replace(example, history=history, response=response, chain=chain)


def _history_text(example: Example) -> str:
    return " ".join(utterance.text for utterance in example.history)


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def _match_case(old: str, new: str | None) -> str:
    """Return `new` with the initial case of `old`; `old` itself where there is nothing new."""
    if new is None:
        return old
    return new.capitalize() if old[0].isupper() else new
