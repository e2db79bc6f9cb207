"""`check-data`: counts of the data, and every finding about media with the files named."""

import json

import numpy as np
import pytest
import soundfile
from matplotlib.colors import to_rgb
from PIL import Image

from empatheia_jax.__main__ import main
from empatheia_jax.data.corpus.check import check_data
from empatheia_jax.data.corpus.check_plot import _COLOURS, plot_report
from empatheia_jax.data.media.writing import write_video
from empatheia_jax.data.schema import RecordError

RATE = 24000


def wav(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.sin(np.arange(int(RATE * seconds)) / 9).astype(np.float32) / 4, RATE)


def mp4(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.full((round(seconds * 25), 64, 64, 3), 90, np.uint8))


@pytest.fixture
def corpus(tmp_path, make_dialogue):
    """Write ten dialogues of one turn; the media of dialogue 1 are intact, the others bad in different ways."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    dialogues = [make_dialogue(number, turns=1) for number in range(1, 11)]
    dialogues[4]["turns"][0]["chain_of_empathy"]["speaker_emotion"] = "jealous"
    dialogues[5]["turns"] = []
    dialogues[6]["turns"][0]["response"] = None
    (folder / "train.json").write_text(json.dumps(dialogues))
    audio, video = folder / "audio_v5_0", folder / "video_v5_0"
    wav(audio / "dia00001utt0_28.wav", 1.0)
    wav(audio / "dia00001utt1_18.wav", 2.0)
    mp4(video / "dia00001utt0_28.mp4", 1.0)
    mp4(video / "dia00001utt1_18.mp4", 1.0)  # a second shorter than the voice
    (audio / "dia00002utt0_28.wav").touch()
    (audio / "dia00002utt1_18.wav").write_bytes(b"no sound at all")
    wav(audio / "dia00003utt0_28.wav", 0.0)
    wav(audio / "dia00003utt1_18.wav", 61.0)
    wav(audio / "dia00099utt0_28.wav", 0.1)
    wav(audio / "dia00001utt0_5.wav", 0.1)
    wav(audio / "loose.wav", 0.1)
    (audio / "._dia00001utt0_28.wav").touch()
    return folder


def test_media_findings(corpus):
    text, report = check_data(corpus)
    (media,) = report["media"]
    (unreadable,) = media["unusable"].pop("unreadable")  # the message, which names the file first
    assert unreadable.split(": ")[0].endswith("dia00002utt1_18.wav")
    names = {key: [path.rsplit("/", 1)[-1] for path in paths] for key, paths in media["unusable"].items()}
    assert names.pop("empty") == ["dia00002utt0_28.wav"]
    assert names.pop("over 60 s") == ["dia00003utt1_18.wav"]
    assert list(names.values()) == [["dia00003utt0_28.wav"]]  # without sound
    assert [path.rsplit("/", 1)[-1] for path in media["of_no_utterance"]] == [
        "dia00001utt0_5.wav",
        "dia00099utt0_28.wav",
    ]
    assert [path.rsplit("/", 1)[-1] for path in media["names_of_no_convention"]] == ["loose.wav"]
    assert len(media["several_for_one_utterance"]) == 1 and media["macos_files_ignored"] == 1
    assert media["splits"] == ["train", "validation"] and media["files"] == {"audio": 8, "video": 2}
    seconds = media["seconds"]["audio"]
    assert seconds["files"] == 2 and seconds["total"] == pytest.approx(3.0, abs=0.01)
    assert media["seconds"]["video"]["mean"] == pytest.approx(1.0, abs=0.05)
    assert [path.rsplit("/", 1)[-1] for path in media["voice_and_face_differ"]] == ["dia00001utt1_18.mp4"]
    for line in ("empty: 1 (", "unreadable: 1 (", "over 60 s: 1 (", "of no utterance: 2 ("):
        assert line in text


def test_counts_of_the_splits(corpus):
    text, report = check_data(corpus, probe=False)
    json.dumps(report)
    train, validation = report["splits"]["train"], report["splits"]["validation"]
    assert train["dialogues"] + validation["dialogues"] == 10 and validation["dialogues"] == 2
    assert train["examples"] + validation["examples"] == 8
    dropped = [drop for split in (train, validation) for drop in split["dropped"]]
    assert sorted((drop["reason"], drop["conversation"]) for drop in dropped) == [
        ("response is missing", "00007"),
        ("turns is empty", "00006"),
    ]
    emotions = [split["avatar_emotions"] for split in (train, validation)]
    assert sum(counts.get("surprised", 0) for counts in emotions) == 7
    assert sum(counts.get("contempt", 0) for counts in emotions) == 1
    assert train["topics"] == {"Life Events": train["examples"]}
    assert train["listeners"]["age"] == {"middle-aged": train["examples"]}
    assert train["listeners"]["different"] == {"avatars": 1, "combinations": 1}
    assert "seconds" not in report["media"][0]
    shared = report["across"]["validation in train"]
    assert shared["texts_shared"] == 0 and shared["avatars_shared"] == shared["avatars"] == 2
    assert "response is missing (00007/0)" in text and "turns is empty (00006)" in text


def test_progress_is_told(corpus):
    calls = []
    check_data(corpus, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(number, 8) for number in range(1, 9)]


def test_nothing_to_read(tmp_path):
    with pytest.raises(RecordError, match="no train.json"):
        check_data(tmp_path)
    with pytest.raises(RecordError, match="no such file"):
        check_data(tmp_path / "absent")


def test_challenge_test_file(real_data):
    """The real file: exactly the four empty dialogues and the one turn without a question."""
    folder = real_data("avamerg_test_excerpt")
    for path in (folder, folder / "test.json"):
        text, report = check_data(path)
        assert list(report["splits"]) == ["test"]
        test = report["splits"]["test"]
        assert test["dropped_dialogues"] == {"turns is empty": 4}
        assert test["dropped_turns"] == {"history does not end with the speaker": 1}
        assert (test["dialogues"], test["turns"], test["examples"]) == (48, 87, 86)
        assert test["avatar_emotions"] == {"unlabelled": 86}
        assert "dropped 4 dialogues: turns is empty (02640, 02827, 03017, 03427)" in text
        assert "dropped 1 turn: history does not end with the speaker (00113/1)" in text


def test_the_plot_shows_each_split(corpus, tmp_path):
    """Every split's bars and lines are in the picture, and a report without media or labels is drawn as well."""
    _, report = check_data(corpus)
    plot_report(report, tmp_path / "check.png")
    picture = np.asarray(Image.open(tmp_path / "check.png").convert("RGB")).reshape(-1, 3)
    for split in report["splits"]:
        colour = np.array(to_rgb(_COLOURS[split])) * 255
        assert (np.abs(picture - colour).max(axis=1) < 3).sum() > 200, split
    _, without_media = check_data(corpus / "train.json", probe=False)
    plot_report(without_media, tmp_path / "without_media.png")
    assert (tmp_path / "without_media.png").stat().st_size > 10_000


def test_the_command_writes_report_and_plot(corpus, tmp_path, capsys):
    files = tmp_path / "check.json", tmp_path / "check.png"
    assert main(["check-data", str(corpus), "--json", str(files[0]), "--plot", str(files[1])]) == 0
    printed = capsys.readouterr()
    assert "dropped 1 dialogue" in printed.out and "recordings" in printed.err and "/s" in printed.err
    assert json.loads(files[0].read_text())["splits"]["train"]["dialogues"] == 8 and files[1].exists()
