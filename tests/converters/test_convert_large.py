"""Memory of conversions and restores: 300 MB in `make test`, a 7B Llama's 13.5 GB in `make test-large`."""

import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import random_llama
from flax import nnx

from converters.convert import convert
from empatheia_jax.checkpoints import weights
from empatheia_jax.config.load import load_llm_config
from empatheia_jax.llm.llama import Llama
from support.programs import ROOT, start_program

GB = 10**9
# Anonymous memory; for restoring, beyond the model's. At 300 MB, parts and Python itself are most of it.
CONVERTING, RESTORING = {"300m": 1.2 * GB, "7b": 3 * GB}, {"300m": 0.9 * GB, "7b": 2 * GB}
SHAPES = ["300m", pytest.param("7b", marks=pytest.mark.large)]


@pytest.fixture(scope="module", params=SHAPES)
def converted(request, tmp_path_factory):
    """Return shape, converted folder, bytes, and peak anonymous memory of the conversion."""
    folder = tmp_path_factory.mktemp("llama")
    total = random_llama.write_checkpoint(folder / "source", request.param)
    command = [sys.executable, "-m", "converters", "vicuna", "--input", str(folder / "source")]
    process = subprocess.Popen([*command, "--output", str(folder / "weights")], cwd=ROOT)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        peak = max([peak, *(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))])
        time.sleep(0.01)
    assert process.wait() == 0
    shutil.rmtree(folder / "source")
    yield request.param, folder / "weights", total, peak
    shutil.rmtree(folder)


def restore(folder: Path, fsdp: int, tensor: int, devices: int, *, processes: int = 1, **extra: str) -> list[dict]:
    """Run the program `restore_llama` in one or more processes and return the output of every process."""
    if processes > 1:
        with socket.socket() as unused:
            unused.bind(("localhost", 0))
            extra["COORDINATOR"] = f"localhost:{unused.getsockname()[1]}"
        extra["PROCESSES"] = str(processes)
    started = [
        start_program("restore_llama", folder, fsdp, tensor, devices=devices, RANK=str(rank), **extra)
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=900)[0] for process in started]
    assert all(process.returncode == 0 for process in started)
    lines = [line for output in outputs for line in output.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]  # Gloo logs to stdout too


def test_converting_holds_parts_and_not_the_model(converted, record_property):
    shape, _, total, peak = converted
    record_property("peak_gb", f"{peak / GB:.2f} of {total / GB:.2f}")
    assert 0 < peak <= CONVERTING[shape]


def test_eight_devices_hold_an_eighth_each_and_the_process_little_more(converted, record_property):
    shape, folder, total, _ = converted
    (report,) = restore(folder, 2, 4, 8)
    record_property("peak_gb", f"{report['peak'] / GB:.2f} of {report['total'] / GB:.2f}")
    assert not report["misplaced"]
    assert len(report["held"]) == 8
    assert all(held == pytest.approx(report["total"] / 8, rel=2e-3) for held in report["held"].values())
    assert report["total"] == pytest.approx(total, rel=1e-3)  # norms are float32 in the model
    assert report["peak"] <= report["total"] + RESTORING[shape]


def test_two_processes_hold_half_each(converted, record_property):
    shape, folder, _, _ = converted
    for report in restore(folder, 2, 2, 2, processes=2):
        record_property("peak_gb", f"{report['peak'] / GB:.2f} of {report['total'] / GB:.2f}")
        assert sum(report["held"].values()) == pytest.approx(report["total"] / 2, rel=2e-3)
        assert report["peak"] <= report["total"] / 2 + RESTORING[shape]


@pytest.mark.parametrize(("fsdp", "tensor", "devices", "processes"), [(4, 2, 8, 1), (1, 2, 2, 1), (2, 2, 2, 2)])
def test_every_slice_is_the_checkpoint_s(fsdp, tensor, devices, processes, *, tmp_path):
    random_llama.write_checkpoint(tmp_path / "source", "tiny")
    convert("vicuna", tmp_path / "source", tmp_path / "weights")
    abstract = nnx.state(nnx.eval_shape(lambda: Llama(load_llm_config(tmp_path / "weights"), rngs=nnx.Rngs(0))))
    arrays = {name: np.zeros(leaf.shape, np.float32) for name, leaf in weights.named_arrays(abstract).items()}
    targets = weights.stored_arrays(abstract)
    for name, array in weights.read_arrays(tmp_path / "weights"):
        target, layer, _ = targets[name]
        arrays[target][... if layer is None else layer] = array
    reports = restore(tmp_path / "weights", fsdp, tensor, devices, processes=processes, SHARDS="1")
    shards = [tuple(map(json.dumps, shard)) for report in reports for shard in report["shards"]]
    assert len({shard[:2] for shard in shards}) == len(shards)  # each slice once
    sizes = dict.fromkeys(arrays, 0)
    for report in reports:
        assert not report["misplaced"]
        for name, index, digest in report["shards"]:
            piece = arrays[name][tuple(slice(*ends) for ends in index)]
            assert hashlib.sha256(np.ascontiguousarray(piece).tobytes()).hexdigest() == digest, (name, index)
            sizes[name] += piece.size
    assert sizes == {name: array.size for name, array in arrays.items()}  # and all of them
