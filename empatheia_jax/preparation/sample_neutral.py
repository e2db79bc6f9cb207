"""The events of the neutral half of the sample corpus: everyday events whose words tell no emotion.

The emotion of such a dialogue is assigned after its words are written, so only voice and face can tell it until the
last answer, which speaks of what was heard and seen.
"""

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

NEUTRAL_EVENTS: tuple[Event, ...] = (
    make_event(
        SOCIAL,
        "The town printed a new {t}",
        "map form list calendar card report picture notebook",
        scenario="A new {t} printed by the town",
        cause="The new {t} of the town",
    ),
    make_event(
        ACHIEVEMENT,
        "I put the {t} in order",
        "papers cups files boxes list desk bag form card",
        scenario="Putting the {t} in order",
        cause="The order of the {t}",
    ),
    make_event(
        SUPPORT,
        "I carried the {t} for my {p}",
        "box bag lamp chair table parcel clock picture carpet",
        scenario="Carrying the {t} for a {p}",
        cause="The {t} that was needed upstairs",
    ),
    make_event(
        FEELINGS,
        "I looked at the {t} for a while",
        "picture clock map moon river bridge wall calendar door",
        scenario="Looking at the {t} for a while",
        cause="The shape of the {t}",
    ),
    make_event(
        EXPECTATION,
        "The {t} came with the second post",
        "parcel form report card list map papers files notebook",
        scenario="The {t} coming with the post",
        cause="The usual way of the {t}",
    ),
    make_event(
        LIFE,
        "I moved my {t} next to the window",
        "desk chair lamp table clock bag box carpet picture",
        scenario="Moving the {t} next to the window",
        cause="A new place for the {t}",
    ),
    make_event(
        RELATIONS,
        "My {p} asked me for the {t}",
        "address number key pen map form list cup report",
        scenario="A {p} asking for the {t}",
        cause="A question about the {t}",
    ),
    make_event(
        HEALTH,
        "I walked to the {t} and back",
        "river bank bridge market station library street wall",
        scenario="Walking to the {t} and back",
        cause="A short walk to the {t}",
    ),
    make_event(
        FUTURE,
        "I planned the {t} for March",
        "meeting visit report vote market list calendar",
        scenario="Planning the {t} for March",
        cause="The date of the {t}",
    ),
    make_event(
        STRUGGLE,
        "I put the {t} back on the shelf",
        "box cup key pen clock lamp map picture files",
        scenario="Putting the {t} back on the shelf",
        cause="The place of the {t}",
    ),
)
"""One event for each topic, each used with every emotion. With more events, a model could memorise the few dialogues of
each, and on new ones would rely on that rather than on voice and face."""

QUESTIONS = (
    # what the listener asks, the answer in full, and its short form (a feeling follows in the emotional half)
    ("did you tell anyone about the {t}?", "I told my {p} about it {w}.", "I told my {p} about it"),
    ("what did your {p} say about the {t}?", "My {p} nodded and made some {d} {w}.", "My {p} only nodded"),
    ("when did it happen with the {t}?", "It was at about {n}, with my {p}.", "It was at about {n}"),
    ("who else knows about the {t}?", "My {p} heard about it {w}.", "My {p} heard about it"),
    ("besides the {t}, what did you do?", "I went to the {l} with my {p}.", "I went to the {l}"),
    ("what came after the {t}?", "Then my {p} and I read {n} pages.", "Then my {p} came over"),
)
TIMES = ("today", "yesterday", "this morning", "on Monday", "on Friday", "last week")
LATER = ("over lunch", "on the phone", "in the evening", "on the way", "at home")
DRINKS = ("tea", "coffee")
NUMBERS = ("three", "five", "seven", "nine", "ten")
PLACES = ("station", "market", "library", "bank", "bridge")
NEUTRAL_GOALS = (
    "Learn more about the {t}",
    "Ask what happened with the {t}",
    "Hear the rest about the {t}",
    "Find out more about the {t}",
    "Let the speaker talk about the {t}",
    "Show interest in the {t}",
)
NEUTRAL_OPENINGS = ("I see", "All right", "Thank you")
