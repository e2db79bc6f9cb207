"""What an event of the sample corpus is; its topics and people.

The events of the emotional half are in `sample_happy_events` and `sample_hard_events`, 54 kinds of event, each tied to
a fine emotion; those of the neutral half in `sample_neutral`. `{t}` is the thing an event is about, `{p}` somebody the
speaker knows. Things recur across events on purpose: a test dialogue is a new pair of an event and a thing, made of
words that training has seen. No text presupposes the age or gender of the speaker, because profiles are assigned
independently of the words.
"""

import dataclasses

SOCIAL = "Social Issues and Moral Dilemmas"
ACHIEVEMENT = "Achievements and Self-Realization"
SUPPORT = "Support and Comfort"
FEELINGS = "Emotions and Feelings"
EXPECTATION = "Disappointments and Expectations"
LIFE = "Life Events"
RELATIONS = "Interpersonal Relationships"
HEALTH = "Health and Well-being"
FUTURE = "Uncertainty About the Future"
STRUGGLE = "Personal Struggles and Challenges"
TOPICS = (SOCIAL, ACHIEVEMENT, SUPPORT, FEELINGS, EXPECTATION, LIFE, RELATIONS, HEALTH, FUTURE, STRUGGLE)
"""The ten topics of section 3.3 (C.1.1)."""

PEOPLE = ("sister", "brother", "cousin", "friend", "neighbour", "teacher")


@dataclasses.dataclass(frozen=True)
class Event:
    """One kind of event, before a thing and a person are chosen."""

    topic: str
    statement: str  # what the speaker says about it, without a full stop
    things: tuple[str, ...]
    scenario: str  # the chain's event_scenario
    cause: str  # the chain's emotion_cause


def make_event(topic: str, statement: str, things: str, *, scenario: str, cause: str) -> Event:
    """Make an `Event` whose things are given as words in one string."""
    return Event(topic, statement, tuple(things.split()), scenario, cause)
