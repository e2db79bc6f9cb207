"""Renders the sample corpus: a voice and the classical face turn each utterance into a wav and an mp4."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from empatheia_jax.data.media.writing import write_audio, write_video
from empatheia_jax.generators.avatars import avatar
from empatheia_jax.generators.interfaces import Speech

FACE_SIZE = 128
"""Side of the videos, pixels: with a quarter of the pixels of AvaMERG's clips the corpus takes half a minute."""

LOAD_TEST_FACE_SIZE = 64
"""Side of the videos of corpora for load tests, pixels. These videos are silent; the wav has the sound."""

VOICES = {
    "classical": "classical generators (espeak-ng voice, parametric face; no weights)",
    "kokoro": "Kokoro-82M (trained voice, hexgrad, Apache-2.0) and classical parametric face",
}
"""Who can perform the corpus, and what the metadata of its files say of it."""

KOKORO_BATCH = 16  # utterances: an interrupted call loses no more than these


@dataclasses.dataclass(frozen=True)
class RenderJob:
    """One utterance to render."""

    audio: Path
    video: Path
    text: str
    avatar: int  # number in the avatar table
    emotion: str  # of the 7
    for_load_test: bool = False  # small, silent video, which is quicker to make
    voice: str = "classical"  # of `VOICES`

    @property
    def exists(self) -> bool:
        """Whether both files are there; files are written under another name first, so each is complete."""
        return self.audio.is_file() and self.video.is_file()


def render(job: RenderJob) -> float:
    """Perform one utterance with the classical voice and write both files; return its length in seconds."""
    voice = _classical_voice()
    phonemes = voice.phonemes(job.text)
    style = avatar(job.avatar).style_speech(job.emotion)
    return _write(job, voice.speak(voice.content(phonemes), style, phonemes), phonemes)


def render_with_kokoro(jobs: Sequence[RenderJob]) -> Iterator[float]:
    """Perform utterances with Kokoro and write their files; yield the length of each in seconds.

    Its networks use all cores, so they speak in this process, in batches of similar length.
    """
    voice = kokoro_voice()
    ordered = sorted(((voice.phonemes(job.text), job) for job in jobs), key=lambda entry: len(entry[0]))
    for start in range(0, len(ordered), KOKORO_BATCH):
        phonemes, batch = zip(*ordered[start : start + KOKORO_BATCH], strict=True)
        styles = [voice.style_for(avatar(job.avatar).profile, job.emotion) for job in batch]
        for job, ids, speech in zip(
            batch, phonemes, voice.speak_many(voice.contents(phonemes), styles, phonemes), strict=True
        ):
            yield _write(job, speech, ids)


@functools.lru_cache(maxsize=1)
def kokoro_voice():
    """Return the fetched Kokoro.

    Raises:
      PartError: it is not fetched.
    """
    from empatheia_jax.generators.styletts2.kokoro import KokoroSpeech

    return KokoroSpeech()


@functools.lru_cache(maxsize=1)
def _classical_voice():
    from empatheia_jax.generators.classical.voice import ClassicalSpeech

    return ClassicalSpeech()


@functools.lru_cache(maxsize=1)
def _face(size: int):
    import cv2

    from empatheia_jax.generators.classical.face import ClassicalFace

    cv2.setNumThreads(1)  # all cores are busy with workers already
    return ClassicalFace(size)


def _write(job: RenderJob, speech: Speech, phonemes: np.ndarray) -> float:
    """Animate the face that says `speech`, write both files and return the speech's length in seconds."""
    person, face = avatar(job.avatar), _face(LOAD_TEST_FACE_SIZE if job.for_load_test else FACE_SIZE)
    content = face.content(speech.audio, speech.sample_rate, phonemes, speech.phoneme_frames)
    frames = face.animate(content, person.style_video(job.emotion), person.portrait)
    metadata = {
        "title": "empatheia_jax sample corpus",
        "artist": VOICES[job.voice],
        "comment": "Synthetic speech and face: no real person is heard or seen.",
    }
    write_audio(job.audio, speech.audio, speech.sample_rate, metadata)
    sound = {} if job.for_load_test else {"audio": speech.audio, "sample_rate": speech.sample_rate}
    write_video(job.video, frames, face.fps, **sound, metadata=metadata, preset="ultrafast", crf=23)
    return len(speech.audio) / speech.sample_rate
