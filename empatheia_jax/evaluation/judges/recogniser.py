"""Speech recognition by Whisper (base) in CTranslate2: what a listener without any hint would write down."""

import dataclasses

import numpy as np

from empatheia_jax.data.media.sound import resample
from empatheia_jax.evaluation.judges.parts import SAMPLE_RATE, JudgeError, judge_file, judge_package
from empatheia_jax.runtime.machine import usable_cores

PART, PACKAGES = "whisper-base", ("faster-whisper", "jiwer", "num2words")
FILES = ("config.json", "tokenizer.json", "vocabulary.txt", "model.bin")
UNSURE = 0.5
"""Confidence below which a word is marked as unsure."""

_SILENT_PEAK = 10 ** (-60 / 20)  # nothing is heard in a recording that stays under it, whatever a model makes of it
_NO_SPEECH = 0.6  # a segment of unsure words is dropped where the model thinks it likelier that nobody speaks


@dataclasses.dataclass(frozen=True)
class HeardWord:
    """A word of a transcript."""

    text: str  # as written, with its punctuation
    start: float  # seconds
    end: float
    confidence: float  # 0..1, the model's probability of the word


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What was heard in a recording."""

    words: tuple[HeardWord, ...]
    dropped: tuple[str, ...]  # what the model wrote where, by its own account, nobody speaks

    @property
    def text(self) -> str:
        """The words as a text."""
        return " ".join(word.text for word in self.words)

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the words, 0..1; None where there are none."""
        return float(np.mean([word.confidence for word in self.words])) if self.words else None


class Recogniser:
    """Whisper with its weights loaded. Greedy, in English, each recording by itself: the same sound, the same words."""

    def __init__(self):
        """Load the fetched weights; nothing is asked of any network.

        Raises:
          PartError: whisper-base is not fetched.
          JudgeError: a package or a file is missing, or the files are damaged.
        """
        files = [judge_file(PART, name) for name in FILES]  # without its tokenizer the package would download another
        package = judge_package("faster-whisper")
        try:
            self._model = package.WhisperModel(
                str(files[0].parent),
                device="cpu",
                compute_type="int8",
                cpu_threads=usable_cores(),
                local_files_only=True,
            )
        except Exception as error:  # CTranslate2 and tokenizers raise their own kinds for a damaged file
            message = " ".join(str(error).split())
            raise JudgeError(f"{files[0].parent}: cannot be loaded ({message}): fetch {PART} again") from error

    def transcribe(self, audio: np.ndarray, sample_rate: int) -> Transcript:
        """Write down what is said.

        Args:
          audio: float32 [samples], mono, -1..1, of any length.
          sample_rate: Hz.
        """
        audio = resample("the recording", np.asarray(audio, np.float32), sample_rate, SAMPLE_RATE)
        if not len(audio) or np.abs(audio).max() < _SILENT_PEAK:
            return Transcript((), ())
        segments, _ = self._model.transcribe(
            np.ascontiguousarray(audio, np.float32),
            language="en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            no_speech_threshold=None,  # decided below, where what is dropped is counted
            word_timestamps=True,
        )
        words: list[HeardWord] = []
        dropped: list[str] = []
        for segment in segments:
            heard = [
                HeardWord(
                    word.word.strip(), *(round(float(part), 4) for part in (word.start, word.end, word.probability))
                )
                for word in segment.words or ()
                if word.word.strip()
            ]
            if segment.no_speech_prob > _NO_SPEECH and not _is_sure(heard):
                dropped.append(segment.text.strip())
            else:
                words += heard
        return Transcript(tuple(words), tuple(dropped))


def _is_sure(words: list[HeardWord]) -> bool:
    return bool(words) and float(np.mean([word.confidence for word in words])) >= UNSURE
