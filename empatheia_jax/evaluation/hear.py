"""`empatheia hear`: writes down what a speech recogniser hears in recordings, and how good they sound."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from empatheia_jax.data.media.reading import read_audio
from empatheia_jax.evaluation.judges import recogniser, speech_quality
from empatheia_jax.evaluation.judges.parts import SAMPLE_RATE, reason_absent
from empatheia_jax.evaluation.judges.recogniser import UNSURE, Recogniser, Transcript
from empatheia_jax.evaluation.judges.speech_quality import SpeechQuality
from empatheia_jax.evaluation.judges.word_errors import Difference, WordErrors, count_word_errors, overall_rate
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.runtime.machine import package_version
from empatheia_jax.runtime.outputs import check_outputs

MAX_SECONDS, MAX_MEGABYTES = 600.0, 200.0


class HearError(ValueError):
    """A request to hear something that does not fit together."""


def hear(files: Sequence[Path], *, texts: Sequence[str] = (), output: Path | None = None) -> dict:
    """Write down what is heard in each of some recordings, and print it.

    Args:
      files: recordings: wav, flac, mp3, mp4 ..., each up to 10 minutes.
      texts: what was said: none, the same for all files, or as many texts as files.
      output: a .json with all that is printed, and every word with its time and confidence; None: none is written.

    Returns:
      What the .json holds.

    Raises:
      HearError: texts that do not fit the files.
      PartError: the recogniser is not fetched.
      JudgeError: a judge lacks a package, or its files are damaged.
      MediaError: a recording cannot be read.
      WordError: a text has no words.
      OutputError: the output would overwrite a recording.
    """
    if len(texts) > 1 and len(texts) != len(files):
        raise HearError(
            f"{len(texts)} --text for {len(files)} files: give one for all of them, or one for each in order"
        )
    check_outputs([("--json", output)], [("the recording", file) for file in files])
    given = list(texts) * (len(files) if len(texts) == 1 else 1) or [None] * len(files)
    for text in given:
        if text is not None:
            count_word_errors(text, "")  # refused before anything is loaded
    notes: list[str] = []
    sounds = [read_audio(file, SAMPLE_RATE, MAX_SECONDS, MAX_MEGABYTES, notes=notes) for file in files]
    listener = Recogniser()
    absent = reason_absent(speech_quality.PART, *speech_quality.PACKAGES)
    quality = SpeechQuality() if absent is None else None
    for note in notes:
        print(f"note: {note}")
    rows, counts = [], []
    for file, audio, text in zip(files, sounds, given, strict=True):
        transcript = listener.transcribe(audio, SAMPLE_RATE)
        errors = count_word_errors(text, transcript.text) if text is not None else None
        row = _row(file, audio, transcript, errors)
        row["text"] = text
        row["dnsmos"] = dataclasses.asdict(quality.rate(audio, SAMPLE_RATE)) if quality else {"not_fetched": True}
        rows.append(row)
        counts += [errors] if errors is not None else []
        print("\n".join(_lines(row, errors, absent)), flush=True)
    result: dict = {"files": rows, "notes": notes}
    if counts:
        words, errors = sum(count.words for count in counts), sum(count.errors for count in counts)
        result["overall"] = {"wer": overall_rate(counts), "errors": errors, "words": words, "files": len(counts)}
        if len(counts) > 1:
            print(f"all {len(counts)} files  WER {100 * errors / words:.1f} % ({errors} of {words} words)")
    result["judges"] = {"recogniser": recogniser.PART} | {
        name: package_version(name) for name in ("faster-whisper", "onnxruntime", "jiwer")
    }
    if output is not None:
        write_json(output, result)
    return result


def _row(file: Path, audio: np.ndarray, transcript: Transcript, errors: WordErrors | None) -> dict:
    return {
        "file": str(file),
        "seconds": round(len(audio) / SAMPLE_RATE, 3),
        "heard": transcript.text,
        "confidence": transcript.confidence,
        "words": [dataclasses.asdict(word) for word in transcript.words],
        "dropped": list(transcript.dropped),
        "wer": None
        if errors is None
        else {
            "value": errors.rate,
            "words": errors.words,
            "substituted": errors.substituted,
            "missing": errors.missing,
            "added": errors.added,
            "differences": [dataclasses.asdict(difference) for difference in errors.differences],
        },
    }


def _lines(row: dict, errors: WordErrors | None, absent: str | None) -> list[str]:
    """Return what is printed of a recording."""
    lines = [f"{row['file']}  {row['seconds']:.1f} s"]

    def add(name: str, value: str) -> None:
        lines.append(f"  {name:11s} {value}")

    if row["words"]:
        add("heard", row["heard"])
        unsure = [f"{word['text']} {word['confidence']:.2f}" for word in row["words"] if word["confidence"] < UNSURE]
        note = f"; below {UNSURE:g}: {', '.join(unsure)}" if unsure else ""
        add("confidence", f"{row['confidence']:.2f}, mean of {len(row['words'])} words{note}")
    else:
        add("heard", "nothing: nobody speaks in it")
    if row["dropped"]:
        add("dropped", f"{len(row['dropped'])} passages in which, to the recogniser, nobody speaks")
    if errors is not None:
        parts = f"{errors.substituted} substituted, {errors.missing} missing, {errors.added} added"
        add("WER", f"{100 * errors.rate:.1f} % ({errors.errors} of {errors.words} words: {parts})")
        for difference in errors.differences:
            add("", _difference(difference))
    scores = row["dnsmos"]
    add("DNSMOS", absent or "{overall:.2f} overall, {signal:.2f} signal, {background:.2f} background".format(**scores))
    return lines


def _difference(difference: Difference) -> str:
    text, heard = " ".join(difference.text), " ".join(difference.heard)
    if difference.kind == "substituted":
        return f"substituted: {heard!r} heard for {text!r}"
    return f"{difference.kind}: {(text or heard)!r}"
