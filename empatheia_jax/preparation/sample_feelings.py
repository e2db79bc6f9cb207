"""The phrases in which the speakers of the sample corpus express feelings, and the listeners' answers.

Each avatar emotion has a few phrases of its own (`TAILS`), which recur in training and test in different sentences;
each of the 32 fine emotions has more (`FINE_CLAUSES`). The listener's goals and answers follow from emotion and event.
`{t}` is the thing the event is about; every sentence is grammatical whether it is singular or plural.
"""

TAILS: dict[str, tuple[str, ...]] = {
    "happy": (
        "and I cannot stop smiling",
        "and it feels wonderful",
        "and I am so glad",
        "and my heart is full of joy",
        "and I am simply delighted",
    ),
    "surprised": (
        "and I still cannot believe it",
        "and I never expected it",
        "it came out of nowhere",
        "and I am completely stunned",
        "and it was a complete shock",
    ),
    "angry": (
        "and I am so angry",
        "and it is simply unfair",
        "and I want to shout",
        "and my blood is boiling",
        "and I am fed up",
    ),
    "fear": (
        "and I am so scared",
        "and my hands are shaking",
        "and it frightens me",
        "and I feel the danger",
        "and I am close to panic",
    ),
    "sad": (
        "and I cried for hours",
        "and my heart is heavy",
        "and it hurts so much",
        "and I am full of sorrow",
        "and the tears keep coming",
    ),
    "disgusted": (
        "and it was so gross",
        "and the smell was terrible",
        "and my stomach turned",
        "and it was truly revolting",
        "and it was absolutely filthy",
    ),
    "contempt": (
        "and I envy all of it",
        "and I deserve it more",
        "and it was never earned",
        "and now the bragging starts",
        "and it is never me",
    ),
}

FINE_CLAUSES: dict[str, tuple[str, ...]] = {
    "excited": ("I am excited about the {t}", "The {t} makes me so excited"),
    "proud": ("The {t} makes me so proud", "I am proud about the {t}"),
    "grateful": ("I am grateful for the {t}", "I say thanks for the {t}"),
    "hopeful": ("The {t} gives me hope", "I am hopeful about the {t}"),
    "confident": ("I am confident about the {t}", "I know I can do the {t}"),
    "anticipating": ("I can hardly wait for the {t}", "I count the hours to the {t}"),
    "content": ("The {t} gives me peace", "I am calm and content in the {t}"),
    "caring": ("I made the {t} with love", "I take care with the {t}"),
    "trusting": ("I trust them with the {t}", "The {t} shows how I trust them"),
    "faithful": ("We stay loyal to the {t}", "I am faithful to the {t}"),
    "prepared": ("I am ready for the {t}", "I feel prepared for the {t}"),
    "joyful": ("The {t} was pure happiness", "I felt so joyful at the {t}"),
    "surprised": ("The {t} really surprised me", "I am surprised by the {t}"),
    "impressed": ("The {t} really impressed me", "I am impressed by the {t}"),
    "devastated": ("Losing the {t} devastated me", "I am devastated about the {t}"),
    "angry": ("The {t} makes me angry", "I am angry about the {t}"),
    "annoyed": ("The {t} really annoyed me", "I am annoyed about the {t}"),
    "furious": ("The {t} made me furious", "I am furious about the {t}"),
    "afraid": ("I am afraid of the {t}", "The {t} made me afraid"),
    "terrified": ("I am terrified of the {t}", "The {t} terrified me"),
    "apprehensive": ("I am uneasy about the {t}", "The {t} makes me uneasy"),
    "sad": ("I am sad about the {t}", "The {t} makes me so sad"),
    "lonely": ("The {t} made me lonely", "The {t} felt so lonely"),
    "guilty": ("I feel guilty about the {t}", "The {t} was my fault"),
    "anxious": ("I worry about the {t}", "I am anxious about the {t}"),
    "nostalgic": ("The {t} brings back old days", "I long for the old {t}"),
    "embarrassed": ("I was embarrassed at the {t}", "My face went red at the {t}"),
    "sentimental": ("The {t} holds many memories", "I remember so much with the {t}"),
    "ashamed": ("I am ashamed about the {t}", "I was unkind about the {t}"),
    "disappointed": ("Without the {t} I feel let down", "I am disappointed about the {t}"),
    "disgusted": ("The {t} really disgusted me", "I am disgusted by the {t}"),
    "jealous": ("The {t} makes me jealous", "I am jealous about the {t}"),
}

OPENINGS: dict[str, tuple[str, ...]] = {
    "happy": ("How lovely", "How wonderful"),
    "surprised": ("Oh my", "How unexpected"),
    "angry": ("How unfair", "No wonder you are angry"),
    "fear": ("That sounds scary", "Oh, how frightening"),
    "sad": ("I am so sorry", "That sounds so sad"),
    "disgusted": ("Yuck", "How revolting"),
    "contempt": ("That stings", "I know such envy"),
}
FIRST_QUESTIONS = (
    "how did the {t} change your day?",
    "what did you think about the {t}?",
    "what could the {t} mean for you?",
    "how do you see the {t} now?",
)

ANSWERS: dict[str, tuple[str, ...]] = {
    "happy": (
        "I share your joy about the {t}!",
        "Enjoy every moment of the {t}, how wonderful!",
        "The {t} must be a lovely reason to celebrate!",
    ),
    "surprised": (
        "Nobody could have expected the {t}, what a shock!",
        "The {t} must have been a complete surprise!",
        "I can hardly believe the {t} either!",
    ),
    "angry": (
        "Your anger about the {t} is fair, I understand.",
        "Anyone would be angry about the {t}.",
        "What happened with the {t} was unfair to you.",
    ),
    "fear": (
        "You are safe, we face the {t} together.",
        "Fear of the {t} is normal, breathe slowly.",
        "I stay with you, even with the {t}.",
    ),
    "sad": (
        "I am so sorry about the {t}, I am here.",
        "Let the tears about the {t} come.",
        "What happened with the {t} hurts, lean on me.",
    ),
    "disgusted": (
        "The {t} would turn my stomach too.",
        "The {t} must have been revolting for you.",
        "Nobody should have to bear the {t}, how gross.",
    ),
    "contempt": (
        "Envy about the {t} is human, your turn comes.",
        "You deserve good things too, beyond the {t}.",
        "The {t} cannot make you any smaller.",
    ),
}

PERCEIVED_ANSWERS: dict[str, tuple[str, ...]] = {
    # the last answer of a neutral dialogue: the words do not tell the emotion, so it speaks of voice and face
    "happy": (
        "You sound so happy about the {t}, how lovely!",
        "I hear the joy in your voice about the {t}!",
        "You look delighted about the {t}, enjoy every moment!",
    ),
    "surprised": (
        "You sound surprised by the {t}, how unexpected!",
        "You look stunned, nobody could have expected the {t}!",
        "I hear the surprise about the {t} in your voice!",
    ),
    "angry": (
        "You sound angry about the {t}, I understand.",
        "I hear your anger about the {t}, let it out.",
        "You look angry, something about the {t} was unfair.",
    ),
    "fear": (
        "You sound afraid of the {t}, you are safe.",
        "I hear your fear about the {t}, breathe slowly.",
        "You look scared, we face the {t} together.",
    ),
    "sad": (
        "You sound sad about the {t}, I am here.",
        "I hear tears in your voice about the {t}.",
        "You look sad, something about the {t} hurts.",
    ),
    "disgusted": (
        "You look disgusted by the {t}, how gross.",
        "I hear that the {t} would turn your stomach.",
        "You sound disgusted, the {t} must have been revolting.",
    ),
    "contempt": (
        "You sound jealous about the {t}, your turn comes.",
        "I hear envy about the {t}, you deserve more.",
        "You look jealous, good things come beyond the {t}.",
    ),
}

GOALS: dict[str, tuple[str, ...]] = {
    "happy": ("Share the joy about the {t}", "Celebrate the {t} with the speaker", "Enjoy the {t} together"),
    "surprised": (
        "Share the surprise about the {t}",
        "Wonder about the {t} with the speaker",
        "Take in the unexpected {t} together",
    ),
    "angry": ("Accept the anger about the {t}", "Calm the anger about the {t}", "Let the anger about the {t} out"),
    "fear": ("Give safety about the {t}", "Calm the fear of the {t}", "Ease the fear about the {t}"),
    "sad": ("Comfort the speaker about the {t}", "Ease the sorrow about the {t}", "Share the sorrow about the {t}"),
    "disgusted": ("Share the disgust at the {t}", "Agree how gross the {t} must be", "Ease the disgust about the {t}"),
    "contempt": ("Ease the envy about the {t}", "Turn the envy of the {t} to hope", "Accept the envy about the {t}"),
}
