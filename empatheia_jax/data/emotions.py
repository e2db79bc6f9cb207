"""The 32 emotions of the text, the 7 of voice and face, the map between them, words for them, and profile values.

Source: the label set of EmpatheticDialogues; the 32 -> 7 table is that of the AvaMERG baseline (paper Fig. 10).
"""

import re

AVATAR_EMOTIONS = ("happy", "surprised", "angry", "fear", "sad", "disgusted", "contempt")
"""The seven multimodal emotions (section 3.3), in the baseline's order of ids."""

FINE_TO_AVATAR = {
    "afraid": "fear",
    "angry": "angry",
    "annoyed": "angry",
    "anticipating": "happy",
    "anxious": "sad",
    "apprehensive": "fear",
    "ashamed": "sad",
    "caring": "happy",
    "confident": "happy",
    "content": "happy",
    "devastated": "surprised",
    "disappointed": "sad",
    "disgusted": "disgusted",
    "embarrassed": "sad",
    "excited": "happy",
    "faithful": "happy",
    "furious": "angry",
    "grateful": "happy",
    "guilty": "sad",
    "hopeful": "happy",
    "impressed": "surprised",
    "jealous": "contempt",
    "joyful": "happy",
    "lonely": "sad",
    "nostalgic": "sad",
    "prepared": "happy",
    "proud": "happy",
    "sad": "sad",
    "sentimental": "sad",
    "surprised": "surprised",
    "terrified": "fear",
    "trusting": "happy",
}
FINE_EMOTIONS = tuple(FINE_TO_AVATAR)

AGES = ("child", "young", "middle-aged", "elderly")
GENDERS = ("male", "female")
TIMBRES = ("high", "mid", "low")
"""Values of "timbre", the on-disk word for the paper's tone, in the baseline's order of ids."""


def avatar_emotion(fine: str) -> str:
    """Map one of the 32 text emotions to one of the 7 avatar emotions.

    Raises:
      KeyError: when `fine` is not one of `FINE_EMOTIONS`.
    """
    return FINE_TO_AVATAR[fine]


# Words ----------------------------------------------------------------------------------------------------------------

SYNONYMS = {
    "joyful": "happy happiness joy glad delighted cheerful pleased elated overjoyed ecstatic blissful amused",
    "sad": "sadness unhappy upset down sorrow sorrowful depressed gloomy miserable hurt melancholy tired weary pity",
    "surprised": "surprise shocked shock astonished startled stunned bewildered",
    "impressed": "impression amazed amazement awe awed admiration admiring",
    "devastated": "devastation heartbroken grief grieving shattered crushed",
    "angry": "anger mad outraged outrage resentful",
    "furious": "fury rage enraged livid infuriated",
    "annoyed": "annoyance irritated irritation frustrated frustration bothered aggravated displeased",
    "afraid": "fear fearful scared frightened",
    "terrified": "terror horrified petrified horror panicked",
    "apprehensive": "apprehension uneasy hesitant wary unsure uncertain",
    "anxious": "anxiety worried worry nervous stressed tense concerned concern overwhelmed",
    "disgusted": "disgust revolted repulsed grossed nauseated",
    "jealous": "jealousy envious envy contempt contemptuous scornful",
    "excited": "excitement thrilled enthusiastic eager",
    "proud": "pride accomplished",
    "grateful": "gratitude thankful appreciative blessed",
    "hopeful": "hope optimistic optimism",
    "confident": "confidence certain assured",
    "anticipating": "anticipation expectant expecting awaiting",
    "prepared": "ready preparation readiness",
    "content": "contentment contented satisfied satisfaction relieved relief calm peaceful fulfilled",
    "caring": "care compassion compassionate sympathetic loving love affectionate",
    "trusting": "trust trustful",
    "faithful": "faith loyal loyalty devoted faithfulness",
    "lonely": "loneliness alone isolated lonesome",
    "guilty": "guilt remorse remorseful regret regretful",
    "nostalgic": "nostalgia reminiscent reminiscing",
    "embarrassed": "embarrassment humiliated awkward",
    "sentimental": "sentimentality wistful touched moved",
    "ashamed": "shame shameful",
    "disappointed": "disappointment discouraged letdown disheartened dissatisfied",
}
"""Nouns and adjectives close to each label (our own table). The names of the 7 avatar emotions keep their class."""

_BY_WORD = {word: fine for fine, words in SYNONYMS.items() for word in words.split()} | {
    fine: fine for fine in FINE_EMOTIONS
}
_NEGATIONS = {"not", "no", "never", "without", "neither", "nor", "isn't", "hardly"}


def normalise_emotion(text: str) -> str | None:
    """Return the fine emotion that free text names ("Very worried." -> "anxious"), or None where it names none.

    The first emotion word that is not negated counts; one of the 32 labels takes precedence over a synonym.
    """
    words = re.findall(r"[a-z']+", text.lower())
    affirmed = [word for previous, word in zip(["", *words], words, strict=False) if previous not in _NEGATIONS]
    for word in affirmed:
        if word in FINE_EMOTIONS:
            return word
    return next((_BY_WORD[word] for word in affirmed if word in _BY_WORD), None)
