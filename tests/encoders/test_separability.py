"""Linear separability: a linear map fitted to the features of some avatars classifies profile and emotion of others."""

import itertools

import numpy as np
import pytest

from empatheia_jax.data.emotions import AGES, AVATAR_EMOTIONS, GENDERS
from empatheia_jax.data.schema import Profile
from empatheia_jax.encoders.classical_audio import ClassicalAudio
from empatheia_jax.encoders.classical_video import ClassicalVideo
from empatheia_jax.generators.interfaces import Portrait

PROFILES = [
    Profile(age, gender, "mid", number) for number, (age, gender) in enumerate(itertools.product(AGES, GENDERS))
]
AVATARS_EACH = 3  # avatars of each age and gender; the last one is held out


def linear_accuracy(features: np.ndarray, labels: np.ndarray, held_out: np.ndarray, ridge: float = 3.0) -> float:
    """Return the held-out accuracy of a ridge regression on one-hot labels, fitted to the other items."""
    mean, spread = features[~held_out].mean(axis=0), features[~held_out].std(axis=0) + 0.1
    x = np.concatenate([(features - mean) / spread, np.ones((len(features), 1))], axis=1)
    targets = (labels[:, None] == np.unique(labels)).astype(float)
    gram = x[~held_out] @ x[~held_out].T
    weights = x[~held_out].T @ np.linalg.solve(gram + ridge * np.eye(len(gram)), targets[~held_out])
    return float(np.mean((x[held_out] @ weights).argmax(axis=1) == targets[held_out].argmax(axis=1)))


def expressions(emotions=AVATAR_EMOTIONS):
    """Iterate over (profile, emotion number, avatar number, whether held out): every avatar in every emotion."""
    for variant, profile, emotion in itertools.product(
        range(AVATARS_EACH), PROFILES, map(AVATAR_EMOTIONS.index, emotions)
    ):
        yield profile, emotion, 100 * variant + profile.id, variant == AVATARS_EACH - 1


def test_emotion_and_age_from_faces():
    from empatheia_jax.generators.classical.appearance import appearance_for
    from empatheia_jax.generators.classical.face import ClassicalFace
    from empatheia_jax.generators.classical.face_style import face_style_for

    face, encoder, rows = ClassicalFace(128), ClassicalVideo(), []
    rng = np.random.default_rng(0)
    for profile, emotion, number, held_out in expressions():
        content = rng.uniform(0, 0.6, (8, face.content_dim)).astype(np.float32)  # any mouth shapes
        style = face_style_for(profile, AVATAR_EMOTIONS[emotion], number)
        frames = face.animate(content, style, Portrait(appearance=appearance_for(profile, number)))
        features = encoder.encode(encoder.preprocess(frames)).mean(axis=0)
        rows.append((features, emotion, AGES.index(profile.age), held_out))
    features, emotions, ages, held_out = (np.array(column) for column in zip(*rows, strict=True))
    assert linear_accuracy(features, emotions, held_out) > 0.85
    assert linear_accuracy(features, ages, held_out) > 0.8
    assert encoder.faces_missed < 0.03 * len(rows)  # faces of every age and skin are found


def test_gender_age_and_pitch_manner_from_voices():
    pytest.importorskip("espeakng_loader")
    import soxr

    from empatheia_jax.generators.classical.voice import ClassicalSpeech
    from empatheia_jax.generators.classical.voices import speech_style_for

    speech, encoder, rows = ClassicalSpeech(), ClassicalAudio(), []
    sentences = ["I did not think it would end.", "We were by the river again.", "They told me about it today."]
    for profile, emotion, number, held_out in expressions(("happy", "angry", "fear", "sad")):
        phonemes = speech.phonemes(sentences[(profile.id + emotion + number) % 3])
        spoken = speech.speak(
            speech.content(phonemes), speech_style_for(profile, AVATAR_EMOTIONS[emotion], number), phonemes
        )
        audio = soxr.resample(spoken.audio, spoken.sample_rate, encoder.sample_rate)
        features = encoder.encode(encoder.preprocess(audio)).mean(axis=0)
        rows.append((features, emotion, AGES.index(profile.age), GENDERS.index(profile.gender), held_out))
    features, emotions, ages, genders, held_out = (np.array(column) for column in zip(*rows, strict=True))
    assert linear_accuracy(features, genders, held_out) > 0.9
    assert linear_accuracy(features, ages, held_out) > 0.9
    assert linear_accuracy(features, emotions, held_out) > 0.8
