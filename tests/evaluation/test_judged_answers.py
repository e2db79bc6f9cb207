"""Answers of an evaluation that are spoken and judged: by which voices, with which words; and without judges."""

import dataclasses
import itertools
import types

import numpy as np
import pytest

from empatheia_jax.data.emotions import AGES, AVATAR_EMOTIONS, GENDERS, TIMBRES
from empatheia_jax.data.prompts.dialogue import ParsedResponse
from empatheia_jax.evaluation import judged_answers
from empatheia_jax.evaluation.judged_answers import (
    CLASSICAL_VOICE,
    GENERATOR_CONTENT,
    OTHER_WORDS,
    RUN_VOICE,
    AnswerJudges,
    judge_answers,
    load_answer_judges,
)
from empatheia_jax.evaluation.judges.judging import Judges
from empatheia_jax.evaluation.judges.recogniser import HeardWord, Transcript
from empatheia_jax.evaluation.judges.speech_quality import Quality
from empatheia_jax.generators.classical.voice import ClassicalSpeech
from empatheia_jax.generators.classical.voices import speech_style_for
from empatheia_jax.generators.interfaces import Speech
from empatheia_jax.inference.engine import Answer
from empatheia_jax.testing.tiny import replace_fields, small_config

pytest.importorskip("espeakng_loader")

TEXTS = ["I am so sorry.", "That must hurt.", "How lovely!", "", "We can talk.", "Tell me more.", "Yes, of course."]
PROFILE = types.SimpleNamespace(age=AGES[1], gender=GENDERS[0], timbre=TIMBRES[1])


def make_answers(texts=TEXTS) -> list[Answer]:
    """Return answers of these responses ("": none was written), in a young man's sad voice."""
    labels = {
        "emotion": np.eye(7)[AVATAR_EMOTIONS.index("sad")],
        "age": np.eye(4)[1],
        "gender": np.eye(2)[0],
        "timbre": np.eye(3)[1],
    }
    style = speech_style_for(PROFILE, "sad", 5)
    fields = {field.name: None for field in dataclasses.fields(ParsedResponse)}
    parsed = [ParsedResponse(**(fields | {"missing": (), "response": text or None})) for text in texts]
    return [Answer("", p, np.zeros((1, 1)), style, np.zeros(1), labels, 1) for p in parsed]


class Voice:
    """A voice that speaks anything: as many samples as the content has elements, each its mean."""

    name, sample_rate = "stand-in", 16_000

    def __init__(self):
        self.classical = ClassicalSpeech()
        self.styles = []

    def phonemes(self, text):
        return self.classical.phonemes(text)

    def content(self, phonemes):
        return np.full((len(phonemes), 2), 0.5)

    def agreement(self, content, phonemes):
        return 1.0 if content[0, 0] == 0.25 else 0.2

    def speak(self, content, style, phonemes):
        self.styles.append(style)
        return Speech(np.full(content.size, content.mean(), np.float32), 16_000, np.ones(len(phonemes), np.int32))


def make_engine(content: float, source: str = "synchronizer", **fields):
    """Return what stands for an engine: its content has one value everywhere."""
    config = replace_fields(small_config(**fields), "generators", content_source=source)
    return types.SimpleNamespace(
        config=config, speech_content=lambda states, phonemes: np.full((len(phonemes), 2), content)
    )


class Listener:
    """A recogniser that is right about the synchronizer's content (0.25) and hears "no" in any other."""

    def __init__(self, texts):
        self.texts, self.audios = itertools.cycle(texts), []

    def transcribe(self, audio, sample_rate):
        self.audios.append(audio)
        text = next(self.texts)
        words = text.split() if audio[0] == 0.25 else ["no"]
        return Transcript(tuple(HeardWord(word, 0.0, 1.0, 1.0) for word in words), ())


def never() -> Voice:
    raise AssertionError("a voice was built")


def test_without_judges_nothing_is_spoken_and_the_report_says_how_to_fetch_them(tmp_path, monkeypatch):
    monkeypatch.setenv("EMPATHEIA_HOME", str(tmp_path))
    report = {"controls": {"content_speech": {"own": 0.9}}}
    judge_answers(report, load_answer_judges(24), engine=make_engine(0.25), answers=make_answers(), speech=never)
    assert report["controls"] == {
        "content_speech": {"own": 0.9},
        "wer": {"not_fetched": True},
        "dnsmos": {"not_fetched": True},
    }
    assert report["judged"]["not_fetched"] == {
        part: f"not fetched: empatheia fetch {part}" for part in ("whisper-base", "dnsmos")
    }


@pytest.mark.parametrize(
    ("limit", "fields", "reason"),
    [(0, {}, "--judged 0"), (9, {"modalities": ()}, "the run has words only and no voice")],
)
def test_nothing_is_spoken_where_nothing_is_asked_for_or_there_is_no_voice(limit, fields, reason):
    asked, report = AnswerJudges(Judges(recogniser=Listener(TEXTS)), {}, limit), {}
    judge_answers(report, asked, engine=make_engine(0.25, **fields), answers=make_answers(), speech=never)
    assert report["controls"] == {"wer": {"not_judged": reason}, "dnsmos": {"not_judged": reason}}
    assert report["judged"]["reason"] == reason


def test_each_voice_speaks_the_same_words_and_the_controls_fail():
    worded = [text for text in TEXTS if text]
    listener, voice, report = Listener(worded), Voice(), {}
    quality = types.SimpleNamespace(rate=lambda audio, rate: Quality(1.0, 2.0, 4 * float(audio[0])))
    judges = AnswerJudges(Judges(listener, quality), {}, 24)
    judge_answers(report, judges, engine=make_engine(0.25), answers=make_answers(), speech=lambda: voice)
    judged = report["judged"]
    assert (judged["answers"], judged["left_out"], judged["fell_back"]) == (6, 0, 0)
    assert list(judged["voices"]) == [RUN_VOICE, GENERATOR_CONTENT, CLASSICAL_VOICE, OTHER_WORDS]
    assert report["controls"]["wer"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 6}
    assert report["controls"]["dnsmos"]["value"] == 1.0
    assert judged["voices"][GENERATOR_CONTENT]["wer"]["value"] == 1.0  # the listener knows the synchronizer's alone
    assert judged["voices"][GENERATOR_CONTENT]["dnsmos"]["value"] == 2.0
    assert judged["voices"][OTHER_WORDS]["wer"]["value"] >= 0.9
    assert [row["text"] for row in judged["voices"][CLASSICAL_VOICE]["items"]] == worded
    # The run's own style; and the classical voice is a voice: seconds long, not the stand-in's constant.
    assert all(np.array_equal(style, make_answers()[0].style_speech) for style in voice.styles)
    assert all(len(audio) > 4000 and audio.std() > 1e-3 for audio in listener.audios[12:])


def test_at_most_so_many_are_spoken_evenly_and_what_cannot_be_pronounced_is_counted(monkeypatch):
    texts = ["Yes.", "No.", "Maybe.", "Never.", "Always.", "Soon.", "Later.", "Now."]
    report = {}
    asked = AnswerJudges(Judges(recogniser=Listener(texts)), {"dnsmos": "not fetched: empatheia fetch dnsmos"}, 4)
    engine = make_engine(0.1, source="generator")
    judge_answers(report, asked, engine=engine, answers=make_answers(texts), speech=Voice)
    rows = report["judged"]["voices"][RUN_VOICE]["items"]
    assert [row["text"] for row in rows] == ["Yes.", "Maybe.", "Always.", "Later."]
    assert GENERATOR_CONTENT not in report["judged"]["voices"]  # it is the run's own
    assert report["controls"]["dnsmos"] == {"not_fetched": True} and report["controls"]["wer"]["n"] == 4

    class Hoarse(Voice):
        def phonemes(self, text):
            if text == "No.":
                raise judged_answers.PhonemeError("cannot be pronounced")
            return super().phonemes(text)

    asked = AnswerJudges(asked.judges, {}, 8)
    judge_answers(report, asked, engine=make_engine(0.1), answers=make_answers(texts), speech=Hoarse)
    judged = report["judged"]
    assert (judged["answers"], judged["left_out"], judged["fell_back"]) == (7, 1, 7)
    assert {len(entry["items"]) for name, entry in judged["voices"].items() if name != OTHER_WORDS} == {7}
