"""`empatheia hear`: what it prints and writes, with a recogniser whose words are given, and with the real one."""

import json

import numpy as np
import pytest

from empatheia_jax.__main__ import main
from empatheia_jax.data.media.writing import write_audio
from empatheia_jax.evaluation import hear
from empatheia_jax.evaluation.judges.recogniser import HeardWord, Transcript

RATE = 16_000


@pytest.fixture
def recording(tmp_path, seed):
    """A wav of noise, 2 s."""
    path = tmp_path / "answer.wav"
    write_audio(path, np.random.default_rng(seed).normal(0, 0.1, 2 * RATE).astype(np.float32), RATE, {})
    return path


@pytest.fixture
def hears(tmp_path, monkeypatch):
    """A function that says what the recogniser hears, file by file: "word:confidence word:confidence"."""
    monkeypatch.setenv("EMPATHEIA_HOME", str(tmp_path / "nothing fetched"))

    def set_words(*transcripts: str) -> None:
        queue = iter(transcripts)

        class Listener:
            def transcribe(self, audio, sample_rate):
                words = [pair.split(":") for pair in next(queue).split()]
                heard = [HeardWord(w, i, i + 1.0, float(c)) for i, (w, c) in enumerate(words)]
                return Transcript(tuple(heard), ())

        monkeypatch.setattr(hear, "Recogniser", Listener)

    return set_words


def test_words_confidence_errors_and_what_is_not_fetched(recording, hears, capsys, tmp_path):
    hears("I'm:0.9 so:0.8 worry:0.4 to:0.9 hear.:1.0")
    output = tmp_path / "heard.json"
    code = main(["hear", str(recording), "--text", "I am so sorry to hear that", "--json", str(output)])
    printed = " ".join(capsys.readouterr().out.split())
    assert code == 0
    for part in (
        "answer.wav 2.0 s heard I'm so worry to hear.",
        "confidence 0.80, mean of 5 words; below 0.5: worry 0.40",
        "WER 28.6 % (2 of 7 words: 1 substituted, 1 missing, 0 added)",
        "substituted: 'worry' heard for 'sorry' missing: 'that'",
        "DNSMOS not fetched: empatheia fetch dnsmos",
    ):
        assert part in printed
    written = json.loads(output.read_text())
    (row,) = written["files"]
    assert row["heard"] == "I'm so worry to hear." and row["dnsmos"] == {"not_fetched": True}
    assert row["words"][2] == {"text": "worry", "start": 2, "end": 3.0, "confidence": 0.4}
    assert row["wer"]["value"] == pytest.approx(2 / 7) == written["overall"]["wer"]


def test_several_files_have_texts_of_their_own_and_one_rate(recording, hears, capsys, tmp_path):
    other = tmp_path / "other.flac"
    other.write_bytes(recording.read_bytes())
    hears("yes:1", "no:1 never:1")
    texts = ["--text", "yes", "--text", "no ever"]
    assert main(["hear", str(recording), str(other), *texts]) == 0
    assert "all 2 files  WER 33.3 % (1 of 3 words)" in capsys.readouterr().out
    hears("yes:1", "yes:1")
    assert main(["hear", str(recording), str(other), "--text", "yes"]) == 0
    assert "all 2 files  WER 0.0 % (0 of 2 words)" in capsys.readouterr().out


def test_silence_is_said_to_be_silence(recording, hears, capsys):
    hears("")
    assert main(["hear", str(recording), "--text", "Hello there"]) == 0
    printed = capsys.readouterr().out
    assert "nothing: nobody speaks in it" in printed and "WER         100.0 %" in printed


def test_errors_are_one_line_and_nothing_is_written(recording, hears, capsys, tmp_path):
    hears("yes:1")
    output, broken = tmp_path / "out.json", tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    before = recording.read_bytes()
    for arguments, message in (
        ([str(recording), str(broken), "--json", str(output)], "broken.wav"),
        ([str(tmp_path / "none.wav"), "--json", str(output)], "there is no such file"),
        ([str(recording), "--text", "a", "--text", "b", "--json", str(output)], "2 --text for 1 files"),
        ([str(recording), "--text", "?!", "--json", str(output)], "has no words"),
        ([str(recording), "--json", str(recording)], "would be overwritten"),
    ):
        assert main(["hear", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.startswith("empatheia hear: ") and error.count("\n") == 1
    assert not output.exists() and recording.read_bytes() == before


def test_without_the_recogniser_it_says_how_to_fetch_it(recording, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EMPATHEIA_HOME", str(tmp_path / "nothing fetched"))
    assert main(["hear", str(recording)]) == 2
    assert "whisper-base is not fetched: run `empatheia fetch whisper-base`" in capsys.readouterr().err


@pytest.mark.trained
def test_a_real_recording_is_written_down(real_data, tmp_path, capsys):
    path, text = real_data("field_cases") / "me.wav", "Someone broke into our shop and I'm fed up."
    output = tmp_path / "heard.json"
    assert main(["hear", str(path), "--text", text, "--json", str(output)]) == 0
    if "not fetched" in capsys.readouterr().out:
        pytest.skip("dnsmos is not fetched")
    row = json.loads(output.read_text())["files"][0]
    assert row["wer"]["value"] <= 0.2 and 1 < row["dnsmos"]["overall"] < 5
