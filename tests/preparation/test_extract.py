"""Extraction of a small corpus in the released layout: what is stored, what is refused, and what survives a kill."""

import dataclasses
import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from empatheia_jax.config import Config, EncoderConfig
from empatheia_jax.data.corpus.avamerg import read_examples
from empatheia_jax.data.corpus.check import check_data
from empatheia_jax.data.features.records import StoreError
from empatheia_jax.data.features.store import FeatureStore, store_settings
from empatheia_jax.data.features.writer import FeatureWriter
from empatheia_jax.data.media.reading import read_audio, read_video
from empatheia_jax.encoders import build_encoders
from empatheia_jax.generators.build import build_generators
from empatheia_jax.generators.interfaces import video_frame_count
from empatheia_jax.preparation import extract as module
from empatheia_jax.preparation.extract import ExtractError, extract
from empatheia_jax.runtime.one_writer import BusyError, one_writer
from empatheia_jax.testing.corpus import write_corpus
from support.programs import start_program

pytest.importorskip("espeakng_loader")

CONFIG = Config()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD_UTTERANCES", 3)


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory) -> tuple[Path, dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARD_UTTERANCES", 3)
        output = tmp_path_factory.mktemp("reference") / "features"
        return output, extract(CONFIG, corpus, output, workers=1, progress=False)


def assert_same(directory: Path, reference: Path) -> None:
    """Assert that two finished stores hold the same arrays and have the same files, without leftovers.

    Arrays are compared with a tolerance: the matrix products of the face measurement depend on the number of threads.
    """
    assert {path.name for path in directory.iterdir()} == {path.name for path in reference.iterdir()}
    store, expected = FeatureStore(directory), FeatureStore(reference)
    assert store.keys == expected.keys and store.manifest == expected.manifest
    for key in store.keys:
        assert store[key].keys() == expected[key].keys()
        for name, array in store[key].items():
            np.testing.assert_allclose(array, expected[key][name], rtol=5e-3, atol=5e-3)


def test_everything_is_there(reference, corpus):
    output, counts = reference
    assert {name: counts[name] for name in ("utterances", "records", "audio", "video", "gold", "rejected")} == {
        "utterances": 20,
        "records": 20,
        "audio": 20,
        "video": 20,
        "gold": 10,
        "rejected": 0,
    }
    encoders, (speech, face) = build_encoders(CONFIG.encoders), build_generators(CONFIG.generators)
    store = FeatureStore(output, store_settings(encoders, speech, face))
    assert len(store) == 20 and (output / "rejected.jsonl").read_text() == ""
    examples = [e for split in ("train", "validation") for e in read_examples(corpus, split)[0]]
    keys = {e.utterance_key(u) for e in examples for u in (*e.history, e.response)}
    assert keys == set(store.keys)

    example = examples[0]
    arrays = store[example.utterance_key(example.history[0])]
    assert set(arrays) == {"audio", "video"}  # a speaker has no golds
    for modality, media in (
        ("audio", read_audio(example.history[0].audio, 16000)),
        ("video", read_video(example.history[0].video, count=8)),
    ):
        features = encoders[modality].encode(encoders[modality].preprocess(media))
        np.testing.assert_allclose(arrays[modality], features, rtol=2e-3, atol=2e-3)


def test_golds_are_what_the_generators_say(reference, corpus):
    output, _ = reference
    store = FeatureStore(output)
    speech, face = build_generators(CONFIG.generators)
    example = read_examples(corpus, "train")[0][0]
    key = example.utterance_key(example.response)
    arrays = store[key]
    audio = read_audio(example.response.audio, speech.sample_rate)
    phonemes = speech.phonemes(example.response.text)
    np.testing.assert_array_equal(arrays["phonemes"], phonemes)
    np.testing.assert_array_equal(arrays["phoneme_frames"], speech.align(audio, speech.sample_rate, phonemes))
    tolerance = {"rtol": 2e-3, "atol": 2e-3}
    np.testing.assert_allclose(arrays["content_speech"], speech.content(phonemes), **tolerance)
    np.testing.assert_allclose(arrays["style_speech"], speech.style(audio, speech.sample_rate, phonemes), **tolerance)
    assert arrays["content_speech"].shape == (len(phonemes), speech.content_dim)
    frames = video_frame_count(arrays["phoneme_frames"])
    assert arrays["content_video"].shape == (frames, face.content_dim)
    assert arrays["style_video"].shape == (face.style_dim,)
    assert store.gold_sizes(key) == (len(phonemes), frames)


def test_a_complete_store_is_left_alone(reference, corpus):
    output, counts = reference
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert extract(CONFIG, corpus, output, workers=1, progress=False) == counts
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before


def test_two_processes_share_the_work(reference, corpus, tmp_path):
    output = tmp_path / "features"
    first = extract(CONFIG, corpus, output, workers=1, progress=False, process=1, processes=2)
    assert 0 < first["utterances"] < 20
    with pytest.raises(StoreError, match="interrupted"):
        FeatureStore(output)
    with one_writer(output / "process-0.lock", "the first"):
        with pytest.raises(BusyError, match=f"--process 0: process {os.getpid()} on"):
            extract(CONFIG, corpus, output, workers=1, progress=False, process=0, processes=2)
    assert extract(CONFIG, corpus, output, workers=1, progress=False, process=0, processes=2) == reference[1]
    assert not list(output.glob("*.lock"))
    assert_same(output, reference[0])


def test_absent_recordings_are_named_all_at_once_before_any_work(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", dialogues=2)
    recordings = sorted((corpus / "audio_v5_0").iterdir())
    recordings[0].write_bytes(b"")
    recordings[5].write_bytes(b"")
    output = tmp_path / "features"
    with pytest.raises(ExtractError, match=rf"2 recordings .*{recordings[0].name}.*{recordings[5].name}.*skip"):
        extract(CONFIG, corpus, output, workers=1, progress=False)
    assert not output.exists()
    counts = extract(CONFIG, corpus, output, workers=1, progress=False, on_error="skip")
    assert counts["rejected"] == 2 and counts["audio"] == 6 and counts["references_padded"] == 0


def test_progress_says_rate_and_time_to_go(corpus, tmp_path, capsys):
    extract(CONFIG, corpus, tmp_path / "features", workers=1)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "20/20 utterances" in last and "/s" in last and "0 s to go" in last and "rejected" not in last


@pytest.mark.slow
def test_killed_at_a_random_moment_and_resumed(reference, corpus, tmp_path, seed):
    """SIGKILL of the main process, at any moment and then after a shard; the next run finishes and repeats no shard."""
    output = tmp_path / "features"
    rng = random.Random(seed)
    for after_a_shard in (False, True):
        run = start_program("extract_corpus", corpus, output)
        if after_a_shard:
            finished = len(list(output.glob("shard-*.array_record")))
            while run.poll() is None and len(list(output.glob("shard-*.array_record"))) <= finished:
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.2))
        else:
            time.sleep(rng.uniform(0.0, 3.0))
        children = _children(run.pid)
        run.send_signal(signal.SIGKILL)
        run.wait()
        deadline = time.monotonic() + 20
        while any(_alive(child) for child in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(_alive(child) for child in children), "workers outlive the process that was killed"
        run.communicate()
    manifest = json.loads((output / "manifest.json").read_text())
    if not manifest["complete"]:
        with pytest.raises(StoreError, match="interrupted"):
            FeatureStore(output)
    kept = {path: path.stat().st_mtime_ns for path in output.glob("shard-*.array_record")}
    assert kept
    assert extract(CONFIG, corpus, output, workers=1, progress=False) == reference[1]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_same(output, reference[0])


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def damaged(tmp_path) -> Path:
    folder = write_corpus(tmp_path / "damaged", dialogues=2)
    (folder / "audio_v5_0" / "dia00000utt1_2.wav").write_bytes(b"")
    (folder / "video_v5_0" / "dia00000utt2_1.mp4").write_bytes(b"no video at all")
    (folder / "audio_v5_0" / "dia00001utt0_1.wav").unlink()
    (folder / "video_v5_0" / "dia00001utt0_1.mp4").unlink()
    return folder


def test_bad_media_stop(damaged, tmp_path):
    with pytest.raises(ExtractError, match=r"dia00000utt1_2\.wav.*--on-error skip") as caught:
        extract(CONFIG, damaged, tmp_path / "features", workers=1, progress=False)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "features").glob("*.part"))


def test_what_is_to_be_known_about_a_recording_is_counted_and_listed(tmp_path):
    """A recording whose channels cancel each other is used, and `extract` and `check-data` say so."""
    folder, output = write_corpus(tmp_path / "corpus", dialogues=1), tmp_path / "features"
    path = folder / "audio_v5_0" / "dia00000utt1_2.wav"  # of the listener: read for its features and for its golds
    sound, rate = soundfile.read(path)
    soundfile.write(path, np.stack([sound, -sound], axis=1), rate)
    counts = extract(CONFIG, folder, output, workers=1, progress=False)
    assert counts["noted"] == 1 and counts["rejected"] == 0
    (noted,) = [json.loads(line) for line in (output / "noted.jsonl").read_text().splitlines()]
    assert path.name in noted["note"] and "channels cancel" in noted["note"] and noted["key"].endswith("/1")
    text, report = check_data(folder)
    assert report["media"][0]["read_with_a_note"] == [noted["note"]]
    assert "read with a note: 1 (" in text and not report["media"][0]["unusable"]


def test_bad_media_are_counted_and_listed(damaged, tmp_path):
    output = tmp_path / "features"
    counts = extract(CONFIG, damaged, output, workers=1, on_error="skip", progress=False)
    assert counts["rejected"] == 2 and counts["without_media"] == 1 and counts["utterances"] == 7
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert {(Path(r["file"]).name, r["modality"]) for r in rejected} == {
        ("dia00000utt1_2.wav", "audio"),
        ("dia00000utt2_1.mp4", "video"),
    }
    assert all(r["error"] for r in rejected)
    store = FeatureStore(output)
    by_name = {key.split("/", 1)[1]: store[key] for key in store.keys}
    assert "audio" not in by_name["00000/1"] and "style_video" in by_name["00000/1"]  # the other arrays are kept
    assert set(by_name["00000/2"]) == {"audio"} and "00001/0" not in by_name


@pytest.mark.slow
def test_workers_raise_the_same_error(damaged, tmp_path):
    with pytest.raises(ExtractError, match="--on-error skip"):
        extract(CONFIG, damaged, tmp_path / "features", workers=2, progress=False)


def test_stale_store_and_changed_data_are_refused(reference, corpus, tmp_path):
    other = Config(encoders=EncoderConfig(audio_segments=16))
    with pytest.raises(StoreError, match="encoders.audio.shape"):
        extract(other, corpus, reference[0], workers=1, progress=False)
    changed = write_corpus(tmp_path / "changed", dialogues=4)
    with pytest.raises(StoreError, match="other data"):
        extract(CONFIG, changed, reference[0], workers=1, progress=False)


def test_nothing_to_extract(corpus, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.json").write_text((corpus / "train.json").read_text())
    with pytest.raises(ExtractError, match="20 utterances"):
        extract(CONFIG, tmp_path / "text", tmp_path / "features", progress=False)
    assert not (tmp_path / "features").exists()


@pytest.mark.slow
def test_encoders_on_the_device_see_what_workers_prepared(corpus, reference, tmp_path, compiled_quickly):
    """HuBERT and CLIP run in the main process with any number of workers; the golds are those of other encoders."""
    encoder_config = EncoderConfig(
        audio="hubert", video="clip", hubert="small", hubert_weights="random", clip="small", clip_weights="random"
    )
    config = dataclasses.replace(CONFIG, encoders=encoder_config)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    counts = extract(config, corpus, alone, workers=1, progress=False)
    assert {name: counts[name] for name in ("utterances", "audio", "video", "gold")} == {
        "utterances": 20,
        "audio": 20,
        "video": 20,
        "gold": 10,
    }
    assert extract(config, corpus, shared, workers=2, progress=False) == counts
    assert_same(shared, alone)
    store, classical = FeatureStore(alone), FeatureStore(reference[0])
    encoders = build_encoders(encoder_config)
    example = read_examples(corpus, "train")[0][0]
    key = example.utterance_key(example.response)
    audio = encoders["audio"].preprocess(read_audio(example.response.audio, 16000))
    np.testing.assert_allclose(store[key]["audio"], encoders["audio"].encode([audio])[0], rtol=2e-3, atol=2e-3)
    for name in ("phonemes", "content_speech", "style_speech", "content_video"):
        np.testing.assert_array_equal(store[key][name], classical[key][name])
    with pytest.raises(StoreError):
        extract(dataclasses.replace(config, encoders=EncoderConfig()), corpus, alone, workers=1, progress=False)


class Stopped(Exception):
    """Raised to end an extraction in the middle of a shard."""


def stop_after(monkeypatch, items: int) -> list[str]:
    """Make extractors raise `Stopped` after a number of utterances; return the list their keys are added to."""
    extracted: list[str] = []
    original = module.Extractor.__call__

    def counted(self, job):
        if len(extracted) == items:
            raise Stopped
        extracted.append(job.key)
        return original(self, job)

    monkeypatch.setattr(module.Extractor, "__call__", counted)
    return extracted


def test_nothing_that_was_done_is_done_again(reference, corpus, tmp_path, *, monkeypatch, seed):
    """Stopped twice within shards of three: every utterance is extracted once, and the store is the same to the bit."""
    extracted: list[str] = []
    for items in random.Random(seed).sample([4, 5, 7, 8], 2):
        with monkeypatch.context() as patch:
            part = stop_after(patch, items)
            with pytest.raises(Stopped):
                extract(CONFIG, corpus, tmp_path / "features", workers=1, progress=False)
        extracted += part
    with monkeypatch.context() as patch:
        rest = stop_after(patch, -1)
        extract(CONFIG, corpus, tmp_path / "features", workers=1, progress=False)
    extracted += rest
    assert len(extracted) == len(set(extracted)) == 20
    assert_same(tmp_path / "features", reference[0])
    for path in reference[0].glob("*.array_record"):
        assert (tmp_path / "features" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_chunks_for_the_device_are_the_same_after_a_stop(corpus, tmp_path, monkeypatch, compiled_quickly):
    """The batches of networks, and so their outputs, do not depend on where a run was stopped."""
    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(module, "SHARD_UTTERANCES", 12)
    encoder_config = EncoderConfig(
        audio="hubert", video="clip", hubert="small", hubert_weights="random", clip="small", clip_weights="random"
    )
    config = dataclasses.replace(CONFIG, encoders=encoder_config)
    extract(config, corpus, tmp_path / "whole", workers=1, progress=False)
    with monkeypatch.context() as patch:
        extracted = stop_after(patch, 10)
        with pytest.raises(Stopped):
            extract(config, corpus, tmp_path / "stopped", workers=1, progress=False)
    assert FeatureWriter.open_existing(tmp_path / "stopped").count_journal_entries(0) == 2
    resumed = stop_after(monkeypatch, -1)
    extract(config, corpus, tmp_path / "stopped", workers=1, progress=False)
    assert not set(extracted[:8]) & set(resumed)
    for path in (tmp_path / "whole").glob("*.array_record"):
        assert (tmp_path / "stopped" / path.name).read_bytes() == path.read_bytes()
