"""From an answer to voice and face (section 4.3): content and style go to the frozen generators.

The speech generator runs first and returns how long each phoneme lasts; the face follows.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from empatheia_jax.generators.interfaces import FaceGenerator, Portrait, Speech, SpeechGenerator, video_frame_count
from empatheia_jax.inference.engine import Answer, Engine

AGREEMENT_WANTED = 0.9


@dataclasses.dataclass(frozen=True)
class Performance:
    """An answer made audible and visible."""

    speech: Speech
    frames: np.ndarray  # uint8 [F, h, w, 3]
    content_source: str  # "synchronizer" | "generator": whose content was spoken
    agreement: float | None  # share of phonemes on which synchronizer and G2P agree; None: not asked


def content_of(
    engine: Engine, speech: SpeechGenerator, answer: Answer, phonemes: np.ndarray, source: str
) -> tuple[np.ndarray, str, float | None]:
    """C_speech [P, content_dim], whose it is, and the agreement of its nearest phonemes with the response's G2P.

    Args:
      phonemes: int32 [P], G2P of the response. source: "synchronizer" or "generator".
    Returns:
      content; "synchronizer" or "generator"; share in 0..1, None where it was not asked.
    """
    if source == "generator":
        return speech.content(phonemes), "generator", None
    content = engine.speech_content(answer.response_states, phonemes)
    agreement = speech.agreement(content, phonemes)
    if agreement < AGREEMENT_WANTED:
        return speech.content(phonemes), "generator", agreement
    return content, "synchronizer", agreement


def perform(
    engine: Engine,
    speech: SpeechGenerator,
    face: FaceGenerator,
    answer: Answer,
    portrait: Portrait,
    source: str,
    reached: Callable[[str], None] = lambda name: None,
) -> Performance:
    """Speak and animate an answer's response.

    `source` "synchronizer" falls back to the generator's own content where too few phonemes agree; the result says so.

    Args:
      reached: called with "audio" when the speech can be heard, with "frame" when the first picture is drawn.
    Raises:
      PhonemeError: a response that cannot be pronounced, or longer than the generator's limit.
    """
    phonemes = speech.phonemes(answer.parsed.response)
    content, used, agreement = content_of(engine, speech, answer, phonemes, source)
    spoken = speech.speak(content, answer.style_speech, phonemes)
    reached("audio")
    count = video_frame_count(spoken.phoneme_frames)
    if used == "synchronizer":
        mouth = engine.video_content(answer.response_states, phonemes, spoken.phoneme_frames, count)
    else:
        mouth = face.content(spoken.audio, spoken.sample_rate, phonemes, spoken.phoneme_frames)
    frames = []
    for frame in face.frames(mouth, answer.style_video, portrait):
        if not frames:
            reached("frame")
        frames.append(frame)
    return Performance(spoken, np.stack(frames), used, agreement)
