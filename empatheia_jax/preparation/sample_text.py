"""The words of one sample dialogue: an event, a thing and feelings put together, with the chain of empathy behind it.

In the emotional half every utterance of the speaker carries the emotion. In the neutral half none does, nor do the
context, the scenario, the cause or any answer before the last; only the last answer and its goal follow the emotion.
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
    HEARD_ANSWERS,
    OPENINGS,
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
    """What is said in one dialogue and why. Queries, responses and goals have one entry a turn."""

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
        """The avatar emotion that voice and face perform."""
        return avatar_emotion(self.speaker_emotion)

    @property
    def history(self) -> tuple[str, ...]:
        """All that is known before the chain names the emotion of the last turn."""
        return (self.context, self.event_scenario, *self.queries, *self.responses[:-1])

    @property
    def sentences(self) -> frozenset[str]:
        """Every sentence of the dialogue and its chain, as a set to compare with other dialogues."""
        return frozenset((*self.history, self.emotion_cause, self.responses[-1], *self.goals))

    @property
    def words(self) -> frozenset[str]:
        """Every word, in lower case."""
        return frozenset(word for sentence in self.sentences for word in words_of(sentence))


def words_of(sentence: str) -> list[str]:
    """Words of a sentence, in lower case, without punctuation."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?", sentence.lower())


@dataclasses.dataclass(frozen=True)
class Occasion:
    """An event with its thing and its people chosen."""

    event: Event
    thing: str
    person: str  # of the event
    others: tuple[str, ...]  # whom later turns mention, one a turn and one for the context

    def fill(self, template: str) -> str:
        """The template with the thing and the event's person."""
        return template.format(t=self.thing, p=self.person)


def draw_occasion(rng: random.Random, event: Event, thing: str, turns: int) -> Occasion:
    """An occasion of `event` about `thing`; the people are all different."""
    people = rng.sample(PEOPLE, turns + 2)
    return Occasion(event, thing, people[0], tuple(people[1:]))


def write_emotional(rng: random.Random, occasion: Occasion, fine: str, turns: int) -> Script:
    """A dialogue whose words tell the emotion `fine`, of two or three turns."""
    emotion, fill = avatar_emotion(fine), occasion.fill
    openings = rng.sample(OPENINGS[emotion], 2)
    clause = fill(rng.choice(FINE_CLAUSES[fine]))
    tails = _tails(rng, emotion, clause, turns)
    queries = [f"{fill(occasion.event.said)}, {tails[0]}.", f"{clause}, {tails[1]}."]
    responses = [f"{openings[0]}, {fill(rng.choice(FIRST_QUESTIONS))}"]
    if turns == 3:
        question, _, short = rng.choice(QUESTIONS)
        responses.append(f"{openings[1]}, {_detail(rng, question, occasion, 1)}")
        queries.append(f"{_detail(rng, short, occasion, 1)}, {tails[2]}.")
    responses.append(fill(rng.choice(ANSWERS[emotion])))
    return _script(rng, "emotional", fine, occasion, queries, responses)


def write_neutral(rng: random.Random, occasion: Occasion, turns: int) -> Script:
    """A dialogue without any emotion yet, of two or three turns: `deal_emotion` writes its last answer."""
    queries = [f"{occasion.fill(occasion.event.said)} {rng.choice(TIMES)}."]
    responses = []
    openings = rng.sample(NEUTRAL_OPENINGS, turns - 1)
    for turn, (question, answer, _) in enumerate(rng.sample(QUESTIONS, turns - 1)):
        responses.append(f"{openings[turn]}, {_detail(rng, question, occasion, turn)}")
        queries.append(_detail(rng, answer, occasion, turn))
    return _script(rng, "neutral", "", occasion, queries, [*responses, ""])


def deal_emotion(rng: random.Random, script: Script, thing: str, fine: str) -> Script:
    """The neutral `script` about `thing` with the emotion `fine`: only the last goal and answer change."""
    emotion = avatar_emotion(fine)
    answer, goal = (rng.choice(of[emotion]).format(t=thing) for of in (HEARD_ANSWERS, GOALS))
    responses, goals = (*script.responses[:-1], answer), (*script.goals[:-1], goal)
    return dataclasses.replace(script, speaker_emotion=fine, responses=responses, goals=goals)


def _script(rng, half: str, fine: str, occasion: Occasion, queries: list[str], responses: list[str]) -> Script:
    event, fill = occasion.event, occasion.fill
    goals = [fill(goal) for goal in rng.sample(NEUTRAL_GOALS, len(queries) - 1)]
    goals.append(fill(rng.choice(GOALS[avatar_emotion(fine)])) if fine else "")
    return Script(
        half=half,
        speaker_emotion=fine,
        topic=event.topic,
        context=f"{fill(event.said)}, and I told my {occasion.others[-1]} about it.",
        event_scenario=fill(event.scenario),
        emotion_cause=fill(event.cause),
        queries=tuple(queries),
        responses=tuple(responses),
        goals=tuple(goals),
    )


def _detail(rng: random.Random, template: str, occasion: Occasion, turn: int) -> str:
    return template.format(
        t=occasion.thing,
        p=occasion.others[turn],
        w=rng.choice(LATER),
        d=rng.choice(DRINKS),
        n=rng.choice(NUMBERS),
        l=rng.choice([place for place in PLACES if place != occasion.thing]),
    )


def _tails(rng: random.Random, emotion: str, clause: str, count: int) -> list[str]:
    """`count` different feelings; the second, which follows `clause`, does not repeat the clause's own emotion word."""
    tails = rng.sample(TAILS[emotion], len(TAILS[emotion]))
    said = set(words_of(clause)) & set(FINE_EMOTIONS)
    second = next(tail for tail in tails if not said & set(words_of(tail)))
    rest = [tail for tail in tails if tail != second]
    return [rest[0], second, *rest[1:]][:count]
