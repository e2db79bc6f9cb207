"""Word swaps: a small LLM trained from scratch must read the dialogue instead of learning it by heart.

The things a dialogue is about (words that its utterances share with its event scenario) are exchanged for those of
other dialogues, in prompt and target alike. What stays, and so what the model must learn, is how feeling is worded and
that scenario, cause and response take their nouns from the prompt. In overall tuning it also keeps the words from
telling by heart what voice and face should. The recordings still say the old words, so a swapped Example has no
content gold.
"""

import collections
import dataclasses
import re

import numpy as np

from empatheia_jax.data.schema import ChainOfEmpathy, Example

_WORD = re.compile(r"[A-Za-z][a-z]{2,}")
COMMON_SHARE = 0.15  # a word of more dialogues than this is grammar, not a thing


class WordSwap:
    """Swaps the things of Examples; the pool of things is read off the training Examples."""

    def __init__(self, examples: list[Example]):
        seen: dict[str, set[str]] = collections.defaultdict(set)
        for example in examples:
            for word in _words(_said(example)):
                seen[word].add(example.conversation_id)
        dialogues = len({example.conversation_id for example in examples})
        self._common = {word for word, where in seen.items() if len(where) > max(3, COMMON_SHARE * dialogues)}
        pool = {word for example in examples for word in self.things(example)}
        self.pool = sorted(pool)

    def things(self, example: Example) -> list[str]:
        """Words that an Example's utterances share with its event scenario, grammar left out; lower case."""
        if example.chain is None:
            return []
        shared = _words(_said(example)) & _words(example.chain.event_scenario)
        return sorted(shared - self._common)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """The Example with its things exchanged, each for another one of the pool, everywhere in it."""
        things = self.things(example)
        if len(self.pool) < 2 or not things:
            return example
        drawn = rng.choice(self.pool, size=len(things), replace=len(things) > len(self.pool))
        exchange = dict(zip(things, map(str, drawn), strict=True))

        def swap(text: str) -> str:
            return _WORD.sub(lambda match: _like(match[0], exchange.get(match[0].lower())), text)

        history = tuple(dataclasses.replace(u, text=swap(u.text)) for u in example.history)
        response = example.response and dataclasses.replace(example.response, text=swap(example.response.text))
        chain = ChainOfEmpathy(
            swap(example.chain.event_scenario),
            example.chain.speaker_emotion,
            swap(example.chain.emotion_cause),
            swap(example.chain.goal_to_response),
        )
        return dataclasses.replace(example, history=history, response=response, chain=chain)


def _said(example: Example) -> str:
    return " ".join(utterance.text for utterance in example.history)


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def _like(old: str, new: str | None) -> str:
    """`new` with the capital of `old`; `old` itself where there is nothing new."""
    if new is None:
        return old
    return new.capitalize() if old[0].isupper() else new
