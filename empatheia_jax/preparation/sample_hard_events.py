"""Events of the sample corpus that make the speaker angry, afraid, sad, disgusted or envious, by fine emotion."""

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

HARD_EVENTS: dict[str, tuple[Event, ...]] = {
    # angry
    "angry": (
        make_event(
            RELATIONS,
            "My {p} lied about the {t}",
            "ticket exam game",
            scenario="A {p} lying about the {t}",
            cause="A lie told about the {t}",
        ),
        make_event(
            SOCIAL,
            "They closed the {t} for parking",
            "garden school park",
            scenario="Closing the {t} for parking",
            cause="Nobody asked us about the {t}",
        ),
    ),
    "annoyed": (
        make_event(
            LIFE,
            "They play the {t} every night",
            "piano song drums",
            scenario="Playing the {t} every night",
            cause="No rest because of the {t}",
        ),
        make_event(
            EXPECTATION,
            "The {t} was late again",
            "bus train boat",
            scenario="The {t} being late again",
            cause="Time wasted because of the {t}",
        ),
    ),
    "furious": (
        make_event(
            STRUGGLE,
            "Someone broke into our {t}",
            "car house shop",
            scenario="Someone breaking into the {t}",
            cause="The damage done to the {t}",
        ),
        make_event(
            ACHIEVEMENT,
            "My {p} stole my {t}",
            "idea song role",
            scenario="A {p} stealing the {t}",
            cause="No credit given for the {t}",
        ),
    ),
    # fear
    "afraid": (
        make_event(
            HEALTH,
            "I must face the {t} next week",
            "operation exam scan",
            scenario="Facing the {t} next week",
            cause="The unknown end of the {t}",
        ),
        make_event(
            FEELINGS,
            "I heard {t} outside my door",
            "voices steps rats",
            scenario="Hearing {t} outside the door",
            cause="Sounds of {t} in the dark",
        ),
    ),
    "terrified": (
        make_event(
            LIFE,
            "The {t} nearly hit our house",
            "storm train car",
            scenario="The {t} nearly hitting the house",
            cause="The {t} that came so close",
        ),
        make_event(
            STRUGGLE,
            "I was trapped in the {t}",
            "lift car storm",
            scenario="Being trapped in the {t}",
            cause="No way out of the {t}",
        ),
    ),
    "apprehensive": (
        make_event(
            FUTURE,
            "I must speak at the {t}",
            "wedding school party",
            scenario="A speech to give at the {t}",
            cause="So many eyes at the {t}",
        ),
        make_event(
            SOCIAL,
            "They want to close our {t}",
            "school hospital park",
            scenario="Plans to close the {t}",
            cause="An open future for the {t}",
        ),
    ),
    # sad
    "sad": (
        make_event(
            LIFE,
            "My old {t} died last night",
            "dog cat horse",
            scenario="The death of an old {t}",
            cause="Losing the {t} after many years",
        ),
    ),
    "lonely": (
        make_event(
            FEELINGS,
            "I spent the {t} with nobody",
            "holiday party trip",
            scenario="Spending the {t} with nobody",
            cause="Nobody to share the {t} with",
        ),
    ),
    "guilty": (
        make_event(
            RELATIONS,
            "I broke the {t} of my {p}",
            "ring piano bike",
            scenario="Breaking the {t} of a {p}",
            cause="Too little care with the {t}",
        ),
    ),
    "anxious": (
        make_event(
            FUTURE,
            "We may lose our {t} soon",
            "house garden shop",
            scenario="The risk of losing the {t}",
            cause="An open question about the {t}",
        ),
    ),
    "nostalgic": (
        make_event(
            FEELINGS,
            "I walked past my old {t}",
            "school house garden",
            scenario="Walking past the old {t}",
            cause="The years spent at the {t}",
        ),
    ),
    "embarrassed": (
        make_event(
            STRUGGLE,
            "I fell down at the {t}",
            "wedding party concert",
            scenario="Falling down at the {t}",
            cause="A fall before everyone at the {t}",
        ),
    ),
    "sentimental": (
        make_event(
            SUPPORT,
            "I found the {t} of my grandmother",
            "letter ring diary",
            scenario="Finding the {t} of a grandmother",
            cause="The love kept in the {t}",
        ),
    ),
    "ashamed": (
        make_event(
            SOCIAL,
            "I laughed at the {t} of my {p}",
            "bike song cake",
            scenario="Laughing at the {t} of a {p}",
            cause="Unkind words about the {t}",
        ),
    ),
    "disappointed": (
        make_event(
            EXPECTATION,
            "They cancelled the {t} again",
            "concert trip game",
            scenario="A plan for the {t} cancelled",
            cause="High hopes for the {t}",
        ),
    ),
    # disgusted
    "disgusted": (
        make_event(
            EXPECTATION,
            "I found {t} in my soup",
            "worms hair flies mud",
            scenario="Finding {t} in the soup",
            cause="A spoon of soup with {t}",
        ),
        make_event(
            LIFE,
            "There were {t} in our kitchen",
            "rats worms flies",
            scenario="Seeing {t} in the kitchen",
            cause="Traces of {t} in the kitchen",
        ),
        make_event(
            SOCIAL,
            "People threw {t} in our river",
            "rubbish meat fish milk",
            scenario="People throwing {t} in the river",
            cause="A river full of {t}",
        ),
        make_event(
            RELATIONS,
            "My {p} left {t} under the bed",
            "fish meat milk",
            scenario="A {p} leaving {t} under the bed",
            cause="Old {t} under the bed",
        ),
        make_event(
            STRUGGLE,
            "I stepped in {t} with bare feet",
            "mud rubbish fish milk",
            scenario="Stepping in {t} with bare feet",
            cause="Bare feet deep in {t}",
        ),
        make_event(
            HEALTH,
            "I tasted {t} that had gone bad",
            "milk meat fish soup",
            scenario="Tasting {t} that had gone bad",
            cause="A mouth full of bad {t}",
        ),
        make_event(
            SUPPORT,
            "I wiped {t} off the floor",
            "mud milk hair fish",
            scenario="Wiping {t} off the floor",
            cause="A floor covered with {t}",
        ),
    ),
    # contempt
    "jealous": (
        make_event(
            EXPECTATION,
            "My {p} got the {t} I wanted",
            "role bike car",
            scenario="A {p} getting the wanted {t}",
            cause="The {t} went to somebody else",
        ),
        make_event(
            RELATIONS,
            "My friend took my {p} to the {t}",
            "concert sea game",
            scenario="A friend taking a {p} to the {t}",
            cause="Being left out of the {t}",
        ),
        make_event(
            LIFE,
            "My {p} bought a bigger {t}",
            "house boat car",
            scenario="A {p} buying a bigger {t}",
            cause="Next to the {t} mine looks small",
        ),
        make_event(
            ACHIEVEMENT,
            "They picked my {p} for the {t}",
            "game race role",
            scenario="A {p} being picked for the {t}",
            cause="Not being picked for the {t}",
        ),
        make_event(
            FEELINGS,
            "Everyone praises the {t} of my {p}",
            "voice garden cake",
            scenario="Praise for the {t} of a {p}",
            cause="No praise left beside the {t}",
        ),
        make_event(
            STRUGGLE,
            "My {p} learned the {t} in days",
            "piano song game",
            scenario="A {p} learning the {t} in days",
            cause="My own slow way to the {t}",
        ),
        make_event(
            HEALTH,
            "My {p} passed the {t} without practice",
            "exam race contest",
            scenario="A {p} passing the {t} easily",
            cause="An easy way through the {t}",
        ),
    ),
}
