"""Conversions that are killed, run out of disk or read another file: unfinished output is never taken for finished."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import random_llama

from converters.convert import convert
from converters.tensors import ConversionError
from empatheia_jax.checkpoints.named_arrays import CheckpointError
from empatheia_jax.checkpoints.weights import is_weights, read_arrays, read_metadata

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Write a Llama of 300 MB in three shards."""
    folder = tmp_path_factory.mktemp("llama") / "300m"
    assert random_llama.write_checkpoint(folder, "300m", shard_bytes=120_000_000) > 300e6
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def output(tmp_path):
    yield tmp_path / "weights"
    shutil.rmtree(tmp_path, ignore_errors=True)  # pytest would keep a gigabyte of each of the last three runs


def start(source: Path, output: Path, *prefix: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "converters", "vicuna", "--input", str(source), "--output", str(output)]
    return subprocess.Popen([*prefix, *command], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_killed_conversion_leaves_nothing_to_mistake_and_goes_on_where_it_was(source, output, seed):
    complete = output.with_name("complete")
    convert("vicuna", source, complete)
    rng, kills, kept = random.Random(seed), 0, 0
    partial = output.with_name(output.name + ".partial")
    for _ in range(4):
        process = start(source, output)
        deadline = time.monotonic() + 120
        while not (partial / "params").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if output.exists():
            break
        kills += 1
        assert not is_weights(partial)
        if (partial / "params" / "index.json").exists():
            kept = len(json.loads((partial / "params" / "index.json").read_text()))
    assert kills
    if not output.exists():
        process = start(source, output)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert read_metadata(output)["sha256"] == read_metadata(complete)["sha256"]
    count = len(json.loads((complete / "params" / "index.json").read_text()))
    assert sum(1 for _ in read_arrays(output)) == count > kept
    assert not partial.exists()


def test_what_another_file_left_is_not_gone_on_with(source, output, tmp_path):
    other = tmp_path / "other"
    random_llama.write_checkpoint(other, "tiny", seed=1)
    partial = output.with_name(output.name + ".partial")
    (partial / "params").mkdir(parents=True)
    (partial / "converting.json").write_text("{}")
    (partial / "params" / "index.json").write_text(json.dumps({"norm": {"part": "part-00000"}}))
    convert("vicuna", other, output)
    assert sum(1 for _ in read_arrays(output)) == 3 * 9 + 3


def test_a_disk_without_room_is_an_error_before_anything_is_written(source, output, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**8, 10**8))
    with pytest.raises(ConversionError, match=r"0.34 GB are needed, the disk has 0.10 free"):
        convert("vicuna", source, output)
    assert not list(output.parent.iterdir())


def test_a_write_that_the_system_refuses_is_one_error(source, output):
    """A limit on file sizes takes the place of a full disk: writing fails halfway."""
    process = start(source, output, "bash", "-c", 'ulimit -f 20000; exec "$@"', "bash")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    lines = err.replace("\r", "\n").splitlines()
    messages = [line for line in lines if line and not line.startswith("convert vicuna:")]
    assert len(messages) == 1 and "File too large" in messages[0], err
    assert "can be resumed by the same command" in messages[0], err
    assert not output.exists()
    convert("vicuna", source, output)  # the same command, without the limit
    assert is_weights(output)


def test_a_damaged_array_is_found_when_it_is_read(tmp_path):
    random_llama.write_checkpoint(tmp_path / "source", "tiny")
    convert("vicuna", tmp_path / "source", tmp_path / "weights")
    index = tmp_path / "weights" / "params" / "index.json"
    entries = json.loads(index.read_text())
    entries["norm"]["sha256"] = "0" * 64
    index.write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match="norm is damaged"):
        list(read_arrays(tmp_path / "weights"))


# Published hashes -----------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("origin", ["the Hub's cache", "its download folder", "SHA256SUMS", "--sha256"])
def test_a_given_sha256_is_checked(origin, tmp_path):
    source = tmp_path / "source"
    random_llama.write_checkpoint(source, "tiny")
    file = source / "model-00001-of-00001.safetensors"

    arguments = {}

    def publish(digest: str):
        if origin == "--sha256":
            arguments["sha256"] = digest.upper()
        elif origin == "the Hub's cache":
            blob = tmp_path / "blobs" / digest
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(file.read_bytes())
            file.unlink()
            os.symlink(blob, file)
        elif origin == "its download folder":
            metadata = source / ".cache" / "huggingface" / "download" / f"{file.name}.metadata"
            metadata.parent.mkdir(parents=True, exist_ok=True)
            metadata.write_text(f"0123abcd\n{digest}\n1700000000.0\n")
        else:
            (source / "SHA256SUMS").write_text(f"{'1' * 64}  other.bin\n{digest} *{file.name}\n")

    good = sha256(file)
    publish(good[:-1] + ("0" if good[-1] != "0" else "1"))
    with pytest.raises(ConversionError, match=f"its SHA-256 is {good}"):
        convert("vicuna", source, tmp_path / "weights", **arguments)
    assert not (tmp_path / "weights").exists()
    publish(good)
    convert("vicuna", source, tmp_path / "weights", **arguments)
    assert file.name in read_metadata(tmp_path / "weights")["source"]["sha256_checked"]
