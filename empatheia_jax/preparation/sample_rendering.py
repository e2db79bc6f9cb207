"""Renders the sample corpus: the classical generators turn one utterance into a wav and an mp4."""

import dataclasses
import functools
from pathlib import Path

from empatheia_jax.data.media.writing import write_audio, write_video
from empatheia_jax.generators.avatars import avatar

FACE_SIZE = 128
"""Side of the videos, pixels: with a quarter of the pixels of AvaMERG's clips the corpus takes half a minute."""

LOAD_TEST_FACE_SIZE = 64
"""Side of the videos of corpora for load tests, pixels. These videos are silent; the wav has the sound."""

METADATA = {
    "title": "empatheia_jax sample corpus",
    "artist": "classical generators (espeak-ng voice, parametric face; no weights)",
    "comment": "Synthetic speech and face: no real person is heard or seen.",
}


@dataclasses.dataclass(frozen=True)
class RenderJob:
    """One utterance to render."""

    audio: Path
    video: Path
    text: str
    avatar: int  # number in the avatar table
    emotion: str  # of the 7
    for_load_test: bool = False  # small, silent video, which is quicker to make

    @property
    def exists(self) -> bool:
        """Whether both files are there; files are written under another name first, so each is complete."""
        return self.audio.is_file() and self.video.is_file()


@functools.lru_cache(maxsize=1)
def _generators(size: int):
    import cv2

    from empatheia_jax.generators.classical.face import ClassicalFace
    from empatheia_jax.generators.classical.voice import ClassicalSpeech

    cv2.setNumThreads(1)  # all cores are busy with workers already
    return ClassicalSpeech(), ClassicalFace(size)


def render(job: RenderJob) -> float:
    """Synthesise the speech and the face of one utterance and write both files; return its length in seconds."""
    voice, face = _generators(LOAD_TEST_FACE_SIZE if job.for_load_test else FACE_SIZE)
    person = avatar(job.avatar)
    phonemes = voice.phonemes(job.text)
    speech = voice.speak(voice.content(phonemes), person.style_speech(job.emotion), phonemes)
    content = face.content(speech.audio, speech.sample_rate, phonemes, speech.phoneme_frames)
    frames = face.animate(content, person.style_video(job.emotion), person.portrait)
    write_audio(job.audio, speech.audio, speech.sample_rate, METADATA)
    sound = {} if job.for_load_test else {"audio": speech.audio, "sample_rate": speech.sample_rate}
    write_video(job.video, frames, face.fps, **sound, metadata=METADATA, preset="ultrafast", crf=23)
    return len(speech.audio) / speech.sample_rate
