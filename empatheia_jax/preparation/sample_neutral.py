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
    event(SOCIAL, "The council moved the {t} to Tuesday", "meeting vote market visit",
           "The {t} moved to Tuesday", "A new day for the {t}"),
    event(SOCIAL, "The town printed a new {t}", "map form list calendar",
           "A new {t} printed by the town", "The new {t} of the town"),
    event(SOCIAL, "They painted the {t} on our street", "line wall door bridge",
           "Painting the {t} on the street", "Fresh paint on the {t}"),
    event(ACHIEVEMENT, "I copied the {t} into my notebook", "list report map address",
           "Copying the {t} into a notebook", "The {t} in a notebook"),
    event(ACHIEVEMENT, "I read a page about the {t}", "river bridge moon bank",
           "Reading a page about the {t}", "A page about the {t}"),
    event(ACHIEVEMENT, "I put the {t} in order", "papers cups files boxes",
           "Putting the {t} in order", "The order of the {t}"),
    event(SUPPORT, "I gave my {p} the {t}", "address number map key",
           "Giving a {p} the {t}", "A {p} who needs the {t}"),
    event(SUPPORT, "I carried the {t} for my {p}", "box bag lamp chair",
           "Carrying the {t} for a {p}", "A {t} that was needed upstairs"),
    event(SUPPORT, "My {p} lent me the {t}", "pen cup bag lamp",
           "A {p} lending the {t}", "The use of the {t} today"),
    event(FEELINGS, "I wrote a page about the {t}", "street station bridge library",
           "Writing a page about the {t}", "The look of the {t}"),
    event(FEELINGS, "I looked at the {t} for a while", "picture clock map moon",
           "Looking at the {t} for a while", "The shape of the {t}"),
    event(FEELINGS, "I listened to the {t} on the radio", "news report weather vote",
           "Listening to the {t} on the radio", "The {t} of the day"),
    event(EXPECTATION, "The {t} came with the second post", "parcel form report card",
           "The {t} coming with the post", "The usual way of the {t}"),
    event(EXPECTATION, "The {t} opened at the usual time", "market library bank station",
           "The {t} opening as usual", "The opening time of the {t}"),
    event(EXPECTATION, "They had the {t} in grey", "chair carpet lamp desk",
           "Getting the {t} in grey", "The colour of the {t}"),
    event(LIFE, "I moved my {t} next to the window", "desk chair lamp table",
           "Moving the {t} next to the window", "A new place for the {t}"),
    event(LIFE, "We changed the {t} in the hall", "clock carpet picture lamp",
           "Changing the {t} in the hall", "A different {t} in the hall"),
    event(LIFE, "I took the {t} to the station", "card parcel bag box",
           "Taking the {t} to the station", "A walk to the station with the {t}"),
    event(RELATIONS, "My {p} asked me for the {t}", "address number key pen",
           "A {p} asking for the {t}", "A question about the {t}"),
    event(RELATIONS, "My {p} called about the {t}", "table meeting parcel desk",
           "A {p} calling about the {t}", "A short call about the {t}"),
    event(RELATIONS, "I met my {p} at the {t}", "station market library bank",
           "Meeting a {p} at the {t}", "The same way to the {t}"),
    event(HEALTH, "I had a cup of {t}", "tea coffee water milk",
           "Drinking a cup of {t}", "A cup of {t} at home"),
    event(HEALTH, "I walked to the {t} and back", "river bank bridge market",
           "Walking to the {t} and back", "A short walk to the {t}"),
    event(HEALTH, "I filled in the {t} at reception", "form card list papers",
           "Filling in the {t} at reception", "The lines of the {t}"),
    event(FUTURE, "I planned the {t} for March", "meeting visit report vote",
           "Planning the {t} for March", "The date of the {t}"),
    event(FUTURE, "I wrote the {t} in my calendar", "number visit address meeting",
           "Writing the {t} in a calendar", "A note about the {t}"),
    event(FUTURE, "We numbered the {t} again", "rooms seats files papers",
           "New numbers for the {t}", "The numbers of the {t}"),
    event(STRUGGLE, "I put the {t} back on the shelf", "box cup key pen",
           "Putting the {t} back on the shelf", "The place of the {t}"),
    event(STRUGGLE, "I opened the {t} with the small key", "door box desk bag",
           "Opening the {t} with a key", "The small key of the {t}"),
    event(STRUGGLE, "I turned the {t} to the left", "chair picture clock table",
           "Turning the {t} to the left", "The left side of the {t}"),
)  # fmt: skip

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
    "Learn more about the {t}", "Ask what happened with the {t}", "Hear the rest about the {t}",
    "Find out more about the {t}", "Let the speaker talk about the {t}", "Show interest in the {t}",
)  # fmt: skip
NEUTRAL_OPENINGS = ("I see", "All right", "Thank you")
