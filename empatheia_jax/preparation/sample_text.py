"""Writes the words of one sample dialogue and its chain of empathy, from an event, a thing and feelings.

In the emotional half every utterance of the speaker tells the emotion. In the neutral half none does, nor do the
context, the scenario, the cause or any answer before the last; only the last answer and its goal depend on the emotion.
"""

import dataclasses
import random
import re

from empatheia_jax.data.emotions import FINE_EMOTIONS, avatar_emotion
from empatheia_jax.preparation.sample_events import PEOPLE, Event
from empatheia_jax.preparation.sample_feelings import (
    ANSWERS,
    FINE_CLAUSES,
    FIRST_QUESTIONS,
    GOALS,
    OPENINGS,
    PERCEIVED_ANSWERS,
    TAILS,
)
from empatheia_jax.preparation.sample_neutral import (
    DRINKS,
    LATER,
    NEUTRAL_GOALS,
    NEUTRAL_OPENINGS,
    NUMBERS,
    PLACES,
    QUESTIONS,
    TIMES,
)


@dataclasses.dataclass(frozen=True)
class Script:
    """The texts of one dialogue and its chain. Queries, responses and goals have one entry for each turn."""

    half: str  # "emotional": words tell the emotion; "neutral": only voice and face do
    speaker_emotion: str  # one of the 32
    topic: str
    context: str
    event_scenario: str
    emotion_cause: str
    queries: tuple[str, ...]
    responses: tuple[str, ...]
    goals: tuple[str, ...]

    @property
    def emotion(self) -> str:
        """The avatar emotion that voice and face express."""
        return avatar_emotion(self.speaker_emotion)

    @property
    def history(self) -> tuple[str, ...]:
        """All texts that come before the emotion label in the chain of the last turn."""
        return (self.context, self.event_scenario, *self.queries, *self.responses[:-1])

    @property
    def sentences(self) -> frozenset[str]:
        """Every sentence of the dialogue and its chain, as a set to compare with other dialogues."""
        return frozenset((*self.history, self.emotion_cause, self.responses[-1], *self.goals))

    @property
    def words(self) -> frozenset[str]:
        """Every word, in lower case."""
        return frozenset(word for sentence in self.sentences for word in split_words(sentence))


def split_words(sentence: str) -> list[str]:
    """Split a sentence into its words, in lower case, without punctuation."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?", sentence.lower())


@dataclasses.dataclass(frozen=True)
class Occasion:
    """An event together with the thing and the people that were chosen for it."""

    event: Event
    thing: str
    person: str  # of the event
    others: tuple[str, ...]  # people that later turns mention, one for each turn and one for the context

    def fill(self, template: str) -> str:
        """Put the thing and the event's person into a template."""
        return template.format(t=self.thing, p=self.person)


def draw_occasion(rng: random.Random, event: Event, thing: str, turns: int) -> Occasion:
    """Choose the people of an event about `thing`, all different."""
    people = rng.sample(PEOPLE, turns + 2)
    return Occasion(event, thing, people[0], tuple(people[1:]))


def write_emotional(rng: random.Random, occasion: Occasion, fine: str, turns: int) -> Script:
    """Write a dialogue of two or three turns whose words tell the emotion `fine`."""
    emotion, fill = avatar_emotion(fine), occasion.fill
    openings = rng.sample(OPENINGS[emotion], 2)
    clause = fill(rng.choice(FINE_CLAUSES[fine]))
    tails = _choose_tails(rng, emotion, clause, turns)
    queries = [f"{fill(occasion.event.statement)}, {tails[0]}.", f"{clause}, {tails[1]}."]
    responses = [f"{openings[0]}, {fill(rng.choice(FIRST_QUESTIONS))}"]
    if turns == 3:
        question, _, short = rng.choice(QUESTIONS)
        responses.append(f"{openings[1]}, {_fill_detail(rng, question, occasion, 1)}")
        queries.append(f"{_fill_detail(rng, short, occasion, 1)}, {tails[2]}.")
    responses.append(fill(rng.choice(ANSWERS[emotion])))
    return _make_script(rng, occasion, queries, responses, half="emotional", fine=fine)


def write_neutral(rng: random.Random, occasion: Occasion, turns: int) -> Script:
    """Write a neutral dialogue of two or three turns; its last answer is written by `assign_emotion`."""
    queries = [f"{occasion.fill(occasion.event.statement)} {rng.choice(TIMES)}."]
    responses = []
    openings = rng.sample(NEUTRAL_OPENINGS, turns - 1)
    for turn, (question, answer, _) in enumerate(rng.sample(QUESTIONS, turns - 1)):
        responses.append(f"{openings[turn]}, {_fill_detail(rng, question, occasion, turn)}")
        queries.append(_fill_detail(rng, answer, occasion, turn))
    return _make_script(rng, occasion, queries, [*responses, ""], half="neutral", fine="")


def assign_emotion(rng: random.Random, script: Script, thing: str, fine: str) -> Script:
    """Give the emotion `fine` to a neutral script about `thing`: only the last goal and answer change."""
    emotion = avatar_emotion(fine)
    answer, goal = (rng.choice(texts[emotion]).format(t=thing) for texts in (PERCEIVED_ANSWERS, GOALS))
    responses, goals = (*script.responses[:-1], answer), (*script.goals[:-1], goal)
    return dataclasses.replace(script, speaker_emotion=fine, responses=responses, goals=goals)


def _make_script(
    rng: random.Random, occasion: Occasion, queries: list[str], responses: list[str], *, half: str, fine: str
) -> Script:
    event, fill = occasion.event, occasion.fill
    goals = [fill(goal) for goal in rng.sample(NEUTRAL_GOALS, len(queries) - 1)]
    goals.append(fill(rng.choice(GOALS[avatar_emotion(fine)])) if fine else "")
    return Script(
        half=half,
        speaker_emotion=fine,
        topic=event.topic,
        context=f"{fill(event.statement)}, and I told my {occasion.others[-1]} about it.",
        event_scenario=fill(event.scenario),
        emotion_cause=fill(event.cause),
        queries=tuple(queries),
        responses=tuple(responses),
        goals=tuple(goals),
    )


def _fill_detail(rng: random.Random, template: str, occasion: Occasion, turn: int) -> str:
    """Put the thing, the person of this turn and details chosen at random into a template."""
    return template.format(
        t=occasion.thing,
        p=occasion.others[turn],
        w=rng.choice(LATER),
        d=rng.choice(DRINKS),
        n=rng.choice(NUMBERS),
        l=rng.choice([place for place in PLACES if place != occasion.thing]),
    )


def _choose_tails(rng: random.Random, emotion: str, clause: str, count: int) -> list[str]:
    """Choose `count` different feelings; the second follows `clause` and does not repeat its emotion word."""
    tails = rng.sample(TAILS[emotion], len(TAILS[emotion]))
    emotion_words = set(split_words(clause)) & set(FINE_EMOTIONS)
    second = next(tail for tail in tails if not emotion_words & set(split_words(tail)))
    rest = [tail for tail in tails if tail != second]
    return [rest[0], second, *rest[1:]][:count]
