"""Zips read in place and the TFDS dataset: the Examples and the decoded media do not depend on the container."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from empatheia_jax.__main__ import main
from empatheia_jax.data.corpus import avamerg
from empatheia_jax.data.corpus.avamerg import read_examples
from empatheia_jax.data.corpus.check import check_data
from empatheia_jax.data.corpus.tfds_builder import CARD, build
from empatheia_jax.data.media.containers import ZipMember, file_name, portable_name, size_of
from empatheia_jax.data.media.files import MediaFiles
from empatheia_jax.data.media.reading import MediaError, duration, read_audio, read_video
from empatheia_jax.data.schema import RecordError
from empatheia_jax.testing.corpus import write_corpus

tfds = pytest.importorskip("tensorflow_datasets")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """Write folders with media: train with a voice and a face for all utterances, and a test folder."""
    folder = write_corpus(tmp_path_factory.mktemp("released"), dialogues=5)
    test = write_corpus(tmp_path_factory.mktemp("other"), dialogues=2)
    (folder / "test").mkdir()
    shutil.copy(test / "train.json", folder / "test" / "v_test_v5_0.json")
    for modality in ("audio", "video"):
        shutil.copytree(test / f"{modality}_v5_0", folder / "test" / f"test_{modality}")
    return folder


@pytest.fixture(scope="module")
def zipped(released, tmp_path_factory) -> Path:
    """Write the same as it is downloaded: two zips for each split, with the files that macOS adds to them."""
    folder = tmp_path_factory.mktemp("zipped")
    (folder / "test").mkdir()
    shutil.copy(released / "train.json", folder)
    shutil.copy(released / "test" / "v_test_v5_0.json", folder / "test")
    for split, base in (("train", released), ("test", released / "test")):
        for modality in ("audio", "video"):
            inner = f"{modality}_v5_0" if split == "train" else f"test_{modality}"
            kind = zipfile.ZIP_DEFLATED if split == "train" else zipfile.ZIP_STORED
            with zipfile.ZipFile(folder / f"{split}_{modality}.zip", "w", kind) as archive:
                archive.writestr(f"{inner}/", "")
                for path in sorted((base / inner).iterdir()):
                    archive.write(path, f"{inner}/{path.name}")
                    archive.writestr(f"__MACOSX/{inner}/._{path.name}", b"fork")
                archive.writestr(f"{inner}/.DS_Store", b"x")
    return folder


def without_locations(example):
    """Return an Example with the names of its recordings in place of where they are."""

    def with_names(utterance):
        return utterance and dataclasses.replace(utterance, audio=_name(utterance.audio), video=_name(utterance.video))

    return dataclasses.replace(
        example, history=tuple(map(with_names, example.history)), response=with_names(example.response)
    )


def _name(recording):
    return None if recording is None else file_name(recording).name


def test_zips_made_on_windows_are_the_folders_too(released, zipped, tmp_path):
    """Their names have backslashes, also for the folders themselves."""
    for path in zipped.iterdir():
        if path.suffix == ".json":
            shutil.copy(path, tmp_path / path.name)
        if path.suffix != ".zip":
            continue
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / path.name, "w") as archive:
            archive.writestr("all\\", "")
            for name in source.namelist():
                if not name.endswith("/"):
                    archive.writestr("all\\" + name.replace("/", "\\"), source.read(name))
    from_zips, report = read_examples(tmp_path, "train")
    from_folders, expected = read_examples(released, "train")
    assert list(map(without_locations, from_zips)) == list(map(without_locations, from_folders))
    assert report.media == expected.media
    audio = next(u.audio for e in from_zips for u in e.history if u.audio is not None)
    assert size_of(audio) == len(audio.read()) > 0


@pytest.mark.parametrize("split", avamerg.SPLITS)
def test_zips_in_place_are_the_folders(released, zipped, split):
    from_zips, zip_report = read_examples(zipped, split)
    from_folders, folder_report = read_examples(released, split)
    assert list(map(without_locations, from_zips)) == list(map(without_locations, from_folders)) and len(from_zips) > 0
    assert zip_report.media == folder_report.media
    a, b = from_zips[-1].response, from_folders[-1].response
    assert isinstance(a.audio, ZipMember)
    np.testing.assert_array_equal(read_audio(a.audio, 16_000), read_audio(b.audio, 16_000))
    np.testing.assert_array_equal(read_video(a.video), read_video(b.video))
    assert duration(a.video) == duration(b.video)


def test_what_macos_leaves_is_counted(zipped):
    files = MediaFiles(avamerg.media_folders(zipped / "train.json", "train"))
    assert files.ignored == 2 * 20 and not files.strays and files.modalities == {"audio", "video"}


def test_unpacked_files_come_before_those_in_a_zip(released, zipped, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(zipped, folder)
    shutil.copytree(released / "audio_v5_0", folder / "audio_v5_0")
    example = read_examples(folder, "train")[0][0]
    assert isinstance(example.history[0].audio, Path) and isinstance(example.history[0].video, ZipMember)


def test_a_broken_zip_is_named(zipped, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(zipped, folder)
    path = folder / "train_audio.zip"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RecordError, match=r"train_audio\.zip.*cannot be read as a zip"):
        read_examples(folder, "train")


def test_a_damaged_member_is_one_error_that_names_it(zipped, tmp_path):
    """The zip's checksum reveals damage that a player would not notice."""
    folder = tmp_path / "damaged"
    shutil.copytree(zipped, folder)
    member = read_examples(folder, "test")[0][0].history[0].audio
    with zipfile.ZipFile(member.archive) as archive:
        at = archive.getinfo(member.name).header_offset + 2000
    content = bytearray(member.archive.read_bytes())
    content[at] ^= 0xFF
    member.archive.write_bytes(content)
    with pytest.raises(MediaError) as error:
        read_audio(member, 16_000)
    assert str(member) in str(error.value) and "CRC" in str(error.value)
    _, report = check_data(folder)
    assert any(member.name in line for media in report["media"] for line in media["unusable"].get("unreadable", []))


@pytest.fixture(scope="module")
def datasets(zipped, tmp_path_factory):
    """Build the dataset with its media by reference (False) and embedded (True)."""
    folder = tmp_path_factory.mktemp("tfds")
    return {embed: build(zipped, folder / str(embed), embed_media=embed)[0] for embed in (False, True)}


@pytest.mark.parametrize("split", avamerg.SPLITS)
def test_a_dataset_gives_the_examples_it_was_built_from(zipped, datasets, split):
    expected, _ = read_examples(zipped, split)
    assert read_examples(datasets[False], split)[0] == expected
    assert read_examples(datasets[False].parents[1], split)[0] == expected  # the folder given to --output works too
    embedded, report = read_examples(datasets[True], split)
    assert list(map(without_locations, embedded)) == list(map(without_locations, expected))
    assert report.examples == len(expected) and report.media["audio found"] > 0
    for inside, outside in zip(embedded[-1].utterances, expected[-1].utterances, strict=True):
        assert inside.audio.read() == outside.audio.read() and inside.audio.size == outside.audio.size
        np.testing.assert_array_equal(read_video(inside.video), read_video(outside.video))
        assert portable_name(inside.audio, zipped).endswith(Path(outside.audio.name).name)


def test_it_is_a_tfds_dataset_without_tensorflow(datasets):
    builder = tfds.builder_from_directory(str(datasets[False]))
    source = builder.as_data_source("train")
    assert len(source) == builder.info.splits["train"].num_examples == 4
    assert set(map(int, source[0]["turns"]["turn_id"])) == {0, 1}
    again = tfds.data_source("avamerg", split="train", data_dir=str(datasets[False].parents[1]))
    assert again[0]["conversation_id"] == source[0]["conversation_id"]
    assert "tensorflow" not in sys.modules
    card = (datasets[False] / CARD).read_text()
    assert "No licence" in card and "| train | 4 |" in card and "8 turns" in card


def test_embedded_media_need_no_source(zipped, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(zipped, moved)
    folder, _ = build(moved, tmp_path / "out", embed_media=True)
    shutil.rmtree(moved)
    assert len(read_audio(read_examples(folder, "train")[0][0].history[0].audio, 16_000)) == 16_000


def test_bad_media_stop_a_build_or_are_listed(released, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(released, folder)
    path = read_examples(folder, "train")[0][0].history[0].audio
    path.write_bytes(b"no sound")
    with pytest.raises(RecordError, match=path.name):
        build(folder, tmp_path / "stopped", embed_media=True)
    assert avamerg.dataset_folder(tmp_path / "stopped") is None
    built, statistics = build(folder, tmp_path / "skipped", embed_media=True, on_error="skip")
    assert "not embedded: 1" in statistics and path.name in statistics
    assert read_examples(built, "train")[0][0].history[0].audio is None


def test_a_dataset_is_not_built_over(datasets, zipped):
    with pytest.raises(RecordError, match="there already"):
        build(zipped, datasets[False].parents[1])


@pytest.mark.slow
def test_a_killed_build_leaves_no_dataset(zipped, tmp_path, seed):
    command = [sys.executable, "-m", "empatheia_jax", "build-data", str(zipped), "--output", str(tmp_path / "out")]
    for wait in np.random.default_rng(seed).uniform(1.0, 4.0, 3):
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        dataset = avamerg.dataset_folder(tmp_path / "out")
        assert dataset is None or len(read_examples(dataset, "train")[0]) == 8
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_the_challenge_file_is_built(real_data, tmp_path):
    """The released test file has 48 dialogues: 4 are empty, none has labels; the card lists what was dropped."""
    source = real_data("avamerg_test_excerpt")
    folder, statistics = build(source, tmp_path)
    examples, _ = read_examples(folder, "test")
    assert examples == read_examples(source, "test")[0]
    assert len(tfds.builder_from_directory(str(folder)).as_data_source("test")) == len(
        {example.conversation_id for example in examples}
    )
    assert "turns is empty" in statistics and "turns out of order" in statistics
    assert statistics in (folder / CARD).read_text()


def test_real_dialogues_are_built(real_data, tmp_path):
    source = real_data("ed_sample")
    folder, _ = build(source, tmp_path)
    for split, dialogues in (("train", 300), ("validation", 60), ("test", 60)):
        examples, report = read_examples(folder, split)
        assert examples == read_examples(source, split)[0]
        assert report.dialogues == dialogues


def test_the_command_builds_and_names_the_folder(zipped, tmp_path, capsys):
    assert main(["build-data", str(zipped), "--output", str(tmp_path / "out"), "--embed-media"]) == 0
    folder = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert folder == tmp_path / "out" / "avamerg" / "1.0.0" and (folder / CARD).exists()
    assert main(["build-data", str(zipped), "--output", str(tmp_path / "out")]) == 2  # there already
    assert "there already" in capsys.readouterr().err
