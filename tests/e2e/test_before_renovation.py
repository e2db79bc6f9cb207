"""What was made before the renovation is still read: a run stopped in stage 4, its feature store, converted weights.

`before_renovation.tar.xz` was written by the last version before names, files and config fields moved. It has a run
stopped at step 107 (`half`, with the metrics of the same run that was never stopped), its corpus and features (`data`),
its config, and converted weights of a Llama and of HuBERT (`weights`).
"""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.checkpoints.weights import load_weights, read_architecture, read_arrays
from empatheia_jax.checkpoints.workdir import open_store, saved_config
from empatheia_jax.config import LoraConfig, LossConfig
from empatheia_jax.config.load import load_llm_config
from empatheia_jax.encoders.hubert import Hubert, HubertConfig
from empatheia_jax.inference.load import load_engine
from empatheia_jax.llm.llama import Llama
from empatheia_jax.testing.tiny import leaves
from support.programs import ROOT, program_environment

WRITTEN_IN = "/before"  # absolute paths of the archive, in config.json and config.py
STOPPED_AT = 107


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Unpack the archive."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(Path(__file__).with_name("before_renovation.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    for path in (folder / "config.py", folder / "half" / "config.json"):
        path.write_text(path.read_text().replace(WRITTEN_IN, str(folder)))
    return folder


@pytest.fixture(scope="module")
def resumed(folder):
    """Resume the run with a flag of its time; takes a minute."""
    command = [sys.executable, str(ROOT / "train.py"), str(folder / "config.py"), "--workdir", str(folder / "half")]
    done = subprocess.run(
        [*command, "--resume", "--optim.alpha", "0.2"],
        env=program_environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "note: --optim.alpha is --loss.alpha now" in done.stderr
    return folder


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_the_run_goes_on_as_if_it_had_not_been_stopped(resumed):
    actual, expected = (read(resumed / "half" / name) for name in ("metrics.jsonl", "expected_metrics.jsonl"))
    assert [(r["step"], r["stage"]) for r in actual] == [(r["step"], r["stage"]) for r in expected]
    assert expected[-1]["step"] > STOPPED_AT and "validation_emp" in actual[-1]
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() - {"mfu"} == b.keys() - {"mfu"}
        for name in b.keys() - {"tokens_per_second", "mfu"}:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=2e-3, err_msg=f"step {a['step']} {name}")


def test_its_config_has_the_moved_fields_with_the_values_it_was_trained_with(folder):
    assert saved_config(folder / "half").loss == LossConfig(alpha=0.2, beta=0.3, label_weight=0.0, kl_weight=1e-4)


@pytest.mark.slow
def test_the_resume_writes_its_config_anew(resumed):
    written = json.loads((resumed / "half" / "config.json").read_text())
    assert written["loss"]["alpha"] == 0.2 and "alpha" not in written["optim"]


def test_its_feature_store_opens(folder):
    store = open_store(folder / "half", saved_config(folder / "half"))
    assert len(store) > 0 and store.feature_shape("audio") == (32, 83) and store.feature_shape("video") == (8, 756)


@pytest.mark.slow
def test_an_engine_loads_the_finished_run(resumed):
    engine = load_engine(resumed / "half")
    assert engine.prompt_kind == "all"
    assert all(np.isfinite(array).all() for array in leaves(engine.state).values())


def test_converted_weights_load_into_the_modules_of_today(folder):
    def placed(state):
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), state)

    llm = load_llm_config(folder / "weights" / "vicuna", compute_dtype="float32", param_dtype="float32")
    abstract = nnx.eval_shape(lambda: Llama(llm, LoraConfig(rank=2), rngs=nnx.Rngs(0)))
    state = placed(nnx.state(abstract, nnx.Not(nnx.LoRAParam)))
    llama = load_weights(folder / "weights" / "vicuna", state)
    name, fields = read_architecture(folder / "weights" / "hubert")
    assert name == HubertConfig.__name__
    hubert = placed(nnx.state(nnx.eval_shape(lambda: Hubert(HubertConfig(**fields), rngs=nnx.Rngs(0)))))
    for family, loaded in (("vicuna", llama), ("hubert", load_weights(folder / "weights" / "hubert", hubert))):
        written, arrays = dict(read_arrays(folder / "weights" / family)), leaves(loaded)
        sizes, sums = zip(
            *(
                (sum(a.size for a in group), sum(np.abs(a).sum(dtype=np.float64) for a in group))
                for group in (written.values(), arrays.values())
            ),
            strict=True,
        )
        assert sizes[0] == sizes[1] and sums[0] == pytest.approx(sums[1])
