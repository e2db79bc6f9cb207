"""Whether style is audible and visible: profiles x emotions x neutral texts, measured in the generated answers.

"asked" is measured in the corpus's own rendering of the same words for that profile and emotion (its avatars' styles);
"heard" and "seen" are measured in the audio and the frames of the model's answers.
"""

import dataclasses
import itertools

import numpy as np
from scipy.stats import rankdata

from empatheia_jax.data import emotions
from empatheia_jax.data.schema import Example, Profile
from empatheia_jax.evaluation.conditions import STYLE_MEASURES, gold_avatar_emotion
from empatheia_jax.generators.avatars import Avatar, avatars_with_profile
from empatheia_jax.generators.classical.face_geometry import measure_brow_height, measure_mouth_curve
from empatheia_jax.generators.classical.measure import measure_f0, syllables_per_second
from empatheia_jax.generators.interfaces import FaceGenerator, Speech, SpeechGenerator, video_frame_count
from empatheia_jax.inference.engine import Engine
from empatheia_jax.inference.prompt import Features
from empatheia_jax.inference.synthesis import synthesize

PROFILES = (
    Profile("child", "female", "high"),
    Profile("young", "male", "mid"),
    Profile("middle-aged", "female", "low"),
    Profile("elderly", "male", "low"),
)


def sweep_styles(
    engine: Engine,
    speech: SpeechGenerator,
    face: FaceGenerator,
    neutral: list[Example],
    *,
    features: Features,
    texts: int = 3,
) -> dict:
    """Answer neutral texts as 4 profiles, under 7 emotions shown by the media of other neutral dialogues.

    Args:
      engine: the run.
      speech: the classical speech generator (its own avatars are measured for comparison).
      face: the classical face generator.
      neutral: labelled Examples whose words carry no emotion; their first turns are used.
      features: utterance key -> stored features, or None.
      texts: number of texts in each cell.

    Returns:
      {"cells": [...28], "rho": {measure: [rho, p]}, "answered": texts that got a response, "f0_between_profiles":
      {"worst", "within_3"}} of the report; F0 in semitones from the profile's mean, rate in syllables a second, mouth
      and brow in shares of the picture's height.
    """
    first_turns = [example for example in neutral if example.turn_id == 0 and example.chain]
    donors: dict[str, list[Example]] = {name: [] for name in emotions.AVATAR_EMOTIONS}
    for example in first_turns:
        donors[gold_avatar_emotion(example)].append(example)
    requests, examples, media = [], [], {}
    for profile in PROFILES:
        for emotion in (name for name in emotions.AVATAR_EMOTIONS if donors[name]):
            for number in range(texts):
                words = first_turns[(7 * number) % len(first_turns)]
                donor = donors[emotion][number % len(donors[emotion])]
                identity = f"sweep-{len(examples)}"
                examples.append(
                    dataclasses.replace(words, split="sweep", conversation_id=identity, listener_profile=profile)
                )
                media[f"sweep/{identity}/0"] = donor.utterance_key(donor.history[0])
                requests.append((profile, emotion))
    answers = engine.answer(examples, lambda key: features(media[key]), [profile for profile, _ in requests])
    measured: dict[tuple, list[dict[str, float]]] = {}
    for (profile, emotion), answer in zip(requests, answers, strict=True):
        if answer.parsed.response is None:
            continue
        avatar = avatars_with_profile(profile, held_out=False)[0]
        synthesized = synthesize(engine, speech, face, answer, portrait=avatar.portrait, source="synchronizer")
        phonemes = speech.phonemes(answer.parsed.response)
        heard = _measure(synthesized.speech, phonemes, synthesized.frames, "heard")
        avatars = avatars_with_profile(profile, held_out=False)
        rendered = [_measure_corpus(speech, face, avatar, emotion, phonemes=phonemes) for avatar in avatars]
        asked = {name: float(np.mean([values[name] for values in rendered])) for name in rendered[0]}
        measured.setdefault((profile, emotion), []).append(heard | asked)
    return _compare(measured)


def _measure_corpus(
    speech: SpeechGenerator, face: FaceGenerator, avatar: Avatar, emotion: str, *, phonemes: np.ndarray
) -> dict[str, float]:
    """Measure the corpus's own rendering of these words in the same way."""
    spoken = speech.speak(speech.content(phonemes), avatar.style_speech(emotion), phonemes)
    mouth = face.content(spoken.audio, spoken.sample_rate, phonemes, spoken.phoneme_frames)
    assert len(mouth) == video_frame_count(spoken.phoneme_frames)
    frames = face.animate(mouth, avatar.style_video(emotion), avatar.portrait)
    return _measure(spoken, phonemes, frames, "asked")


def _measure(spoken: Speech, phonemes: np.ndarray, frames: np.ndarray, suffix: str) -> dict[str, float]:
    values = {
        "f0": 12 * np.log2(measure_f0(spoken.audio, spoken.sample_rate) / 100.0),
        "rate": syllables_per_second(spoken.audio, spoken.sample_rate, phonemes),
        "mouth": measure_mouth_curve(frames),
        "brow": measure_brow_height(frames),
    }
    return {f"{name}_{suffix}": float(value) for name, value in values.items()}


def _compare(measured: dict[tuple, list[dict[str, float]]]) -> dict:
    cells = []
    for (profile, emotion), answers in measured.items():
        mean = {name: float(np.nanmean([values[name] for values in answers])) for name in answers[0]}
        profile_name = f"{profile.age} {profile.gender}, {profile.timbre}"
        cells.append({"profile": profile_name, "emotion": emotion, **mean})
    for suffix in ("asked", "heard"):  # F0 in semitones from the profile's mean
        for profile_name in {cell["profile"] for cell in cells}:
            same_profile = [cell for cell in cells if cell["profile"] == profile_name]
            centre = np.mean([cell[f"f0_{suffix}"] for cell in same_profile])
            for cell in same_profile:
                cell[f"f0_from_100_{suffix}"] = cell[f"f0_{suffix}"]
                cell[f"f0_{suffix}"] -= centre
    rho = {}
    for key, sense, *_ in STYLE_MEASURES:
        asked, answered = ([cell[f"{key}_{suffix}"] for cell in cells] for suffix in ("asked", "heard"))
        rho[key] = list(spearman(np.array(asked), np.array(answered)))
        if sense != "heard":
            for cell in cells:
                cell[f"{key}_{sense}"] = cell.pop(f"{key}_heard")
    return {
        "cells": cells,
        "rho": rho,
        "answered": sum(map(len, measured.values())),
        "f0_between_profiles": f0_between_profiles(cells),
    }


def f0_between_profiles(cells: list[dict]) -> dict[str, float]:
    """Compare how the profile alone moves F0: the difference in the answers minus that in the corpus, in semitones.

    Returns:
      "worst": the largest mean error, over emotions, of any two profiles; "within_3": the share of pairs and emotions
      whose error is at most 3.
    """
    error = {
        (cell["profile"], cell["emotion"]): cell["f0_from_100_heard"] - cell["f0_from_100_asked"] for cell in cells
    }
    profiles = sorted({profile for profile, _ in error})
    pairs = []
    for first, second in itertools.combinations(profiles, 2):
        shared = [e for p, e in error if p == first and (second, e) in error]
        pairs.append([error[first, emotion] - error[second, emotion] for emotion in shared])
    differences = np.abs(np.concatenate(pairs)) if pairs else np.array([np.nan])
    return {
        "worst": float(max((abs(np.mean(pair)) for pair in pairs if pair), default=np.nan)),
        "within_3": float(np.mean(differences <= 3.0)),
    }


def spearman(a: np.ndarray, b: np.ndarray, permutations: int = 5000, seed: int = 0) -> tuple[float, float]:
    """Return Spearman's rank correlation of a and b [n], and its one-sided permutation p (rho above 0)."""
    ranks_a, ranks_b = rankdata(a), rankdata(b)
    rho = float(np.corrcoef(ranks_a, ranks_b)[0, 1])
    rng = np.random.default_rng(seed)
    drawn = np.array([np.corrcoef(ranks_a, rng.permutation(ranks_b))[0, 1] for _ in range(permutations)])
    return rho, float((1 + np.sum(drawn >= rho)) / (1 + permutations))
