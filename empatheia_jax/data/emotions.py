"""The 32 emotions of the text, the 7 of voice and face, the published map between them, and the profile values.

Source: the label set of EmpatheticDialogues; the 32 -> 7 table is that of the AvaMERG baseline (paper Fig. 10).
"""

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
