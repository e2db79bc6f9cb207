"""The aims of the sample corpus: what a run on it must reach for the system to be whole."""

from typing import Any

from empatheia_jax.evaluation import conditions
from empatheia_jax.evaluation.conditions import (
    PROFILE_GIVEN,
    PROFILE_HEARD,
    PROFILE_SWAPPED,
    SWAPPED_MEDIA,
    WITH_MEDIA,
    WITHOUT_MEDIA,
)


def aims(report: dict) -> list[dict]:
    """Return the aims of the sample corpus beside what was measured; what was not measured is left out."""
    rows: list[dict] = []

    def add(label: str, path: tuple, bound: float, at_most: bool = False) -> None:
        value: Any = report
        for step in path:
            value = value.get(step) if isinstance(value, dict) else (value[step] if value is not None else None)
            if value is None:
                return
        rows.append(
            {
                "what": label,
                "aim": f"{'at most' if at_most else 'at least'} {bound:g}",
                "got": f"{value:.3f}",
                "met": bool(value <= bound if at_most else value >= bound),
            }
        )

    emotion = ("emotion", "conditions")
    add("7-way gain from speech and video, lower 5 % bound", ("emotion", "gain7", 1), 0.20)
    add("neutral words, with speech and video: 7-way", (*emotion, WITH_MEDIA, "neutral7", 0), 0.70)
    add("neutral words, without: 7-way", (*emotion, WITHOUT_MEDIA, "neutral7", 0), 0.30, at_most=True)
    add("emotional words, without: 7-way", (*emotion, WITHOUT_MEDIA, "emotional7", 0), 0.50)
    add(
        "swapped media, neutral words: 7-way follows the media",
        (*emotion, SWAPPED_MEDIA, "neutral_follows_media7", 0),
        0.70,
    )
    split = report.get("split", "test")
    for name, bound in (("content_speech", 0.9), ("content_video", 0.8), ("style_speech", 0.7), ("style_video", 0.7)):
        add(f"variance explained, {name}", ("latents", split, name), bound)
    add("nearest phoneme of C_speech", ("latents", split, "nearest_phoneme"), 0.95)
    for condition in (PROFILE_GIVEN, PROFILE_HEARD):
        for label in ("age", "gender", "timbre"):
            add(f"{label}, {condition}", ("disentangler", condition, label), 0.85)
    add("emotion by the disentangler", ("disentangler", PROFILE_GIVEN, "emotion"), 0.85)
    for label in ("age", "gender", "timbre"):
        add(
            f"{label} follows another prompted profile",
            ("disentangler", PROFILE_SWAPPED, label),
            0.90,
        )
    for measure in conditions.STYLE_MEASURES:
        add(f"{measure.name}: rank correlation over 28 cells", ("style", "rho", measure.key, 0), 0.8)
        add(f"{measure.name}: permutation p", ("style", "rho", measure.key, 1), 0.01, at_most=True)
    between = ("style", "f0_between_profiles", "worst")
    add("F0 moved by the profile alone, worst pair's error, semitones", between, 3.0, at_most=True)
    return rows
