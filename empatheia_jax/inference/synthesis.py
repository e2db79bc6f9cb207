"""Synthesis of an answer's voice and face (section 4.3): content and style go to the frozen generators.

The speech generator runs first and returns how long each phoneme lasts; the face generator follows that timing.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from empatheia_jax.generators.interfaces import FaceGenerator, Portrait, Speech, SpeechGenerator, video_frame_count
from empatheia_jax.inference.engine import Answer, Engine

MIN_AGREEMENT = 0.9  # share of phonemes below which the synchronizer's content is not spoken


@dataclasses.dataclass(frozen=True)
class SynthesizedAnswer:
    """The speech and the video of an answer."""

    speech: Speech
    frames: np.ndarray  # uint8 [F, h, w, 3]
    content_source: str  # "synchronizer" | "generator": whose content was spoken
    agreement: float | None  # share of phonemes on which synchronizer and G2P agree; None: not computed


def choose_speech_content(
    engine: Engine, speech: SpeechGenerator, answer: Answer, phonemes: np.ndarray, *, source: str
) -> tuple[np.ndarray, str, float | None]:
    """Return the C_speech to speak: the synchronizer's, or the generator's own where too few phonemes agree.

    Args:
      engine: holds the synchronizer.
      speech: the speech generator.
      answer: whose response states are read.
      phonemes: int32 [P], G2P of the response.
      source: "synchronizer" or "generator".

    Returns:
      C_speech float32 [P, content_dim]; "synchronizer" or "generator", whose it is; the share of phonemes to which the
      synchronizer's content is nearest that agree with `phonemes`, None where it was not computed.
    """
    if source == "generator":
        return speech.content(phonemes), "generator", None
    content = engine.speech_content(answer.response_states, phonemes)
    agreement = speech.agreement(content, phonemes)
    if agreement < MIN_AGREEMENT:
        return speech.content(phonemes), "generator", agreement
    return content, "synchronizer", agreement


def synthesize(
    engine: Engine,
    speech: SpeechGenerator,
    face: FaceGenerator,
    answer: Answer,
    *,
    portrait: Portrait,
    source: str,
    on_ready: Callable[[str], None] = lambda part: None,
) -> SynthesizedAnswer:
    """Speak an answer's response and animate the portrait.

    Args:
      engine: holds the synchronizer.
      speech: the speech generator.
      face: the face generator.
      answer: with a response, which is spoken.
      portrait: of the avatar.
      source: of the content, "synchronizer" (see `choose_speech_content` for its fallback) or "generator".
      on_ready: called with "audio" when the speech is there, with "frame" when the first frame is.

    Raises:
      PhonemeError: a response that cannot be pronounced, or longer than the generator's limit.
    """
    phonemes = speech.phonemes(answer.parsed.response or "")
    content, used_source, agreement = choose_speech_content(engine, speech, answer, phonemes, source=source)
    spoken = speech.speak(content, answer.style_speech, phonemes)
    on_ready("audio")
    count = video_frame_count(spoken.phoneme_frames)
    if used_source == "synchronizer":
        mouth = engine.video_content(answer.response_states, phonemes, spoken.phoneme_frames, count)
    else:
        mouth = face.content(spoken.audio, spoken.sample_rate, phonemes, spoken.phoneme_frames)
    frames = []
    for frame in face.frames(mouth, answer.style_video, portrait):
        if not frames:
            on_ready("frame")
        frames.append(frame)
    return SynthesizedAnswer(spoken, np.stack(frames), used_source, agreement)
