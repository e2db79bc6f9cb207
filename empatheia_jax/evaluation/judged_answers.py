"""The answers of an evaluation as they are heard: spoken as `respond` does, and judged beside controls.

The controls say whose the errors are: the generator's own content for the same words leaves out the synchronizer, the
classical voice leaves out the generator, and another answer's words are what no clear voice can make right.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from empatheia_jax.data import emotions
from empatheia_jax.evaluation.judges import recogniser, speech_quality
from empatheia_jax.evaluation.judges.judging import (
    Judgements,
    Judges,
    Spoken,
    against_other_texts,
    judge_speeches,
    load_judges,
)
from empatheia_jax.evaluation.judges.word_errors import spoken_words
from empatheia_jax.generators.avatars import avatars_with_profile
from empatheia_jax.generators.interfaces import Speech, SpeechGenerator
from empatheia_jax.generators.phonemes import PhonemeError
from empatheia_jax.inference.engine import Answer, Engine
from empatheia_jax.inference.respond import predicted_profile
from empatheia_jax.inference.synthesis import choose_speech_content

RUN_VOICE, GENERATOR_CONTENT = "the run's voice", "the generator's own content"
CLASSICAL_VOICE, OTHER_WORDS = "the classical voice", "another answer's words"
CONTROLS = {"wer": recogniser.PART, "dnsmos": speech_quality.PART}
"""The figures of report.json's "controls", and the part that gives each."""


class AnswerJudges(NamedTuple):
    """The judges of an evaluation."""

    judges: Judges
    absent: dict[str, str]  # part -> why it cannot be asked
    limit: int  # most answers that are spoken; 0: none

    @property
    def can_judge(self) -> bool:
        """Whether there is anything to ask."""
        return self.limit > 0 and (self.judges.recogniser is not None or self.judges.quality is not None)


def load_answer_judges(limit: int) -> AnswerJudges:
    """Load the judges that are fetched, before the long work, so that a damaged one stops it at once.

    Raises:
      JudgeError: a judge that was fetched cannot be loaded.
    """
    judges, absent = load_judges() if limit > 0 else (Judges(), {})
    return AnswerJudges(judges, {part: absent[part] for part in CONTROLS.values() if part in absent}, limit)


def judge_answers(
    report: dict,
    asked: AnswerJudges,
    *,
    engine: Engine,
    answers: list[Answer],
    speech: Callable[[], SpeechGenerator],
) -> None:
    """Put what the judges say of a run's answers into its report, as "judged" and "controls".

    Args:
      report: of the evaluation.
      asked: the judges, and how many answers they hear: that many of those with a response, evenly chosen.
      engine: the run.
      answers: of the evaluated split.
      speech: builds the run's speech generator; called only where answers are spoken.
    """
    reason = "--judged 0" if asked.limit <= 0 else None
    if asked.can_judge and not engine.config.modalities:
        reason = "the run has words only and no voice"
    judged: dict = {"not_fetched": asked.absent, "voices": {}} | ({"reason": reason} if reason else {})
    if asked.can_judge and reason is None:
        judged |= _judge_voices(asked, engine, answers, speech())
    report["judged"] = judged
    own = judged["voices"].get(RUN_VOICE, {})
    report.setdefault("controls", {}).update({name: _control(own.get(name), judged, name) for name in CONTROLS})


def _control(figure: dict | None, judged: dict, name: str) -> dict:
    if figure is not None:
        return figure
    return (
        {"not_fetched": True} if CONTROLS[name] in judged["not_fetched"] else {"not_judged": judged.get("reason", "")}
    )


def _judge_voices(asked: AnswerJudges, engine: Engine, answers: list[Answer], speech: SpeechGenerator) -> dict:
    """Speak answers with each voice and return what the judges say: "answers", "left_out", "fell_back", "voices"."""
    source = engine.config.generators.content_source
    spoken: dict[str, list[Spoken]] = {RUN_VOICE: []}
    if source != "generator":
        spoken[GENERATOR_CONTENT] = []
    classical = None
    if speech.name != "classical":
        from empatheia_jax.generators.classical.voice import ClassicalSpeech

        classical = ClassicalSpeech()
        spoken[CLASSICAL_VOICE] = []
    left_out = fell_back = 0
    for answer in _evenly(answers, asked.limit, asked.judges):
        text = answer.parsed.response or ""
        try:
            phonemes = speech.phonemes(text)
            content, used, _ = choose_speech_content(engine, speech, answer, phonemes, source=source)
            sounds = {RUN_VOICE: speech.speak(content, answer.style_speech, phonemes)}
            if GENERATOR_CONTENT in spoken:
                sounds[GENERATOR_CONTENT] = speech.speak(speech.content(phonemes), answer.style_speech, phonemes)
            if classical is not None:
                sounds[CLASSICAL_VOICE] = _speak_classically(classical, answer)
        except PhonemeError:  # cannot be pronounced, or is too long: with no voice, so that all have the same words
            left_out += 1
            continue
        fell_back += used != source
        for name, sound in sounds.items():
            spoken[name].append(Spoken(text, sound.audio, sound.sample_rate))
    judgements = {name: judge_speeches(items, asked.judges) for name, items in spoken.items()}
    voices = {name: _figures(judgement) for name, judgement in judgements.items()}
    if asked.judges.recogniser is not None:
        voices[OTHER_WORDS] = {"wer": against_other_texts(judgements[RUN_VOICE])}
    return {
        "answers": len(spoken[RUN_VOICE]),
        "left_out": left_out,
        "fell_back": fell_back,
        "speech_generator": speech.name,
        "voices": voices,
    }


def _figures(judgements: Judgements) -> dict:
    return {name: value for name, value in judgements.summary().items() if value is not None}


def _evenly(answers: list[Answer], limit: int, judges: Judges) -> list[Answer]:
    """Return at most `limit` of the answers that have words, at equal distances."""
    worded = [
        a for a in answers if a.parsed.response and (judges.recogniser is None or spoken_words(a.parsed.response))
    ]
    count = min(limit, len(worded))
    return [worded[index * len(worded) // count] for index in range(count)]


def _speak_classically(classical: SpeechGenerator, answer: Answer) -> Speech:
    """Speak an answer as the corpus's avatar of its profile and emotion would."""
    from empatheia_jax.generators.classical.voices import speech_style_for

    profile = predicted_profile(answer)
    emotion = answer.parsed.avatar_emotion or emotions.AVATAR_EMOTIONS[int(np.argmax(answer.labels["emotion"]))]
    style = speech_style_for(profile, emotion, avatars_with_profile(profile, held_out=False)[0].id)
    phonemes = classical.phonemes(answer.parsed.response or "")
    return classical.speak(classical.content(phonemes), style, phonemes)
