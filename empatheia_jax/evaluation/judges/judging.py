"""Asks the judges about many recordings: word errors, quality and likeness of voices, one by one and together."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from empatheia_jax.evaluation.judges import recogniser, same_speaker, speech_quality
from empatheia_jax.evaluation.judges.parts import reason_absent
from empatheia_jax.evaluation.judges.recogniser import Recogniser
from empatheia_jax.evaluation.judges.same_speaker import SameSpeaker, VoiceComparison, compare_voices
from empatheia_jax.evaluation.judges.speech_quality import Quality, SpeechQuality
from empatheia_jax.evaluation.judges.word_errors import WordErrors, count_word_errors
from empatheia_jax.evaluation.text import bootstrap
from empatheia_jax.runtime.progress import Progress

COVERAGE = 0.95
Interval = dict[str, float | int]
"""{"value", "low", "high", "n"}: a figure with its bootstrap interval over n recordings."""


class Spoken(NamedTuple):
    """A recording whose words are known."""

    text: str
    audio: np.ndarray  # float32 [samples], mono, -1..1
    sample_rate: int
    speaker: Hashable = None  # who speaks, where voices are compared


@dataclasses.dataclass(frozen=True)
class Judges:
    """The judges to ask; one that is None is not asked."""

    recogniser: Recogniser | None = None
    quality: SpeechQuality | None = None
    speakers: SameSpeaker | None = None


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the judges say of one recording; None where one was not asked."""

    text: str
    heard: str | None
    errors: WordErrors | None
    confidence: float | None  # mean over the words that were heard
    quality: Quality | None


@dataclasses.dataclass(frozen=True)
class Judgements:
    """What the judges say of several recordings."""

    items: tuple[Judgement, ...]
    voices: VoiceComparison | None

    def wer(self) -> Interval | None:
        """Return the word error rate of all recordings together; None where nothing was recognised."""
        return _rate_interval([item.errors for item in self.items if item.errors is not None])

    def dnsmos(self, scale: str = "overall") -> Interval | None:
        """Return the mean opinion score, "overall", "signal" or "background"; None where none was given."""
        scores = [[getattr(item.quality, scale)] for item in self.items if item.quality is not None]
        return _interval(scores, lambda rows: float(rows.mean()))

    def summary(self) -> dict:
        """Return all figures as JSON values; "items" has a row a recording."""
        figures = {"wer": self.wer()} | {
            name: self.dnsmos(scale)
            for name, scale in (("dnsmos", "overall"), ("signal", "signal"), ("background", "background"))
        }
        rows = [
            {
                "text": item.text,
                "heard": item.heard,
                "words": item.errors.words if item.errors else None,
                "errors": item.errors.errors if item.errors else None,
                "confidence": item.confidence,
                "dnsmos": dataclasses.asdict(item.quality) if item.quality else None,
            }
            for item in self.items
        ]
        return figures | {"voices": self.voices.summary() if self.voices else None, "items": rows}


def _interval(rows: Sequence[Sequence[float]], statistic) -> Interval | None:
    if not rows:
        return None
    value, low, high = bootstrap(np.array(rows, np.float64), statistic, coverage=COVERAGE)
    return {"value": value, "low": low, "high": high, "n": len(rows)}


def _rate_interval(counts: Sequence[WordErrors]) -> Interval | None:
    rows = [(count.errors, count.words) for count in counts]
    return _interval(rows, lambda drawn: float(drawn[:, 0].sum() / drawn[:, 1].sum()))


def absent_judges() -> dict[str, str]:
    """Return the parts of judges that cannot be asked on this machine, each with the reason as a line for a report."""
    reasons = {
        judge.PART: reason_absent(judge.PART, *judge.PACKAGES) for judge in (recogniser, speech_quality, same_speaker)
    }
    return {part: reason for part, reason in reasons.items() if reason is not None}


def load_judges(*, speakers: bool = False) -> tuple[Judges, dict[str, str]]:
    """Load the judges that are on this machine.

    Args:
      speakers: load that of voices too.

    Returns:
      The judges, and `absent_judges`.

    Raises:
      JudgeError: a judge that was fetched cannot be loaded.
    """
    absent = absent_judges()
    return Judges(
        recogniser=None if recogniser.PART in absent else Recogniser(),
        quality=None if speech_quality.PART in absent else SpeechQuality(),
        speakers=SameSpeaker() if speakers and same_speaker.PART not in absent else None,
    ), absent


def judge_speeches(items: Sequence[Spoken], judges: Judges, *, shown: bool = False) -> Judgements:
    """Ask the judges about recordings.

    Args:
      items: recordings, with their words; with their speakers, at least two of each, where voices are judged.
      judges: to ask, from `load_judges`.
      shown: print how far it is.

    Raises:
      WordError: a text has no words.
      JudgeError: a recording is empty, or a speaker has a single one.
    """
    judged = []
    with Progress(len(items), len(items), shown=shown, name="judge", unit="recordings") as progress:
        for item in items:
            judged.append(_judge(item, judges))
            progress.advance(1)
    voices = None
    if judges.speakers is not None:
        embeddings = np.stack([judges.speakers.embed(item.audio, item.sample_rate) for item in items])
        voices = compare_voices(embeddings, [item.speaker for item in items])
    return Judgements(tuple(judged), voices)


def _judge(item: Spoken, judges: Judges) -> Judgement:
    heard = errors = confidence = None
    if judges.recogniser is not None:
        transcript = judges.recogniser.transcribe(item.audio, item.sample_rate)
        heard, confidence = transcript.text, transcript.confidence
        errors = count_word_errors(item.text, heard)
    quality = judges.quality.rate(item.audio, item.sample_rate) if judges.quality is not None else None
    return Judgement(item.text, heard, errors, confidence, quality)


def against_other_texts(judgements: Judgements) -> Interval | None:
    """Return the word error rate of what was heard against the text of the next recording with other words.

    It shows what the rate says: about 1 where the words are others, however clearly they are spoken.
    """
    items = [item for item in judgements.items if item.heard is not None]
    counts = []
    for index, item in enumerate(items):
        others = (items[(index + step) % len(items)].text for step in range(1, len(items)))
        other = next((text for text in others if text != item.text), None)
        if other is not None:
            counts.append(count_word_errors(other, item.heard or ""))
    return _rate_interval(counts)
