"""`write_sample`: the released layout on disk, readable media, and what a second call keeps."""

import json
import re

import numpy as np
import pytest

from empatheia_jax.data.corpus.avamerg import read_examples
from empatheia_jax.data.emotions import AVATAR_EMOTIONS
from empatheia_jax.data.media.reading import read_audio, read_metadata, read_video
from empatheia_jax.generators.avatars import avatar
from empatheia_jax.preparation import sample
from empatheia_jax.preparation.sample_plan import SampleError, plan_corpus

pytest.importorskip("espeakng_loader", reason="the voice extra is not installed")

SMALL = 14  # one dialogue an emotion in train and in test


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    output = tmp_path_factory.mktemp("sample") / "corpus"
    return output, sample.write_sample(output, seed=1, dialogues=SMALL, workers=2, progress=False)


def test_released_layout(written):
    output, counts = written
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md",
        "audio_v5_0",
        "labels.json",
        "test",
        "train.json",
        "video_v5_0",
    ]
    assert sorted(path.name for path in (output / "test").iterdir()) == [
        "test.json",
        "test_audio",
        "test_video",
        "v_test_v5_0.json",
    ]
    for split, folders in sample.FOLDERS.items():
        labelled = json.loads((output / ("train.json" if split == "train" else "test/v_test_v5_0.json")).read_text())
        names = set()
        for dialogue in labelled:
            ids = dialogue["speaker_profile"]["ID"], dialogue["listener_profile"]["ID"]
            for index in range(2 * len(dialogue["turns"])):
                names.add(f"dia{dialogue['conversation_id']}utt{index}_{ids[index % 2]}")
        assert len(names) == counts[split]["utterances"]
        for folder, suffix in zip(folders, ("wav", "mp4"), strict=True):
            assert {path.name for path in (output / folder).iterdir()} == {f"{name}.{suffix}" for name in names}
            assert all(re.fullmatch(r"dia\d{5}utt\d+_\d+", name) for name in names)


def test_names_and_released_test_file_tell_no_emotion(written):
    output, _ = written
    for path in output.rglob("*"):
        if path.suffix in (".wav", ".mp4"):
            assert not any(emotion in path.name for emotion in AVATAR_EMOTIONS)
            tags = " ".join(read_metadata(path).values()).lower()
            assert not any(emotion in tags for emotion in AVATAR_EMOTIONS) and "synthetic" in tags
    released = json.loads((output / "test" / "test.json").read_text())
    assert all(set(dialogue) == {"conversation_id", "turns"} for dialogue in released)
    assert all(set(turn) == {"turn_id", "context", "dialogue_history"} for d in released for turn in d["turns"])


def test_read_back(written):
    output, counts = written
    examples = {}
    for split in ("train", "validation", "test"):
        examples[split], report = read_examples(output, split)
        assert not report.dropped
    assert len(examples["train"]) + len(examples["validation"]) == counts["train"]["turns"]
    assert len(examples["test"]) == counts["test"]["turns"]
    for example in sum(examples.values(), []):
        assert example.chain and example.listener_profile == avatar(example.listener_profile.id).profile
        for utterance in (*example.history, example.response):
            assert utterance.audio.is_file() and utterance.video.is_file()


def test_media(written):
    output, _ = written
    for path in sorted((output / "test" / "test_audio").iterdir())[:4]:
        sound = read_audio(path, 24000)
        seconds = len(sound) / 24000
        assert 1.0 < seconds < 6.0 and 0.02 < np.abs(sound).max() <= 1.0
        frames = read_video(output / "test" / "test_video" / f"{path.stem}.mp4")
        assert frames.shape[1:] == (sample.FACE_SIZE, sample.FACE_SIZE, 3)
        assert abs(len(frames) / 25 - seconds) <= 0.08
        moving = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean((1, 2, 3))
        assert (moving > 0).mean() > 0.5  # lips, eyes and head move
        soundtrack = read_audio(output / "test" / "test_video" / f"{path.stem}.mp4", 24000)
        assert abs(len(soundtrack) / 24000 - seconds) <= 0.08


def test_kept_and_repaired(written):
    output, _ = written
    removed = next((output / "audio_v5_0").iterdir())
    before = removed.read_bytes()
    stamp = (output / "test" / "test_audio").stat().st_mtime_ns
    removed.unlink()
    counts = sample.write_sample(output, seed=1, dialogues=SMALL, workers=1, progress=False)
    assert counts["performed"] == 1
    assert removed.read_bytes() == before  # rendered again in another process, equal bit for bit
    assert (output / "test" / "test_audio").stat().st_mtime_ns == stamp


def test_performance_follows_the_plan(written):
    output, _ = written
    labels = json.loads((output / sample.LABELS).read_text())
    corpus = plan_corpus(1, SMALL)
    for split, dialogues in corpus.items():
        assert labels["dialogues"][split] == {
            d.conversation_id: {"half": d.script.half, "emotion": d.script.emotion} for d in dialogues
        }
        for job, (_, person, text) in zip(
            sample._render_jobs(output, split, corpus, "classical"),
            [utterance for dialogue in dialogues for utterance in dialogue.utterances],
            strict=True,
        ):
            assert (job.avatar, job.text) == (person.id, text)
            conversation = re.match(r"dia(\d+)", job.audio.name)[1]
            assert job.emotion == labels["dialogues"][split][conversation]["emotion"]  # speaker and listener


def test_another_corpus_replaces_ours_and_only_ours(tmp_path, monkeypatch):
    output = tmp_path / "corpus"
    monkeypatch.setattr(sample, "_render_all", lambda todo, workers, progress: _touch(todo))
    first = sample.write_sample(output, seed=1, dialogues=SMALL, progress=False)
    (output / "notes.txt").write_text("kept")
    second = sample.write_sample(output, seed=2, dialogues=SMALL, progress=False)
    assert first["kept"] == second["kept"] == 0
    assert len(list((output / "audio_v5_0").iterdir())) == second["train"]["utterances"]
    assert (output / "notes.txt").read_text() == "kept"

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "train.json").write_text("[]")
    with pytest.raises(SampleError, match="not empty"):
        sample.write_sample(foreign, dialogues=SMALL, progress=False)
    (foreign / sample.LABELS).write_text("{}")
    with pytest.raises(SampleError, match="was not written by"):
        sample.write_sample(foreign, dialogues=SMALL, progress=False)
    assert (foreign / "train.json").read_text() == "[]"
    with pytest.raises(SampleError, match="is a file"):
        sample.write_sample(foreign / "train.json", dialogues=SMALL, progress=False)
    with pytest.raises(SampleError, match="at least one worker"):
        sample.write_sample(tmp_path / "none", workers=0, progress=False)
    assert not (tmp_path / "none").exists()


def _touch(todo):
    for job in todo:
        for path in (job.audio, job.video):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    return 0.0
