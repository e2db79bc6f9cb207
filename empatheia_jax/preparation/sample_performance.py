"""Performing the sample corpus: the classical generators turn one utterance into a wav and an mp4."""

import dataclasses
import functools
from pathlib import Path

from empatheia_jax.data.media_writing import write_audio, write_video
from empatheia_jax.inference.avatars import avatar

FACE_SIZE = 128
"""Side of the videos in pixels: a fourth of the pixels of AvaMERG's clips keeps the corpus within half a minute."""

LOAD_FACE_SIZE = 64
"""Of corpora that are for load only; their videos have no sound track, which the wav repeats anyway."""

METADATA = {
    "title": "empatheia_jax sample corpus",
    "artist": "classical generators (espeak-ng voice, parametric face; no weights)",
    "comment": "Synthetic speech and face: no real person is heard or seen.",
}


@dataclasses.dataclass(frozen=True)
class Performance:
    """One utterance to perform."""

    audio: Path
    video: Path
    text: str
    avatar: int  # number in the avatar table
    emotion: str  # of the 7
    load: bool = False  # as quickly as can be: small and silent video

    @property
    def exists(self) -> bool:
        """Whether both files are there; they are written under another name first, so a file is a whole file."""
        return self.audio.is_file() and self.video.is_file()


@functools.lru_cache(maxsize=1)
def _performers(size: int):
    import cv2

    from empatheia_jax.generators.classical.face import ClassicalFace
    from empatheia_jax.generators.classical.voice import ClassicalSpeech

    cv2.setNumThreads(1)  # workers share the cores between them
    return ClassicalSpeech(), ClassicalFace(size)


def perform(performance: Performance) -> float:
    """Speak, draw and write one utterance; returns its length in seconds."""
    voice, face = _performers(LOAD_FACE_SIZE if performance.load else FACE_SIZE)
    who = avatar(performance.avatar)
    phonemes = voice.phonemes(performance.text)
    speech = voice.speak(voice.content(phonemes), who.voice(performance.emotion), phonemes)
    content = face.content(speech.audio, speech.sample_rate, phonemes, speech.phoneme_frames)
    frames = face.animate(content, who.face(performance.emotion), who.portrait)
    write_audio(performance.audio, speech.audio, speech.sample_rate, METADATA)
    sound = (None, None) if performance.load else (speech.audio, speech.sample_rate)
    write_video(performance.video, frames, face.fps, *sound, METADATA, preset="ultrafast", crf=23)
    return len(speech.audio) / speech.sample_rate
