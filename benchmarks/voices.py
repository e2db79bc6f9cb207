"""Have Kokoro's voices and manners judged: by a recogniser, a quality network, a speaker network, and measures.

python benchmarks/voices.py [--parts avatars emotions answers] [--output DIR] [--smoke] [--record]

Needs `empatheia fetch kokoro whisper-base dnsmos speaker`. No row is a listener's judgement. Rows:
  avatars   the 24 profiles say 8 sentences plainly: word errors of all and of the worst, and how alike the voices are:
            a profile's recordings among themselves, and those of different profiles
  emotions  8 profiles say 3 sentences in 7 emotions. Measured on the sound, against the same profile's plain reading of
            other sentences: rank correlation of F0 level, F0 range, rate and energy with the table over the 28 cells of
            the first 4 profiles, and their word errors
  emotion_classifier  the nearest of seven means of those measures, learned from other profiles and other sentences;
            the control reads the same sentences with the manner switched off, in as many draws of the source's noise
  answers   the gold answers of the demo's test split: word errors and quality, beside the classical voice and another
            answer's words
  speed     seconds of work for a second of speech, and to the first sound of a sentence, once compiled
With --output the recordings and a page with a player for each are kept.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np

SENTENCES = (
    "I am so sorry to hear that; do you want to talk about it?",
    "That sounds really frightening. Are you safe now?",
    "It is normal to feel lonely after moving to a new city.",
    "You worked so hard for this, and it shows.",
    "What a lovely surprise, tell me more about the party.",
    "I can see why you are angry with your brother.",
    "I know how much your grandmother meant to you.",
    "Take your time, there is no need to decide today.",
)
PLAIN = SENTENCES[3:6]  # read plainly, to know a profile's own level of everything
EXPRESSIVE = (SENTENCES[2], SENTENCES[6], SENTENCES[7])
MEASURES = ("f0_level", "f0_range", "rate", "energy")
SAMPLE_RATE = 24_000


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this script's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("avatars", "emotions", "answers", "speed")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--output", type=Path, help="folder for the recordings and a page that plays them")
    parser.add_argument("--smoke", action="store_true", help="two of everything, to see that it runs; no result")
    measure.add_record_flag(parser)
    return parser


class Speaker:
    """Kokoro, with the contents of each sentence computed once."""

    def __init__(self):
        from empatheia_jax.generators.styletts2.kokoro import KokoroSpeech

        self.voice = KokoroSpeech()
        self.read: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.recordings: list[tuple[str, str, np.ndarray]] = []  # title, text, audio

    def say(self, text: str, style: np.ndarray, title: str, seed: int = 0) -> np.ndarray:
        """Speak a sentence in a style [260]; return its audio [samples]."""
        if text not in self.read:
            ids = self.voice.phonemes(text)
            self.read[text] = ids, self.voice.content(ids)
        ids, content = self.read[text]
        audio = self.voice.speak(content, style, ids, seed=seed).audio
        self.recordings.append((title, text, audio))
        print(f"\r{len(self.recordings)} spoken", end="", file=sys.stderr, flush=True)
        return audio


def judge_avatars(speaker: Speaker, judges, profiles, sentences) -> dict[str, Any]:
    """Return the row "avatars"."""
    from empatheia_jax.evaluation.judges.judging import Spoken, judge_speeches
    from empatheia_jax.generators.styletts2.voices import speech_style_for

    items = []
    for profile, text in itertools.product(profiles, sentences):
        title = describe(profile)
        items.append(Spoken(text, speaker.say(text, speech_style_for(profile), title), SAMPLE_RATE, title))
    judged = judge_speeches(items, judges, shown=True)
    errors: dict[str, list[int]] = {}
    assert judged.voices is not None
    for item, judgement in zip(items, judged.items, strict=True):
        assert judgement.errors is not None
        total = errors.setdefault(item.speaker, [0, 0])
        total[0] += judgement.errors.errors
        total[1] += judgement.errors.words
    rates = {name: round(wrong / words, 4) for name, (wrong, words) in errors.items()}
    voices = judged.voices.summary()
    kept = ("same_mean", "same_min", "between_mean", "between_max", "named")
    row = {"name": "avatars", "value": word_errors(judged), "unit": "word error rate", "wer": judged.wer()}
    row |= {"worst": max(rates.values()), "rates": rates, "dnsmos": judged.dnsmos()}
    return row | {name: round(voices[name], 4) for name in kept} | {"confusable": voices["confusable"]}


def measure_emotions(speaker: Speaker, judges, profiles) -> list[dict[str, Any]]:
    """Return the rows "emotions" and "emotion_classifier"."""
    from scipy.stats import rankdata

    from empatheia_jax.data.emotions import AVATAR_EMOTIONS
    from empatheia_jax.evaluation.judges.judging import Judges, Spoken, judge_speeches
    from empatheia_jax.generators.styletts2.voices import EXPRESSIONS, speech_style_for

    measured: dict[tuple, np.ndarray] = {}
    control: dict[tuple, np.ndarray] = {}
    spoken = {}
    for profile in profiles:
        plain = speech_style_for(profile)
        own = np.mean(
            [measures(speaker.say(text, plain, f"{describe(profile)}, plain"), text) for text in PLAIN], axis=0
        )
        for number, emotion in enumerate(AVATAR_EMOTIONS):
            for text in EXPRESSIVE:
                key = profile, emotion, text
                audio = speaker.say(text, speech_style_for(profile, emotion), f"{describe(profile)}, {emotion}")
                measured[key], spoken[key] = measures(audio, text) - own, audio
                if profile in profiles[-3:]:
                    neutral = speaker.say(text, plain, f"{describe(profile)}, control", seed=number + 1)
                    control[key] = measures(neutral, text) - own
    cells = list(itertools.product(profiles[:4], AVATAR_EMOTIONS))
    heard = np.array([np.mean([measured[p, e, text] for text in EXPRESSIVE], axis=0) for p, e in cells])
    wanted = np.array([EXPRESSIONS[emotion] for _, emotion in cells])
    rho = {
        name: round(float(np.corrcoef(rankdata(heard[:, i]), rankdata(wanted[:, i]))[0, 1]), 3)
        for i, name in enumerate(MEASURES)
    }
    items = [Spoken(key[2], audio, SAMPLE_RATE) for key, audio in spoken.items() if key[0] in profiles[:4]]
    judged = judge_speeches(items, Judges(judges.recogniser, judges.quality), shown=True)
    row = {"name": "emotions", "value": min(rho.values()), "unit": "least rank correlation", "rho": rho}
    row |= {"cells": len(cells), "wer": judged.wer(), "dnsmos": judged.dnsmos()}
    table = {emotion: heard[[e == emotion for _, e in cells]].mean(0).round(2).tolist() for emotion in AVATAR_EMOTIONS}
    row["measured"] = table
    right, confusion = classify(measured, measured, AVATAR_EMOTIONS)
    off, _ = classify(measured, control, AVATAR_EMOTIONS)
    row_classifier = {
        "name": "emotion_classifier",
        "value": round(right, 4),
        "unit": "share right of 7",
        "control": round(off, 4),
    }
    return [row, row_classifier | {"n": len(measured), "n_control": len(control), "confusion": confusion}]


def classify(known: dict, asked: dict, emotions) -> tuple[float, dict]:
    """Name the emotion of each of `asked` by the nearest mean of `known` of other profiles and other sentences.

    Args:
      known: measures [4] by (profile, emotion, sentence).
      asked: likewise.
      emotions: the names.

    Returns:
      The share that is right, and for each emotion what it was taken for, with counts.
    """
    scale = np.std(list(known.values()), axis=0)
    confusion: dict[str, dict[str, int]] = {emotion: {} for emotion in emotions}
    for (profile, emotion, text), value in asked.items():
        means = {
            name: np.mean([x for (p, e, t), x in known.items() if e == name and p != profile and t != text], axis=0)
            for name in emotions
        }
        guess = min(means, key=lambda name: float(np.sum(((value - means[name]) / scale) ** 2)))
        confusion[emotion][guess] = confusion[emotion].get(guess, 0) + 1
    return sum(confusion[e].get(e, 0) for e in emotions) / len(asked), confusion


def measures(audio: np.ndarray, text: str) -> np.ndarray:
    """Measure [4] of the sound: mean F0 (semitones), logs of its spread and of letters a second, level (dB)."""
    from empatheia_jax.generators.classical.measure import analyse, f0_statistics

    analysis = analyse(audio, SAMPLE_RATE)
    level, spread = f0_statistics(analysis)
    rate = sum(map(str.isalpha, text)) / (analysis.end - analysis.start)
    return np.array([level, np.log(spread), np.log(rate), analysis.level])


def judge_answers(speaker: Speaker, judges, count: int | None) -> dict[str, Any]:
    """Return the row "answers": the test split's gold answers of the sample corpus, each by its avatar."""
    from empatheia_jax.evaluation.judges.judging import Judges, Spoken, judge_speeches
    from empatheia_jax.generators.classical.voice import ClassicalSpeech
    from empatheia_jax.generators.classical.voices import speech_style_for as classical_style
    from empatheia_jax.generators.styletts2.voices import speech_style_for

    two = Judges(judges.recogniser, judges.quality)
    answers = test_answers()[:count]
    ours, classical, espeak = [], [], ClassicalSpeech()
    for text, profile, emotion in answers:
        ours.append(Spoken(text, speaker.say(text, speech_style_for(profile, emotion), "answer"), SAMPLE_RATE))
        ids = espeak.phonemes(text)
        speech = espeak.speak(espeak.content(ids), classical_style(profile, emotion, profile.id), ids)
        classical.append(Spoken(text, speech.audio, speech.sample_rate))
    judged, beside = judge_speeches(ours, two, shown=True), judge_speeches(classical, two, shown=True)
    others = [item._replace(text=ours[number - 1].text) for number, item in enumerate(ours)]
    wrong = judge_speeches(others[:20], Judges(judges.recogniser), shown=True)
    row = {"name": "answers", "value": word_errors(judged), "unit": "word error rate", "wer": judged.wer()}
    row |= {"dnsmos": judged.dnsmos(), "classical_wer": beside.wer(), "classical_dnsmos": beside.dnsmos()}
    return row | {"another_answers_words": wrong.wer(), "n": len(ours)}


def test_answers() -> list[tuple]:
    """Return (text, profile of the listener, avatar emotion) of each answer of the sample corpus's test split."""
    from empatheia_jax.preparation.sample_plan import plan_corpus

    return [
        (text, avatar.profile, dialogue.script.emotion)
        for dialogue in plan_corpus()["test"]
        for index, avatar, text in dialogue.utterances
        if index % 2
    ]


def measure_speed(speaker: Speaker) -> dict[str, Any]:
    """Return the row "speed": one sentence at a time, in a stream and whole, after everything is compiled."""
    from empatheia_jax.generators.styletts2.voices import named_style

    style, first, work, sound = named_style("af_heart"), [], 0.0, 0.0
    for _ in range(2):  # the first turn compiles
        first.clear()
        for text in SENTENCES:
            start = time.perf_counter()
            parts = speaker.voice.stream(text, style)
            next(parts)
            first.append(time.perf_counter() - start)
            list(parts)
        start, sound = time.perf_counter(), 0.0
        for text in SENTENCES:
            sound += len(speaker.voice.synthesize_many([text], [style])[0].audio) / SAMPLE_RATE
        work = time.perf_counter() - start
    row = {"name": "speed", "value": round(work / sound, 3), "unit": "s of work for 1 s of speech"}
    return row | {"first_audio_s": round(float(np.median(first)), 3), "first_audio_worst_s": round(max(first), 3)}


def word_errors(judged) -> float:
    """Return the word error rate of judgements by a recogniser."""
    wer = judged.wer()
    assert wer is not None
    return wer["value"]


def describe(profile) -> str:
    """Return "young female mid"."""
    return f"{profile.age} {profile.gender} {profile.timbre}"


def write_page(recordings: list[tuple[str, str, np.ndarray]], folder: Path) -> None:
    """Write every recording, and index.html with a player for each, by who speaks and how."""
    import html

    from empatheia_jax.data.media.writing import write_audio

    rows, title_before = [], None
    for number, (title, text, audio) in enumerate(recordings):
        write_audio(folder / f"{number:04d}.wav", audio, SAMPLE_RATE, {"comment": "Synthetic speech: Kokoro-82M"})
        rows += [f"<h2>{html.escape(title)}</h2>"] if title != title_before else []
        title_before = title
        player = f'<audio controls preload="none" src="{number:04d}.wav"></audio>'
        rows.append(f"<p>{player}<br>{html.escape(text)}</p>")
    style = (
        "body{font:16px sans-serif;max-width:44em;margin:2em auto}h2{font-size:1em;margin:1.5em 0 0}p{margin:.4em 0}"
    )
    page = f"<!doctype html><meta charset=utf-8><title>Kokoro's voices</title><style>{style}</style><h1>Voices</h1>"
    (folder / "index.html").write_text(page + "\n".join(rows), "utf-8")


def main(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Make and judge the recordings that the flags name, and return the rows."""
    from empatheia_jax.data.emotions import AGES, GENDERS, TIMBRES
    from empatheia_jax.data.schema import Profile
    from empatheia_jax.evaluation.judges.judging import load_judges

    judges, absent = load_judges(speakers=True)
    if absent:
        raise SystemExit("; ".join(absent.values()))
    speaker, rows = Speaker(), []
    profiles = [Profile(*words) for words in itertools.product(AGES, GENDERS, TIMBRES)]
    eight = [profiles[number] for number in (7, 10, 13, 22, 1, 4, 16, 19)]  # the mid timbre of each age and gender
    if "speed" in args.parts:
        rows.append(measure_speed(speaker))
    if "emotions" in args.parts:
        rows += measure_emotions(speaker, judges, eight[: 4 if args.smoke else 8])
    if "avatars" in args.parts:
        rows.append(
            judge_avatars(speaker, judges, profiles[: 2 if args.smoke else 24], SENTENCES[: 2 if args.smoke else 8])
        )
    if "answers" in args.parts:
        rows.append(judge_answers(speaker, judges, 2 if args.smoke else None))
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        write_page(speaker.recordings, args.output)
    return rows


if __name__ == "__main__":
    ARGS = build_parser().parse_args()
    measure.report(main(ARGS), ARGS)
