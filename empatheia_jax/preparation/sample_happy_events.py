"""Events of the sample corpus that make the speaker happy or surprised, by fine emotion (`sample_events`)."""

from empatheia_jax.preparation.sample_events import (
    ACHIEVEMENT,
    EXPECTATION,
    FEELINGS,
    FUTURE,
    HEALTH,
    LIFE,
    RELATIONS,
    SOCIAL,
    STRUGGLE,
    SUPPORT,
    Event,
    make_event,
)

HAPPY_EVENTS: dict[str, tuple[Event, ...]] = {
    # happy
    "excited": (
        make_event(
            LIFE,
            "We are going to the {t} soon",
            "sea concert wedding",
            scenario="Going to the {t} very soon",
            cause="A long wish to see the {t}",
        ),
    ),
    "proud": (
        make_event(
            ACHIEVEMENT,
            "My {p} won the {t} at school",
            "race game contest",
            scenario="A {p} winning the {t} at school",
            cause="The hard work behind the {t}",
        ),
    ),
    "grateful": (
        make_event(
            SUPPORT,
            "My {p} repaired our {t} for free",
            "car bike boat",
            scenario="A {p} repairing the {t} for free",
            cause="Generous help with the {t}",
        ),
    ),
    "hopeful": (
        make_event(
            FUTURE,
            "They called me back about the {t}",
            "role house shop",
            scenario="A call back about the {t}",
            cause="A real chance to get the {t}",
        ),
    ),
    "confident": (
        make_event(
            ACHIEVEMENT,
            "I practised hard for the {t}",
            "exam race concert",
            scenario="Hard practice for the coming {t}",
            cause="Good practice before the {t}",
        ),
    ),
    "anticipating": (
        make_event(
            FUTURE,
            "The {t} starts in two days",
            "trip party holiday",
            scenario="Two days before the {t} starts",
            cause="The start of the {t} so near",
        ),
    ),
    "content": (
        make_event(
            FEELINGS,
            "I spent the evening in our {t}",
            "garden kitchen boat",
            scenario="A quiet evening in the {t}",
            cause="Time to rest in the {t}",
        ),
    ),
    "caring": (
        make_event(
            HEALTH,
            "I made {t} for my ill {p}",
            "soup bread cake",
            scenario="Making {t} for an ill {p}",
            cause="The wish to help with {t}",
        ),
    ),
    "trusting": (
        make_event(
            RELATIONS,
            "I gave my {p} the {t} to keep",
            "ring diary letter",
            scenario="Giving a {p} the {t} to keep",
            cause="A {p} who keeps the {t} safe",
        ),
    ),
    "faithful": (
        make_event(
            RELATIONS,
            "My {p} and I still share the {t}",
            "garden boat house",
            scenario="Sharing the {t} for many years",
            cause="The promise about the {t}",
        ),
    ),
    "prepared": (
        make_event(
            STRUGGLE,
            "I planned everything for the {t}",
            "trip exam wedding",
            scenario="Planning everything for the {t}",
            cause="A good plan for the {t}",
        ),
    ),
    "joyful": (
        make_event(
            LIFE,
            "We danced all night at the {t}",
            "wedding party concert",
            scenario="Dancing all night at the {t}",
            cause="Music and friends at the {t}",
        ),
    ),
    # surprised
    "surprised": (
        make_event(
            LIFE,
            "A {t} was waiting at my door",
            "dog cake letter",
            scenario="A {t} waiting at the door",
            cause="A {t} that came without a word",
        ),
        make_event(
            EXPECTATION,
            "My lost {t} turned up again",
            "ring diary bike",
            scenario="A lost {t} turning up again",
            cause="Finding the {t} after many years",
        ),
        make_event(
            SOCIAL,
            "A stranger paid for my {t}",
            "ticket cake bike",
            scenario="A stranger paying for the {t}",
            cause="A gift of the {t} by a stranger",
        ),
    ),
    "impressed": (
        make_event(
            ACHIEVEMENT,
            "My {p} built a {t} alone",
            "boat house piano",
            scenario="A {p} building a {t} alone",
            cause="The skill needed for the {t}",
        ),
        make_event(
            FEELINGS,
            "My {p} played the {t} from memory",
            "song piano game",
            scenario="A {p} playing the {t} from memory",
            cause="The memory behind the {t}",
        ),
    ),
    "devastated": (
        make_event(
            LIFE,
            "The {t} burned down last night",
            "school house shop",
            scenario="The {t} burning down at night",
            cause="Losing the {t} in one night",
        ),
        make_event(
            STRUGGLE,
            "The flood took our {t}",
            "garden car boat",
            scenario="A flood taking the {t}",
            cause="Losing the {t} to the flood",
        ),
    ),
}
