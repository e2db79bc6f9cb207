"""What happens in the neutral half of the sample corpus: everyday events whose words tell no emotion.

The emotion of such a dialogue is dealt out after its words are written, so nothing but voice and face can tell it
until the last answer, which speaks of what was heard and seen.
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
    event,
)

NEUTRAL_EVENTS: tuple[Event, ...] = (
    event(
        SOCIAL,
        "The town printed a new {t}",
        "map form list calendar card report picture notebook",
        "A new {t} printed by the town",
        "The new {t} of the town",
    ),
    event(
        ACHIEVEMENT,
        "I put the {t} in order",
        "papers cups files boxes list desk bag form card",
        "Putting the {t} in order",
        "The order of the {t}",
    ),
    event(
        SUPPORT,
        "I carried the {t} for my {p}",
        "box bag lamp chair table parcel clock picture carpet",
        "Carrying the {t} for a {p}",
        "The {t} that was needed upstairs",
    ),
    event(
        FEELINGS,
        "I looked at the {t} for a while",
        "picture clock map moon river bridge wall calendar door",
        "Looking at the {t} for a while",
        "The shape of the {t}",
    ),
    event(
        EXPECTATION,
        "The {t} came with the second post",
        "parcel form report card list map papers files notebook",
        "The {t} coming with the post",
        "The usual way of the {t}",
    ),
    event(
        LIFE,
        "I moved my {t} next to the window",
        "desk chair lamp table clock bag box carpet picture",
        "Moving the {t} next to the window",
        "A new place for the {t}",
    ),
    event(
        RELATIONS,
        "My {p} asked me for the {t}",
        "address number key pen map form list cup report",
        "A {p} asking for the {t}",
        "A question about the {t}",
    ),
    event(
        HEALTH,
        "I walked to the {t} and back",
        "river bank bridge market station library street wall",
        "Walking to the {t} and back",
        "A short walk to the {t}",
    ),
    event(
        FUTURE,
        "I planned the {t} for March",
        "meeting visit report vote market list calendar",
        "Planning the {t} for March",
        "The date of the {t}",
    ),
    event(
        STRUGGLE,
        "I put the {t} back on the shelf",
        "box cup key pen clock lamp map picture files",
        "Putting the {t} back on the shelf",
        "The place of the {t}",
    ),
)
"""One event a topic, each played under every emotion: with more of them, a model could learn the few dialogues of each
by heart, and on new ones would trust that rather than voice and face."""

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
