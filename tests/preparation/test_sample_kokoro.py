"""The sample corpus performed by Kokoro: whose voice and manner is heard, what the files say, which folder is taken."""

import json

import librosa
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.checkpoints.weights import save_weights
from empatheia_jax.data.media.reading import read_audio, read_metadata, read_video
from empatheia_jax.evaluation.judges.recogniser import Recogniser
from empatheia_jax.evaluation.judges.word_errors import count_word_errors
from empatheia_jax.generators.avatars import avatar
from empatheia_jax.generators.styletts2.kokoro import KokoroSpeech
from empatheia_jax.generators.styletts2.voices import speech_style_for
from empatheia_jax.preparation import sample, sample_rendering
from empatheia_jax.preparation.sample_plan import SampleError
from empatheia_jax.testing.tiny_generators import KOKORO, make_styletts2
from empatheia_jax.trained_parts.home import PartError

pytest.importorskip("espeakng_loader", reason="the voice extra is not installed")
pytestmark = pytest.mark.usefixtures("compiled_quickly")

SMALL = 14


@pytest.fixture(scope="module")
def weights(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("home") / "kokoro" / "weights"
    save_weights(folder, KOKORO, nnx.state(make_styletts2(KOKORO, seed)))
    return folder


@pytest.fixture
def home(weights, monkeypatch):
    """Where the tiny Kokoro is what was fetched."""
    monkeypatch.setenv("EMPATHEIA_HOME", str(weights.parent.parent))
    sample_rendering.kokoro_voice.cache_clear()
    yield
    sample_rendering.kokoro_voice.cache_clear()


@pytest.fixture
def performed(monkeypatch):
    """The jobs that would be performed; empty files are made in the place of their media."""
    jobs = []

    def touch(todo, workers, progress):
        jobs.extend(todo)
        for path in (path for job in todo for path in (job.audio, job.video)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return 0.0

    monkeypatch.setattr(sample, "_render_all", touch)
    return jobs


def test_each_avatar_speaks_with_its_voice_and_the_manner_of_the_emotion(home, weights, tmp_path):
    performances = (("I saw it.", 17, "sad"), ("We sat.", 50, "happy"))
    jobs = [
        sample_rendering.RenderJob(
            tmp_path / f"{number}.wav", tmp_path / f"{number}.mp4", text, person, emotion, voice="kokoro"
        )
        for number, (text, person, emotion) in enumerate(performances)
    ]
    seconds, voice = sample._render_all(jobs, 2, progress=False), sample_rendering.kokoro_voice()
    assert all(job.exists for job in jobs)
    assert voice.networks.sha256 == KokoroSpeech(weights).networks.sha256
    ids = [voice.phonemes(job.text) for job in jobs]
    styles = [speech_style_for(avatar(job.avatar).profile, job.emotion) for job in jobs]
    lengths = []
    for job, expected in zip(jobs, voice.speak_many(voice.contents(ids), styles, ids), strict=True):
        sound = read_audio(job.audio, 24000)
        assert len(sound) == len(expected.audio)
        assert np.corrcoef(sound, expected.audio)[0, 1] > 0.999  # written with 16 bits
        lengths.append(len(sound) / 24000)
        assert abs(len(read_video(job.video)) / 25 - lengths[-1]) <= 0.08
        for path in (job.audio, job.video):
            artist = read_metadata(path)["artist"]
            assert "Kokoro-82M" in artist and "espeak" not in artist
    assert seconds == pytest.approx(sum(lengths))


def test_a_corpus_is_continued_by_its_own_voice_alone(home, performed, tmp_path):
    def write(folder, **settings):
        return sample.write_sample(tmp_path / folder, dialogues=SMALL, progress=False, **settings)

    first = write("trained", voice="kokoro")
    assert {job.voice for job in performed} == {"kokoro"} and first["performed"] == len(performed)
    card, labels = (tmp_path / "trained" / name for name in ("README.md", sample.LABELS))
    assert "Kokoro-82M" in card.read_text() and "espeak" not in card.read_text()
    assert json.loads(labels.read_text())["voice"] == "kokoro"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "trained").rglob("*")}
    with pytest.raises(SampleError, match=r"that the voice 'kokoro' performs.*'classical'.*--voice kokoro"):
        write("trained")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "trained").rglob("*")} == before
    (tmp_path / "trained" / "train.json").unlink()
    next((tmp_path / "trained" / "audio_v5_0").iterdir()).unlink()
    again = write("trained", voice="kokoro")
    assert again["performed"] == 1 and again["kept"] == first["performed"] - 1
    assert write("trained", voice="kokoro", seed=1)["kept"] == 0  # another corpus of this voice takes its place

    write("classical")
    labels = tmp_path / "classical" / sample.LABELS
    labels.write_text(json.dumps({k: v for k, v in json.loads(labels.read_text()).items() if k != "voice"}))
    with pytest.raises(SampleError, match="that the voice 'classical' performs"):  # labels of an older version, too
        write("classical", voice="kokoro")
    with pytest.raises(SampleError, match="choose from classical, kokoro"):
        write("other", voice="espeak")


def test_both_voices_perform_the_same_words(home, performed, tmp_path):
    def plan(voice):
        performed.clear()
        sample.write_sample(tmp_path / voice, dialogues=SMALL, voice=voice, progress=False)
        texts = {name: (tmp_path / voice / name).read_text() for name in ("train.json", "test/v_test_v5_0.json")}
        return texts, [(job.text, job.avatar, job.emotion, job.audio.name) for job in performed]

    assert plan("classical") == plan("kokoro")


def test_nothing_is_begun_without_the_weights(tmp_path):
    sample_rendering.kokoro_voice.cache_clear()
    with pytest.raises(PartError, match="empatheia fetch kokoro"):
        sample.write_sample(tmp_path / "corpus", dialogues=SMALL, voice="kokoro", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.trained
def test_the_trained_voice_is_understood_and_only_its_manner_tells_the_emotion(tmp_path):
    text = "I found the old letter in the kitchen and I read it again."
    sounds = {}
    for emotion in ("sad", "surprised"):
        job = sample_rendering.RenderJob(
            tmp_path / f"{emotion}.wav", tmp_path / f"{emotion}.mp4", text, 17, emotion, voice="kokoro"
        )
        assert sum(sample_rendering.render_with_kokoro([job])) > 2
        sounds[emotion] = read_audio(job.audio, 24000)
    for sound in sounds.values():
        assert count_word_errors(text, Recogniser().transcribe(sound, 24000).text).errors <= 1
    # 8 semitones, and slower and softer, in the table of `voices`
    pitch = {
        emotion: np.median(f0[voiced])
        for emotion, (f0, voiced, _) in ((e, librosa.pyin(s, fmin=60, fmax=500, sr=24000)) for e, s in sounds.items())
    }
    assert 12 * np.log2(pitch["surprised"] / pitch["sad"]) > 5
    assert len(sounds["sad"]) > len(sounds["surprised"])
    assert np.std(sounds["sad"]) < np.std(sounds["surprised"])
