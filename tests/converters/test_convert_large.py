"""Memory of conversions and restores: of 300 MB in `make test`, of a 7B Llama's 13.5 GB in `make test-large`."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import random_llama  # noqa: E402

from converters.convert import convert  # noqa: E402
from empatheia_jax import weights  # noqa: E402
from empatheia_jax.config_io import llm_of  # noqa: E402
from empatheia_jax.llm.llama import Llama  # noqa: E402

GB = 10**9
# Anonymous memory, beyond the model when restoring. Parts and Python itself set the floor of the small one.
CONVERTING, RESTORING = {"300m": 1.2 * GB, "7b": 3 * GB}, {"300m": 0.9 * GB, "7b": 2 * GB}
SHAPES = ["300m", pytest.param("7b", marks=pytest.mark.large)]


@pytest.fixture(scope="module", params=SHAPES)
def converted(request, tmp_path_factory):
    """(shape, weights, bytes, peak anonymous memory of their conversion)."""
    folder = tmp_path_factory.mktemp("llama")
    total = random_llama.write(folder / "source", request.param)
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


def restore(folder: Path, fsdp: int, tensor: int, devices: int, processes: int = 1, **extra: str) -> list[dict]:
    """What `restorer.py` says, of every process."""
    env = (
        os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        | extra
    )
    command = [sys.executable, str(Path(__file__).with_name("restorer.py")), str(folder), str(fsdp), str(tensor)]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            env["COORDINATOR"] = f"localhost:{free.getsockname()[1]}"
        env["PROCESSES"] = str(processes)
    started = [
        subprocess.Popen(command, env=env | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=900)[0] for process in started]
    assert all(process.returncode == 0 for process in started)
    lines = [line for output in outputs for line in output.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]  # Gloo talks, too


def test_converting_holds_parts_and_not_the_model(converted, record_property):
    shape, _, total, peak = converted
    record_property("peak_gb", f"{peak / GB:.2f} of {total / GB:.2f}")
    assert 0 < peak <= CONVERTING[shape]


def test_eight_devices_hold_an_eighth_each_and_the_process_little_more(converted, record_property):
    shape, folder, total, _ = converted
    (found,) = restore(folder, 2, 4, 8)
    record_property("peak_gb", f"{found['peak'] / GB:.2f} of {found['total'] / GB:.2f}")
    assert not found["misplaced"]
    assert len(found["held"]) == 8
    assert all(held == pytest.approx(found["total"] / 8, rel=2e-3) for held in found["held"].values())
    assert found["total"] == pytest.approx(total, rel=1e-3)  # norms are float32 in the model
    assert found["peak"] <= found["total"] + RESTORING[shape]


def test_two_processes_hold_half_each(converted, record_property):
    shape, folder, _, _ = converted
    both = restore(folder, 2, 2, 2, processes=2)
    for found in both:
        record_property("peak_gb", f"{found['peak'] / GB:.2f} of {found['total'] / GB:.2f}")
        assert sum(found["held"].values()) == pytest.approx(found["total"] / 2, rel=2e-3)
        assert found["peak"] <= found["total"] / 2 + RESTORING[shape]


@pytest.mark.parametrize(("fsdp", "tensor", "devices", "processes"), [(4, 2, 8, 1), (1, 2, 2, 1), (2, 2, 2, 2)])
def test_every_slice_is_the_checkpoint_s(fsdp, tensor, devices, processes, tmp_path):
    random_llama.write(tmp_path / "source", "tiny")
    convert("vicuna", tmp_path / "source", tmp_path / "weights")
    abstract = nnx.state(nnx.eval_shape(lambda: Llama(llm_of(tmp_path / "weights"), rngs=nnx.Rngs(0))))
    whole = {name: np.zeros(leaf.shape, np.float32) for name, leaf in weights.named(abstract).items()}
    places = weights.slots(abstract)
    for name, array in weights.read_arrays(tmp_path / "weights"):
        target, layer, _ = places[name]
        whole[target][... if layer is None else layer] = array
    found = restore(tmp_path / "weights", fsdp, tensor, devices, processes, SHARDS="1")
    shards = [tuple(map(json.dumps, shard)) for one in found for shard in one["shards"]]
    assert len({shard[:2] for shard in shards}) == len(shards)  # each slice once
    sizes = dict.fromkeys(whole, 0)
    for one in found:
        assert not one["misplaced"]
        for name, place, digest in one["shards"]:
            piece = whole[name][tuple(slice(*ends) for ends in place)]
            assert hashlib.sha256(np.ascontiguousarray(piece).tobytes()).hexdigest() == digest, (name, place)
            sizes[name] += piece.size
    assert sizes == {name: array.size for name, array in whole.items()}  # and all of them
