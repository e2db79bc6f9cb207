"""What happens in the emotional half of the sample corpus: 52 kinds of event, each tied to a fine emotion.

`{t}` is the thing the event is about, `{p}` somebody the speaker knows. Things recur across events on purpose: a test
dialogue is a new pairing of an event and a thing, made of words that training has seen. Nothing presupposes the age or
gender of who speaks, because profiles are dealt independently of the words.
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
    said: str  # how the speaker puts it, without a full stop
    things: tuple[str, ...]
    scenario: str  # the chain's event_scenario
    cause: str  # the chain's emotion_cause


def event(topic: str, said: str, things: str, scenario: str, cause: str) -> Event:
    """An `Event` whose things are given as words in one string."""
    return Event(topic, said, tuple(things.split()), scenario, cause)


EMOTIONAL_EVENTS: dict[str, tuple[Event, ...]] = {
    # happy
    "excited": (
        event(
            LIFE,
            "We are going to the {t} soon",
            "sea concert wedding",
            "Going to the {t} very soon",
            "A long wish to see the {t}",
        ),
    ),
    "proud": (
        event(
            ACHIEVEMENT,
            "My {p} won the {t} at school",
            "race game contest",
            "A {p} winning the {t} at school",
            "The hard work behind the {t}",
        ),
    ),
    "grateful": (
        event(
            SUPPORT,
            "My {p} repaired our {t} for free",
            "car bike boat",
            "A {p} repairing the {t} for free",
            "Generous help with the {t}",
        ),
    ),
    "hopeful": (
        event(
            FUTURE,
            "They called me back about the {t}",
            "role house shop",
            "A call back about the {t}",
            "A real chance to get the {t}",
        ),
    ),
    "confident": (
        event(
            ACHIEVEMENT,
            "I practised hard for the {t}",
            "exam race concert",
            "Hard practice for the coming {t}",
            "Good practice before the {t}",
        ),
    ),
    "anticipating": (
        event(
            FUTURE,
            "The {t} starts in two days",
            "trip party holiday",
            "Two days before the {t} starts",
            "The start of the {t} so near",
        ),
    ),
    "content": (
        event(
            FEELINGS,
            "I spent the evening in our {t}",
            "garden kitchen boat",
            "A quiet evening in the {t}",
            "Time to rest in the {t}",
        ),
    ),
    "caring": (
        event(
            HEALTH,
            "I made {t} for my ill {p}",
            "soup bread cake",
            "Making {t} for an ill {p}",
            "The wish to help with {t}",
        ),
    ),
    "trusting": (
        event(
            RELATIONS,
            "I gave my {p} the {t} to keep",
            "ring diary letter",
            "Giving a {p} the {t} to keep",
            "A {p} who keeps the {t} safe",
        ),
    ),
    "faithful": (
        event(
            RELATIONS,
            "My {p} and I still share the {t}",
            "garden boat house",
            "Sharing the {t} for many years",
            "The promise about the {t}",
        ),
    ),
    "prepared": (
        event(
            STRUGGLE,
            "I planned everything for the {t}",
            "trip exam wedding",
            "Planning everything for the {t}",
            "A good plan for the {t}",
        ),
    ),
    "joyful": (
        event(
            LIFE,
            "We danced all night at the {t}",
            "wedding party concert",
            "Dancing all night at the {t}",
            "Music and friends at the {t}",
        ),
    ),
    # surprised
    "surprised": (
        event(
            LIFE,
            "A {t} was waiting at my door",
            "dog cake letter",
            "A {t} waiting at the door",
            "A {t} that came without a word",
        ),
        event(
            EXPECTATION,
            "My lost {t} turned up again",
            "ring diary bike",
            "A lost {t} turning up again",
            "Finding the {t} after many years",
        ),
        event(
            SOCIAL,
            "A stranger paid for my {t}",
            "ticket cake bike",
            "A stranger paying for the {t}",
            "A gift of the {t} by a stranger",
        ),
    ),
    "impressed": (
        event(
            ACHIEVEMENT,
            "My {p} built a {t} alone",
            "boat house piano",
            "A {p} building a {t} alone",
            "The skill needed for the {t}",
        ),
        event(
            FEELINGS,
            "My {p} played the {t} from memory",
            "song piano game",
            "A {p} playing the {t} from memory",
            "The memory behind the {t}",
        ),
    ),
    "devastated": (
        event(
            LIFE,
            "The {t} burned down last night",
            "school house shop",
            "The {t} burning down at night",
            "Losing the {t} in one night",
        ),
        event(
            STRUGGLE,
            "The flood took our {t}",
            "garden car boat",
            "A flood taking the {t}",
            "Losing the {t} to the flood",
        ),
    ),
    # angry
    "angry": (
        event(
            RELATIONS,
            "My {p} lied about the {t}",
            "ticket exam game",
            "A {p} lying about the {t}",
            "A lie told about the {t}",
        ),
        event(
            SOCIAL,
            "They closed the {t} for parking",
            "garden school park",
            "Closing the {t} for parking",
            "Nobody asked us about the {t}",
        ),
    ),
    "annoyed": (
        event(
            LIFE,
            "They play the {t} every night",
            "piano song drums",
            "Playing the {t} every night",
            "No rest because of the {t}",
        ),
        event(
            EXPECTATION,
            "The {t} was late again",
            "bus train boat",
            "The {t} being late again",
            "Time wasted because of the {t}",
        ),
    ),
    "furious": (
        event(
            STRUGGLE,
            "Someone broke into our {t}",
            "car house shop",
            "Someone breaking into the {t}",
            "The damage done to the {t}",
        ),
        event(
            ACHIEVEMENT,
            "My {p} stole my {t}",
            "idea song role",
            "A {p} stealing the {t}",
            "No credit given for the {t}",
        ),
    ),
    # fear
    "afraid": (
        event(
            HEALTH,
            "I must face the {t} next week",
            "operation exam scan",
            "Facing the {t} next week",
            "The unknown end of the {t}",
        ),
        event(
            FEELINGS,
            "I heard {t} outside my door",
            "voices steps rats",
            "Hearing {t} outside the door",
            "Sounds of {t} in the dark",
        ),
    ),
    "terrified": (
        event(
            LIFE,
            "The {t} nearly hit our house",
            "storm train car",
            "The {t} nearly hitting the house",
            "The {t} that came so close",
        ),
        event(
            STRUGGLE, "I was trapped in the {t}", "lift car storm", "Being trapped in the {t}", "No way out of the {t}"
        ),
    ),
    "apprehensive": (
        event(
            FUTURE,
            "I must speak at the {t}",
            "wedding school party",
            "A speech to give at the {t}",
            "So many eyes at the {t}",
        ),
        event(
            SOCIAL,
            "They want to close our {t}",
            "school hospital park",
            "Plans to close the {t}",
            "An open future for the {t}",
        ),
    ),
    # sad
    "sad": (
        event(
            LIFE,
            "My old {t} died last night",
            "dog cat horse",
            "The death of an old {t}",
            "Losing the {t} after many years",
        ),
    ),
    "lonely": (
        event(
            FEELINGS,
            "I spent the {t} with nobody",
            "holiday party trip",
            "Spending the {t} with nobody",
            "Nobody to share the {t} with",
        ),
    ),
    "guilty": (
        event(
            RELATIONS,
            "I broke the {t} of my {p}",
            "ring piano bike",
            "Breaking the {t} of a {p}",
            "Too little care with the {t}",
        ),
    ),
    "anxious": (
        event(
            FUTURE,
            "We may lose our {t} soon",
            "house garden shop",
            "The risk of losing the {t}",
            "An open question about the {t}",
        ),
    ),
    "nostalgic": (
        event(
            FEELINGS,
            "I walked past my old {t}",
            "school house garden",
            "Walking past the old {t}",
            "The years spent at the {t}",
        ),
    ),
    "embarrassed": (
        event(
            STRUGGLE,
            "I fell down at the {t}",
            "wedding party concert",
            "Falling down at the {t}",
            "A fall before everyone at the {t}",
        ),
    ),
    "sentimental": (
        event(
            SUPPORT,
            "I found the {t} of my grandmother",
            "letter ring diary",
            "Finding the {t} of a grandmother",
            "The love kept in the {t}",
        ),
    ),
    "ashamed": (
        event(
            SOCIAL,
            "I laughed at the {t} of my {p}",
            "bike song cake",
            "Laughing at the {t} of a {p}",
            "Unkind words about the {t}",
        ),
    ),
    "disappointed": (
        event(
            EXPECTATION,
            "They cancelled the {t} again",
            "concert trip game",
            "A plan for the {t} cancelled",
            "High hopes for the {t}",
        ),
    ),
    # disgusted
    "disgusted": (
        event(
            EXPECTATION,
            "I found {t} in my soup",
            "worms hair flies mud",
            "Finding {t} in the soup",
            "A spoon of soup with {t}",
        ),
        event(
            LIFE,
            "There were {t} in our kitchen",
            "rats worms flies",
            "Seeing {t} in the kitchen",
            "Traces of {t} in the kitchen",
        ),
        event(
            SOCIAL,
            "People threw {t} in our river",
            "rubbish meat fish milk",
            "People throwing {t} in the river",
            "A river full of {t}",
        ),
        event(
            RELATIONS,
            "My {p} left {t} under the bed",
            "fish meat milk",
            "A {p} leaving {t} under the bed",
            "Old {t} under the bed",
        ),
        event(
            STRUGGLE,
            "I stepped in {t} with bare feet",
            "mud rubbish fish milk",
            "Stepping in {t} with bare feet",
            "Bare feet deep in {t}",
        ),
        event(
            HEALTH,
            "I tasted {t} that had gone bad",
            "milk meat fish soup",
            "Tasting {t} that had gone bad",
            "A mouth full of bad {t}",
        ),
        event(
            SUPPORT,
            "I wiped {t} off the floor",
            "mud milk hair fish",
            "Wiping {t} off the floor",
            "A floor covered with {t}",
        ),
    ),
    # contempt
    "jealous": (
        event(
            EXPECTATION,
            "My {p} got the {t} I wanted",
            "role bike car",
            "A {p} getting the wanted {t}",
            "The {t} went to somebody else",
        ),
        event(
            RELATIONS,
            "My friend took my {p} to the {t}",
            "concert sea game",
            "A friend taking a {p} to the {t}",
            "Being left out of the {t}",
        ),
        event(
            LIFE,
            "My {p} bought a bigger {t}",
            "house boat car",
            "A {p} buying a bigger {t}",
            "Next to the {t} mine looks small",
        ),
        event(
            ACHIEVEMENT,
            "They picked my {p} for the {t}",
            "game race role",
            "A {p} being picked for the {t}",
            "Not being picked for the {t}",
        ),
        event(
            FEELINGS,
            "Everyone praises the {t} of my {p}",
            "voice garden cake",
            "Praise for the {t} of a {p}",
            "No praise left beside the {t}",
        ),
        event(
            STRUGGLE,
            "My {p} learned the {t} in days",
            "piano song game",
            "A {p} learning the {t} in days",
            "My own slow way to the {t}",
        ),
        event(
            HEALTH,
            "My {p} passed the {t} without practice",
            "exam race contest",
            "A {p} passing the {t} easily",
            "An easy way through the {t}",
        ),
    ),
}
